"""KgCoOp (Yao et al., CVPR 2023): CoOp, held near the hand-written prompts.

The loss adds W times the mean distance (1 - cosine) between each class's learned text feature and the frozen CLIP's
feature of the dataset's hand-written prompt.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.engine.batch import Batch
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.context import (
    ContextCLIP,
    ContextLearner,
    context_length,
    context_prompts,
    start_context,
    words,
)
from anprompt.prompts.losses import similarity_loss
from anprompt.prompts.templates import KGCOOP_TEMPLATES, prompts_for
from anprompt.utils.settings import Setting, Settings, number, whole
from dassl.engine import TRAINER_REGISTRY

SETTINGS = Settings(
    "KGCOOP",
    Setting("N_CTX", 4, whole(1)),  # M; with CTX_INIT, the number of its tokens counts instead
    Setting("CTX_INIT", "a photo of a", words(1)),  # words to start from; empty: random
    Setting("W", 8.0, number(0)),  # weight of the distance
)
extend_cfg = SETTINGS.extend_cfg


@TRAINER_REGISTRY.register()
class KgCoOp(PromptTrainer[ContextCLIP[ContextLearner]]):
    """Knowledge-guided context optimisation."""

    settings = SETTINGS

    @classmethod
    def build_prompted_model(
        cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]
    ) -> ContextCLIP[ContextLearner]:
        node = cfg.TRAINER.KGCOOP
        count = context_length(node.CTX_INIT, node.N_CTX)
        learner = ContextLearner(start_context(backbone, node.CTX_INIT, count))
        return ContextCLIP(backbone, learner, partial(context_prompts, count=count))

    def before_train(self) -> None:
        super().before_train()
        self.hand_written = self.encode_hand_written()

    def hand_written_prompts(self) -> list[str]:
        own = self.cfg.DATASET.TEMPLATE or KGCOOP_TEMPLATES.get(self.cfg.DATASET.NAME, "")
        return prompts_for(self.cfg.DATASET.NAME, self.dm.dataset.classnames, own)

    def encode_hand_written(self) -> Tensor:
        """Frozen text features ``[C, E]`` of the hand-written prompts."""
        return self.model.encode_frozen_text(self.model.tokenized(self.hand_written_prompts()))

    def loss_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        text = self.model.encode_text()
        logits = self.model.logits(self.model.encode_image(batch["images"]), text)
        distance = similarity_loss(text, self.hand_written)
        return {"ce": F.cross_entropy(logits, batch["labels"]), "kg": self.values.W * distance}, logits
