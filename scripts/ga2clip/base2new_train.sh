#!/usr/bin/env bash
# Base-to-new generalisation on video, first half: train on the base classes and test on them. For moves, stage 0 on shapes
# comes before, and the new classes are next.
# Usage: bash scripts/ga2clip/base2new_train.sh [DATASET [SEED [KEY VALUE ...]]]   default: moves 1
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/../front.sh" script base2new_train GA2CLIP "${@:-moves}"
