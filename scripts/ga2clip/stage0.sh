#!/usr/bin/env bash
# Hard prompts: learn plain prompts on other data, on all of its classes. The other scripts start from them.
# Usage: bash scripts/ga2clip/stage0.sh [SOURCE [SEED [KEY VALUE ...]]]   default: shapes 1
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/../front.sh" script stage0 GA2CLIP "$@"
