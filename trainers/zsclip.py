"""Zero-shot CLIP, the reference that every method is measured from: with one hand-written template, or with several."""

import time

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.prompted_clip import PromptedCLIP, unit
from anprompt.prompts.templates import class_text, ensemble_for, template_for
from dassl.engine import TRAINER_REGISTRY


class FrozenCLIP(PromptedCLIP):
    """CLIP and the zero-shot features ``[C, E]`` of a class list; nothing to learn."""

    def __init__(self, clip: nn.Module, text: Tensor):
        super().__init__(clip, nn.Module())
        self.register_buffer("text", text, persistent=False)

    def compute_text(self) -> Tensor:
        return self.text

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.encode_frozen_image(images), self.text)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """Evaluates CLIP as it is; ``--eval-only`` or not makes no difference."""

    def check_cfg(self, cfg: CfgNode) -> None:
        """There are no settings of its own, and none of training matters."""
        self.check_test_cfg(cfg)

    def precision(self) -> str:
        return "fp32"

    def templates(self) -> list[str]:
        """Sentences with one ``{}`` for the class name, whose features are averaged."""
        return [template_for(self.cfg.DATASET.NAME, self.cfg.DATASET.TEMPLATE)]

    def build_prompted_model(self, backbone: Backbone) -> FrozenCLIP:
        names = [class_text(name) for name in self.dm.dataset.classnames]
        model = FrozenCLIP(backbone.model, torch.empty(0))
        features = [
            model.encode_frozen_text(backbone.tokenize([template.format(name) for name in names]).to(self.device))
            for template in self.templates()
        ]
        model.text = unit(torch.stack(features).mean(dim=0))
        return model

    def train(self) -> None:
        print("Zero-shot CLIP has nothing to train")
        self.time_start = time.time()
        self.after_train()


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """CLIP with an ensemble of templates."""

    def templates(self) -> list[str]:
        return ensemble_for(self.cfg.DATASET.NAME, self.cfg.DATASET.TEMPLATE)
