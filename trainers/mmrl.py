"""MMRL (Guo and Gu, CVPR 2025): representation tokens shared by both towers, inserted from layer 6 on.

One bank of tokens in a space of its own is projected by a linear map per layer and tower. The class token serves the
usual head; the averaged token rows of the vision tower, projected by a matrix of their own, serve a second one. Both
are trained by cross-entropy, and class-token and text features are held near the frozen CLIP's.

Seen classes are predicted by both heads together, all others by the class head alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.clip.interface import CLIP
from anprompt.engine.batch import Batch
from anprompt.engine.two_heads import TwoHeadTrainer
from anprompt.prompts.deep_tokens import DeepTokenCLIP, LinearAligner, PrototypeProjection, last_layers
from anprompt.prompts.losses import head_cross_entropy, similarity_loss
from anprompt.prompts.prompted_clip import random_prompts
from anprompt.utils.settings import FIXED, Setting, Settings, number, whole
from dassl.engine import TRAINER_REGISTRY


class RepresentationLearner(nn.Module):
    """The token bank ``[K, R]``, its projections into both towers, and that of the second head.

    Args:
        clip: gives the widths; it is not kept.
        count: K.
        dim: R.
        layers: number of layers that receive tokens.
    """

    def __init__(self, clip: CLIP, count: int, dim: int, layers: int):
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


SETTINGS = Settings(
    "MMRL",
    Setting("N_REP_TOKENS", 5, whole(1), FIXED),  # K
    Setting("REP_LAYERS", [6, 7, 8, 9, 10, 11, 12], last_layers, FIXED),  # up to the last text layer; vision: as many
    Setting("REP_DIM", None, whole(1)),  # width of the tokens' own space; None: the authors' value for the dataset
    Setting("ALPHA", 0.7, number(0, 1), FIXED),  # weight of the class head against the representation head
    Setting("REG_WEIGHT", None, number(0)),  # weight of both similarity terms; None: the authors' for the dataset
    per_dataset=Path(__file__).parents[1] / "configs/trainers/MMRL/datasets/per_dataset.yaml",
)
extend_cfg = SETTINGS.extend_cfg
REP_DIM_KEY = "TRAINER.MMRL.REP_DIM"


@TRAINER_REGISTRY.register()
class MMRL(TwoHeadTrainer[DeepTokenCLIP[RepresentationLearner]]):
    """Multi-modal representation learning."""

    settings = SETTINGS

    @classmethod
    def build_prompted_model(
        cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]
    ) -> DeepTokenCLIP[RepresentationLearner]:
        node = SETTINGS.values(cfg)
        learner = RepresentationLearner(backbone.model, node.N_REP_TOKENS, node.REP_DIM, len(node.REP_LAYERS))
        return DeepTokenCLIP(backbone, learner, tuple(node.REP_LAYERS), node.ALPHA)

    def build_model(self) -> None:
        print(f"REG_WEIGHT {self.values.REG_WEIGHT}, REP_DIM {self.values.REP_DIM}")
        super().build_model()

    def adapt_to(self, settings: Mapping[str, Any]) -> None:
        """The training run's width holds on other datasets too, unless the config names one."""
        count, here = self.model.learner.tokens.shape
        width = settings.get(REP_DIM_KEY, here)
        if self.cfg.TRAINER.MMRL.REP_DIM is None and width != here:
            learner = RepresentationLearner(self.model.clip, count, width, len(self.model.text_layers))
            self.model.learner = learner.to(self.device)
            print(f"REP_DIM {width}, from the training run")

    def loss_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Equation (8) of ``docs/method.md`` without its last term."""
        model, text, weight = self.model, self.model.encode_text(), self.values.REG_WEIGHT
        features = model.encode_image(batch["images"], with_frozen=True)
        assert features.frozen is not None
        class_logits = model.logits(features.class_token, text)
        rep_logits = model.logits(features.prototype, text)
        terms = {
            "ce": head_cross_entropy(class_logits, rep_logits, batch["labels"], model.alpha),
            "sim_image": weight * similarity_loss(features.class_token, features.frozen),
            "sim_text": weight * similarity_loss(text, model.classes.zero_shot),
        }
        return terms, class_logits

    def required_settings(self) -> dict[str, Any]:
        return super().required_settings() | {REP_DIM_KEY: self.model.learner.tokens.shape[1]}
