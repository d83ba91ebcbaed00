"""What this library takes from a CLIP: the parts of an ``open_clip.CLIP``, by name.

As types only: importing open_clip takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class Blocks(Protocol):
    """A transformer."""

    resblocks: Sequence[Any]


class VisionTower(Protocol):
    """Images ``[B, 3, H, W]`` -> rows of width ``D_vision``; ``proj`` ``[D_vision, E]`` leads into the joint space."""

    conv1: nn.Conv2d
    class_embedding: Tensor
    positional_embedding: Tensor
    ln_pre: nn.Module
    transformer: Blocks
    ln_post: nn.Module
    proj: Tensor


class CLIP(Protocol):
    """The text tower's parts, and the vision tower as one."""

    visual: VisionTower
    token_embedding: nn.Embedding
    positional_embedding: Tensor
    transformer: Blocks
    ln_final: nn.LayerNorm
    text_projection: Tensor | nn.Module
    logit_scale: Tensor
