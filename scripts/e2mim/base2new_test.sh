#!/usr/bin/env bash
# Base-to-new generalisation, second half: test the model of base2new_train.sh on the new classes.
# Usage: bash scripts/e2mim/base2new_test.sh [DATASET [SEED [KEY VALUE ...]]]   default: shapes 1
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/../front.sh" script base2new_test E2MIM "$@"
