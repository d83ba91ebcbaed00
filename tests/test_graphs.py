"""Replayed steps against eager ones. On a CPU the recording is an imitation that keeps a graph's rules about memory."""

import re

import pytest
import torch
from torch import nn

from anprompt.graphs import GraphedStep
from tests.runs import assert_equal, start, weights

BATCHES = ["DATALOADER.TRAIN_X.BATCH_SIZE", "4", "TEST.NO_TEST", "True"]  # three steps per epoch


class Recorder:
    """Replays by running again and copying into the memory of the recording; afterwards nobody else has gradients."""

    def __init__(self, parameters, spoil=lambda result, gradients: None):
        self.parameters, self.spoil = list(parameters), spoil
        self.recorded = self.replayed = 0

    def __call__(self, run):
        self.recorded += 1
        result = run()
        memory = [entry.grad for entry in self.parameters]

        def replay():
            self.replayed += 1
            result.copy_(run())
            for entry, gradient in zip(self.parameters, memory, strict=True):
                if gradient is not None:
                    gradient.copy_(entry.grad)
                entry.grad = None
            self.spoil(result, memory)

        return replay, result


def train(cfg, graph=None):
    """Train with ``graph(trainer) -> GraphedStep``; the weights."""
    trainer = start(cfg)
    if graph:
        trainer.gradients = graph(trainer)
    trainer.train()
    return weights(trainer)


def graphed(trainer, **options):
    recorder = Recorder(trainer.model.learner.parameters(), **options)
    return GraphedStep(trainer.compute_gradients, trainer.model.learner.parameters(), recorder)


@pytest.mark.parametrize("trainer", ["ANPrompt", "MMRL", "MaPLe"])
def test_a_replayed_run_is_an_eager_run(make_cfg, trainer):
    steps = []
    replayed = train(
        make_cfg(*BATCHES, trainer=trainer, output="replayed"), lambda it: steps.append(graphed(it)) or steps[0]
    )
    assert_equal(replayed, train(make_cfg(*BATCHES, trainer=trainer, output="eager")))
    assert not steps[0].obstacle
    # anew in each of three epochs, whose first step is eager, beside a replay that is compared with it
    assert (steps[0].record.recorded, steps[0].record.replayed) == (3, 9)


def test_fresh_noise_of_an_epoch_reaches_the_recording(make_cfg):
    """It comes as a new tensor, of which a recording of the last epoch would know nothing."""
    fresh = [*BATCHES, "TRAINER.ANPROMPT.NOISE.RESAMPLE", "True"]
    assert_equal(train(make_cfg(*fresh, output="replayed"), graphed), train(make_cfg(*fresh, output="eager")))


def refuse(run):
    run()
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


@pytest.mark.parametrize(
    "why, options",
    [
        ("operation not permitted when stream is capturing", None),
        ("a replay differs from the eager step by 20 %", {"spoil": lambda result, _: result[0].mul_(1.2)}),
        ("a replay differs from the eager step by 100 %", {"spoil": lambda _, grads: grads[0].zero_()}),
        ("a replay differs from the eager step by nan %", {"spoil": lambda _, grads: grads[0].fill_(float("nan"))}),
    ],
)
def test_what_cannot_be_trusted_is_not_used(make_cfg, caplog, why, options):
    def graph(trainer):
        step = graphed(trainer, **(options or {}))
        if options is None:
            step.record = refuse
        return step

    replayed = train(make_cfg(*BATCHES, output="replayed"), graph)
    assert_equal(replayed, train(make_cfg(*BATCHES, output="eager")))
    (message,) = [record.getMessage() for record in caplog.records if "CUDA graph" in record.getMessage()]
    assert re.search(rf"not used, training goes on without it \({why}\)", message)


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def step_of(module):
    def step(images, labels):
        module.zero_grad()
        loss = nn.functional.cross_entropy(module(images), labels)
        loss.backward()
        return loss.detach()[None]

    return step


def batch(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, generator=generator), torch.randint(2, (size,), generator=generator)


def test_a_batch_of_another_size_runs_eagerly_in_between(linear):
    step = step_of(linear)
    graph = GraphedStep(step, linear.parameters(), Recorder(linear.parameters()))
    for size, seed in ((4, 1), (4, 2), (3, 3), (4, 4), (4, 5)):
        numbers = graph(*batch(size, seed))
        gradients = [entry.grad.clone() for entry in linear.parameters()]
        assert torch.equal(numbers, step(*batch(size, seed)))
        assert all(torch.equal(a, b.grad) for a, b in zip(gradients, linear.parameters(), strict=True))
    assert graph.record.replayed == 1 + 3


def test_numbers_of_a_step_survive_the_next_replay(linear):
    graph = GraphedStep(step_of(linear), linear.parameters(), Recorder(linear.parameters()))
    graph(*batch(4, 1))
    second = graph(*batch(4, 2))
    kept = second.clone()
    graph(*batch(4, 3))
    assert torch.equal(second, kept)


def test_a_learnable_without_gradient_must_stay_without(linear):
    with pytest.raises(RuntimeError, match="gradients to other learnables"):
        GraphedStep.compare([torch.ones(1), None], [torch.ones(1), torch.ones(1)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "amp", "bf16"])
def test_a_cuda_graph_trains_as_the_eager_step_does(make_cfg, precision):
    def first_epoch(graph):
        options = ["TRAIN.CUDA_GRAPH", graph, "TRAINER.ANPROMPT.PREC", precision, "OPTIM.MAX_EPOCH", "1"]
        trainer = start(make_cfg(*BATCHES, *options, output=f"graph-{graph}"))
        trainer.train()
        return trainer, weights(trainer)

    (trainer, replayed), (_, eager) = first_epoch("True"), first_epoch("False")
    assert trainer.gradients.replay is not None and not trainer.gradients.obstacle
    for name, tensor in eager.items():
        assert torch.allclose(replayed[name], tensor, rtol=1e-2, atol=1e-4), name
