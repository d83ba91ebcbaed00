"""Zero-shot CLIP with the hand-written template of the dataset: the reference that every method is measured from."""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.backbone import Backbone, find_weights
from anprompt.encoders import text_features, text_trunk, vision_rows, vision_trunk
from anprompt.templates import prompts_for
from anprompt.trainer import PromptTrainer
from dassl.engine import TRAINER_REGISTRY


class FrozenCLIP(nn.Module):
    """CLIP and the zero-shot features ``[C, E]`` of a class list; nothing to learn."""

    def __init__(self, clip: nn.Module, ids: Tensor):
        super().__init__()
        self.clip, self.learner = clip, nn.Module()
        with torch.no_grad():
            features = F.normalize(text_features(clip, text_trunk(clip, ids)), dim=-1)
        self.register_buffer("text", features, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, 3, H, W]``."""
        features = vision_rows(self.clip, vision_trunk(self.clip, images)).class_row @ self.clip.visual.proj
        return self.clip.logit_scale.exp() * F.normalize(features, dim=-1) @ self.text.T


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """Evaluates CLIP as it is; ``--eval-only`` or not makes no difference."""

    def check_cfg(self, cfg: CfgNode) -> None:
        """Nothing to check but the weights: there are no settings."""
        find_weights(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH)

    def precision(self) -> str:
        return "fp32"

    def build_prompted_model(self, backbone: Backbone) -> FrozenCLIP:
        prompts = prompts_for(self.cfg.DATASET.NAME, self.dm.dataset.classnames, self.cfg.DATASET.TEMPLATE)
        return FrozenCLIP(backbone.model, backbone.tokenize(prompts))

    def train(self) -> None:
        print("Zero-shot CLIP has nothing to train")
        self.time_start = time.time()
        self.after_train()

    def head_logits(self, images: Tensor) -> dict[str, Tensor]:
        return {"class": self.model(images)}
