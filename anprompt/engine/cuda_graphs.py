"""Replay the gradients of a training step as one CUDA graph.

At batch 4 a GPU finishes the kernels of a step sooner than Python can launch them. A graph launches all of them at
once. It reads and writes the memory it was recorded with: inputs are copied there, and whoever replaces a tensor that
the step reads must let the recording be forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import cache, partial

import torch
from torch import Tensor, nn

from anprompt.engine.batch import Batch

logger = logging.getLogger(__name__)

WARM_UP = 2  # runs before recording, in which libraries allocate what they keep
# A wrong recording is off by its whole size; sums in another order, in half precision, by less than this share.
TOLERANCE = 0.05

Step = Callable[[Batch], Tensor]
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def record_cuda_graph(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record what ``run`` launches; how to replay it, and the tensor that it returned, which each replay overwrites.

    Raises:
        RuntimeError: it cannot be recorded, for example because it waits for the device.
    """
    current, stream = torch.cuda.current_stream(), side_stream(torch.cuda.current_device())
    stream.wait_stream(current)  # gradients must have been accumulated on the stream that is recorded
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        # By this thread alone: meanwhile, the loader's thread pins memory.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = run()
    finally:
        torch.cuda.set_stream(current)  # a capture that fails may leave the other one behind
    return graph.replay, result


@cache
def side_stream(device: int) -> torch.cuda.Stream:
    """One per device: libraries keep memory for every stream that they have seen."""
    return torch.cuda.Stream(device)


class GraphedStep:
    """A step that is recorded the first time it runs, compared with the eager one the next time, and then replayed.

    Where recording fails, or a replay gives another loss or gradient than the eager step with the same batch, it stays
    eager and logs why, once. Loss and gradients that are not finite (loss scaling may begin so) prove nothing: it tries
    again with the next batch.

    Args:
        step: batch -> numbers to report, ``[n]``, the loss first; leaves the gradients in ``parameters``. It must not
            wait for the device, nor draw at random, and must launch the same kernels on the same memory every time.
        record: see :func:`record_cuda_graph`.
    """

    def __init__(self, step: Step, parameters: Iterable[nn.Parameter], record: Record = record_cuda_graph):
        self.step, self.record = step, record
        self.parameters = list(parameters)
        self.obstacle = ""  # why it stays eager
        self.forget()

    def forget(self) -> None:
        """Drop the recording: tensors that the step reads may have been replaced. The next step records anew."""
        self.replay: Callable[[], None] | None = None
        self.compared = False
        self.inputs: Batch = {}
        self.numbers: Tensor | None = None
        self.gradients: list[Tensor | None] = []

    def __call__(self, batch: Batch) -> Tensor:
        if self.obstacle:
            return self.step(batch)
        if self.replay is None:
            return self.eager_beside(batch, self.start)
        if kinds(batch) != kinds(self.inputs):
            return self.step(batch)
        if not self.compared:
            return self.eager_beside(batch, self.compare)
        return self.replayed(batch)

    def replayed(self, batch: Batch) -> Tensor:
        assert self.replay is not None and self.numbers is not None
        for name, memory in self.inputs.items():
            memory.copy_(batch[name])
        self.replay()
        self.set_gradients(self.gradients)  # an eager step in between puts others there
        return self.numbers.clone()

    def set_gradients(self, gradients: Iterable[Tensor | None]) -> None:
        for entry, gradient in zip(self.parameters, gradients, strict=True):
            entry.grad = gradient

    def eager_beside(self, batch: Batch, act: Callable[..., None]) -> Tensor:
        """An eager step, which counts, and ``act`` on the recording; it gets the batch, the loss and the gradients."""
        numbers = self.step(batch)
        gradients = [None if entry.grad is None else entry.grad.clone() for entry in self.parameters]
        eager = [numbers[0], *gradients]
        if torch.stack([values.isfinite().all() for values in eager if values is not None]).all():
            try:
                act(batch, eager)
            except RuntimeError as error:
                self.obstacle = reason(error)
                logger.warning("CUDA graph: not used, training goes on without it (%s)", self.obstacle)
                self.forget()
        self.set_gradients(gradients)
        return numbers

    def start(self, batch: Batch, eager: list[Tensor | None]) -> None:
        """Record the step."""
        self.inputs = {name: values.clone() for name, values in batch.items()}
        self.replay, self.numbers = self.record(partial(self.step, self.inputs))
        self.gradients = [entry.grad for entry in self.parameters]

    def compare(self, batch: Batch, eager: list[Tensor | None]) -> None:
        """Raise a RuntimeError unless a replay with a batch that was not recorded gives what the eager step gives."""
        replayed = [self.replayed(batch)[0], *self.gradients]
        if [values is None for values in eager] != [values is None for values in replayed]:
            raise RuntimeError("a replay gives gradients to other learnables than the eager step")
        pairs = [(a, b) for a, b in zip(eager, replayed, strict=True) if a is not None and b is not None]
        sizes = torch.stack([a.abs().max().double() for a, _ in pairs])
        errors = torch.stack([(a - b).abs().max().double() for a, b in pairs])
        sizes[1:] = sizes[1:].clamp(min=1e-3 * sizes[1:].max())  # rounding is all there is to a gradient of zero
        worst = (errors / sizes.clamp(min=1e-30)).max().item()
        if not worst <= TOLERANCE:
            raise RuntimeError(f"a replay differs from the eager step by {100 * worst:.0f} %")
        self.compared = True


def kinds(batch: Batch) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """What must be the same in every batch of a recording."""
    return {name: (values.shape, values.dtype) for name, values in batch.items()}


def reason(error: BaseException) -> str:
    """First line of what came first: the error that ends a recording hides the one that spoilt it."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
