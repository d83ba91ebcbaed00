"""MMRL++ (Guo and Gu, IJCV, arXiv 2505.10088): MMRL with a sixth of its learnables, and tokens that remember.

Per tower, one map shared by all layers plus a low-rank residual and a bias per layer takes the place of MMRL's map per
layer; the second head's projection is CLIP's own plus a low-rank residual. In deeper layers of both towers the tokens
are a mixture of fresh ones and the previous layer's output. Loss, heads and their rule are MMRL's.
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
from anprompt.prompts.deep_tokens import DeepTokenCLIP, PrototypeProjection, SharedAligner, last_layers
from anprompt.prompts.losses import head_cross_entropy, similarity_loss
from anprompt.prompts.prompted_clip import random_prompts
from anprompt.utils.settings import FIXED, Setting, Settings, number, whole
from dassl.engine import TRAINER_REGISTRY


class SharedRepresentationLearner(nn.Module):
    """The token bank ``[K, R]``, one shared map into each tower, and the second head's projection.

    Args:
        clip: gives the widths and the visual projection; it is not kept.
        count: K.
        dim: R.
        layers: number of layers that receive tokens.
    """

    def __init__(self, clip: CLIP, count: int, dim: int, layers: int):
        super().__init__()
        self.tokens = nn.Parameter(random_prompts(count, dim))
        self.text_aligner = SharedAligner(nn.Linear(dim, clip.ln_final.weight.shape[0]), layers)
        self.vision_aligner = SharedAligner(nn.Linear(dim, clip.visual.proj.shape[0]), layers)
        self.prototype_proj = PrototypeProjection(clip.visual.proj, "low_rank")

    def text_tokens(self) -> list[Tensor]:
        """One ``[K, D_text]`` per layer."""
        return self.text_aligner(self.tokens)

    def vision_tokens(self) -> list[Tensor]:
        """One ``[K, D_vision]`` per layer."""
        return self.vision_aligner(self.tokens)


SETTINGS = Settings(
    "MMRLPP",
    Setting("N_REP_TOKENS", 5, whole(1), FIXED),  # K
    Setting("REP_LAYERS", [6, 7, 8, 9, 10, 11, 12], last_layers, FIXED),  # up to the last text layer; vision: as many
    Setting("REP_DIM", 512, whole(1), FIXED),  # width of the tokens' own space
    Setting("ALPHA", 0.7, number(0, 1), FIXED),  # weight of the class head against the representation head
    Setting("BETA", None, number(0, 1)),  # weight of the fresh token in deeper layers; None: the authors' for the data
    Setting("REG_WEIGHT", None, number(0)),  # weight of both similarity terms; None: the authors' for the dataset
    per_dataset=Path(__file__).parents[1] / "configs/trainers/MMRLpp/datasets/per_dataset.yaml",
)
extend_cfg = SETTINGS.extend_cfg


@TRAINER_REGISTRY.register()
class MMRLpp(TwoHeadTrainer[DeepTokenCLIP[SharedRepresentationLearner]]):
    """Parameter-efficient, interaction-aware representation learning."""

    settings = SETTINGS

    @classmethod
    def build_prompted_model(
        cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]
    ) -> DeepTokenCLIP[SharedRepresentationLearner]:
        node = SETTINGS.values(cfg)
        layers = tuple(node.REP_LAYERS)
        learner = SharedRepresentationLearner(backbone.model, node.N_REP_TOKENS, node.REP_DIM, len(layers))
        return DeepTokenCLIP(backbone, learner, layers, node.ALPHA, beta=node.BETA, text_beta=node.BETA)

    def build_model(self) -> None:
        print(f"BETA {self.values.BETA}, REG_WEIGHT {self.values.REG_WEIGHT}")
        super().build_model()

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

    def method_state(self) -> dict[str, Any]:
        return {"beta": self.model.beta}

    def restore_method_state(self, state: Mapping[str, Any]) -> None:
        self.model.beta = self.model.text_beta = self.beta_of_training(state["beta"])
