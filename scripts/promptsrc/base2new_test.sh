#!/usr/bin/env bash
# Base-to-new generalisation, second half: test the model of base2new_train.sh on the new classes.
# Usage: bash scripts/promptsrc/base2new_test.sh [DATASET [SEED [KEY VALUE ...]]]   default: shapes 1
TRAINER=PromptSRC stem=vit_b16_c2_ep20_batch4_4+4ctx
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
base2new_test "$@"
