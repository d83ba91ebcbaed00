"""One transformer block of CLIP, run on exactly the rows that are needed.

The blocks are open_clip's, and so are all weights; only the order of the work is ours. Up to rounding, the result is
that of calling the block: ``tests/clip/test_blocks.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Block = Any  # open_clip's ResidualAttentionBlock
QUICK = 1.702  # of QuickGELU: x * sigmoid(1.702 x)
_half_copies = WeakTensorKeyDictionary()  # frozen weight -> what it was when it was converted, and the result


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``. Autocast would convert a frozen weight anew at every use; here that happens once."""
    return F.linear(rows, converted(weight), None if bias is None else converted(bias))


def converted(weight: Tensor) -> Tensor:
    """``weight`` in the dtype that autocast wants for a product, if it is frozen; otherwise as it is."""
    device = weight.device.type
    if weight.requires_grad or weight.dtype != torch.float32 or not torch.is_autocast_enabled(device):
        return weight
    state = (torch.get_autocast_dtype(device), weight._version, weight.data_ptr(), weight.device)
    known, copy = _half_copies.get(weight, (None, None))
    if known != state:
        with torch.inference_mode(False):  # a training step may be the next to use it
            copy = weight.detach().to(state[0])
        _half_copies[weight] = (state, copy)
    return copy


def run_block(
    block: Block, hidden: Tensor, mask: Tensor | None = None, pick: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Run ``block`` on sequences ``[N, S, D]``.

    Args:
        mask: bool ``[S, S]``, true where a row (first index) sees a row (second).
        pick: takes the Q rows that are read later, ``[N, S, D] -> [N, Q, D]``; the others only serve as keys and
            values, so they need no query and no MLP. For the last layer; without mask.

    Returns:
        ``[N, S, D]``, or ``[N, Q, D]`` with ``pick``.
    """
    if pick is None:
        queries, keys, values = project(block, hidden)
        return finish(block, hidden, attend(block, queries, keys, values, mask))
    normed = block.ln_1(hidden)
    keys, values = project_keys_values(block, normed)
    return finish(block, pick(hidden), attend(block, project_queries(block, pick(normed)), keys, values))


def project(block: Block, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each as ``hidden``, which has not been normalised."""
    attention = block.attn
    projected = linear(block.ln_1(hidden), attention.in_proj_weight, attention.in_proj_bias)
    queries, keys, values = projected.chunk(3, dim=-1)
    return queries, keys, values


def project_queries(block: Block, normed: Tensor) -> Tensor:
    """Queries of rows ``[..., D]`` that have been normalised."""
    return _project_rows(block, normed, slice(None, normed.shape[-1]))


def project_keys_values(block: Block, normed: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of rows ``[..., D]`` that have been normalised."""
    keys, values = _project_rows(block, normed, slice(normed.shape[-1], None)).chunk(2, dim=-1)
    return keys, values


def _project_rows(block: Block, normed: Tensor, rows: slice) -> Tensor:
    """Only these rows of the joint matrix of queries, keys and values."""
    weight, bias = converted(block.attn.in_proj_weight), converted(block.attn.in_proj_bias)
    return F.linear(normed, weight[rows], bias[rows])


def attend(block: Block, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of queries ``[N, Q, D]`` over keys and values ``[N, S, D]``; ``[N, Q, D]`` before the projection.

    Args:
        mask: bool, broadcastable to ``[N, heads, Q, S]``, true where a query sees a key.
    """
    shape = (block.attn.num_heads, -1)
    queries, keys, values = (rows.unflatten(-1, shape).transpose(1, 2) for rows in (queries, keys, values))
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask).transpose(1, 2).flatten(2)


def finish(block: Block, hidden: Tensor, attended: Tensor) -> Tensor:
    """What follows attention: its projection and the MLP, each added to ``hidden`` ``[..., D]``."""
    hidden = hidden + block.ls_1(linear(attended, block.attn.out_proj.weight, block.attn.out_proj.bias))
    return hidden + block.ls_2(mlp(block.mlp, block.ln_2(hidden)))


def mlp(module: Any, rows: Tensor) -> Tensor:
    """CLIP's MLP. QuickGELU as a scaled SiLU, which keeps one tensor for the backward pass instead of two."""
    inner = linear(rows, module.c_fc.weight, module.c_fc.bias)
    activation = module.gelu
    # By name, because importing open_clip takes seconds.
    quick = type(activation).__name__ == "QuickGELU"
    inner = F.silu(QUICK * inner) / QUICK if quick else activation(inner)
    return linear(inner, module.c_proj.weight, module.c_proj.bias)
