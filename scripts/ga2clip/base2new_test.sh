#!/usr/bin/env bash
# Base-to-new generalisation on video, second half: test the trained model on the new classes.
# Usage: bash scripts/ga2clip/base2new_test.sh [DATASET [SEED [KEY VALUE ...]]]   default: moves 1
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/../front.sh" script base2new_test GA2CLIP "${@:-moves}"
