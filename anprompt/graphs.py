"""Replay the gradients of a training step as one CUDA graph.

At batch 4 a GPU finishes the kernels of a step sooner than Python can launch them. A graph launches all of them at
once. It reads and writes the memory it was recorded with: inputs are copied there, and whoever replaces a tensor that
the step reads must let the recording be forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

WARM_UP = 2  # runs before recording, in which libraries allocate what they keep
# A wrong recording is off by its whole size; sums in another order, in half precision, by less than this share.
TOLERANCE = 0.05

Step = Callable[[Tensor, Tensor], Tensor]
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def record_cuda_graph(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record what ``run`` launches; how to replay it, and the tensor that it returned, which each replay overwrites.

    Raises:
        RuntimeError: it cannot be recorded, for example because it waits for the device.
    """
    stream = torch.cuda.Stream()  # gradients must have been accumulated on the stream that is recorded
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = run()
    return graph.replay, result


class GraphedStep:
    """A step that is recorded the first time it runs, compared with the eager one, and replayed from then on.

    Where recording fails, or a replay gives another loss or gradient, it stays eager and logs why, once.

    Args:
        step: ``(images, labels)`` -> numbers to report, ``[n]``, the loss first; leaves the gradients in
            ``parameters``. It must not wait for the device, and must launch the same kernels on the same memory every
            time.
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
        self.inputs: tuple[Tensor, ...] = ()
        self.numbers: Tensor | None = None
        self.gradients: list[Tensor | None] = []

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        given = (images, labels)
        if self.obstacle:
            return self.step(*given)
        if self.replay is None:
            return self.start(*given)
        if any(new.shape != old.shape or new.dtype != old.dtype for new, old in zip(given, self.inputs, strict=True)):
            return self.step(*given)
        for new, old in zip(given, self.inputs, strict=True):
            old.copy_(new)
        self.replay()
        self.set_gradients(self.gradients)  # an eager step in between puts others there
        assert self.numbers is not None
        return self.numbers.clone()

    def start(self, images: Tensor, labels: Tensor) -> Tensor:
        """An eager step, and beside it the recording of the next ones."""
        numbers = self.step(images, labels)
        gradients = [None if entry.grad is None else entry.grad.clone() for entry in self.parameters]
        self.inputs = (images.clone(), labels.clone())
        try:
            self.replay, self.numbers = self.record(partial(self.step, *self.inputs))
            self.gradients = [entry.grad for entry in self.parameters]
            self.replay()
            self.compare([numbers[0], *gradients], [self.numbers[0], *self.gradients])
        except RuntimeError as error:
            self.obstacle = str(error).strip().splitlines()[0]
            logger.warning("CUDA graph: not used, training goes on without it (%s)", self.obstacle)
            self.forget()
        self.set_gradients(gradients)
        return numbers

    def set_gradients(self, gradients: Iterable[Tensor | None]) -> None:
        for entry, gradient in zip(self.parameters, gradients, strict=True):
            entry.grad = gradient

    @staticmethod
    def compare(eager: list[Tensor | None], replayed: list[Tensor | None]) -> None:
        """Raise a RuntimeError unless a replay gave the eager loss (first) and gradients."""
        if [entry is None for entry in eager] != [entry is None for entry in replayed]:
            raise RuntimeError("a replay gives gradients to other learnables than the eager step")
        pairs = [(a, b) for a, b in zip(eager, replayed, strict=True) if a is not None and b is not None]
        sizes = torch.stack([a.abs().max().double() for a, _ in pairs])
        errors = torch.stack([(a - b).abs().max().double() for a, b in pairs])
        sizes[1:] = sizes[1:].clamp(min=1e-3 * sizes[1:].max())  # rounding is all there is to a gradient of zero
        worst = (errors / sizes.clamp(min=1e-30)).max().item()
        if not worst <= TOLERANCE:
            raise RuntimeError(f"a replay differs from the eager step by {100 * worst:.0f} %")
