"""E2MIM (reconstruction), after Zhang, "Generalizable Prompt Tuning for Vision-Language Models" (arXiv 2410.03189).

Soft and hand-written prompts are two views of the classes, whose mutual information is to be large; so is that between
the soft prompts and the classes' images, mixed within a class. Only the paper's abstract could be read: equations,
weights and temperature are reconstructed, and no number of the paper is claimed. ``docs/method.md`` marks what is what.
"""

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
    ContextCLIP,
    ContextLearner,
    PromptWriter,
    class_name_position,
    context_length,
    context_prompts,
    start_context,
    words,
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
from anprompt.prompts.templates import KGCOOP_TEMPLATES, check_template
from anprompt.utils.config import require
from anprompt.utils.rng import NamedGenerators
from anprompt.utils.settings import FIXED, Setting, Settings, number, one_of, whole
from dassl.engine import TRAINER_REGISTRY

KEY = "TRAINER.E2MIM"
FEW_CLASSES = 20  # a critic that learns memorises fewer


# ---------------------------------------------------------------------------------------------- model


class CriticLearner(ContextLearner):
    """The context, and the critic that compares two views; the critic has no part in predictions.

    Args:
        start: as for :class:`ContextLearner`.
    """

    def __init__(self, start: Tensor, critic: nn.Module):
        super().__init__(start)
        self.critic = critic


class DualViewCLIP(ContextCLIP[CriticLearner]):
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


# ---------------------------------------------------------------------------------------------- settings


def templates(key: str, value: Sequence[str], cfg: CfgNode) -> None:
    """Check of hand-written prompts."""
    for template in value:
        check_template(f"one of {key}", str(template))


ABOVE_ZERO = 1e-4
SETTINGS = Settings(
    "E2MIM",
    Setting("N_CTX", 4, whole(1)),  # M; with CTX_INIT, the number of its tokens counts instead
    Setting("CTX_INIT", "a photo of a", words(1)),  # words to start from; empty: random
    Setting("CSC", False, None, FIXED),  # class-specific context
    Setting("CLASS_TOKEN_POSITION", "end", class_name_position, FIXED),  # of the class name: end, middle or front
    Setting("TEMPLATES", [], templates),  # hand-written prompts with one {}, averaged; empty: the dataset's one
    # Between soft and hand-written prompts. Estimator, critic and negatives are those of both terms.
    Setting("MI.WEIGHT", 1.0, number(0)),  # a_t
    Setting("MI.ESTIMATOR", "infonce", one_of(*ESTIMATORS)),  # kgcoop is KgCoOp's distance
    Setting("MI.CRITIC", "cos", one_of(*CRITICS), FIXED),  # cos has nothing to learn; bilinear, separable, concat do
    Setting("MI.TAU", 0.07, number(ABOVE_ZERO)),  # not CLIP's 0.01, where the gradient vanishes; not for kgcoop, concat
    Setting("MI.SYMMETRIC", True),  # infonce in both directions
    Setting("MI.HIDDEN", 256, whole(1)),  # width inside separable and concat
    Setting("MI.PROJ_DIM", 128, whole(1)),  # width of what separable compares
    Setting("MI.NUM_NEG", 0, whole(0)),  # infonce: negatives per row, drawn in every step; 0: all other classes
    Setting("MI.EMA", 0.99, number(0, 1 - ABOVE_ZERO)),  # dv: share of the past in the denominator of the gradient
    Setting("MI.LR_MULT", 1.0, number(0)),  # learning rate of the critic, in those of the context
    # Between mixed images and soft prompts.
    Setting("VIS.WEIGHT", 1.0, number(0)),  # a_v
    Setting("VIS.VIEW", "proto", one_of("proto", "sample")),  # a row per class or per image; inter: the same
    Setting("VIS.FUSE", "none", one_of("none", "add")),  # add: the text term joins soft prompts with their mean image
    Setting("VIS.ETA", 0.5, number(0)),  # weight of that image
    # Class-wise mixup.
    Setting("MIX.ENABLED", True),
    Setting("MIX.MODE", "intra", one_of(*MODES)),  # partners of the same class; inter: of another, labels mixed too
    Setting("MIX.LEVEL", "pixel", one_of("pixel", "feature")),
    Setting("MIX.BETA", 1.0, number(ABOVE_ZERO)),  # shares follow Beta(BETA, BETA)
    Setting("MIX.PROB", 1.0, number(0, 1)),  # of an image to be mixed
    Setting("MIX.QUEUE", 2, whole(0)),  # intra: images kept per class for those without a partner in the batch
    Setting("MIX.CE_WEIGHT", 0.0, number(0)),  # a_c, of the cross-entropy of mixed images
    Setting("TEST.ENSEMBLE", 0.0, number(0, 1)),  # share of hand-written prompts in the text features of an evaluation
)
extend_cfg = SETTINGS.extend_cfg


# ---------------------------------------------------------------------------------------------- trainer


@TRAINER_REGISTRY.register()
class E2MIM(PromptTrainer[DualViewCLIP]):
    """Ensemble of two textual views, exploration by class-wise mixup: a reconstruction."""

    settings = SETTINGS

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
            means, _ = class_means(mixed, batch["labels"], len(text))  # zero where the batch has no image of a class
            soft = unit(text + node.VIS.ETA * means)
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
        own = KGCOOP_TEMPLATES.get(cfg.DATASET.NAME)
        wordings = node.TEMPLATES or ([own] if own and not cfg.DATASET.TEMPLATE else [])
        return DualViewCLIP(backbone, CriticLearner(start, critic), write, wordings, node.TEST.ENSEMBLE)

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
