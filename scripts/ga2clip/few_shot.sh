#!/usr/bin/env bash
# Few-shot classification of video with 1, 2, 4, 8 and 16 training clips per class. SHOTS="2 4": only these.
# Usage: bash scripts/ga2clip/few_shot.sh [DATASET [SEED [KEY VALUE ...]]]   default: moves 1
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/../front.sh" script few_shot GA2CLIP "${@:-moves}"
