"""Zero-shot CLIP, the reference that every method is measured from: with one hand-written template, or with several."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.prompted_clip import PromptedCLIP
from anprompt.prompts.templates import ensemble_for
from dassl.engine import TRAINER_REGISTRY


class FrozenCLIP(PromptedCLIP[nn.Module]):
    """CLIP as it is; nothing to learn.

    Args:
        wordings: the templates whose features are averaged, given the hand-written one.
    """

    text: Tensor  # [C, E]

    def __init__(self, backbone: Backbone, wordings: Callable[[str], Sequence[str]]):
        super().__init__(backbone, nn.Module())
        self.wordings = wordings
        self.register_buffer("text", torch.empty(0), persistent=False)

    def prepare_classes(self, classnames: list[str], template: str) -> None:
        self.text = self.encode_templates(self.wordings(template), classnames)

    def compute_text(self) -> Tensor:
        return self.text

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.encode_frozen_image(images), self.text)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer[FrozenCLIP]):
    """Evaluates CLIP as it is; ``--eval-only`` or not makes no difference."""

    def check_cfg(self, cfg: CfgNode) -> None:
        """There are no settings of its own, and none of training matters."""
        self.check_test_cfg(cfg)

    def precision(self) -> str:
        return "fp32"

    @classmethod
    def build_prompted_model(cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]) -> FrozenCLIP:
        return FrozenCLIP(backbone, lambda template: [template])

    def train(self) -> None:
        print("Zero-shot CLIP has nothing to train")
        self.time_start = time.time()
        self.after_train()


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """CLIP with an ensemble of templates."""

    @classmethod
    def build_prompted_model(cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]) -> FrozenCLIP:
        return FrozenCLIP(backbone, partial(ensemble_for, cfg.DATASET.NAME))
