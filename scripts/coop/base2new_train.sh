#!/usr/bin/env bash
# Base-to-new generalisation, first half: train on the base classes and test on them. For shapes, the new ones are next.
# Usage: bash scripts/coop/base2new_train.sh [DATASET [SEED [KEY VALUE ...]]]   default: shapes 1
TRAINER=CoOp stem=vit_b16_ep50_ctxv1
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
base2new_train "$@"
