"""What a method may say about its step: batches, loaders, groups, schedules, its own generators; several batches per
update. Every one of them goes through a killed run that resumes, bit for bit."""

import math

import pytest
import torch

from anprompt.engine.accumulation import GradientMean
from tests.engine.test_cuda_graphs import graphed
from tests.helpers.methods import Beside, DasslPerUpdate, Mixing, PerUpdate, finish, killed_and_resumed, start
from tests.helpers.runs import assert_equal, weights
from tests.trainers.test_peer_models import NAMES, trainer_on
from trainers.coop import CoOp

# Twelve classes, an image each: an epoch has three steps.
THREE = (
    "DATASET.NUM_SHOTS", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "OPTIM.MAX_EPOCH", "3", "OPTIM.WARMUP_EPOCH", "0",
    "TEST.NO_TEST", "True", "TRAINER.COOP.N_CTX", "2",
)  # fmt: skip


@pytest.fixture
def coop_cfg(make_cfg):
    def make(*options, output="run"):
        return make_cfg(*THREE, *options, trainer="CoOp", output=output)

    return make


def noted_rates(trainer):
    """The rate that each update used."""
    rates, step = [], trainer.optim.step
    trainer.optim.step = lambda *given: (rates.append(trainer.optim.param_groups[0]["lr"]), step(*given))[1]
    return rates


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Mixing, ()),
        (Beside, ()),
        (PerUpdate, ()),
        (PerUpdate, ("TRAIN.ACCUMULATE", "2")),
        (DasslPerUpdate, ("OPTIM.WARMUP_EPOCH", "1")),
        (Mixing, ("TRAIN.ACCUMULATE", "2", "OPTIM.NAME", "adamw")),
    ],
)
def test_a_killed_run_ends_as_one_that_was_not(coop_cfg, kind, options):
    whole = finish(kind, coop_cfg(*options, output="whole"))
    resumed = killed_and_resumed(kind, coop_cfg(*options, output="killed"))
    assert resumed.start_epoch == 1
    assert_equal(weights(whole), weights(resumed))


# ------------------------------------------------------------------ what a step draws


def test_what_a_step_draws_reaches_a_recorded_step(coop_cfg):
    """Python draws once in a recording: draws that are part of the batch stay those of every step."""
    steps = []

    def trained(output, replay):
        trainer = start(Mixing, coop_cfg(output=output))
        if replay:
            trainer.gradients = graphed(trainer)
            steps.append(trainer.gradients)
        trainer.train()
        return weights(trainer)

    assert_equal(trained("replayed", True), trained("eager", False))
    assert steps[0].record.replayed and not steps[0].obstacle


def test_a_methods_own_generator_leaves_the_batches_alone(coop_cfg):
    def order(kind, output):
        trainer, seen = start(kind, coop_cfg(output=output)), []
        parse = trainer.parse_batch_train
        trainer.parse_batch_train = lambda batch: (seen.append(batch["img"].sum().item()), parse(batch))[1]
        trainer.train()
        return seen

    assert order(Mixing, "mixing") == order(CoOp, "plain")


# ------------------------------------------------------------------ loaders beside the first one


def test_further_images_come_in_new_rounds(coop_cfg):
    """Three steps, and two batches in a round: the third is of another round, and every epoch begins with a new one."""
    trainer = finish(Beside, coop_cfg())
    everything = sorted(item.impath for item in trainer.dm.dataset.train_x)
    assert [len(paths) for paths in trainer.seen] == [8, 4, 8] * 3
    rounds = [trainer.seen[0] + trainer.seen[1], trainer.seen[3] + trainer.seen[4], trainer.seen[6] + trainer.seen[7]]
    assert all(sorted(paths) == everything for paths in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def test_a_loader_without_batches_is_refused(coop_cfg):
    class Empty(CoOp):
        def make_loaders(self):
            return {"anchors": []}

    with pytest.raises(ValueError, match="the loader 'anchors' of Empty has no batch"):
        start(Empty, coop_cfg())


# ------------------------------------------------------------------ groups of learnables


def test_a_group_may_learn_faster(coop_cfg):
    class Faster(CoOp):
        def parameter_groups(self):
            return [{"params": self.model.learner.parameters(), "lr_factor": 10.0, "weight_decay": 0.0}]

    def moved(kind, output):
        trainer = start(kind, coop_cfg("OPTIM.WEIGHT_DECAY", "0.0", "OPTIM.MAX_EPOCH", "1", output=output))
        before = weights(trainer)["ctx"]
        trainer.train_loader_x = list(trainer.train_loader_x)[:1]
        trainer.train()
        return weights(trainer)["ctx"] - before

    plain, faster = moved(CoOp, "plain"), moved(Faster, "faster")
    assert plain.abs().max() > 0
    assert torch.allclose(faster, 10 * plain, rtol=1e-3, atol=1e-7)


def test_a_learnable_in_no_group_is_named(coop_cfg):
    class Forgetful(CoOp):
        def parameter_groups(self):
            return [{"params": []}]

    with pytest.raises(ValueError, match=r"parameter_groups\(\) of Forgetful leaves out ctx"):
        start(Forgetful, coop_cfg())


# ------------------------------------------------------------------ schedules


def test_a_schedule_may_move_with_every_update(coop_cfg):
    trainer = start(PerUpdate, coop_cfg("TRAIN.ACCUMULATE", "2"))
    rates = noted_rates(trainer)
    trainer.train()
    assert rates == pytest.approx([0.002 * (6 - update) / 6 for update in range(6)], rel=1e-12)


def test_dassls_schedule_may_be_counted_in_updates(coop_cfg):
    trainer = start(DasslPerUpdate, coop_cfg("OPTIM.WARMUP_EPOCH", "1", "OPTIM.WARMUP_CONS_LR", "1e-4"))
    rates = noted_rates(trainer)
    trainer.train()
    cosine = [0.001 * (1 + math.cos(math.pi * update / 9)) for update in range(6)]
    assert rates == pytest.approx([1e-4] * 3 + cosine, rel=1e-12)


def test_the_default_schedule_moves_with_every_epoch(coop_cfg):
    trainer = start(CoOp, coop_cfg("TRAIN.ACCUMULATE", "2"))
    rates = noted_rates(trainer)
    trainer.train()
    cosine = [0.001 * (1 + math.cos(math.pi * epoch / 3)) for epoch in range(3)]
    assert rates == pytest.approx([rate for rate in cosine for _ in range(2)], rel=1e-12)


# ------------------------------------------------------------------ several batches per update


def batch_of(images, first, last):
    return {"img": images[first:last], "label": torch.arange(first, last) % len(NAMES)}


def after_updates(clip, accumulate, cuts, steps=2):
    """The context after epochs whose batches end at ``cuts``."""
    trainer = trainer_on(clip, CoOp, "N_CTX", 3, accumulate=accumulate)
    images = torch.randn(cuts[-1], 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    trainer.num_batches = len(cuts)
    for _ in range(steps):
        for index, (first, last) in enumerate(zip([0, *cuts], cuts, strict=False)):
            trainer.batch_idx = index
            trainer.forward_backward(batch_of(images, first, last))
    return trainer.model.learner.ctx.detach()


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([4, 8], [8]),  # two and two
        ([4, 6], [6]),  # a smaller batch counts less
        ([4, 8, 12], [8, 12]),  # the epoch's last update has one batch
    ],
)
def test_two_batches_make_the_update_of_one_big_batch(clip, parts, whole):
    one, other = after_updates(clip, 2, parts), after_updates(clip, 1, whole)
    assert torch.allclose(one, other, rtol=0, atol=1e-12)
    assert not torch.allclose(one, after_updates(clip, 1, parts), rtol=0, atol=1e-9)


def test_a_learnable_without_gradient_stays_without():
    used, unused = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    mean = GradientMean([used, unused])
    for images, value in ((3, 1.0), (1, 5.0)):
        used.grad = torch.full((2,), value)
        mean.add(images)
    mean.hand_over()
    assert used.grad.tolist() == [2.0, 2.0] and unused.grad is None and mean.batches == 0


def test_an_update_of_no_batches_is_refused(coop_cfg):
    with pytest.raises(ValueError, match="TRAIN.ACCUMULATE: expected a number in 1..1000000000, got 0"):
        start(CoOp, coop_cfg("TRAIN.ACCUMULATE", "0"))
