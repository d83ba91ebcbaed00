#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, first half: train on all classes of the source data.
#
#   bash scripts/anprompt/xd_train.sh [SOURCE [SEED [KEY VALUE ...]]]              default: imagenet 1
#
# Environment: see scripts/common.sh.
TRAINER=ANPrompt
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

dataset="${1:-imagenet}" seed="${2:-1}"
need_seed "$seed" "xd_train.sh SOURCE SEED [KEY VALUE ...]"
directory="$(source_dir "$dataset" "$seed")"

run "$dataset" "$seed" "$directory" DATASET.NUM_SHOTS "${SHOTS:-16}" DATALOADER.TRAIN_X.BATCH_SIZE 32 \
    OPTIM.MAX_EPOCH 1 OPTIM.WARMUP_EPOCH 0 TRAINER.ANPROMPT.LOSS.SIM_W 0.2 "${@:3}"
report "$directory"
