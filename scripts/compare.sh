#!/usr/bin/env bash
# All trainers, base to new, side by side in one table: accuracy, learnable parameters, training time and memory.
# Usage: bash scripts/compare.sh [DATASET [OPTIM.KEY VALUE ...]]   default: shapes
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/front.sh" compare "$@"
