"""Tokens inserted in the deeper layers of both towers, read out by a second head: MMRL and ANPrompt.

One bank of tokens in the joint space is projected into every layer from J on. The class token gives the usual head; the
mean of the vision tower's token rows gives the prototype head (MMRL calls it the representation head).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone, text_depth
from anprompt.clip.encoders import (
    TextStates,
    Tokens,
    VisionStates,
    text_features,
    text_trunk,
    vision_rows,
    vision_trunk,
)
from anprompt.prompts.prompted_clip import PromptedCLIP, unit
from anprompt.prompts.templates import filled
from anprompt.utils.config import require
from anprompt.utils.distributed import shared_out

ALIGNER_RANK = 4  # rank of a layer's residual on the shared map (MMRL++)
PROTOTYPE_RANK = 64  # rank of the residual on CLIP's visual projection (MMRL++)


class LinearAligner(nn.Module):
    """One linear map per layer, all starting as copies of ``template`` (``E -> D``)."""

    def __init__(self, template: nn.Linear, layers: int):
        super().__init__()
        self.maps = nn.ModuleList(copy.deepcopy(template) for _ in range(layers))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """``[K, E]`` -> N tensors ``[K, D]``."""
        return [linear(tokens) for linear in self.maps]


def low_rank_init(rows: int, rank: int) -> Tensor:
    """Left factor of a residual whose right factor starts at zero: Kaiming-uniform with a = sqrt(5)."""
    return nn.init.kaiming_uniform_(torch.empty(rows, rank), a=math.sqrt(5))


class SharedAligner(nn.Module):
    """One matrix for all layers plus a low-rank residual and a bias per layer (MMRL++); starts as ``template``."""

    def __init__(self, template: nn.Linear, layers: int, rank: int = ALIGNER_RANK):
        super().__init__()
        width, source = template.weight.shape
        self.weight = nn.Parameter(template.weight.detach().clone())
        self.bias = nn.Parameter(template.bias.detach().expand(layers, -1).clone())
        self.up = nn.Parameter(torch.stack([low_rank_init(width, rank) for _ in range(layers)]))
        self.down = nn.Parameter(torch.zeros(layers, rank, source))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """``[K, E]`` -> N tensors ``[K, D]``."""
        weights = self.weight + self.up @ self.down  # [N, D, E]
        return list(tokens @ weights.transpose(1, 2) + self.bias[:, None])


ALIGNERS = {"linear": LinearAligner, "shared": SharedAligner}


class PrototypeProjection(nn.Module):
    """Project averaged token rows into the joint space.

    ``low_rank``: CLIP's visual projection plus a rank-64 residual that starts at zero. ``full``: an own matrix with
    Gaussian start, as in MMRL.
    """

    frozen: Tensor

    def __init__(self, visual_proj: Tensor, kind: str):
        super().__init__()
        width, joint = visual_proj.shape
        if kind == "full":
            self.weight = nn.Parameter(width**-0.5 * torch.randn(width, joint))
        else:
            self.up = nn.Parameter(low_rank_init(width, PROTOTYPE_RANK))
            self.down = nn.Parameter(torch.zeros(PROTOTYPE_RANK, joint))
            # Belongs to the backbone: neither trained nor saved here.
            self.register_buffer("frozen", visual_proj.detach().clone(), persistent=False)

    def matrix(self) -> Tensor:
        """``[D, E]``."""
        return self.weight if hasattr(self, "weight") else self.frozen + self.up @ self.down

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D] -> [B, E]``."""
        return rows @ self.matrix()


@dataclass
class ClassSet:
    """What depends on the class list. Never saved: it is computed anew for every list.

    Attributes:
        trunk: the prompts' text states about to enter layer J.
        zero_shot: ``[C, E]`` frozen CLIP features of the prompts, unit length.
    """

    trunk: TextStates
    zero_shot: Tensor


class ImageFeatures(NamedTuple):
    """Unit features ``[B, E]``: class token, prototype and, in training, the frozen CLIP's."""

    class_token: Tensor
    prototype: Tensor
    frozen: Tensor | None = None


class TokenLearner(Protocol):
    """What a learner of such tokens offers."""

    def text_tokens(self) -> Sequence[Tensor]:
        """One ``[K, D_text]`` per layer."""

    def vision_tokens(self) -> Sequence[Tensor]:
        """One ``[K, D_vision]`` per layer."""

    @property
    def prototype_proj(self) -> PrototypeProjection: ...


Bank = TypeVar("Bank", bound=TokenLearner)


class DeepTokenCLIP(PromptedCLIP[Bank]):
    """A frozen CLIP that sees the learner's tokens from layer J on.

    Args:
        layers: text layers that receive tokens; in a deeper vision tower, as many of its last layers do.
        alpha: weight of the class head against the prototype head.
        beta: weight of the fresh token where a vision layer overwrites the previous layer's output.
        text_beta: the same in the text tower.
    """

    classes: ClassSet

    def __init__(
        self,
        backbone: Backbone,
        learner: Bank,
        layers: tuple[int, ...],
        alpha: float,
        beta: float = 1.0,
        text_beta: float = 1.0,
    ):
        super().__init__(backbone, learner)
        self.alpha, self.beta, self.text_beta = alpha, beta, text_beta
        shift = len(self.clip.visual.transformer.resblocks) - len(self.clip.transformer.resblocks)
        self.text_layers = layers
        self.vision_layers = tuple(layer + shift for layer in layers)

    def prepare_classes(self, classnames: list[str], template: str) -> None:
        self.set_prompts(self.tokenized(filled(template, classnames)))

    @torch.no_grad()
    def set_prompts(self, ids: Tensor) -> None:
        """Prepare for the classes whose prompts have token ids ``[C, L]``: the text layers below J run here, once."""
        self.classes = ClassSet(text_trunk(self.clip, ids, self.text_layers[0]), self.encode_frozen_text(ids))

    def compute_text(self) -> Tensor:
        tokens = dict(zip(self.text_layers, self.learner.text_tokens(), strict=True))
        return unit(text_features(self.clip, self.classes.trunk, Tokens(tokens, insert=True, beta=self.text_beta)))

    @shared_out
    def encode_image(self, images: Tensor, with_frozen: bool = False) -> ImageFeatures:
        """Features of images or clips; the layers below J run once for the prompted and the frozen pass."""
        projection = self.clip.visual.proj
        with torch.no_grad():
            trunk = vision_trunk(self.clip, images, self.vision_layers[0])
            frozen = self.encode_frozen_rest(trunk) if with_frozen else None
        tokens = dict(zip(self.vision_layers, self.learner.vision_tokens(), strict=True))
        rows = vision_rows(self.clip, trunk, Tokens(tokens, insert=True, beta=self.beta))
        prototype = self.learner.prototype_proj(rows.token_rows.mean(dim=1))
        return ImageFeatures(unit(rows.class_row @ projection), unit(prototype), frozen)

    def encode_frozen_rest(self, trunk: VisionStates) -> Tensor:
        return unit(vision_rows(self.clip, trunk).class_row @ self.clip.visual.proj)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of the class head."""
        return self.logits(self.encode_image(images).class_token, self.encode_text())

    def head_logits(self, images: Tensor) -> dict[str, Tensor]:
        text, features = self.encode_text(), self.encode_image(images)
        class_logits = self.logits(features.class_token, text)
        prototype_logits = self.logits(features.prototype, text)
        fused = self.alpha * class_logits + (1 - self.alpha) * prototype_logits
        return {"class": class_logits, "prototype": prototype_logits, "fused": fused}


def last_layers(key: str, value: Sequence[int], cfg: CfgNode) -> None:
    """Check of text layers: they are contiguous and end with the last one."""
    backbone, layers = cfg.MODEL.BACKBONE.NAME, list(value)
    depth = text_depth(backbone)
    require(
        bool(layers) and layers[0] >= 1 and layers == list(range(layers[0], depth + 1)),
        f"{key}: expected contiguous layers up to the last of the {depth} text layers of {backbone}, such as "
        f"{list(range(depth // 2, depth + 1))}, got {layers}",
    )
