#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, second half: test the model of xd_train.sh on other data.
#
#   bash scripts/anprompt/xd_test.sh DATASET [SEED [KEY VALUE ...]]                default seed: 1
#
# SOURCE names the data that xd_train.sh trained on (default: imagenet). Other environment: see scripts/common.sh.
TRAINER=ANPrompt
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

usage="xd_test.sh DATASET SEED [KEY VALUE ...]"
[[ $# -gt 0 ]] || fail "which dataset? Usage: $usage"
dataset="$1" seed="${2:-1}" trained_on="${SOURCE:-imagenet}"
need_seed "$seed" "$usage"
trained="$(source_dir "$trained_on" "$seed")"
CFG="$(trainer_cfg "$trained_on")" # the model decides, not the data
directory="$OUTPUT/evaluation/$TRAINER/${CFG}_${SHOTS:-16}shots/$dataset/seed$seed"

find_model "$trained"
run "$dataset" "$seed" "$directory" "${MODEL[@]}" "${@:3}"
report "$directory"
