"""MMRL (Guo and Gu, CVPR 2025): representation tokens shared by both towers, inserted from layer 6 on.

One bank of tokens in a space of its own is projected by a linear map per layer and tower. The class token serves the
usual head; the averaged token rows of the vision tower, projected by a matrix of their own, serve a second one. Both
are trained by cross-entropy, and class-token and text features are held near the frozen CLIP's.

Seen classes are predicted by both heads together, all others by the class head alone.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.engine.batch import Batch
from anprompt.engine.two_heads import TwoHeadTrainer
from anprompt.prompts.deep_tokens import DeepTokenCLIP, LinearAligner, PrototypeProjection, check_layers
from anprompt.prompts.losses import head_cross_entropy, similarity_loss
from anprompt.prompts.prompted_clip import random_prompts
from anprompt.utils.config import add_trainer_node, require, require_number
from dassl.engine import TRAINER_REGISTRY

# The authors' weights of the distance to the frozen CLIP, used where the config leaves REG_WEIGHT unset.
REG_WEIGHTS = {
    "ImageNet": 0.5,
    "Caltech101": 0.5,
    "OxfordPets": 0.2,
    "StanfordCars": 7.0,
    "OxfordFlowers": 4.0,
    "Food101": 5.0,
    "FGVCAircraft": 6.0,
    "SUN397": 6.0,
    "DescribableTextures": 6.0,
    "EuroSAT": 0.01,
    "UCF101": 3.0,
}
REP_DIMS = {"EuroSAT": 2048}  # likewise; 512 for all others
DEFAULT_REG_WEIGHT, DEFAULT_REP_DIM = 0.5, 512
REP_DIM_KEY = "TRAINER.MMRL.REP_DIM"


def extend_cfg(cfg: CfgNode) -> None:
    """Add ``TRAINER.MMRL``."""
    node = add_trainer_node(cfg, "MMRL")
    node.N_REP_TOKENS = 5  # K
    node.REP_LAYERS = [6, 7, 8, 9, 10, 11, 12]  # contiguous, up to the last text layer; vision: as many last layers
    node.REP_DIM = None  # width of the tokens' own space; None: the authors' value for the dataset
    node.ALPHA = 0.7  # weight of the class head against the representation head
    node.REG_WEIGHT = None  # weight of both similarity terms; None: the authors' value for the dataset


def reg_weight(cfg: CfgNode) -> float:
    node, name = cfg.TRAINER.MMRL, cfg.DATASET.NAME
    return REG_WEIGHTS.get(name, DEFAULT_REG_WEIGHT) if node.REG_WEIGHT is None else node.REG_WEIGHT


def rep_dim(cfg: CfgNode) -> int:
    node, name = cfg.TRAINER.MMRL, cfg.DATASET.NAME
    return REP_DIMS.get(name, DEFAULT_REP_DIM) if node.REP_DIM is None else node.REP_DIM


class RepresentationLearner(nn.Module):
    """The token bank ``[K, R]``, its projections into both towers, and that of the second head.

    Args:
        clip: gives the widths; it is not kept.
        count: K.
        dim: R.
        layers: number of layers that receive tokens.
    """

    def __init__(self, clip: Any, count: int, dim: int, layers: int):
        super().__init__()
        self.tokens = nn.Parameter(random_prompts(count, dim))
        self.text_aligner = LinearAligner(nn.Linear(dim, clip.ln_final.weight.shape[0]), layers)
        self.vision_aligner = LinearAligner(nn.Linear(dim, clip.visual.proj.shape[0]), layers)
        self.prototype_proj = PrototypeProjection(clip.visual.proj, "full")

    def text_tokens(self) -> list[Tensor]:
        """One ``[K, D_text]`` per layer."""
        return self.text_aligner(self.tokens)

    def vision_tokens(self) -> list[Tensor]:
        """One ``[K, D_vision]`` per layer."""
        return self.vision_aligner(self.tokens)


@TRAINER_REGISTRY.register()
class MMRL(TwoHeadTrainer):
    """Multi-modal representation learning."""

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node = cfg.TRAINER.MMRL
        require_number("TRAINER.MMRL.N_REP_TOKENS", node.N_REP_TOKENS, 1)
        require_number("TRAINER.MMRL.ALPHA", node.ALPHA, 0, 1)
        for key, low in (("REP_DIM", 1), ("REG_WEIGHT", 0)):
            if node[key] is not None:
                require_number(f"TRAINER.MMRL.{key}", node[key], low, math.inf)
        require(isinstance(node.REP_DIM, int | None), f"{REP_DIM_KEY}: expected a whole number, got {node.REP_DIM}")
        check_layers("TRAINER.MMRL.REP_LAYERS", list(node.REP_LAYERS), cfg.MODEL.BACKBONE.NAME)

    @classmethod
    def build_prompted_model(cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]) -> DeepTokenCLIP:
        node = cfg.TRAINER.MMRL
        learner = RepresentationLearner(backbone.model, node.N_REP_TOKENS, rep_dim(cfg), len(node.REP_LAYERS))
        return DeepTokenCLIP(backbone, learner, tuple(node.REP_LAYERS), node.ALPHA)

    def build_model(self) -> None:
        print(f"REG_WEIGHT {reg_weight(self.cfg)}, REP_DIM {rep_dim(self.cfg)}")
        super().build_model()

    def adapt_to(self, settings: dict[str, Any]) -> None:
        """The training run's width holds on other datasets too, unless the config names one."""
        count, here = self.model.learner.tokens.shape
        width = settings.get(REP_DIM_KEY, here)
        if self.cfg.TRAINER.MMRL.REP_DIM is None and width != here:
            learner = RepresentationLearner(self.model.clip, count, width, len(self.model.text_layers))
            self.model.learner = learner.to(self.device)
            print(f"REP_DIM {width}, from the training run")

    def loss_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        model, text, weight = self.model, self.model.encode_text(), reg_weight(self.cfg)
        features = model.encode_image(batch["images"], with_frozen=True)
        class_logits = model.logits(features.class_token, text)
        rep_logits = model.logits(features.prototype, text)
        terms = {
            "ce": head_cross_entropy(class_logits, rep_logits, batch["labels"], model.alpha),
            "sim_image": weight * similarity_loss(features.class_token, features.frozen),
            "sim_text": weight * similarity_loss(text, model.classes.zero_shot),
        }
        return terms, class_logits

    def required_settings(self) -> dict[str, Any]:
        settings = self.own_settings("N_REP_TOKENS", "REP_LAYERS", "ALPHA")
        return super().required_settings() | settings | {REP_DIM_KEY: self.model.learner.tokens.shape[1]}
