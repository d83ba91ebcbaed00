#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, second half: test the model of xd_train.sh. SOURCE: its data.
# Usage: bash scripts/maple/xd_test.sh DATASET [SEED [KEY VALUE ...]]   default seed: 1
TRAINER=MaPLe stem=vit_b16_c2_ep5_batch4_2ctx_cross_datasets
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
xd_test "$@"
