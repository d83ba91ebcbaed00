#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, second half: test the model of xd_train.sh. SOURCE: its data.
# Usage: bash scripts/e2mim/xd_test.sh DATASET [SEED [KEY VALUE ...]]   default seed: 1
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/../front.sh" script xd_test E2MIM "$@"
