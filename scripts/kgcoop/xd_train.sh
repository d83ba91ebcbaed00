#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, first half: train on all classes of the source.
# Usage: bash scripts/kgcoop/xd_train.sh [SOURCE [SEED [KEY VALUE ...]]]   default: imagenet 1
TRAINER=KgCoOp stem=vit_b16_ep100_ctxv1
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
xd_train "$@"
