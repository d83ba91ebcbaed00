"""The trainers' own steps, without a data set around them, and the textbook formulations of the same steps."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.engine.trainer import PromptTrainer, autocast
from anprompt.prompts.templates import prompts_for
from anprompt.utils.rng import NamedGenerators
from benchmarks.textbook import Objective, Textbook
from benchmarks.textbook_video import Anchoring, TextbookVideo
from dassl.engine import TrainerBase
from dassl.optim import build_lr_scheduler, build_optimizer
from trainers.anprompt import ANPrompt
from trainers.ga2clip import GA2CLIP


class WithoutData(PromptTrainer[Any]):
    """A trainer on given weights and class names. Model, objective, update and evaluation are its own code."""

    def __init__(self, cfg: CfgNode, backbone: Backbone, names: list[str]):
        TrainerBase.__init__(self)
        self.cfg = cfg
        self.device = torch.device("cuda" if cfg.USE_CUDA else "cpu")
        self.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=names))
        self.epoch, self.batch_idx, self.num_batches = 0, 0, 2  # not the epoch's last batch, where the rate changes
        self.train_loader_x = range(self.num_batches)
        torch.manual_seed(0)
        backbone.model.to(self.device)
        with (
            mock.patch("anprompt.engine.trainer.load_clip_once", return_value=backbone),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            self.build_model()

    def train_step(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.forward_backward(batch)

    def eager(self) -> AbstractContextManager:
        """Inside, training steps are not replayed from a CUDA graph, which no counter sees into."""
        return mock.patch.object(self, "gradients", self.compute_gradients)

    @torch.no_grad()
    def eval_batch(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of all heads; to be called inside :meth:`evaluation`, as the trainer does."""
        with self.autocast():
            return self.model.head_logits(images)


class Ours(WithoutData, ANPrompt):
    """ANPrompt.

    What the noise construction would give is drawn at random: it has the same shape, and the step's cost is the same.
    """

    def __init__(self, cfg: CfgNode, backbone: Backbone, names: list[str]):
        super().__init__(cfg, backbone, names)
        joint = self.model.classes.zero_shot.shape[1]
        self.weak_noise = F.normalize(torch.randn(len(names), joint), dim=-1).to(self.device)
        if self.values.NOISE_PROMPT.SOURCE == "cluster":
            self.model.learner.noise_prompts.normal_(std=joint**-0.5)


class OursOnClips(WithoutData, GA2CLIP):
    """GA2-CLIP. Its hard prompts, which other data would have taught, are drawn at random."""

    def __init__(self, cfg: CfgNode, backbone: Backbone, names: list[str]):
        super().__init__(cfg, backbone, names)
        self.model.learner.take_hard(0.02 * torch.randn_like(self.model.learner.ctx))


class TextbookANPrompt(Textbook):
    """The textbook formulation with the weights, the settings and the constants of ``ours``, on copies of them."""

    def __init__(self, ours: Ours):
        model, weights = ours.model, ours.values.LOSS
        learner = copy.deepcopy(model.learner)
        optim = build_optimizer(learner, ours.cfg.OPTIM)
        build_lr_scheduler(optim, ours.cfg.OPTIM)  # sets the rate of the first epoch
        prompts = prompts_for(ours.cfg.DATASET.NAME, ours.dm.dataset.classnames)
        assert ours.weak_noise is not None
        objective = Objective(
            ours.weak_noise, model.classes.zero_shot, weights.ALPHA, model.beta, weights.SIM_W, weights.WA_W
        )
        super().__init__(
            model.clip,
            learner,
            ours.backbone.tokenize(prompts).to(ours.device),
            (model.text_layers[0], model.vision_layers[0]),
            objective,
            optim,
            torch.amp.GradScaler(ours.device.type, enabled=ours.precision() == "amp"),
            partial(autocast, ours.precision(), ours.device),  # not the bound method, which would keep `ours` alive
        )

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        yield  # nothing is prepared: every batch encodes the classes


class TextbookGA2CLIP(TextbookVideo):
    """The same of GA2-CLIP; its dropout draws what that of ``ours`` draws."""

    def __init__(self, ours: OursOnClips):
        model, cfg = ours.model, ours.cfg
        node = cfg.TRAINER.GA2CLIP
        learner = copy.deepcopy(model.learner)
        prompts = [f"{' '.join(['X'] * node.N_CTX_TEXT)} {name}." for name in model.classnames]
        anchoring = Anchoring(model.negative, node.ANCHOR.MARGIN, node.ANCHOR.KAPPA, node.ANCHOR.WEIGHT)
        optim = build_optimizer(learner, cfg.OPTIM)
        ids = ours.backbone.tokenize(prompts)
        super().__init__(model.clip, learner, ids, anchoring, node.HARD.DROPOUT, NamedGenerators(cfg.SEED), optim)


# A method is measured once it has both formulations here, under the names of the variants.
METHODS: dict[str, tuple[Any, Any]] = {
    "ANPrompt": (Ours, TextbookANPrompt),
    "GA2CLIP": (OursOnClips, TextbookGA2CLIP),
}
VARIANTS = ("textbook", "ours")


def build(variant: str, cfg: CfgNode, backbone: Backbone, names: list[str]) -> WithoutData | Textbook | TextbookVideo:
    """One variant alone: what the textbook formulation does not need is gone when this returns."""
    own, textbook = METHODS[cfg.TRAINER.NAME]
    ours = own(cfg, backbone, names)
    return ours if variant == "ours" else textbook(ours)
