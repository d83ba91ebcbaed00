#!/usr/bin/env bash
# Base-to-new generalisation, first half: train on the base classes and test on them. For shapes, the new ones are next.
# Usage: bash scripts/e2mim/base2new_train.sh [DATASET [SEED [KEY VALUE ...]]]   default: shapes 1
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/../front.sh" script base2new_train E2MIM "$@"
