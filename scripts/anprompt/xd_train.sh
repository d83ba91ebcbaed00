#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, first half: train on all classes of the source.
# Usage: bash scripts/anprompt/xd_train.sh [SOURCE [SEED [KEY VALUE ...]]]   default: imagenet 1
TRAINER=ANPrompt stem=vit_b16
protocol=(DATALOADER.TRAIN_X.BATCH_SIZE 32 OPTIM.MAX_EPOCH 1 OPTIM.WARMUP_EPOCH 0 TRAINER.ANPROMPT.LOSS.SIM_W 0.2)
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
xd_train "$@"
