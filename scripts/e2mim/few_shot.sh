#!/usr/bin/env bash
# Few-shot classification: all classes, with 1, 2, 4, 8 and 16 images of each. SHOTS="4 16" runs only those.
# Usage: bash scripts/e2mim/few_shot.sh [DATASET [SEED [KEY VALUE ...]]]   default: shapes 1
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/../front.sh" script few_shot E2MIM "$@"
