#!/usr/bin/env bash
# Base and new classes with a trainer that learns nothing.
# Usage: bash scripts/zsclip/zeroshot.sh [DATASET [KEY VALUE ...]]   default: shapes
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/../front.sh" script zeroshot ZeroshotCLIP "$@"
