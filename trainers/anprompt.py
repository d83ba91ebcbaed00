"""ANPrompt (arXiv 2508.04677): token learner -> prompted CLIP -> losses -> trainer.

The paper names the parts; its equations and code are not public. ``docs/method.md`` says for each line here where it
comes from and how sure that is; numbers in brackets are its equations. Two readings are built from the same parts and
selected by YAML:

* the paper's (``vit_b16.yaml``, default): frozen noise prompts, clustered from weak-noise text features, join the
  learnable tokens in the deeper layers of both encoders;
* the authors' early release (``vit_b16_early_release.yaml``): a second learnable token bank, vision encoder only.

With ``NOISE_PROMPT.SOURCE off`` and ``LOSS.WA_W 0.0`` what remains is MMRL++ where ``TEXT_ALIGNER shared`` and
``TEXT_BETA`` is that of the vision tower, and MMRL where ``VISION_ALIGNER linear``, ``BETA 1.0`` and
``PROTOTYPE_PROJ full`` (docs/ladder.md).

Notation as in ``anprompt/clip/encoders.py``; in addition ``N`` layers receive tokens.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.clip.interface import CLIP
from anprompt.engine.batch import Batch
from anprompt.engine.two_heads import HEADS, TwoHeadTrainer
from anprompt.prompts.deep_tokens import ALIGNERS, DeepTokenCLIP, LinearAligner, PrototypeProjection, last_layers
from anprompt.prompts.losses import head_cross_entropy, similarity_loss, weak_alignment_loss
from anprompt.prompts.noise import NoiseBanks, noise_banks, noise_prompts, weak_noise_features
from anprompt.prompts.prompted_clip import random_prompts
from anprompt.utils.config import require
from anprompt.utils.settings import FIXED, Setting, Settings, number, one_of, whole
from dassl.engine import TRAINER_REGISTRY

# ---------------------------------------------------------------------------------------------- token learner


class TokenLearner(nn.Module):
    """All that ANPrompt learns, and the noise prompts, which are frozen but belong to the training classes.

    Args:
        clip: gives the widths and the visual projection; it is not kept.
        values: of ``TRAINER.ANPROMPT``.
    """

    noise_prompts: Tensor  # [K, E]

    def __init__(self, clip: CLIP, values: CfgNode):
        super().__init__()
        joint = clip.visual.proj.shape[1]  # where noise prompts come from
        width = values.REP_DIM or joint
        layers, count = len(values.LAYERS), values.N_TOKENS
        text_map = nn.Linear(width, clip.ln_final.weight.shape[0])
        vision_map = nn.Linear(width, clip.visual.proj.shape[0])
        self.coef = values.NOISE_PROMPT.COEF
        self.tokens = nn.Parameter(random_prompts(count, width))
        self.text_aligner = ALIGNERS[values.TEXT_ALIGNER](text_map, layers)
        self.vision_aligner = ALIGNERS[values.VISION_ALIGNER](vision_map, layers)
        self.prototype_proj = PrototypeProjection(clip.visual.proj, values.PROTOTYPE_PROJ)
        self.text_noise_aligner = self.vision_noise_aligner = None
        if values.NOISE_PROMPT.SOURCE == "learnable":
            self.noise_prompts = nn.Parameter(random_prompts(count, width))
            self.vision_noise_aligner = LinearAligner(vision_map, layers)
        elif values.NOISE_PROMPT.SOURCE == "cluster":
            self.register_buffer("noise_prompts", torch.zeros(count, joint))
            if width != joint:  # centres of text features need maps of their own width
                text_map = nn.Linear(joint, text_map.out_features)
                vision_map = nn.Linear(joint, vision_map.out_features)
            self.text_noise_aligner = LinearAligner(text_map, layers)
            self.vision_noise_aligner = LinearAligner(vision_map, layers)

    def text_tokens(self) -> list[Tensor]:
        """Textual tokens of the N layers, each ``[K, D_text]``."""
        return self.join(self.text_aligner, self.text_noise_aligner)

    def vision_tokens(self) -> list[Tensor]:
        """Visual tokens of the N layers, each ``[K, D_vision]``."""
        return self.join(self.vision_aligner, self.vision_noise_aligner)

    def join(self, aligner: nn.Module, noise_aligner: nn.Module | None) -> list[Tensor]:
        """Anti-noise prompts (3), (4): projected learnable tokens plus ``gamma`` times projected noise prompts."""
        tokens = aligner(self.tokens)
        if noise_aligner is None:
            return tokens
        return [own + self.coef * noise for own, noise in zip(tokens, noise_aligner(self.noise_prompts), strict=True)]


# ---------------------------------------------------------------------------------------------- settings

SETTINGS = Settings(
    "ANPROMPT",
    Setting("N_TOKENS", 5, whole(1), FIXED),  # K
    Setting("LAYERS", [6, 7, 8, 9, 10, 11, 12], last_layers, FIXED),  # up to the last text layer; vision: as many
    Setting("REP_DIM", None, whole(1), optional=True),  # width of the tokens' own space; None: CLIP's joint width
    Setting("BETA", None, number(0, 1)),  # weight of the fresh token in deeper vision layers; None: PER_DATASET
    Setting("TEXT_BETA", 1.0, number(0, 1), FIXED),  # the same in deeper text layers
    # shared (one matrix plus low-rank residuals) or linear (one matrix per layer)
    Setting("TEXT_ALIGNER", "linear", one_of(*ALIGNERS), FIXED),
    Setting("VISION_ALIGNER", "shared", one_of(*ALIGNERS), FIXED),
    # low_rank (CLIP's projection plus a residual) or full (own random matrix)
    Setting("PROTOTYPE_PROJ", "low_rank", one_of("low_rank", "full"), FIXED),
    Setting("NOISE.GPT_DIR", ""),  # folder with CoPrompt's <key>_prompt.json files
    Setting("NOISE.HPT_DIR", ""),  # folder with HPT's <Dataset>.json files
    Setting("NOISE.STRENGTH", 0.001, number(0, 1)),  # lambda
    Setting("NOISE.RESAMPLE", False),  # draw fresh noise before every epoch
    # cluster (the paper), learnable (early release) or off
    Setting("NOISE_PROMPT.SOURCE", "cluster", one_of("cluster", "learnable", "off"), FIXED),
    Setting("NOISE_PROMPT.COEF", 0.2, number(0, 1), FIXED),  # gamma
    Setting("LOSS.ALPHA", 0.7, number(0, 1), FIXED),  # weight of the class head against the prototype head
    Setting("LOSS.SIM_W", None, number(0)),  # weight of both similarity terms; None: PER_DATASET
    Setting("LOSS.WA_W", 1.0, number(0)),  # weight of WALoss
    Setting("HEAD.SEEN", "fused", one_of(*HEADS)),  # headline head on the classes that were trained on
    Setting("HEAD.UNSEEN", "class", one_of(*HEADS)),  # headline head on any other class list
    per_dataset=Path(__file__).parents[1] / "configs/trainers/ANPrompt/datasets/per_dataset.yaml",
)
KEY = "TRAINER.ANPROMPT"
add_anprompt_cfg = SETTINGS.extend_cfg  # the one call that a CoOp-style train.py needs
extend_cfg = add_anprompt_cfg  # found by this project's


# ---------------------------------------------------------------------------------------------- trainer


@TRAINER_REGISTRY.register()
class ANPrompt(TwoHeadTrainer[DeepTokenCLIP[TokenLearner]]):
    """Anti-noise prompt tuning."""

    settings = SETTINGS

    @classmethod
    def build_prompted_model(
        cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]
    ) -> DeepTokenCLIP[TokenLearner]:
        values = SETTINGS.values(cfg)
        learner = TokenLearner(backbone.model, values)
        return DeepTokenCLIP(backbone, learner, tuple(values.LAYERS), values.LOSS.ALPHA, values.BETA, values.TEXT_BETA)

    def build_model(self) -> None:
        self.print_per_dataset_values()
        self.noise_index: tuple[int, int] | None = None  # drawn in training, or brought by a checkpoint
        self.noise_source = ""
        self.weak_noise: Tensor | None = None  # [C, E], unit length, of the training classes
        super().build_model()

    def print_per_dataset_values(self) -> None:
        name = self.cfg.DATASET.NAME
        values = ", ".join(f"{key} {value}" for key, value in SETTINGS.per_dataset_values(self.cfg).items())
        if values:
            origin = f"for {name}" if SETTINGS.has_row(self.cfg) else f"(no entry for {name}: general defaults)"
            print(f"Per-dataset values {origin}: {values}")

    # ------------------------------------------------------------------ noise

    def before_train(self) -> None:
        super().before_train()  # resumes, and with it may bring the noise of the checkpoint
        if self.needs_noise() and not self.cfg.TRAINER.ANPROMPT.NOISE.RESAMPLE:
            self.build_noise(redraw=self.noise_index is None)

    def before_epoch(self) -> None:
        super().before_epoch()
        if self.needs_noise() and self.cfg.TRAINER.ANPROMPT.NOISE.RESAMPLE:
            self.build_noise(redraw=True)

    def needs_noise(self) -> bool:
        return self.values.NOISE_PROMPT.SOURCE == "cluster" or self.values.LOSS.WA_W > 0

    def noise_generator(self) -> random.Random:
        """A private generator: the global ones decide few-shot subsets and batch orders, as in other trainers."""
        if self.cfg.SEED < 0:
            return random.Random()
        epoch = self.epoch if self.cfg.TRAINER.ANPROMPT.NOISE.RESAMPLE else 0
        return random.Random(f"weak noise, seed {self.cfg.SEED}, epoch {epoch}")

    @torch.no_grad()
    def build_noise(self, redraw: bool) -> None:
        """Encode weak-noise features of the training classes and, when ``redraw``, cluster noise prompts from them.

        A resumed run keeps the sentences and the noise prompts of its checkpoint.
        """
        noise = self.values.NOISE
        banks = noise_banks(self.cfg.DATASET.NAME, self.model.classnames, noise.GPT_DIR, noise.HPT_DIR)
        if redraw:
            self.noise_index, self.noise_source = banks.draw(self.noise_generator()), banks.source
        require(
            banks.source == self.noise_source,
            f"the noise of this run came from {self.noise_source}, now it would come from {banks.source}: resume with "
            "the same TRAINER.ANPROMPT.NOISE.GPT_DIR and HPT_DIR, or start anew in another OUTPUT_DIR",
        )
        self.take_sentences(banks.digest)
        assert self.noise_index is not None
        base, perturbation = self.noise_index
        print(f"Weak noise: {banks.source}; sentences {base} and {perturbation}, strength {noise.STRENGTH}")
        clean, perturbed = banks.base[base], banks.perturbation[perturbation]
        features = weak_noise_features(self.encode_sentences(clean), self.encode_sentences(perturbed), noise.STRENGTH)
        self.weak_noise = features
        if redraw and self.values.NOISE_PROMPT.SOURCE == "cluster":
            centres = noise_prompts(features, self.values.N_TOKENS, lambda: self.encode_bank(banks))
            self.model.learner.noise_prompts.copy_(centres)

    def encode_sentences(self, sentences: list[str]) -> Tensor:
        """Unit features ``[N, E]`` in full precision: noise of strength 0.001 is lost in half precision."""
        return self.model.encode_frozen_text(self.model.tokenized(sentences))

    def encode_bank(self, banks: NoiseBanks) -> Tensor:
        return torch.cat([self.encode_sentences(sentences) for sentences in banks.base])

    # ------------------------------------------------------------------ objective

    def loss_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of equation (8)."""
        model, weights, classes = self.model, self.values.LOSS, self.model.classes
        text = model.encode_text()
        features = model.encode_image(batch["images"], with_frozen=True)
        assert features.frozen is not None
        class_logits = model.logits(features.class_token, text)
        prototype_logits = model.logits(features.prototype, text)
        terms = {
            "ce": head_cross_entropy(class_logits, prototype_logits, batch["labels"], weights.ALPHA),  # (8)
            "sim_image": weights.SIM_W * similarity_loss(features.class_token, features.frozen),  # (8)
            "sim_text": weights.SIM_W * similarity_loss(text, classes.zero_shot),  # (8)
        }
        if weights.WA_W > 0:
            assert self.weak_noise is not None  # from before the first step on
            noise_logits = model.logits(features.prototype, self.weak_noise)
            terms["wa"] = weights.WA_W * weak_alignment_loss(class_logits, noise_logits)  # (9)
        return terms, class_logits

    # ------------------------------------------------------------------ evaluation and checkpoints

    @classmethod
    def headline_heads(cls, cfg: CfgNode) -> tuple[str, str]:
        head = cfg.TRAINER.ANPROMPT.HEAD
        return head.SEEN, head.UNSEEN

    def method_state(self) -> dict[str, object]:
        return {
            "beta": self.model.beta,
            "heads": list(self.headline_heads(self.cfg)),
            "noise_source": self.noise_source,
            "noise_index": self.noise_index,
        }

    def restore_method_state(self, state: Mapping[str, Any]) -> None:
        """BETA, which depends on the dataset, and the choice of heads were settled in training."""
        self.model.beta = self.beta_of_training(state["beta"])
        heads = zip(("HEAD.SEEN", "HEAD.UNSEEN"), state.get("heads", ()), self.headline_heads(self.cfg), strict=False)
        for key, head, here in heads:
            self.setting_of_test(f"{KEY}.{key}", head, here)
        self.noise_index, self.noise_source = state["noise_index"], state["noise_source"]
