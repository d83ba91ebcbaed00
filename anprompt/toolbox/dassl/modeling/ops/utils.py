"""Small formulas of semi-supervised trainers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def sharpen_prob(p: Tensor, temperature: float = 2) -> Tensor:
    """Probabilities ``[B, C]`` to the power of ``temperature``, scaled to sum to 1 again: above 1 they get sharper."""
    powers = p.pow(temperature)
    return powers / powers.sum(dim=1, keepdim=True)


def create_onehot(label: Tensor, num_classes: int) -> Tensor:
    """Labels ``[B]`` as rows ``[B, C]`` of zeros with a one."""
    return functional.one_hot(label.long(), num_classes).float()


def linear_rampup(current: float, rampup_length: float) -> float:
    """The share of ``rampup_length`` that ``current`` has reached, from 0 to 1."""
    if rampup_length <= 0:
        raise ValueError(f"rampup_length: expected more than 0, got {rampup_length}")
    return min(max(current / rampup_length, 0.0), 1.0)


def sigmoid_rampup(current: float, rampup_length: float) -> float:
    """``exp(-5 (1 - t)^2)`` of the share ``t`` reached: from 0.0067 to 1 (https://arxiv.org/abs/1610.02242)."""
    return math.exp(-5 * (1 - linear_rampup(current, rampup_length)) ** 2)


@torch.no_grad()
def ema_model_update(model: nn.Module, ema_model: nn.Module, alpha: float) -> None:
    """Move the parameters of ``ema_model`` towards those of ``model``: ``alpha`` of the old, the rest of the new."""
    for average, parameter in zip(ema_model.parameters(), model.parameters(), strict=True):
        average.mul_(alpha).add_(parameter, alpha=1 - alpha)
