#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, second half: test the model of xd_train.sh. SOURCE: its data.
# Usage: bash scripts/kgcoop/xd_test.sh DATASET [SEED [KEY VALUE ...]]   default seed: 1
TRAINER=KgCoOp stem=vit_b16_ep100_ctxv1
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
xd_test "$@"
