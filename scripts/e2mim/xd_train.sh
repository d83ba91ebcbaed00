#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, first half: train on all classes of the source.
# Usage: bash scripts/e2mim/xd_train.sh [SOURCE [SEED [KEY VALUE ...]]]   default: imagenet 1
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/../front.sh" script xd_train E2MIM "$@"
