#!/usr/bin/env bash
# Zero-shot CLIP on the base and on the new classes, with their harmonic mean. Nothing is trained, no seed matters.
#
#   bash scripts/zsclip/zeroshot.sh [DATASET [KEY VALUE ...]]                      default: shapes
#
# Environment: see scripts/common.sh.
TRAINER=ZeroshotCLIP
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

dataset="${1:-shapes}"
base="$OUTPUT/base2new/test_base/$dataset/$TRAINER/$(trainer_cfg "$dataset")/seed1"
new="$OUTPUT/base2new/test_new/$dataset/$TRAINER/$(trainer_cfg "$dataset")/seed1"

run "$dataset" 1 "$base" --eval-only DATASET.SUBSAMPLE_CLASSES base "${@:2}"
run "$dataset" 1 "$new" --eval-only DATASET.SUBSAMPLE_CLASSES new "${@:2}"
report "$base" "$new"
