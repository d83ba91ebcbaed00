"""Soft prompts coupled with hard ones, which other data have taught: GA2-CLIP's mapping."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Coupling(nn.Module):
    """``Dropout(ReLU(W [P_h ; P_s] + b))``, where ``[ ; ]`` joins the features of two prompts, not their tokens.

    It starts as PyTorch's linear maps do. Dropout is not drawn in here: what it keeps comes with the batch.

    Args:
        width: D of a prompt; W is ``[D, 2 D]``.
        generator: draws the start, so that all other random numbers of a run are those of one without coupling.
    """

    def __init__(self, width: int, generator: torch.Generator | None = None):
        super().__init__()
        bound = (2 * width) ** -0.5
        self.weight = nn.Parameter(torch.empty(width, 2 * width).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound, generator=generator))

    def forward(self, hard: Tensor, soft: Tensor, kept: Tensor | None = None) -> Tensor:
        """Prompts ``[K, D]``, nowhere negative.

        Args:
            hard, soft: ``[K, D]``.
            kept: of :func:`draw_kept`, ``[K, D]``, or ``[C, K, D]``, which gives each class prompts of its own. None:
                dropout is off.
        """
        joined = torch.cat([hard.to(soft.dtype), soft], dim=-1)
        mapped = torch.relu(joined @ self.weight.T + self.bias)
        return mapped if kept is None else kept.to(mapped.dtype) * mapped


def draw_kept(shape: tuple[int, ...], dropout: float, generator: torch.Generator) -> Tensor:
    """What dropout multiplies with: 0 with probability ``dropout``, else 1 / (1 - dropout). On the CPU."""
    return (torch.rand(shape, generator=generator) >= dropout).float() / (1 - dropout)
