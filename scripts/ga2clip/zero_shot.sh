#!/usr/bin/env bash
# Base and new classes of video with CLIP as it is.
# Usage: bash scripts/ga2clip/zero_shot.sh [DATASET [KEY VALUE ...]]   default: moves
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/../front.sh" script zeroshot ZeroshotCLIP "${@:-moves}"
