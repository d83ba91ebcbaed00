from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def compute_accuracy(output: Tensor | Sequence[Tensor], target: Tensor, topk: Sequence[int] = (1,)) -> list[Tensor]:
    """Share of the batch, in per cent, whose label is among the k highest logits.

    Args:
        output: logits ``[B, C]``; of a tuple or list, its first element.
        target: labels ``[B]``.

    Returns:
        One float32 tensor of shape ``[1]`` per k.
    """
    logits = output if isinstance(output, Tensor) else output[0]
    ranked = logits.topk(max(topk), dim=1).indices
    hits = ranked == target.view(-1, 1)
    return [hits[:, :k].any(dim=1).float().mean().mul(100).view(1) for k in topk]
