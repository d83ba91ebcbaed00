#!/usr/bin/env bash
# Base-to-new generalisation, first half: train on the base classes and test on them. For shapes, the new ones are next.
# Usage: bash scripts/cocoop/base2new_train.sh [DATASET [SEED [KEY VALUE ...]]]   default: shapes 1
TRAINER=CoCoOp stem=vit_b16_c4_ep10_batch1_ctxv1
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
base2new_train "$@"
