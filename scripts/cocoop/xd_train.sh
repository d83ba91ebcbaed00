#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, first half: train on all classes of the source.
# Usage: bash scripts/cocoop/xd_train.sh [SOURCE [SEED [KEY VALUE ...]]]   default: imagenet 1
TRAINER=CoCoOp stem=vit_b16_c4_ep10_batch1_ctxv1
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
xd_train "$@"
