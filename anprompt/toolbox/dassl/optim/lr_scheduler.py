"""Learning rates by epoch, as closed formulas.

The rate of an epoch depends on the configuration and the number of the epoch only. A checkpoint therefore needs to hold
nothing but that number, and a resumed run continues with exactly the rates of an uninterrupted one. If the
configuration was changed in between (``MAX_EPOCH``, say), the new one counts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer
from yacs.config import CfgNode

from dassl.utils import check_availability

Factor = Callable[[int], float]  # epoch -> share of the initial rate
Warmup = Callable[[int, float], float]  # epoch, initial rate -> rate


class EpochScheduler:
    """Sets the rate of every parameter group; ``step()`` it once per epoch.

    Args:
        optimizer: each group's initial rate is its ``initial_lr`` if another scheduler left one, else its ``lr``.
        factor: share of the initial rate in epoch 0, 1, ... after the warm-up.
        warmup: the rate during the warm-up.
        warmup_epoch: epochs of warm-up; 0 for none.
        recount: start the schedule at its epoch 0 after the warm-up. Otherwise it counts from the start of the
            training, scaled so that it, too, begins at the full rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        factor: Factor,
        warmup: Warmup | None = None,
        warmup_epoch: int = 0,
        recount: bool = True,
    ) -> None:
        self.optimizer = optimizer
        self.factor = factor
        self.warmup = warmup
        self.warmup_epoch = warmup_epoch
        self.recount = recount
        self.base_lrs: list[float] = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self.last_epoch = 0
        self._apply()

    def lr_at(self, epoch: int, base_lr: float) -> float:
        """The rate in ``epoch`` (from 0) of a group that starts at ``base_lr``."""
        if self.warmup is not None and epoch < self.warmup_epoch:
            return self.warmup(epoch, base_lr)
        if self.recount:
            return base_lr * self.factor(epoch - self.warmup_epoch)
        if epoch == self.warmup_epoch:  # the ratio below would be 0 / 0 at the end of a cosine
            return base_lr
        return base_lr * self.factor(epoch) / self.factor(self.warmup_epoch)

    def _apply(self) -> None:
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.lr_at(self.last_epoch, base_lr)

    def step(self) -> None:
        """Go on to the next epoch."""
        self.last_epoch += 1
        self._apply()

    def get_last_lr(self) -> list[float]:
        """The present rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers. Only ``last_epoch`` is read back; the rates are for people."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs), "_last_lr": self.get_last_lr()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue after the epochs counted in ``state_dict`` (ours, a torch scheduler's, or Dassl's with warm-up)."""
        self.last_epoch = self._epochs_in(state_dict)
        self._apply()

    def _epochs_in(self, state: Mapping[str, Any]) -> int:
        successor = state.get("successor")  # Dassl's warm-up hands over to an inner scheduler and stops counting
        if successor is None or state["last_epoch"] < state["warmup_epoch"]:
            return state["last_epoch"]
        return successor["last_epoch"] + (state["warmup_epoch"] if self.recount else 0)


class WarmupScheduler:
    """A warm-up before any scheduler of PyTorch, for trainers that put the two together themselves.

    Its state is that of both as plain data, and a resumed run steps the scheduler that it was given.

    Args:
        successor: a scheduler of the same optimizer, at its start; it begins when the warm-up is over.
        warmup: the rate during the warm-up.
        last_epoch: epochs done already, less one.
    """

    def __init__(
        self, optimizer: Optimizer, successor: Any, warmup_epoch: int, warmup: Warmup, last_epoch: int = -1
    ) -> None:
        self.optimizer = optimizer
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        self.warmup = warmup
        self.base_lrs: list[float] = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch + 1
        self._apply()

    def _apply(self) -> None:
        if self.last_epoch < self.warmup_epoch:
            rates = [self.warmup(self.last_epoch, base_lr) for base_lr in self.base_lrs]
        else:
            rates = self.successor.get_last_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def step(self) -> None:
        """Go on to the next epoch."""
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step()
        self.last_epoch += 1
        self._apply()

    def get_last_lr(self) -> list[float]:
        """The present rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "successor": self.successor.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.last_epoch = state_dict["last_epoch"]
        self.successor.load_state_dict(state_dict["successor"])
        self._apply()


class ConstantWarmupScheduler(WarmupScheduler):
    """The rate ``cons_lr`` for ``warmup_epoch`` epochs, then ``successor``. ``verbose`` is accepted and ignored."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: Any,
        warmup_epoch: int,
        cons_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        super().__init__(optimizer, successor, warmup_epoch, partial(_constant_warmup, lr=cons_lr), last_epoch)


class LinearWarmupScheduler(WarmupScheduler):
    """``min_lr`` first, then each group's own rate in proportion to the epoch, then ``successor``."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: Any,
        warmup_epoch: int,
        min_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        warmup = partial(_linear_warmup, min_lr=min_lr, warmup_epoch=warmup_epoch)
        super().__init__(optimizer, successor, warmup_epoch, warmup, last_epoch)


# ---------------------------------------------------------------------------------------------- formulas


def _cosine(epoch: int, max_epoch: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * epoch / max_epoch))


def _single_step(epoch: int, step: int, gamma: float) -> float:
    return gamma ** (epoch // step)


def _multi_step(epoch: int, milestones: Sequence[int], gamma: float) -> float:
    return gamma ** bisect_right(milestones, epoch)


def _constant_warmup(epoch: int, base_lr: float, lr: float) -> float:
    return lr


def _linear_warmup(epoch: int, base_lr: float, min_lr: float, warmup_epoch: int) -> float:
    return min_lr if epoch == 0 else base_lr * epoch / warmup_epoch


# ---------------------------------------------------------------------------------------------- from the config


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> EpochScheduler:
    """The schedule ``optim_cfg.LR_SCHEDULER`` with its warm-up; sets the rate of the first epoch at once.

    Raises:
        ValueError: unknown ``LR_SCHEDULER`` or ``WARMUP_TYPE``; no ``STEPSIZE`` for ``single_step``.
        TypeError: ``STEPSIZE`` is not what the schedule needs.
    """
    check_availability(optim_cfg.LR_SCHEDULER, list(FACTORS))
    factor = FACTORS[optim_cfg.LR_SCHEDULER](optim_cfg)
    if optim_cfg.WARMUP_EPOCH <= 0:
        return EpochScheduler(optimizer, factor)
    check_availability(optim_cfg.WARMUP_TYPE, list(WARMUPS))
    warmup = WARMUPS[optim_cfg.WARMUP_TYPE](optim_cfg)
    return EpochScheduler(optimizer, factor, warmup, optim_cfg.WARMUP_EPOCH, optim_cfg.WARMUP_RECOUNT)


def _build_single_step(optim_cfg: CfgNode) -> Factor:
    step = optim_cfg.STEPSIZE
    if isinstance(step, list | tuple):
        if not step:
            raise ValueError("OPTIM.STEPSIZE: single_step needs a number of epochs, got an empty list")
        step = step[-1]
    if not isinstance(step, int):
        raise TypeError(f"OPTIM.STEPSIZE: single_step needs an integer, got {optim_cfg.STEPSIZE!r}")
    return partial(_single_step, step=step if step > 0 else _max_epoch(optim_cfg), gamma=optim_cfg.GAMMA)


def _build_multi_step(optim_cfg: CfgNode) -> Factor:
    milestones = optim_cfg.STEPSIZE
    if not isinstance(milestones, list | tuple):
        raise TypeError(f"OPTIM.STEPSIZE: multi_step needs a list of epochs, got {milestones!r}")
    if not all(isinstance(epoch, int) for epoch in milestones):
        raise TypeError(f"OPTIM.STEPSIZE: multi_step needs a list of whole epochs, got {milestones!r}")
    reached = sorted(epoch for epoch in milestones if epoch >= 0)  # the default, (-1,), is no epoch of a training
    return partial(_multi_step, milestones=reached, gamma=optim_cfg.GAMMA)


def _build_cosine(optim_cfg: CfgNode) -> Factor:
    return partial(_cosine, max_epoch=_max_epoch(optim_cfg))


def _max_epoch(optim_cfg: CfgNode) -> int:
    return max(1, optim_cfg.MAX_EPOCH)  # a run of 0 epochs has a first rate, too


FACTORS: dict[str, Callable[[CfgNode], Factor]] = {
    "single_step": _build_single_step,
    "multi_step": _build_multi_step,
    "cosine": _build_cosine,
}
WARMUPS: dict[str, Callable[[CfgNode], Warmup]] = {
    "constant": lambda optim: partial(_constant_warmup, lr=optim.WARMUP_CONS_LR),
    "linear": lambda optim: partial(_linear_warmup, min_lr=optim.WARMUP_MIN_LR, warmup_epoch=optim.WARMUP_EPOCH),
}
