#!/usr/bin/env bash
# Few-shot classification: all classes, with 1, 2, 4, 8 and 16 images of each. SHOTS="4 16" runs only those.
# Usage: bash scripts/coop/few_shot.sh [DATASET [SEED [KEY VALUE ...]]]   default: shapes 1
TRAINER=CoOp
# shellcheck source=scripts/protocols.sh
source "$(dirname "${BASH_SOURCE[0]}")/../protocols.sh"
stem_of() { # DATASET SHOTS: more images, more epochs
    case "$1:$2" in
        imagenet:* | *:1) echo vit_b16_ep50 ;;
        *:2 | *:4) echo vit_b16_ep100 ;;
        *) echo vit_b16 ;;
    esac
}
few_shot "$@"
