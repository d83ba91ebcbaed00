"""A frozen CLIP with something learnable attached: what all prompted models share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip.backbone import Backbone
from anprompt.clip.encoders import text_features, text_trunk, vision_rows, vision_trunk
from anprompt.clip.interface import CLIP
from anprompt.prompts.templates import check_template, filled
from anprompt.utils.config import require
from anprompt.utils.distributed import shared_out

PROMPT_STD = 0.02
Learner = TypeVar("Learner")  # an nn.Module; what else it offers is between a model and its learner


def unit(features: Tensor) -> Tensor:
    """Normalise the last dimension in at least fp32."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def random_prompts(*shape: int) -> Tensor:
    """Start of prompts that do not come from words: normal with standard deviation 0.02, the family's choice."""
    return PROMPT_STD * torch.randn(*shape)


class PromptedCLIP(nn.Module, Generic[Learner]):
    """A frozen CLIP and a method's learnables in ``learner``, which is what checkpoints hold.

    A subclass implements :meth:`prepare_classes`, :meth:`compute_text` and :meth:`forward`. It classifies once
    :meth:`set_classes` has said into what.

    Args:
        backbone: its CLIP stays as it is.
        learner: all that is trained; an empty module where nothing is.
    """

    clip: CLIP
    learner: Learner

    def __init__(self, backbone: Backbone, learner: Learner):
        super().__init__()
        self.backbone = backbone
        self.clip, self.learner = backbone.model, learner
        self.classnames: list[str] = []
        self.cached_text: Tensor | None = None

    def set_classes(self, classnames: Sequence[str], template: str) -> None:
        """Classify into ``classnames``, in this order, from now on. The learnables stay.

        Args:
            template: hand-written prompt with one ``{}`` for the class name; a method that learns the words of its
                prompts has no use for it.

        Raises:
            ValueError: no class, a wrong template, a prompt that does not fit, or learnables that belong to others.
        """
        require(len(classnames) > 0, "expected at least one class name, got none")
        check_template("the template", template)
        self.prepare_classes(list(classnames), template)
        self.classnames = list(classnames)
        self.cached_text = None

    def prepare_classes(self, classnames: list[str], template: str) -> None:
        """Replace all that depends on the class list, once for all images; :meth:`set_classes` calls it."""
        raise NotImplementedError

    def tokenized(self, prompts: Sequence[str]) -> Tensor:
        """Token ids ``[N, L]`` on the backbone's device."""
        return self.backbone.tokenize(prompts).to(self.backbone.device)

    def compute_text(self) -> Tensor:
        """Unit text features ``[C, E]`` of the current classes."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, 3, H, W]`` or clips ``[B, T, 3, H, W]``."""
        raise NotImplementedError

    def head_logits(self, images: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, C]`` of every head, by name."""
        return {"class": self(images)}

    def encode_text(self) -> Tensor:
        """Unit text features ``[C, E]``: computed, or those of :meth:`fixed_text`."""
        return self.compute_text() if self.cached_text is None else self.cached_text

    @contextmanager
    def fixed_text(self) -> Iterator[None]:
        """Encode the classes once for all that happens inside, and forget them afterwards: training changes them."""
        self.cached_text = self.compute_text()
        try:
            yield
        finally:
            self.cached_text = None

    @property
    def scale(self) -> Tensor:
        """CLIP's own logit scale; 100 for OpenAI's models."""
        return self.clip.logit_scale.detach().exp()

    def logits(self, features: Tensor, text: Tensor) -> Tensor:
        """Scaled cosine ``[B, C]`` of unit features, outside autocast: half precision would round it to 1/16."""
        with torch.autocast(features.device.type, enabled=False):
            return self.scale * features @ text.T

    @torch.no_grad()
    def encode_frozen_text(self, ids: Tensor, normalise: bool = True) -> Tensor:
        """Unit features ``[N, E]`` of the untouched CLIP for token ids ``[N, L]``; raw ones without ``normalise``."""
        features = text_features(self.clip, text_trunk(self.clip, ids))
        return unit(features) if normalise else features

    def encode_templates(self, templates: Iterable[str], classnames: Sequence[str], normalise: bool = True) -> Tensor:
        """Unit features ``[C, E]`` of the untouched CLIP, averaged over templates with one ``{}``.

        Args:
            normalise: average unit features; else the raw ones, among which long ones count more.
        """
        total = torch.zeros((), device=self.backbone.device)
        for template in templates:
            total = total + self.encode_frozen_text(self.tokenized(filled(template, classnames)), normalise)
        return unit(total)

    @torch.no_grad()
    @shared_out
    def encode_frozen_image(self, images: Tensor) -> Tensor:
        """Unit features ``[B, E]`` of the untouched CLIP for images ``[B, 3, H, W]`` or clips ``[B, T, 3, H, W]``."""
        return unit(vision_rows(self.clip, vision_trunk(self.clip, images)).class_row @ self.clip.visual.proj)
