#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, first half: train on all classes of the source.
# Usage: bash scripts/maple/xd_train.sh [SOURCE [SEED [KEY VALUE ...]]]   default: imagenet 1
TRAINER=MaPLe stem=vit_b16_c2_ep5_batch4_2ctx_cross_datasets
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
xd_train "$@"
