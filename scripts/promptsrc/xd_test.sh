#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation, second half: test the model of xd_train.sh. SOURCE: its data.
# Usage: bash scripts/promptsrc/xd_test.sh DATASET [SEED [KEY VALUE ...]]   default seed: 1
TRAINER=PromptSRC stem=vit_b16_c2_ep20_batch4_4+4ctx_cross_datasets
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
xd_test "$@"
