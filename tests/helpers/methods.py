"""Methods that use what the base class leaves open, each one hook, on CoOp's model.

They are not registered: a test runs one with CoOp's config, ``start(kind, cfg)``.
"""

import torch
import torch.nn.functional as F

from dassl.utils import set_random_seed
from tests.helpers.runs import Killed
from trainers.coop import CoOp


class Mixing(CoOp):
    """Mixes images with partners: what a step draws is part of its batch."""

    def parse_batch_train(self, batch):
        parsed, generator = super().parse_batch_train(batch), self.generator("partners")
        partners = torch.randperm(len(parsed["labels"]), generator=generator)
        share = torch.rand(1, generator=generator)
        return parsed | {"partners": self.on_device(partners), "share": self.on_device(share)}

    def loss_terms(self, batch):
        share, partners, images = batch["share"], batch["partners"], batch["images"]
        logits = self.model(share * images + (1 - share) * images[partners])
        losses = [F.cross_entropy(logits, labels) for labels in (batch["labels"], batch["labels"][partners])]
        return {"ce": (share * losses[0] + (1 - share) * losses[1]).sum()}, logits


class Beside(CoOp):
    """Loads further images, fewer than there are steps in an epoch, and classifies them, too."""

    def make_loaders(self):
        return {"anchors": torch.utils.data.DataLoader(self.train_loader_x.dataset, batch_size=8, shuffle=True)}

    def parse_batch_train(self, batch):
        parsed = super().parse_batch_train(batch)
        anchors = batch["anchors"]
        self.seen = [*getattr(self, "seen", []), anchors["impath"]]
        return parsed | {"anchors": self.on_device(anchors["img"]), "classes": self.on_device(anchors["label"])}

    def loss_terms(self, batch):
        terms, logits = super().loss_terms(batch)
        return terms | {"anchor": F.cross_entropy(self.model(batch["anchors"]), batch["classes"])}, logits


class PerUpdate(CoOp):
    """Its schedule moves with every update, by a formula of its own."""

    schedule_unit = "update"

    def build_schedule(self):
        total = self.max_epoch * self.updates_per_epoch()
        return torch.optim.lr_scheduler.LambdaLR(self.optim, lambda update: (total - update) / total)


class DasslPerUpdate(CoOp):
    """Dassl's schedule in smaller steps."""

    schedule_unit = "update"


def start(kind, cfg):
    set_random_seed(cfg.SEED)
    return kind(cfg)


def finish(kind, cfg):
    trainer = start(kind, cfg)
    trainer.train()
    return trainer


def killed_and_resumed(kind, cfg, epoch=1, batch=1):
    """A run that is killed in that batch of that epoch, and goes on in what a new process would start with."""
    trainer = start(kind, cfg)
    step = trainer.forward_backward

    def die_or_step(given):
        if (trainer.epoch, trainer.batch_idx) == (epoch, batch):
            raise Killed
        return step(given)

    trainer.forward_backward = die_or_step
    try:
        trainer.train()
    except Killed:
        return finish(kind, cfg)
    raise AssertionError("it was not killed")
