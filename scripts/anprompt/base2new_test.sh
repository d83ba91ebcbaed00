#!/usr/bin/env bash
# Base-to-new generalisation, second half: test the model of base2new_train.sh on the new classes.
#
#   bash scripts/anprompt/base2new_test.sh [DATASET [SEED [KEY VALUE ...]]]        default: shapes 1
#
# Give the KEY VALUE pairs of the training run again. Ends with base, new and their harmonic mean, unrounded.
# Environment: see scripts/common.sh.
TRAINER=ANPrompt
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

dataset="${1:-shapes}" seed="${2:-1}"
need_seed "$seed" "base2new_test.sh DATASET SEED [KEY VALUE ...]"
trained="$(base2new_dir train_base "$dataset" "$seed")"
directory="$(base2new_dir test_new "$dataset" "$seed")"

find_model "$trained"
run "$dataset" "$seed" "$directory" "${MODEL[@]}" \
    DATASET.NUM_SHOTS "${SHOTS:-16}" DATASET.SUBSAMPLE_CLASSES new "${@:3}"
report "$trained" "$directory"
