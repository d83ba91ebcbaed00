"""E2MIM (reconstruction), after Zhang, "Generalizable Prompt Tuning for Vision-Language Models" (arXiv 2410.03189).

Soft and hand-written prompts are two views of the classes, whose mutual information is to be large; so is that between
the soft prompts and the classes' images, mixed within a class. Only the paper's abstract could be read: equations,
weights and temperature are reconstructed, and no number of the paper is claimed. ``docs/method.md`` marks what is what.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.engine.batch import Batch
from anprompt.engine.resumable import describe
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.class_mixup import (
    MODES,
    ClassQueue,
    MixupDraws,
    class_means,
    draw_mixup,
    find_partners,
    mix,
    mix_features,
    mixed_labels,
)
from anprompt.prompts.context import (
    POSITIONS,
    ContextCLIP,
    ContextLearner,
    PromptWriter,
    check_context,
    context_length,
    context_prompts,
    start_context,
)
from anprompt.prompts.mutual_information import (
    CRITICS,
    ESTIMATORS,
    RunningMean,
    build_critic,
    mutual_information_loss,
    sampled_infonce,
)
from anprompt.prompts.prompted_clip import random_prompts, unit
from anprompt.prompts.templates import check_template
from anprompt.utils.config import add_trainer_node, require, require_number
from anprompt.utils.rng import NamedGenerators
from anprompt.utils.suggest import require_known
from dassl.engine import TRAINER_REGISTRY

KEY = "TRAINER.E2MIM"
FEW_CLASSES = 20  # a critic that learns memorises fewer


def extend_cfg(cfg: CfgNode) -> None:
    """Add ``TRAINER.E2MIM``."""
    node = add_trainer_node(cfg, "E2MIM")
    node.N_CTX = 4  # M; with CTX_INIT, the number of its tokens counts instead
    node.CTX_INIT = "a photo of a"  # words to start from; empty: random
    node.CSC = False  # class-specific context
    node.CLASS_TOKEN_POSITION = "end"  # of the class name: end, middle or front
    node.TEMPLATES = []  # hand-written prompts with one {}, averaged; empty: the dataset's, or DATASET.TEMPLATE

    node.MI = CfgNode()  # between soft and hand-written prompts
    node.MI.WEIGHT = 1.0  # a_t
    node.MI.ESTIMATOR = "infonce"  # of both terms: infonce, dv, nwj, jsd, or kgcoop (KgCoOp's distance)
    node.MI.CRITIC = "cos"  # of both terms: cos has nothing to learn; bilinear, separable and concat do
    node.MI.TAU = 0.07  # the critic's own temperature: at CLIP's 0.01 the gradient vanishes; not for kgcoop and concat
    node.MI.SYMMETRIC = True  # infonce in both directions
    node.MI.HIDDEN = 256  # width inside separable and concat
    node.MI.PROJ_DIM = 128  # width of what separable compares
    node.MI.NUM_NEG = 0  # infonce: negatives per row, drawn in every step; 0: all other classes
    node.MI.EMA = 0.99  # dv: share of the past in the denominator of the gradient
    node.MI.LR_MULT = 1.0  # learning rate of the critic, in those of the context

    node.VIS = CfgNode()  # between mixed images and soft prompts
    node.VIS.WEIGHT = 1.0  # a_v
    node.VIS.VIEW = "proto"  # a row per class of the batch, proto, or per image, sample; the same across classes
    node.VIS.FUSE = "none"  # add: the text term sees soft prompts joined with the mean image of their class
    node.VIS.ETA = 0.5  # weight of that image

    node.MIX = CfgNode()  # class-wise mixup
    node.MIX.ENABLED = True
    node.MIX.MODE = "intra"  # partners of the same class, or inter: of another, with the labels mixed as well
    node.MIX.LEVEL = "pixel"  # or feature
    node.MIX.BETA = 1.0  # shares follow Beta(BETA, BETA)
    node.MIX.PROB = 1.0  # of an image to be mixed
    node.MIX.QUEUE = 2  # intra: images kept per class for those without a partner in the batch
    node.MIX.CE_WEIGHT = 0.0  # a_c, of the cross-entropy of mixed images

    node.TEST = CfgNode()
    node.TEST.ENSEMBLE = 0.0  # share of the hand-written prompts in the text features of an evaluation


# ---------------------------------------------------------------------------------------------- model


class CriticLearner(ContextLearner):
    """The context, and the critic that compares two views; the critic has no part in predictions.

    Args:
        start: as for :class:`ContextLearner`.
    """

    def __init__(self, start: Tensor, critic: nn.Module):
        super().__init__(start)
        self.critic = critic


class DualViewCLIP(ContextCLIP):
    """CoOp's model with the features of hand-written prompts beside those of the soft ones.

    Args:
        wordings: templates that are averaged; empty: the one that the classes are set with.
        ensemble: share of the hand-written features in those of an evaluation.
    """

    hand_written: Tensor  # [C, E]

    def __init__(
        self, backbone: Backbone, learner: CriticLearner, write: PromptWriter, wordings: Sequence[str], ensemble: float
    ):
        super().__init__(backbone, learner, write)
        self.wordings, self.ensemble = list(wordings), ensemble
        self.register_buffer("hand_written", torch.empty(0), persistent=False)

    def prepare_classes(self, classnames: list[str], template: str) -> None:
        hand_written = self.encode_templates(self.wordings or [template], classnames)  # may fail, and nothing is lost
        super().prepare_classes(classnames, template)
        self.hand_written = hand_written

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of an evaluation."""
        text = self.encode_text()
        if self.ensemble:
            text = unit((1 - self.ensemble) * text + self.ensemble * self.hand_written)
        return self.logits(self.encode_image(images), text)


# ---------------------------------------------------------------------------------------------- trainer


@TRAINER_REGISTRY.register()
class E2MIM(PromptTrainer):
    """Ensemble of two textual views, exploration by class-wise mixup: a reconstruction."""

    # ------------------------------------------------------------------ objective

    def loss_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        node, model = self.cfg.TRAINER.E2MIM, self.model
        features, mixed = self.encode_images(batch)
        text = model.encode_text()
        logits = model.logits(features, text)
        terms = {"ce": F.cross_entropy(logits, batch["labels"])}  # E1
        with torch.autocast(text.device.type, enabled=False):
            if node.MI.WEIGHT:
                terms["mi_t"] = node.MI.WEIGHT * self.text_term(text, mixed, batch)  # E2
            if node.VIS.WEIGHT:
                terms["mi_v"] = node.VIS.WEIGHT * self.visual_term(text, mixed, batch)  # E6
        if node.MIX.CE_WEIGHT:
            targets = batch.get("class_shares", batch["labels"])
            terms["ce_mix"] = node.MIX.CE_WEIGHT * F.cross_entropy(model.logits(mixed, text), targets)  # E8
        return terms, logits

    def encode_images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit features ``[B, E]`` of the images and of the mixed ones, which are the images where nothing is mixed."""
        if "mixed_features" in batch:
            return batch["features"], batch["mixed_features"]
        if "mixed_images" not in batch:
            features = self.model.encode_image(batch["images"])
            return features, features
        both = self.model.encode_image(torch.cat([batch["images"], batch["mixed_images"]]))  # one pass of 2B
        return both[: len(batch["images"])], both[len(batch["images"]) :]

    def text_term(self, text: Tensor, mixed: Tensor, batch: Batch) -> Tensor:
        """Loss of the soft prompts ``[C, E]`` against the hand-written ones: a square matrix."""
        node, hand_written, critic = self.cfg.TRAINER.E2MIM, self.model.hand_written, self.model.learner.critic
        soft = text
        if node.VIS.FUSE == "add":  # E7
            means, counts = class_means(mixed, batch["labels"], len(text))
            soft = torch.where(counts[:, None] > 0, unit(text + node.VIS.ETA * means), text)
        symmetric = node.MI.SYMMETRIC and node.MI.ESTIMATOR == "infonce"
        if node.MI.NUM_NEG:
            return sampled_infonce(critic, soft, hand_written, batch["negatives"], symmetric=symmetric)
        return mutual_information_loss(
            critic(soft, hand_written),
            estimator=node.MI.ESTIMATOR,
            symmetric=symmetric,
            average=self.averages.get("mi_t"),
        )

    def visual_term(self, text: Tensor, mixed: Tensor, batch: Batch) -> Tensor:
        """Loss of mixed images against the soft prompts ``[C, E]``: rows against columns, never the other way.

        The matrix has a row per class of the batch. How many these are is not known without waiting for the device, so
        it is written with a row per image, which counts as one over the images of its class.
        """
        node, critic, labels = self.cfg.TRAINER.E2MIM, self.model.learner.critic, batch["labels"]
        rows, positives, weights = mixed, batch.get("class_shares", labels), None
        if node.VIS.VIEW == "proto" and "class_shares" not in batch:
            means, counts = class_means(mixed, labels, len(text))
            rows, weights = means[labels], 1 / counts[labels]
        if node.MI.NUM_NEG:
            return sampled_infonce(critic, rows, text, batch["negatives"], labels, weights=weights)
        return mutual_information_loss(
            critic(rows, text),
            positives,
            estimator=node.MI.ESTIMATOR,
            weights=weights,
            average=self.averages.get("mi_v"),
        )

    # ------------------------------------------------------------------ what a step is given

    def mixes(self) -> bool:
        """Whether any term looks at mixed images."""
        node = self.cfg.TRAINER.E2MIM
        return node.MIX.ENABLED and bool(node.VIS.WEIGHT or node.MIX.CE_WEIGHT or node.VIS.FUSE == "add")

    def parse_batch_train(self, batch: Mapping[str, Any]) -> Batch:
        parsed, node = super().parse_batch_train(batch), self.cfg.TRAINER.E2MIM
        if node.MI.NUM_NEG:
            others = len(self.model.classnames) - 1
            drawn = 1 + torch.randperm(others, generator=self.generator("negatives"))[: node.MI.NUM_NEG]
            parsed["negatives"] = self.drawn_on_device(drawn)
        return parsed | self.mixed(parsed) if self.mixes() else parsed

    @torch.no_grad()
    def mixed(self, parsed: Batch) -> Batch:
        """The images of a batch mixed with their partners, or their features, and the labels where they mix too."""
        node, images, labels = self.cfg.TRAINER.E2MIM.MIX, parsed["images"], parsed["labels"]
        by_pixel = node.LEVEL == "pixel"
        draws = draw_mixup(len(labels), self.queue.length, node.BETA, node.PROB, self.generator("mixup"))
        draws = MixupDraws(*(self.drawn_on_device(values.to(images.dtype)) for values in draws))
        if by_pixel:
            items = images
        else:
            with self.autocast():
                items = self.model.encode_image(images)
        partners, partner_labels = find_partners(items, labels, draws, node.MODE, self.queue)
        self.queue.push(items, labels)
        if by_pixel:
            found = {"mixed_images": mix(items, partners, draws.share)}
        else:
            found = {"features": items, "mixed_features": mix_features(items, partners, draws.share)}
        if node.MODE == "inter":
            classes = len(self.model.classnames)
            found["class_shares"] = mixed_labels(labels, partner_labels, draws.share, classes)
        return found

    def drawn_on_device(self, values: Tensor) -> Tensor:
        return self.on_device(values.pin_memory() if self.device.type == "cuda" else values)

    def forward_backward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        summary = super().forward_backward(batch)
        for average in self.averages.values():
            average.advance()
        return summary

    # ------------------------------------------------------------------ set-up

    @classmethod
    def build_prompted_model(cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]) -> DualViewCLIP:
        node = cfg.TRAINER.E2MIM
        count = context_length(node.CTX_INIT, node.N_CTX)
        start = start_context(backbone, node.CTX_INIT, count)
        if node.CSC:  # the classes start apart, unless from the same words
            start = start.repeat(len(classnames), 1, 1)
            start = start if node.CTX_INIT else random_prompts(*start.shape)
        critic = build_critic(
            node.MI.CRITIC,
            backbone.model.text_projection.shape[1],
            tau=1.0 if node.MI.ESTIMATOR == "kgcoop" else node.MI.TAU,
            hidden=node.MI.HIDDEN,
            projected=node.MI.PROJ_DIM,
            generator=NamedGenerators(cfg.SEED)["critic"],
        )
        write = partial(context_prompts, count=count, position=node.CLASS_TOKEN_POSITION, per_class=node.CSC)
        return DualViewCLIP(backbone, CriticLearner(start, critic), write, node.TEMPLATES, node.TEST.ENSEMBLE)

    def parameter_groups(self) -> list[dict[str, Any]]:
        learner = self.model.learner
        groups = [{"params": [learner.ctx]}]
        critic = list(learner.critic.parameters())
        if critic:
            groups.append({"params": critic, "lr_factor": self.cfg.TRAINER.E2MIM.MI.LR_MULT})
        return groups

    def build_model(self) -> None:
        print("E2MIM (reconstruction): of its paper, the abstract could be read; docs/method.md says what is ours")
        super().build_model()
        self.prepare_steps()

    def prepare_steps(self) -> None:
        """What steps leave to later ones: the queue within an epoch, the averages from epoch to epoch."""
        node, classes = self.cfg.TRAINER.E2MIM, len(self.model.classnames)
        self.queue = ClassQueue(classes, node.MIX.QUEUE if node.MIX.MODE == "intra" else 0)
        used = [name for name, weight in (("mi_t", node.MI.WEIGHT), ("mi_v", node.VIS.WEIGHT)) if weight]
        moving = used if node.MI.ESTIMATOR == "dv" else []
        self.averages = {name: RunningMean(node.MI.EMA, self.device) for name in moving}

    def before_train(self) -> None:
        node, classes = self.cfg.TRAINER.E2MIM, len(self.model.classnames)
        require(classes >= 2, f"{KEY} compares classes with each other: expected at least 2, got {classes}")
        require(
            classes > node.MI.NUM_NEG,
            f"{KEY}.MI.NUM_NEG: expected fewer negatives than the {classes} classes, got {node.MI.NUM_NEG}",
        )
        if node.MI.CRITIC != "cos" and classes < FEW_CLASSES:
            print(
                f"Warning: {KEY}.MI.CRITIC {node.MI.CRITIC} can memorise {classes} classes, and then the prompts learn "
                "nothing from it: compare with cos"
            )
        super().before_train()

    def before_epoch(self) -> None:
        super().before_epoch()
        self.queue.clear()

    # ------------------------------------------------------------------ checkpoints

    def training_state(self) -> dict[str, Any]:
        return {name: average.log_mean for name, average in self.averages.items()}

    def restore_training_state(self, state: Mapping[str, Any], epoch: int) -> None:
        for name, average in self.averages.items():
            if name in state:  # not where an earlier part of the run had another estimator
                average.log_mean.copy_(state[name])

    def required_settings(self) -> dict[str, Any]:
        return super().required_settings() | self.own_settings("CSC", "CLASS_TOKEN_POSITION", "MI.CRITIC")

    def method_state(self) -> dict[str, Any]:
        return {"ensemble": self.model.ensemble}

    def restore_method_state(self, state: Mapping[str, Any]) -> None:
        here = self.cfg.TRAINER.E2MIM.TEST.ENSEMBLE
        self.model.ensemble = self.setting_of_test(f"{KEY}.TEST.ENSEMBLE", state["ensemble"], here)

    def check_classes(self, trained_on: Mapping[str, Any]) -> None:
        require(
            not self.cfg.TRAINER.E2MIM.CSC or trained_on["classnames"] == self.data_identity()["classnames"],
            f"class-specific contexts exist for {describe(trained_on)} only, not for {describe(self.data_identity())}: "
            f"train with {KEY}.CSC False to test on other classes",
        )

    # ------------------------------------------------------------------ settings

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node = cfg.TRAINER.E2MIM
        check_context(f"{KEY}.CTX_INIT", node.CTX_INIT, 1)
        for template in node.TEMPLATES:
            check_template(f"one of {KEY}.TEMPLATES", str(template))
        for key, known in KNOWN.items():
            require_known(f"{KEY}.{key}", value_of(node, key), known)
        for key, (low, high) in LIMITS.items():
            require_number(f"{KEY}.{key}", value_of(node, key), low, high)
        learns, kgcoop = node.MI.CRITIC != "cos", node.MI.ESTIMATOR == "kgcoop"
        fuses, across = node.VIS.FUSE == "add", node.MIX.MODE == "inter" and node.MIX.ENABLED
        for wrong, message in (
            (kgcoop and learns, f"MI.ESTIMATOR kgcoop is a distance of cosines: use {KEY}.MI.CRITIC cos"),
            (
                learns and not node.MI.WEIGHT and not node.VIS.WEIGHT,
                f"MI.CRITIC {node.MI.CRITIC} has no term to learn from with MI.WEIGHT and VIS.WEIGHT 0: use cos",
            ),
            (
                fuses and not node.MI.WEIGHT,
                "VIS.FUSE add is part of the text term, which MI.WEIGHT 0 leaves out: use none",
            ),
            (fuses and across, "VIS.FUSE add needs images of one class, and MIX.MODE inter has none: use none"),
            (
                node.MI.NUM_NEG and (node.MI.ESTIMATOR != "infonce" or across),
                "MI.NUM_NEG is for MI.ESTIMATOR infonce and MIX.MODE intra: use 0",
            ),
            (
                node.MIX.CE_WEIGHT and not node.MIX.ENABLED,
                "MIX.CE_WEIGHT weighs mixed images, and MIX.ENABLED is False: use 0.0",
            ),
        ):
            require(not wrong, f"{KEY}.{message}")
        if node.VIS.VIEW == "sample" and node.VIS.WEIGHT and node.MIX.CE_WEIGHT:
            print(f"Warning: {KEY}.VIS.VIEW sample and MIX.CE_WEIGHT are one term at two temperatures: use one of them")


KNOWN = {
    "CLASS_TOKEN_POSITION": POSITIONS,
    "MI.ESTIMATOR": ESTIMATORS,
    "MI.CRITIC": CRITICS,
    "VIS.VIEW": ("proto", "sample"),
    "VIS.FUSE": ("none", "add"),
    "MIX.MODE": MODES,
    "MIX.LEVEL": ("pixel", "feature"),
}
SMALLEST = 1e-4  # of what must not be zero
LIMITS = {
    "N_CTX": (1, math.inf),
    "MI.WEIGHT": (0, math.inf),
    "MI.TAU": (SMALLEST, math.inf),
    "MI.HIDDEN": (1, math.inf),
    "MI.PROJ_DIM": (1, math.inf),
    "MI.NUM_NEG": (0, math.inf),
    "MI.EMA": (0, 1 - SMALLEST),
    "MI.LR_MULT": (0, math.inf),
    "VIS.WEIGHT": (0, math.inf),
    "VIS.ETA": (0, math.inf),
    "MIX.BETA": (SMALLEST, math.inf),
    "MIX.PROB": (0, 1),
    "MIX.QUEUE": (0, math.inf),
    "MIX.CE_WEIGHT": (0, math.inf),
    "TEST.ENSEMBLE": (0, 1),
}


def value_of(node: CfgNode, key: str) -> Any:
    for part in key.split("."):
        node = node[part]
    return node
