#!/usr/bin/env bash
# Few-shot classification: all classes, with 1, 2, 4, 8 and 16 images of each. SHOTS="4 16" runs only those.
# Usage: bash scripts/mmrl/few_shot.sh [DATASET [SEED [KEY VALUE ...]]]   default: shapes 1
TRAINER=MMRL stem=vit_b16
protocol=(DATALOADER.TRAIN_X.BATCH_SIZE 32 OPTIM.MAX_EPOCH 50)
protocol_imagenet=(DATALOADER.TRAIN_X.BATCH_SIZE 32 OPTIM.MAX_EPOCH 5)
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
few_shot "$@"
