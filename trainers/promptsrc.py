"""PromptSRC (Khattak et al., ICCV 2023): independent deep prompts in both towers, regulated by the frozen CLIP.

Three things keep the prompts from forgetting what CLIP knows: image features, text features and logits stay near those
of the frozen CLIP, whose text features are averaged over many templates; and the model that is kept is an average of
the prompts of all epochs, weighted by a Gaussian over the epochs (GPA).
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone, layers_of, text_depth, vision_depth
from anprompt.engine.batch import Batch
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.context import ContextCLIP, context_prompts, start_context, words
from anprompt.prompts.independent import IndependentLearner
from anprompt.prompts.templates import clip_templates
from anprompt.utils import distributed
from anprompt.utils.config import require
from anprompt.utils.settings import FIXED, Setting, Settings, number, whole
from dassl.engine import TRAINER_REGISTRY

MIN_WEIGHT = 1e-300  # below, floating point has no room for a weight
TEMPLATES = 60  # the paper's number N; here the first 60 of the 80 that CLIP's authors wrote for ImageNet


class GaussianAverage:
    """Running average of the learnables over epochs, weighted by a normal density over the number of the epoch.

    Args:
        mean, std: of the density, in epochs counted from 1.
    """

    def __init__(self, mean: float, std: float):
        self.mean, self.std = mean, std
        self.total = 0.0
        self.weighted: dict[str, Tensor] = {}

    def weight(self, epoch: int) -> float:
        """Of an epoch, up to a factor that the average does not see."""
        return math.exp(-0.5 * ((epoch - self.mean) / self.std) ** 2)

    def add(self, state: dict[str, Tensor], epoch: int) -> None:
        """Take the learnables after ``epoch`` into account. Sums are in float64, so that order costs nothing."""
        weight = self.weight(epoch)
        self.total += weight
        for name, tensor in state.items():
            self.weighted[name] = self.weighted.get(name, 0) + weight * tensor.cpu().double()

    def average(self) -> dict[str, Tensor]:
        """The learnables to keep."""
        return {name: tensor / self.total for name, tensor in self.weighted.items()}


def logit_consistency(logits: Tensor, frozen: Tensor) -> Tensor:
    """KL(frozen || tuned) of two ``[B, C]``, summed over all entries and divided by their number B * C."""
    divergence = F.kl_div(logits.log_softmax(dim=1), frozen.log_softmax(dim=1), reduction="sum", log_target=True)
    return divergence / logits.numel()


SETTINGS = Settings(
    "PROMPTSRC",
    Setting("N_CTX_TEXT", 4, whole(1), FIXED),  # prompts per text layer
    Setting("N_CTX_VISION", 4, whole(1), FIXED),  # prompts per vision layer
    Setting("CTX_INIT", "a photo of a", words("N_CTX_TEXT"), FIXED),  # its first tokens start the context; or random
    Setting("PROMPT_DEPTH_TEXT", 9, layers_of(text_depth), FIXED),  # layers that get prompts, counted from the first
    Setting("PROMPT_DEPTH_VISION", 9, layers_of(vision_depth), FIXED),
    Setting("TEXT_LOSS_WEIGHT", 25.0, number(0)),
    Setting("IMAGE_LOSS_WEIGHT", 10.0, number(0)),
    Setting("GPA_MEAN", 15.0, number(-1e6, 1e6)),  # epoch (from 1) whose prompts count most
    Setting("GPA_STD", 1.0, number(1e-3, 1e6)),  # in epochs
)
extend_cfg = SETTINGS.extend_cfg


@TRAINER_REGISTRY.register()
class PromptSRC(PromptTrainer[ContextCLIP[IndependentLearner]]):
    """Self-regulating prompts."""

    settings = SETTINGS

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node = cfg.TRAINER.PROMPTSRC
        average = GaussianAverage(node.GPA_MEAN, node.GPA_STD)
        require(
            any(average.weight(epoch) > MIN_WEIGHT for epoch in range(1, cfg.OPTIM.MAX_EPOCH + 1)),
            f"TRAINER.PROMPTSRC.GPA_MEAN {node.GPA_MEAN} with GPA_STD {node.GPA_STD} gives no weight to any of the "
            f"{cfg.OPTIM.MAX_EPOCH} epochs: choose a mean within them or a larger deviation",
        )

    @classmethod
    def build_prompted_model(
        cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]
    ) -> ContextCLIP[IndependentLearner]:
        node = cfg.TRAINER.PROMPTSRC
        learner = IndependentLearner(
            start_context(backbone, node.CTX_INIT, node.N_CTX_TEXT),
            (node.PROMPT_DEPTH_TEXT, node.PROMPT_DEPTH_VISION),
            (node.N_CTX_VISION, backbone.vision_width),
        )
        return ContextCLIP(backbone, learner, partial(context_prompts, count=node.N_CTX_TEXT, words=node.CTX_INIT))

    def build_model(self) -> None:
        node = self.cfg.TRAINER.PROMPTSRC
        self.gpa = GaussianAverage(node.GPA_MEAN, node.GPA_STD)
        self.last_state: dict[str, Tensor] = {}  # prompts of the last epoch: at the end, the learner holds the average
        super().build_model()

    # ------------------------------------------------------------------ objective

    def before_train(self) -> None:
        super().before_train()
        self.frozen_text = self.average_templates()

    def average_templates(self) -> Tensor:
        """Frozen text features ``[C, E]``, averaged over templates before they are normalised."""
        templates = tqdm(clip_templates()[:TEMPLATES], desc="encoding templates", disable=not distributed.is_main())
        return self.model.encode_templates(templates, self.model.classnames, normalise=False)

    def loss_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        node, model, images = self.values, self.model, batch["images"]
        text, features = model.encode_text(), model.encode_image(images)
        frozen = model.encode_frozen_image(images)  # prompts enter at the first layer: no layer is shared
        logits = model.logits(features, text)
        terms = {
            "ce": F.cross_entropy(logits, batch["labels"]),
            "scl_text": node.TEXT_LOSS_WEIGHT * F.l1_loss(text, self.frozen_text),
            "scl_image": node.IMAGE_LOSS_WEIGHT * F.l1_loss(features, frozen),
            "scl_logits": logit_consistency(logits, model.logits(frozen, self.frozen_text)),
        }
        return terms, logits

    # ------------------------------------------------------------------ Gaussian averaging

    def after_epoch(self) -> None:
        self.gpa.add(self.model.learner.state_dict(), self.epoch + 1)
        self.last_state = {name: tensor.cpu().clone() for name, tensor in self.model.learner.state_dict().items()}
        if self.epoch + 1 == self.max_epoch:
            self.model.learner.load_state_dict(self.gpa.average())
        super().after_epoch()

    def training_state(self) -> dict[str, Any]:
        return {"total": self.gpa.total, "weighted": self.gpa.weighted, "last_state": self.last_state}

    def restore_training_state(self, state: Mapping[str, Any], epoch: int) -> None:
        """Go on with the sums. Where epochs follow, so do the last one's prompts; where none do, their average stays.

        The average is taken here, too: a run that was stopped may be declared finished by a smaller MAX_EPOCH.
        """
        self.gpa.total, self.gpa.weighted = state["total"], state["weighted"]
        self.last_state = state["last_state"]
        done = epoch >= self.max_epoch
        self.model.learner.load_state_dict(self.gpa.average() if done else self.last_state)
