"""KgCoOp (Yao et al., CVPR 2023): CoOp, held near the hand-written prompts.

The loss adds W times the mean distance (1 - cosine) between each class's learned text feature and the frozen CLIP's
feature of the dataset's hand-written prompt.
"""

import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.context import (
    ContextCLIP,
    ContextLearner,
    check_context,
    context_length,
    context_prompts,
    start_context,
)
from anprompt.prompts.losses import similarity_loss
from anprompt.utils.config import add_trainer_node, require_number
from dassl.engine import TRAINER_REGISTRY


def extend_cfg(cfg: CfgNode) -> None:
    """Add ``TRAINER.KGCOOP``."""
    node = add_trainer_node(cfg, "KGCOOP")
    node.N_CTX = 4  # M; with CTX_INIT, the number of its tokens counts instead
    node.CTX_INIT = "a photo of a"  # words to start from; empty: random
    node.W = 8.0  # weight of the distance


@TRAINER_REGISTRY.register()
class KgCoOp(PromptTrainer):
    """Knowledge-guided context optimisation."""

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        require_number("TRAINER.KGCOOP.N_CTX", cfg.TRAINER.KGCOOP.N_CTX, 1)
        check_context("TRAINER.KGCOOP.CTX_INIT", cfg.TRAINER.KGCOOP.CTX_INIT, 1)
        require_number("TRAINER.KGCOOP.W", cfg.TRAINER.KGCOOP.W, 0)

    def build_prompted_model(self, backbone: Backbone) -> ContextCLIP:
        node, classnames = self.cfg.TRAINER.KGCOOP, self.dm.dataset.classnames
        count = context_length(node.CTX_INIT, node.N_CTX)
        learner = ContextLearner(start_context(backbone, node.CTX_INIT, count))
        model = ContextCLIP(backbone.model, learner, context_prompts(backbone, classnames, count))
        hand_written = backbone.tokenize(self.hand_written_prompts())
        self.hand_written = model.encode_frozen_text(hand_written.to(self.device))  # [C, E], once
        return model

    def loss_terms(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        text = self.model.encode_text()
        logits = self.model.logits(self.model.encode_image(images), text)
        distance = similarity_loss(text, self.hand_written)
        return {"ce": F.cross_entropy(logits, labels), "kg": self.cfg.TRAINER.KGCOOP.W * distance}, logits
