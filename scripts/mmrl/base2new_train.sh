#!/usr/bin/env bash
# Base-to-new generalisation, first half: train on the base classes and test on them. For shapes, the new ones are next.
# Usage: bash scripts/mmrl/base2new_train.sh [DATASET [SEED [KEY VALUE ...]]]   default: shapes 1
TRAINER=MMRL stem=vit_b16
protocol_imagenet=(DATALOADER.TRAIN_X.BATCH_SIZE 32 OPTIM.MAX_EPOCH 5)
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
base2new_train "$@"
