#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, second half: test the model of xd_train.sh. SOURCE: its data.
# Usage: bash scripts/anprompt/xd_test.sh DATASET [SEED [KEY VALUE ...]]   default seed: 1
TRAINER=ANPrompt stem=vit_b16
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
xd_test "$@"
