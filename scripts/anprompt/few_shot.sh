#!/usr/bin/env bash
# Few-shot classification: train and test on all classes with 1, 2, 4, 8 and 16 images per class.
#
#   bash scripts/anprompt/few_shot.sh [DATASET [SEED [KEY VALUE ...]]]             default: shapes 1
#
# SHOTS="4 16" runs only those. Other environment: see scripts/common.sh.
TRAINER=ANPrompt
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

dataset="${1:-shapes}" seed="${2:-1}"
need_seed "$seed" "few_shot.sh DATASET SEED [KEY VALUE ...]"
epochs=50
if [[ "$dataset" == imagenet ]]; then epochs=5; fi

directories=()
for shots in ${SHOTS:-1 2 4 8 16}; do
    directory="$(few_shot_dir "$dataset" "$shots" "$seed")"
    run "$dataset" "$seed" "$directory" \
        DATASET.NUM_SHOTS "$shots" DATALOADER.TRAIN_X.BATCH_SIZE 32 OPTIM.MAX_EPOCH "$epochs" "${@:3}"
    directories+=("$directory")
done
for directory in "${directories[@]}"; do
    report "$directory"
done
