"""GA2-CLIP (arXiv 2511.22125): prompts for video that are coupled with those of other data, and anchored.

Soft prompts of both towers, in every layer up to a depth, would narrow what CLIP knows to the classes at hand. Two
things act against that. Soft text prompts are joined with *hard* ones, which other data have taught and which stay as
they are, and a map of both enters the text tower. And *anchors*, irrelevant clips, are held closer to a negative text
("else") than to any class.

Without hard prompts and anchors this is independent vision-language prompting (IVLP), on images as well. Trained so on
other data, as stage 0, it makes the hard prompts. The paper's body could not be read: ``docs/method.md`` marks what
comes from the authors' code, whose anchor term has no gradient, and what is ours.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone, layers_of, text_depth, vision_depth
from anprompt.data.loaders import with_own_draws
from anprompt.engine.batch import Batch
from anprompt.engine.learned_context import find_checkpoint, read_context
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.anchors import MODES, additive_loss, extra_class_loss, hinge_loss, nearest, softplus_loss
from anprompt.prompts.context import ContextCLIP, PromptWriter, context_prompts, start_context, words
from anprompt.prompts.coupling import Coupling, draw_kept
from anprompt.prompts.independent import IndependentLearner
from anprompt.prompts.templates import check_template, filled
from anprompt.runs.results import weights_digest
from anprompt.utils.config import dataset_id, require
from anprompt.utils.rng import NamedGenerators
from anprompt.utils.settings import FIXED, Setting, Settings, number, one_of, whole
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY

KEY = "TRAINER.GA2CLIP"
SOURCE = f"{KEY}.HARD.SOURCE"
TEMPLATE = "template"  # in place of a source
TEMPLATE_WORDS = "a video of a person doing an action"  # repeated until there are prompts enough


# ---------------------------------------------------------------------------------------------- model


class CoupledLearner(IndependentLearner):
    """Soft prompts of both towers; with ``coupled``, those of the first text layer pass through a map with hard ones.

    Args:
        start, depths, vision_shape: as for :class:`IndependentLearner`.
        coupled: whether there are hard prompts. They are zero until :meth:`take_hard`, and belong to checkpoints.
        generator: draws the start of the map.
    """

    hard: Tensor | None  # [K, D_text]

    def __init__(
        self,
        start: Tensor,
        depths: tuple[int, int],
        vision_shape: tuple[int, int],
        coupled: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__(start, depths, vision_shape)
        self.coupling = Coupling(start.shape[1], generator).to(start.dtype) if coupled else None
        self.register_buffer("hard", torch.zeros_like(start) if coupled else None)

    def take_hard(self, prompts: Tensor) -> None:
        """Hold these ``[K, D_text]`` from now on."""
        assert self.hard is not None
        self.hard.copy_(prompts)

    def text_tokens(self, kept: Tensor | None = None) -> dict[int, Tensor]:
        """Layer -> ``[K, D_text]``; ``kept`` as for :class:`Coupling`."""
        tokens = super().text_tokens()
        if self.coupling is not None and self.hard is not None:
            tokens[1] = self.coupling(self.hard, self.ctx, kept)  # G1
        return tokens


class AnchoredCLIP(ContextCLIP[CoupledLearner]):
    """Independent prompts in both towers, beside the frozen CLIP's features of negative texts.

    Args:
        negatives: these texts; they do not depend on the classes.
        recompute: see :class:`~anprompt.clip.encoders.VisionStates`.
    """

    negative: Tensor  # [J, E]

    def __init__(
        self,
        backbone: Backbone,
        learner: CoupledLearner,
        write: PromptWriter,
        negatives: Sequence[str] = (),
        recompute: bool = False,
    ):
        super().__init__(backbone, learner, write)
        self.recompute = recompute
        features = self.encode_frozen_text(self.tokenized(negatives)) if negatives else torch.empty(0)
        self.register_buffer("negative", features, persistent=False)


# ---------------------------------------------------------------------------------------------- settings


def source(key: str, value: str, cfg: CfgNode) -> None:
    """Check of where hard prompts come from: what is there is looked at when training starts, since tests need none."""
    require(isinstance(value, str), f"{key}: expected a folder, a file or {TEMPLATE!r}, got {value!r}")


def negative_texts(key: str, value: Sequence[str], cfg: CfgNode) -> None:
    """Check of what stands in the anchors' template."""
    texts = isinstance(value, list | tuple) and bool(value) and all(isinstance(text, str) and text for text in value)
    require(texts, f"{key}: expected a list of texts such as ['else'], got {value!r}")


ABOVE_ZERO = 1e-4
SETTINGS = Settings(
    "GA2CLIP",
    Setting("N_CTX_TEXT", 16, whole(1), FIXED),  # prompts per text layer
    Setting("N_CTX_VISION", 16, whole(1), FIXED),  # prompts per vision layer
    Setting("PROMPT_DEPTH_TEXT", 9, layers_of(text_depth), FIXED),  # layers that get prompts, counted from the first
    Setting("PROMPT_DEPTH_VISION", 9, layers_of(vision_depth, low=0), FIXED),  # 0: the vision tower stays CLIP's
    Setting("CTX_INIT", "", words("N_CTX_TEXT"), FIXED),  # its first tokens start the context; empty: random
    Setting("GRAD_CHECKPOINT", True),  # compute the vision layers again in the backward pass: time for memory
    # Hard prompts, and the map that couples them with the soft ones.
    Setting("HARD.ENABLED", True, None, FIXED),
    Setting("HARD.SOURCE", "", source),  # OUTPUT_DIR of a run (stage 0, CoOp, ...), a checkpoint, or template
    Setting("HARD.FALLBACK", "error", one_of("error", TEMPLATE)),  # where there is no source, or it does not fit
    Setting("HARD.DROPOUT", 0.5, number(0, 0.99)),  # of the map's output
    Setting("HARD.PER_CLASS_DROPOUT", False),  # each class has its own, as in the authors' code
    # Anchors.
    Setting("ANCHOR.ENABLED", True),
    Setting("ANCHOR.MODE", "softplus", one_of(*MODES)),
    Setting("ANCHOR.WEIGHT", 1.0, number(0)),  # w; not for additive
    Setting("ANCHOR.ALPHA", 1.0, number(0)),  # additive: factor of what is added
    Setting("ANCHOR.MARGIN", 0.1, number(-2, 2)),  # softplus and hinge: in cosines
    Setting("ANCHOR.KAPPA", 1.0, number(ABOVE_ZERO)),  # softplus: how sharp its bend is
    Setting("ANCHOR.TEXT", ["else"], negative_texts),  # negative texts; of several, the nearest counts
    Setting("ANCHOR.TEMPLATE", "a video of a person {}.", lambda key, value, cfg: check_template(key, value)),
)
extend_cfg = SETTINGS.extend_cfg


def wants_anchors(node: CfgNode) -> bool:
    return node.ANCHOR.ENABLED and node.ANCHOR.MODE != "none"


# ---------------------------------------------------------------------------------------------- trainer


@TRAINER_REGISTRY.register()
class GA2CLIP(PromptTrainer[AnchoredCLIP]):
    """Generic attribute anchors, and soft prompts coupled with hard ones."""

    settings = SETTINGS
    reads = ("DATALOADER.TRAIN_U.SAME_AS_X", "DATALOADER.TRAIN_U.BATCH_SIZE")  # of anchors
    schedule_unit = "update"

    # ------------------------------------------------------------------ objective

    def loss_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        node, model, labels = self.cfg.TRAINER.GA2CLIP.ANCHOR, self.model, batch["labels"]
        text = model.text_from(model.learner.text_tokens(batch.get("kept")))
        if "anchors" not in batch:
            logits = model.logits(model.encode_image(batch["images"]), text)
            return {"loss_ce": F.cross_entropy(logits, labels)}, logits  # G2
        features = model.encode_image(torch.cat([batch["images"], batch["anchors"]]))  # one pass
        clips, anchors = features.split([len(labels), len(batch["anchors"])])
        logits = model.logits(clips, text)
        with torch.autocast(text.device.type, enabled=False):
            classes, negative = nearest(anchors, text), nearest(anchors, model.negative)
            if node.MODE == "softplus":  # G3
                anchor = node.WEIGHT * softplus_loss(classes, negative, node.MARGIN, node.KAPPA)
            elif node.MODE == "hinge":  # G4
                anchor = node.WEIGHT * hinge_loss(classes, negative, node.MARGIN)
            elif node.MODE == "extra_class":  # G5
                anchor = node.WEIGHT * extra_class_loss(model.logits(anchors, text), model.scale * negative)
            else:  # G6
                anchor = additive_loss(logits, labels, model.scale * negative, node.ALPHA)
        self.watched = {"anchor_margin": (classes - negative).mean().detach()}
        return {"loss_ce": F.cross_entropy(logits, labels), "loss_anchor": anchor}, logits

    # ------------------------------------------------------------------ what a step is given

    def make_loaders(self) -> dict[str, Any]:
        """Anchors, whose draws are no part of those of the clips: these are the same without anchors."""
        if not wants_anchors(self.cfg.TRAINER.GA2CLIP) or self.train_loader_u is None:
            return {}
        return {"anchors": with_own_draws(self.train_loader_u, self.cfg.SEED)}

    def before_epoch(self) -> None:
        super().before_epoch()
        for loader in self.beside.values():
            loader.sampler.begin(self.epoch)

    def parse_batch_train(self, batch: Mapping[str, Any]) -> Batch:
        parsed, node = super().parse_batch_train(batch), self.cfg.TRAINER.GA2CLIP.HARD
        if "anchors" in batch:
            parsed["anchors"] = self.on_device(batch["anchors"]["img"])
        if node.ENABLED and node.DROPOUT:
            shape = tuple(self.model.learner.ctx.shape)
            shape = (len(self.model.classnames), *shape) if node.PER_CLASS_DROPOUT else shape
            parsed["kept"] = self.on_device(draw_kept(shape, node.DROPOUT, self.generator("dropout")))
        return parsed

    # ------------------------------------------------------------------ set-up

    @classmethod
    def build_prompted_model(cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]) -> AnchoredCLIP:
        node = cfg.TRAINER.GA2CLIP
        learner = CoupledLearner(
            start_context(backbone, node.CTX_INIT, node.N_CTX_TEXT),
            (node.PROMPT_DEPTH_TEXT, node.PROMPT_DEPTH_VISION),
            (node.N_CTX_VISION, backbone.vision_width),
            coupled=node.HARD.ENABLED,
            generator=NamedGenerators(cfg.SEED)["coupling"],
        )
        write = partial(context_prompts, count=node.N_CTX_TEXT, words=node.CTX_INIT)
        negatives = filled(node.ANCHOR.TEMPLATE, node.ANCHOR.TEXT) if wants_anchors(node) else ()
        return AnchoredCLIP(backbone, learner, write, negatives, node.GRAD_CHECKPOINT)

    def before_train(self) -> None:
        node = self.cfg.TRAINER.GA2CLIP
        require(
            not wants_anchors(node) or "anchors" in self.beside,
            f"{KEY}.ANCHOR.ENABLED needs anchors, and {self.cfg.DATASET.NAME} has none: give a list of irrelevant "
            f"clips as DATASET.ANCHOR.LIST, or set {KEY}.ANCHOR.ENABLED False",
        )
        super().before_train()
        if node.HARD.ENABLED and not self.start_epoch and not self.cfg.MODEL.INIT_WEIGHTS:  # which bring their own
            self.model.learner.take_hard(self.hard_prompts())
            print(f"Hard prompts: {self.hard_from}")

    def hard_prompts(self) -> Tensor:
        """``[K, D_text]``, of the source that the config names.

        Raises:
            OSError, ValueError: names HARD.SOURCE; there is none, or it does not fit, and ``HARD.FALLBACK`` is error.
        """
        node, learner = self.cfg.TRAINER.GA2CLIP.HARD, self.model.learner
        expected = tuple(learner.ctx.shape)
        if node.SOURCE == TEMPLATE:
            return self.hard_template(len(learner.ctx))
        try:
            require(
                node.SOURCE,
                f"{SOURCE} is empty: name the OUTPUT_DIR of a run on other data (stage 0, which is GA2CLIP without "
                f"hard prompts and anchors, or CoOp), a checkpoint, or {TEMPLATE}; or set {KEY}.HARD.ENABLED False",
            )
            path = find_checkpoint(node.SOURCE, SOURCE)
            prompts, data = read_context(path, SOURCE)
            require(
                tuple(prompts.shape) == expected,
                f"{SOURCE}: {path} holds {prompts.shape[0]} prompts of width {prompts.shape[1]}: expected "
                f"{expected[0]} of {expected[1]}, as {KEY}.N_CTX_TEXT and the backbone have it",
            )
        except (OSError, ValueError) as error:
            if node.FALLBACK == "error":
                raise
            print(f"Warning: no hard prompts but those of words, since {error}")
            return self.hard_template(len(learner.ctx))
        self.hard_from = f"{path.name}, trained on {data}" if data else path.name
        self.hard_digest = weights_digest({"hard": prompts})
        if data == dataset_id(self.cfg):
            print(f"Warning: {SOURCE} {path} was trained on {data}, too: name a run on other data to test what is new")
        return prompts

    def hard_template(self, count: int) -> Tensor:
        """Embeddings of hand-written words, over and over."""
        ids = self.backbone.tokenize([TEMPLATE_WORDS])[0]
        length = int(ids.argmax()) - 1  # start and end token are no words
        self.hard_from = f'the words "{TEMPLATE_WORDS}"'
        return start_context(self.backbone, TEMPLATE_WORDS, length)[torch.arange(count) % length]

    def build_schedule(self) -> Any:
        """The authors' rates, at every update: linear from 0 through the warm-up, then cosine to 0."""
        return torch.optim.lr_scheduler.LambdaLR(
            self.optim,
            partial(
                share_of_rate,
                per_epoch=self.updates_per_epoch(),
                warm_up=max(0, self.cfg.OPTIM.WARMUP_EPOCH),
                last=self.cfg.OPTIM.MAX_EPOCH,
            ),
        )

    # ------------------------------------------------------------------ checkpoints

    def build_model(self) -> None:
        self.hard_from = self.hard_digest = ""
        super().build_model()

    def method_state(self) -> dict[str, Any]:
        return {"hard_from": self.hard_from, "hard_digest": self.hard_digest}

    def restore_method_state(self, state: Mapping[str, Any]) -> None:
        self.hard_from, self.hard_digest = state["hard_from"], state.get("hard_digest", "")

    def start_digest(self) -> str | None:
        """Of the hard prompts, unless they are words."""
        return self.hard_digest or None

    @classmethod
    def start_digest_today(cls, cfg: CfgNode) -> str:
        prompts, _ = read_context(find_checkpoint(cfg.TRAINER.GA2CLIP.HARD.SOURCE, SOURCE), SOURCE)
        return weights_digest({"hard": prompts})

    # ------------------------------------------------------------------ settings

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node, optim, defaults = cfg.TRAINER.GA2CLIP, cfg.OPTIM, get_cfg_default().OPTIM
        for key, value in (
            ("LR_SCHEDULER", "cosine"),
            ("WARMUP_TYPE", "linear"),
            ("WARMUP_MIN_LR", defaults.WARMUP_MIN_LR),
            ("WARMUP_RECOUNT", defaults.WARMUP_RECOUNT),
        ):
            require(
                optim[key] == value,
                f"OPTIM.{key} {optim[key]!r} has no effect: GA2CLIP has a schedule of its own, linear from 0, then "
                f"cosine to 0, both by updates. Use {value!r}",
            )
        if not wants_anchors(node) or node.ANCHOR.MODE != "additive":
            return
        require(
            len(node.ANCHOR.TEXT) == 1,
            f"{KEY}.ANCHOR.MODE additive adds one number to all classes: expected one {KEY}.ANCHOR.TEXT, got "
            f"{len(node.ANCHOR.TEXT)}",
        )
        print(
            f"Warning: {KEY}.ANCHOR.MODE additive is the authors' code, and its gradient is zero: it adds the same to "
            "the logits of all classes. Use softplus to learn from anchors"
        )


def share_of_rate(update: int, per_epoch: int, warm_up: float, last: int) -> float:
    """Share of the base rate at an update, counted from 0."""
    epoch = update / per_epoch
    if epoch < warm_up or last <= warm_up:  # a run may end within its warm-up
        return epoch / warm_up
    return (1 + math.cos(math.pi * (epoch - warm_up) / (last - warm_up))) / 2
