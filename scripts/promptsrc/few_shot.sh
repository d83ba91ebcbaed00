#!/usr/bin/env bash
# Few-shot classification: all classes, with 1, 2, 4, 8 and 16 images of each. SHOTS="4 16" runs only those.
# Usage: bash scripts/promptsrc/few_shot.sh [DATASET [SEED [KEY VALUE ...]]]   default: shapes 1
TRAINER=PromptSRC stem=vit_b16_c2_ep50_batch4_4+4ctx_few_shot
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
few_shot "$@"
