#!/usr/bin/env bash
# Base and new classes with a trainer that learns nothing.
# Usage: bash scripts/zsclip2/zeroshot.sh [DATASET [KEY VALUE ...]]   default: shapes
TRAINER=ZeroshotCLIP2 stem=vit_b16
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
zero_shot "$@"
