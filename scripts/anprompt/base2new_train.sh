#!/usr/bin/env bash
# Base-to-new generalisation, first half: train on the base classes and test on them.
#
#   bash scripts/anprompt/base2new_train.sh [DATASET [SEED [KEY VALUE ...]]]       default: shapes 1
#
# For shapes, the new classes are tested next (base2new_test.sh). Environment: see scripts/common.sh.
TRAINER=ANPrompt
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

dataset="${1:-shapes}" seed="${2:-1}"
need_seed "$seed" "base2new_train.sh DATASET SEED [KEY VALUE ...]"
directory="$(base2new_dir train_base "$dataset" "$seed")"

protocol=(DATASET.NUM_SHOTS "${SHOTS:-16}" DATASET.SUBSAMPLE_CLASSES base)
if [[ "$dataset" == imagenet ]]; then
    protocol+=(DATALOADER.TRAIN_X.BATCH_SIZE 32 OPTIM.MAX_EPOCH 5)
fi

run "$dataset" "$seed" "$directory" "${protocol[@]}" "${@:3}"
if [[ "$dataset" == shapes ]]; then
    exec bash "$REPO/scripts/anprompt/base2new_test.sh" "$dataset" "$seed" "${@:3}"
fi
report "$directory"
