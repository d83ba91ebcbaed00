"""One run in several processes, as torchrun starts them: every step is that of one process with the same batch.

Not every loss of the family is a mean over images (one term divides by the deviation of all logits, others see no
image), so losses are not taken apart. What is shared out is the encoding of images: every process loads the whole
batch, encodes its part (:func:`shared_out`) and collects the features of all; from there on, all compute the same.
Gradients are those of the learnables only, averaged by DistributedDataParallel. Evaluation goes the same way.

The first process writes all files, and its log is the run's. What depends on the disk, it decides for all
(:func:`from_main`, :func:`main_first`). In an ordinary run nothing here does anything.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from anprompt.utils.rng import rng_state, set_rng_state

# The others wait while the first process lists a data set, which takes long on a network drive. A process that has
# ended is no reason to wait: torchrun ends the others.
TIMEOUT = timedelta(hours=2)
CPU = torch.device("cpu")
SET_BY_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

P = ParamSpec("P")
R = TypeVar("R")
Encoder = Callable[Concatenate[Any, Tensor, P], R]

# ---------------------------------------------------------------------------------------------- processes


def start() -> None:
    """Join the other processes, where torchrun has started several; only the first one goes on printing."""
    if not all(name in os.environ for name in SET_BY_TORCHRUN):  # clusters set some of them for any process
        return
    if int(os.environ["WORLD_SIZE"]) == 1 or dist.is_initialized():
        return
    both = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo", timeout=TIMEOUT)
    if not is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  (until the process ends)


def end() -> None:
    """Part from the other processes, after success: after an error they may not answer any more."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def take_gpu() -> None:
    """Use the GPU that has this process's number on its machine.

    Raises:
        ValueError: there are more processes than GPUs.
    """
    number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= gpus > 0:
        raise ValueError(
            f"torchrun started {os.environ.get('LOCAL_WORLD_SIZE', 'several')} processes on a machine that shows "
            f"{gpus} GPUs, and each process takes one: use --nproc_per_node {gpus}, or USE_CUDA False"
        )
    if gpus:
        torch.cuda.set_device(number)


def size() -> int:
    """Number W of processes; 1 in an ordinary run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


# ---------------------------------------------------------------------------------------------- one after the other


def from_main(act: Callable[[], R]) -> R:
    """What ``act`` returns in the first process, the only one that calls it.

    Raises:
        SystemExit: in the others, without a word, where it fails.
    """
    if size() == 1:
        return act()
    answer: list[Any] = [None, "failed"]
    try:
        if is_main():
            answer = [act(), ""]
    finally:
        dist.broadcast_object_list(answer, device=CPU)
    if answer[1]:
        raise SystemExit(1)
    return answer[0]


def wait_for_main() -> None:
    """Go on when the first process has come here: what it has written by then can be read."""
    from_main(lambda: None)


def main_first(prepare: Callable[[], None]) -> None:
    """Call ``prepare``, which may leave files, in the first process, then in the others, which find them.

    Who finds a few-shot subset draws no random numbers for it: the others go on with the first one's generators.
    """

    def prepare_and_tell() -> dict[str, Any]:
        prepare()
        return rng_state()

    if size() == 1:
        prepare()
        return
    generators = from_main(prepare_and_tell)
    if not is_main():
        prepare()
        set_rng_state(generators)


# ---------------------------------------------------------------------------------------------- images


_in_part = False  # inside a function that sees this process's part of the images already


def shared_out(encode: Encoder[P, R]) -> Encoder[P, R]:
    """Decorate a method that treats images ``[B, ...]`` one by one: each process runs it on its part of them.

    The method returns a tensor ``[B, ...]``, or a NamedTuple of such tensors and of None, and gets nothing else that
    has a row per image. Within it, other shared-out methods run on the part. What follows on the result must be the
    same in all processes, for the gradients' sake.
    """

    @functools.wraps(encode)
    def encode_part(model: Any, images: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        global _in_part
        if size() == 1 or _in_part:
            return encode(model, images, *args, **kwargs)
        _in_part = True
        try:
            part: Any = encode(model, own_rows(images), *args, **kwargs)
        finally:
            _in_part = False
        if isinstance(part, Tensor):
            return collect(part, len(images))  # type: ignore[return-value]
        return type(part)(*(None if rows is None else collect(rows, len(images)) for rows in part))

    return encode_part


def own_rows(images: Tensor) -> Tensor:
    """This process's part of ``[B, ...]``: ``ceil(B / W)`` rows. Where none are left, the last row is repeated."""
    count = -(-len(images) // size())
    first = rank() * count
    return images[torch.arange(first, first + count, device=images.device).clamp(max=len(images) - 1)]


def collect(rows: Tensor, count: int) -> Tensor:
    """The parts of all processes in order, ``[count, ...]`` without the repeated rows."""
    return _Collect.apply(rows)[:count]


class _Collect(torch.autograd.Function):
    """Rows ``[N, ...]`` of each process -> all ``[W * N, ...]``.

    All processes go on with the same, so each knows the gradient of its own rows: nothing is exchanged on the way back.
    Times W, because the learnables' gradients are averaged, and those of a row come from one process alone.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return size() * gradients[0].chunk(size())[rank()]


# ---------------------------------------------------------------------------------------------- gradients


class _Objective(nn.Module):
    """What DistributedDataParallel wraps: it sees the learnables, and not the frozen CLIP."""

    def __init__(self, learner: nn.Module, loss_terms: Callable[..., Any]):
        super().__init__()
        self.learner, self.loss_terms = learner, loss_terms

    def forward(self, batch: dict[str, Tensor]) -> Any:
        return self.loss_terms(batch)


def averaged(loss_terms: Callable[..., Any], learner: nn.Module) -> Callable[..., Any]:
    """``loss_terms``, whose backward pass leaves the average of all processes' gradients in the learnables.

    The learner's parameters become those of the first process, and its buffers do before every step. All processes must
    call it, with all parameters in use; in an ordinary run it changes nothing.
    """
    if size() == 1:
        return loss_terms
    return DistributedDataParallel(_Objective(learner, loss_terms))
