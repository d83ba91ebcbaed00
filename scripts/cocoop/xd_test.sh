#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, second half: test the model of xd_train.sh. SOURCE: its data.
# Usage: bash scripts/cocoop/xd_test.sh DATASET [SEED [KEY VALUE ...]]   default seed: 1
TRAINER=CoCoOp stem=vit_b16_c4_ep10_batch1_ctxv1
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
xd_test "$@"
