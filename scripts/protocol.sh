#!/usr/bin/env bash
# A protocol's script for any trainer.
# Usage: bash scripts/protocol.sh TRAINER SCRIPT [ARGUMENTS ...]   e.g. CoOp base2new_train caltech101 1
# shellcheck source=scripts/front.sh
source "$(dirname "${BASH_SOURCE[0]}")/front.sh" script "${2:-}" "${1:-}" "${@:3}"
