"""ANPrompt (arXiv 2508.04677): token learner -> prompted CLIP -> losses -> trainer.

The paper names the parts; its equations and code are not public. ``docs/method.md`` says for each line here where it
comes from and how sure that is. Two readings are built from the same parts and selected by YAML:

* the paper's (``vit_b16.yaml``, default): frozen noise prompts, clustered from weak-noise text features, join the
  learnable tokens in the deeper layers of both encoders;
* the authors' early release (``vit_b16_early_release.yaml``): a second learnable token bank, vision encoder only.

With ``NOISE_PROMPT.SOURCE off``, ``VISION_ALIGNER linear``, ``BETA 1.0``, ``PROTOTYPE_PROJ full`` and ``LOSS.WA_W 0.0``
what remains is MMRL.

Notation as in ``anprompt/clip/encoders.py``; in addition ``N`` layers receive tokens.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.engine.batch import Batch
from anprompt.engine.two_heads import HEADS, TwoHeadTrainer
from anprompt.prompts.deep_tokens import (
    DeepTokenCLIP,
    LinearAligner,
    PrototypeProjection,
    check_layers,
    low_rank_init,
)
from anprompt.prompts.losses import head_cross_entropy, similarity_loss, weak_alignment_loss
from anprompt.prompts.noise import NoiseBanks, noise_banks, noise_prompts, weak_noise_features
from anprompt.prompts.prompted_clip import random_prompts
from anprompt.utils.config import add_trainer_node, require, require_number
from dassl.engine import TRAINER_REGISTRY

ALIGNER_RANK = 4  # rank of the per-layer residual of the shared aligner (early release)

# Values of the authors' early release (June 2025), used where the config leaves BETA or SIM_W unset.
PER_DATASET = {
    "ImageNet": {"BETA": 0.9, "SIM_W": 0.5},
    "Caltech101": {"BETA": 0.6, "SIM_W": 0.5},
    "OxfordPets": {"BETA": 0.7, "SIM_W": 0.2},
    "StanfordCars": {"BETA": 0.7, "SIM_W": 7.0},
    "OxfordFlowers": {"BETA": 0.4, "SIM_W": 4.0},
    "Food101": {"BETA": 0.1, "SIM_W": 5.0},
    "FGVCAircraft": {"BETA": 0.9, "SIM_W": 6.0},
    "SUN397": {"BETA": 0.5, "SIM_W": 6.0},
    "DescribableTextures": {"BETA": 0.9, "SIM_W": 6.0},
    "EuroSAT": {"BETA": 0.2, "SIM_W": 0.001},
    "UCF101": {"BETA": 0.9, "SIM_W": 3.0},
}
FALLBACK = {"BETA": 0.9, "SIM_W": 0.5}
KEY = "TRAINER.ANPROMPT"

CHOICES = {
    "VISION_ALIGNER": ("shared", "linear"),
    "PROTOTYPE_PROJ": ("low_rank", "full"),
    "NOISE_PROMPT.SOURCE": ("cluster", "learnable", "off"),
    "HEAD.SEEN": HEADS,
    "HEAD.UNSEEN": HEADS,
}


def add_anprompt_cfg(cfg: CfgNode) -> None:
    """Add ``TRAINER.ANPROMPT`` and the shared keys: the one call that a CoOp-style ``train.py`` needs."""
    node = add_trainer_node(cfg, "ANPROMPT")
    node.N_TOKENS = 5  # K
    node.LAYERS = [6, 7, 8, 9, 10, 11, 12]  # contiguous, up to the last text layer; vision: as many last layers
    node.BETA = None  # weight of the fresh token in deeper vision layers, 0..1; None: PER_DATASET
    node.VISION_ALIGNER = "shared"  # shared (one matrix plus low-rank residuals) or linear (one matrix per layer)
    node.PROTOTYPE_PROJ = "low_rank"  # low_rank (CLIP's projection plus a residual) or full (own random matrix)
    node.NOISE = CfgNode()
    node.NOISE.GPT_DIR = ""  # folder with CoPrompt's <key>_prompt.json files
    node.NOISE.HPT_DIR = ""  # folder with HPT's <Dataset>.json files
    node.NOISE.STRENGTH = 0.001  # lambda
    node.NOISE.RESAMPLE = False  # draw fresh noise before every epoch
    node.NOISE_PROMPT = CfgNode()
    node.NOISE_PROMPT.SOURCE = "cluster"  # cluster (the paper), learnable (early release) or off
    node.NOISE_PROMPT.COEF = 0.2  # gamma
    node.LOSS = CfgNode()
    node.LOSS.ALPHA = 0.7  # weight of the class head against the prototype head
    node.LOSS.SIM_W = None  # weight of both similarity terms; None: PER_DATASET
    node.LOSS.WA_W = 1.0  # weight of WALoss
    node.HEAD = CfgNode()
    node.HEAD.SEEN = "fused"  # headline head on the classes that were trained on
    node.HEAD.UNSEEN = "class"  # headline head on any other class list


extend_cfg = add_anprompt_cfg  # found by this project's train.py


# ---------------------------------------------------------------------------------------------- token learner


class SharedAligner(nn.Module):
    """One matrix for all layers plus a low-rank residual and a bias per layer (MMRL++); starts as ``template``."""

    def __init__(self, template: nn.Linear, layers: int, rank: int = ALIGNER_RANK):
        super().__init__()
        width, source = template.weight.shape
        self.weight = nn.Parameter(template.weight.detach().clone())
        self.bias = nn.Parameter(template.bias.detach().expand(layers, -1).clone())
        self.up = nn.Parameter(torch.stack([low_rank_init(width, rank) for _ in range(layers)]))
        self.down = nn.Parameter(torch.zeros(layers, rank, source))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """``[K, E]`` -> N tensors ``[K, D]``."""
        weights = self.weight + self.up @ self.down  # [N, D, E]
        return list(tokens @ weights.transpose(1, 2) + self.bias[:, None])


class TokenLearner(nn.Module):
    """All that ANPrompt learns, and the noise prompts, which are frozen but belong to the training classes.

    Args:
        clip: gives the widths and the visual projection; it is not kept.
        settings: the validated ``TRAINER.ANPROMPT`` values.
    """

    def __init__(self, clip: nn.Module, settings: "Settings"):
        super().__init__()
        joint = clip.visual.proj.shape[1]
        text_map = nn.Linear(joint, clip.ln_final.weight.shape[0])
        vision_map = nn.Linear(joint, clip.visual.proj.shape[0])
        layers, count = len(settings.layers), settings.n_tokens
        self.coef = settings.coef
        self.tokens = nn.Parameter(random_prompts(count, joint))
        self.text_aligner = LinearAligner(text_map, layers)
        aligner = SharedAligner if settings.vision_aligner == "shared" else LinearAligner
        self.vision_aligner = aligner(vision_map, layers)
        self.prototype_proj = PrototypeProjection(clip.visual.proj, settings.prototype_proj)
        self.text_noise_aligner = self.vision_noise_aligner = None
        if settings.noise_source == "learnable":
            self.noise_prompts = nn.Parameter(random_prompts(count, joint))
            self.vision_noise_aligner = LinearAligner(vision_map, layers)
        elif settings.noise_source == "cluster":
            self.register_buffer("noise_prompts", torch.zeros(count, joint))
            self.text_noise_aligner = LinearAligner(text_map, layers)
            self.vision_noise_aligner = LinearAligner(vision_map, layers)

    def text_tokens(self) -> list[Tensor]:
        """Textual tokens of the N layers, each ``[K, D_text]``."""
        return self.join(self.text_aligner, self.text_noise_aligner)

    def vision_tokens(self) -> list[Tensor]:
        """Visual tokens of the N layers, each ``[K, D_vision]``."""
        return self.join(self.vision_aligner, self.vision_noise_aligner)

    def join(self, aligner: nn.Module, noise_aligner: nn.Module | None) -> list[Tensor]:
        """Anti-noise prompts: projected learnable tokens plus ``gamma`` times projected noise prompts."""
        tokens = aligner(self.tokens)
        if noise_aligner is None:
            return tokens
        return [own + self.coef * noise for own, noise in zip(tokens, noise_aligner(self.noise_prompts), strict=True)]


# ---------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings:
    """``TRAINER.ANPROMPT`` as plain values, checked once."""

    n_tokens: int
    layers: tuple[int, ...]
    beta: float
    sim_w: float
    vision_aligner: str
    prototype_proj: str
    noise_source: str
    coef: float
    alpha: float
    wa_w: float

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "Settings":
        """Read the node, with per-dataset values where BETA or SIM_W is None."""
        node = cfg.TRAINER.ANPROMPT
        defaults = PER_DATASET.get(cfg.DATASET.NAME, FALLBACK)
        return cls(
            n_tokens=node.N_TOKENS,
            layers=tuple(node.LAYERS),
            beta=defaults["BETA"] if node.BETA is None else node.BETA,
            sim_w=defaults["SIM_W"] if node.LOSS.SIM_W is None else node.LOSS.SIM_W,
            vision_aligner=node.VISION_ALIGNER,
            prototype_proj=node.PROTOTYPE_PROJ,
            noise_source=node.NOISE_PROMPT.SOURCE,
            coef=node.NOISE_PROMPT.COEF,
            alpha=node.LOSS.ALPHA,
            wa_w=node.LOSS.WA_W,
        )


def check_node(node: CfgNode) -> None:
    """Raise a ValueError for the first value of ``TRAINER.ANPROMPT`` that cannot work."""
    for key, options in CHOICES.items():
        value = lookup(node, key)
        require(value in options, f"TRAINER.ANPROMPT.{key}: expected one of {', '.join(options)}, got {value!r}")
    bounded = {"BETA": 1, "NOISE.STRENGTH": 1, "NOISE_PROMPT.COEF": 1, "LOSS.ALPHA": 1}
    unbounded = {"LOSS.SIM_W": math.inf, "LOSS.WA_W": math.inf}
    for key, top in {**bounded, **unbounded}.items():
        value = lookup(node, key)
        if value is not None or key not in ("BETA", "LOSS.SIM_W"):
            require_number(f"TRAINER.ANPROMPT.{key}", value, 0, top)
    require(node.N_TOKENS >= 1, f"TRAINER.ANPROMPT.N_TOKENS: expected at least 1, got {node.N_TOKENS}")


def lookup(node: CfgNode, key: str) -> object:
    for part in key.split("."):
        node = node[part]
    return node


# ---------------------------------------------------------------------------------------------- trainer


@TRAINER_REGISTRY.register()
class ANPrompt(TwoHeadTrainer):
    """Anti-noise prompt tuning."""

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        check_node(cfg.TRAINER.ANPROMPT)
        check_layers("TRAINER.ANPROMPT.LAYERS", list(cfg.TRAINER.ANPROMPT.LAYERS), cfg.MODEL.BACKBONE.NAME)

    @classmethod
    def build_prompted_model(cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]) -> DeepTokenCLIP:
        settings = Settings.from_cfg(cfg)
        learner = TokenLearner(backbone.model, settings)
        return DeepTokenCLIP(backbone, learner, settings.layers, settings.alpha, settings.beta)

    @cached_property
    def settings(self) -> Settings:
        return Settings.from_cfg(self.cfg)

    def build_model(self) -> None:
        self.print_per_dataset_values()
        self.noise_index: tuple[int, int] | None = None  # drawn in training, or brought by a checkpoint
        self.noise_source = ""
        self.weak_noise: Tensor | None = None  # [C, E], unit length, of the training classes
        super().build_model()

    def print_per_dataset_values(self) -> None:
        node, name = self.cfg.TRAINER.ANPROMPT, self.cfg.DATASET.NAME
        used = {"BETA": (node.BETA, self.settings.beta), "LOSS.SIM_W": (node.LOSS.SIM_W, self.settings.sim_w)}
        values = ", ".join(f"{key} {value}" for key, (configured, value) in used.items() if configured is None)
        if values:
            origin = f"for {name}" if name in PER_DATASET else f"(no entry for {name}: general defaults)"
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
        return self.settings.noise_source == "cluster" or self.settings.wa_w > 0

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
        noise = self.cfg.TRAINER.ANPROMPT.NOISE
        banks = noise_banks(self.cfg.DATASET.NAME, self.model.classnames, noise.GPT_DIR, noise.HPT_DIR)
        if redraw:
            self.noise_index, self.noise_source = banks.draw(self.noise_generator()), banks.source
        require(
            banks.source == self.noise_source,
            f"the noise of this run came from {self.noise_source}, now it would come from {banks.source}: resume with "
            "the same TRAINER.ANPROMPT.NOISE.GPT_DIR and HPT_DIR, or start anew in another OUTPUT_DIR",
        )
        base, perturbation = self.noise_index
        print(f"Weak noise: {banks.source}; sentences {base} and {perturbation}, strength {noise.STRENGTH}")
        clean, perturbed = banks.base[base], banks.perturbation[perturbation]
        features = weak_noise_features(self.encode_sentences(clean), self.encode_sentences(perturbed), noise.STRENGTH)
        self.weak_noise = features
        if redraw and self.settings.noise_source == "cluster":
            centres = noise_prompts(features, self.settings.n_tokens, lambda: self.encode_bank(banks))
            self.model.learner.noise_prompts.copy_(centres)

    def encode_sentences(self, sentences: list[str]) -> Tensor:
        """Unit features ``[N, E]`` in full precision: noise of strength 0.001 is lost in half precision."""
        return self.model.encode_frozen_text(self.model.tokenized(sentences))

    def encode_bank(self, banks: NoiseBanks) -> Tensor:
        return torch.cat([self.encode_sentences(sentences) for sentences in banks.base])

    # ------------------------------------------------------------------ objective

    def loss_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        model, settings, classes = self.model, self.settings, self.model.classes
        text = model.encode_text()
        features = model.encode_image(batch["images"], with_frozen=True)
        class_logits = model.logits(features.class_token, text)
        prototype_logits = model.logits(features.prototype, text)
        terms = {
            "ce": head_cross_entropy(class_logits, prototype_logits, batch["labels"], settings.alpha),
            "sim_image": settings.sim_w * similarity_loss(features.class_token, features.frozen),
            "sim_text": settings.sim_w * similarity_loss(text, classes.zero_shot),
        }
        if settings.wa_w > 0:
            noise_logits = model.logits(features.prototype, self.weak_noise)
            terms["wa"] = settings.wa_w * weak_alignment_loss(class_logits, noise_logits)
        return terms, class_logits

    # ------------------------------------------------------------------ evaluation and checkpoints

    @classmethod
    def headline_heads(cls, cfg: CfgNode) -> tuple[str, str]:
        head = cfg.TRAINER.ANPROMPT.HEAD
        return head.SEEN, head.UNSEEN

    def required_settings(self) -> dict[str, object]:
        keys = "N_TOKENS LAYERS VISION_ALIGNER PROTOTYPE_PROJ NOISE_PROMPT.SOURCE NOISE_PROMPT.COEF LOSS.ALPHA"
        return super().required_settings() | self.own_settings(*keys.split())

    def method_state(self) -> dict[str, object]:
        return {
            "beta": self.model.beta,
            "heads": list(self.headline_heads(self.cfg)),
            "noise_source": self.noise_source,
            "noise_index": self.noise_index,
        }

    def restore_method_state(self, state: dict) -> None:
        """BETA, which depends on the dataset, and the choice of heads were settled in training."""
        node, trained = self.cfg.TRAINER.ANPROMPT, state["beta"]
        if node.BETA is None and self.model.beta != trained:
            print(f"BETA {trained}, from the training run")
        self.model.beta = self.setting_of_test(f"{KEY}.BETA", trained, trained if node.BETA is None else node.BETA)
        heads = zip(("HEAD.SEEN", "HEAD.UNSEEN"), state.get("heads", ()), self.headline_heads(self.cfg), strict=False)
        for key, head, here in heads:
            self.setting_of_test(f"{KEY}.{key}", head, here)
        self.noise_index, self.noise_source = state["noise_index"], state["noise_source"]
