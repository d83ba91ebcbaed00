#!/usr/bin/env bash
# A protocol's script for any trainer: the method's own, whose YAML file and settings count, or the one for all.
# Usage: bash scripts/protocol.sh TRAINER SCRIPT [ARGUMENTS ...]   e.g. CoOp base2new_train caltech101 1
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 2 ]] || fail "which trainer and script? Usage: protocol.sh TRAINER SCRIPT [ARGUMENTS ...]"
export TRAINER="$1"
[[ -f "$(script_of "$1" "$2")" ]] ||
    fail "unknown script '$2': there are base2new_train, base2new_test, few_shot, xd_train, xd_test, zeroshot"
exec bash "$(script_of "$1" "$2")" "${@:3}"
