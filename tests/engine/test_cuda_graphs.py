"""Replayed steps against eager ones. On a CPU the recording is a tape that keeps a graph's rules about memory."""

import re

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anprompt.engine.cuda_graphs import GraphedStep, reason
from tests.helpers.runs import assert_equal, start, weights

BATCHES = ["DATALOADER.TRAIN_X.BATCH_SIZE", "4", "TEST.NO_TEST", "True"]  # three steps per epoch
METHODS = ["ANPrompt", "MMRL", "MMRLpp", "MaPLe", "PromptSRC", "CoOp", "CoCoOp", "KgCoOp", "E2MIM", "GA2CLIP"]


class Tape(TorchDispatchMode):
    """Notes every operation, and plays them again on the same memory: no line of the step's Python runs for that."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def play(self):
        for function, args, kwargs, result in self.operations:
            for old, new in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recorder:
    """``spoil`` changes numbers and gradients behind every replay."""

    def __init__(self, parameters, spoil=lambda result, gradients: None):
        self.parameters, self.spoil = list(parameters), spoil
        self.recorded = self.replayed = 0

    def __call__(self, run):
        self.recorded += 1
        with Tape() as tape:
            result = run()
        memory = [entry.grad for entry in self.parameters]

        def replay():
            self.replayed += 1
            tape.play()
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


@pytest.mark.parametrize("trainer", METHODS)
def test_a_replayed_run_is_an_eager_run(make_cfg, trainer, monkeypatch):
    monkeypatch.setattr("trainers.promptsrc.TEMPLATES", 3)
    options = [*BATCHES]
    if trainer == "PromptSRC":
        options += ["TRAINER.PROMPTSRC.GPA_MEAN", "2.0", "TRAINER.PROMPTSRC.GPA_STD", "1.5"]
    if trainer == "GA2CLIP":
        options += ["TRAINER.GA2CLIP.HARD.SOURCE", "template", "TRAINER.GA2CLIP.ANCHOR.ENABLED", "False"]
    steps = []
    cfg = make_cfg(*options, trainer=trainer, output="replayed")
    replayed = train(cfg, lambda it: steps.append(graphed(it)) or steps[0])
    eager = train(make_cfg(*options, trainer=trainer, output="eager"))
    for name, tensor in eager.items():
        assert torch.allclose(replayed[name], tensor, rtol=1e-4, atol=1e-6), name
    assert not steps[0].obstacle
    # anew in each of three epochs, whose first two steps are eager, the second one beside a replay
    assert (steps[0].record.recorded, steps[0].record.replayed) == (3, 6)


def test_fresh_noise_of_an_epoch_reaches_the_recording(make_cfg):
    """It comes as a new tensor, of which a recording of the last epoch would know nothing."""
    fresh = [*BATCHES, "TRAINER.ANPROMPT.NOISE.RESAMPLE", "True"]
    assert_equal(train(make_cfg(*fresh, output="replayed"), graphed), train(make_cfg(*fresh, output="eager")))


def refuse(run):
    """As PyTorch does: the end of the recording raises an error of its own."""
    run()
    try:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")
    finally:
        raise RuntimeError("capture failed due to a previous error")


@pytest.mark.parametrize(
    ("why", "options"),
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


def test_a_step_that_changes_from_batch_to_batch_is_found_out(make_cfg):
    """A choice made in Python would stay what it was when the step was recorded."""

    def graph(trainer):
        terms = trainer.loss_terms

        def fickle(batch):
            found, logits = terms(batch)
            return {**found, "ce": (1 + trainer.batch_idx) * found["ce"]}, logits

        trainer.loss_terms = fickle
        steps.append(graphed(trainer))
        return steps[0]

    steps = []
    train(make_cfg(*BATCHES, trainer="MMRL"), graph)
    assert steps[0].obstacle.startswith("a replay differs from the eager step")


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def step_of(module):
    def step(batch):
        module.zero_grad()
        loss = nn.functional.cross_entropy(module(batch["images"]), batch["labels"])
        loss.backward()
        return loss.detach()[None]

    return step


def batch(size, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, generator=generator)
    return {"images": images, "labels": torch.randint(2, (size,), generator=generator)}


def test_a_batch_of_another_size_runs_eagerly_in_between(linear):
    step = step_of(linear)
    graph = GraphedStep(step, linear.parameters(), Recorder(linear.parameters()))
    for size, seed in ((4, 1), (4, 2), (3, 3), (4, 4), (4, 5)):
        numbers = graph(batch(size, seed))
        gradients = [entry.grad.clone() for entry in linear.parameters()]
        assert torch.equal(numbers, step(batch(size, seed)))
        assert all(torch.equal(a, b.grad) for a, b in zip(gradients, linear.parameters(), strict=True))
    assert graph.record.replayed == 3


def test_numbers_of_a_step_survive_the_next_replay(linear):
    graph = GraphedStep(step_of(linear), linear.parameters(), Recorder(linear.parameters()))
    graph(batch(4, 1))
    graph(batch(4, 2))
    third = graph(batch(4, 3))
    kept = third.clone()
    graph(batch(4, 4))
    assert torch.equal(third, kept)


def test_gradients_that_overflow_at_first_only_delay_it(linear):
    """So loss scaling begins: the scale halves until fp16 can hold them."""
    step = step_of(linear)
    seen = []

    def overflowing(batch):
        numbers = step(batch)
        seen.append(len(seen))
        if len(seen) in (1, 4):  # before the recording, and where it is to be compared
            linear.weight.grad.fill_(float("inf"))
        return numbers

    graph = GraphedStep(overflowing, linear.parameters(), Recorder(linear.parameters()))
    graph(batch(4, 1))
    assert graph.replay is None
    graph(batch(4, 2))  # steps 2 and 3: eager, and recorded
    graph(batch(4, 3))
    assert graph.replay is not None and not graph.compared
    graph(batch(4, 4))
    assert graph.compared and not graph.obstacle


def test_a_learnable_without_gradient_must_stay_without(linear):
    step = step_of(linear)

    def forgetful(batch):
        numbers = step(batch)
        if graph.replay is not None:
            linear.bias.grad = None
        return numbers

    graph = GraphedStep(forgetful, linear.parameters(), Recorder(linear.parameters()))
    graph(batch(4, 1))
    graph(batch(4, 2))
    assert graph.obstacle == "a replay gives gradients to other learnables than the eager step"


def test_an_error_without_words_is_called_by_its_name():
    assert reason(RuntimeError()) == "RuntimeError"


# ------------------------------------------------------------------ the real thing

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ON_A_GPU = ["DATALOADER.TRAIN_X.BATCH_SIZE", "4", "DATALOADER.NUM_WORKERS", "2", "DATASET.NUM_SHOTS", "4"]


@on_a_gpu
@pytest.mark.parametrize("precision", ["fp32", "amp", "bf16"])
@pytest.mark.parametrize("trainer", ["ANPrompt", "MMRL", "CoCoOp"])
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_cuda_graph_trains_as_the_eager_step_does(make_cfg, monkeypatch, trainer, precision, in_parts):
    if in_parts:  # computed again for the backward pass
        monkeypatch.setattr("anprompt.clip.encoders.MAX_CLASSES", 4)
        monkeypatch.setattr("trainers.cocoop.MAX_PROMPTS", 12)

    def run(graph):
        options = ["TRAIN.CUDA_GRAPH", graph, f"TRAINER.{trainer.upper()}.PREC", precision, "OPTIM.MAX_EPOCH", "2"]
        built = start(make_cfg(*ON_A_GPU, *options, trainer=trainer, output=f"graph-{graph}"))
        built.train()
        return built, weights(built)

    (built, replayed), (_, eager) = run("True"), run("False")
    assert built.gradients.compared and not built.gradients.obstacle
    for name, tensor in eager.items():
        assert torch.allclose(replayed[name], tensor, rtol=1e-2, atol=1e-3), name


@on_a_gpu
def test_after_a_refused_recording_training_goes_on(make_cfg, caplog):
    trainer = start(make_cfg(*ON_A_GPU, "TRAIN.CUDA_GRAPH", "True"))
    terms, stream = trainer.loss_terms, torch.cuda.current_stream()

    def waiting(batch):
        found, logits = terms(batch)
        assert found["ce"].item() > 0
        return found, logits

    trainer.objective = trainer.loss_terms = waiting
    trainer.train()
    assert trainer.gradients.obstacle and torch.cuda.current_stream() == stream
    torch.rand(1, device="cuda")  # the generator is usable
