"""Run CLIP's two towers with extra tokens at chosen layers, exactly and without repeated work.

Notation, used in the whole project: ``B`` images, ``C`` classes, ``K`` tokens, ``L`` text length, ``P`` patches,
``D`` width of a tower, ``E`` joint width, ``J`` first layer that receives tokens. Layers count from 1.

The backbone is an untouched :class:`open_clip.CLIP`; nothing here has parameters. A tower runs in two halves: a
*trunk* up to a chosen layer, which no learnable token reaches and which may therefore be computed once and shared,
and the rest, which takes :class:`Tokens`. That carries the whole family:

==================  ==============================================================================================
CoOp, CoCoOp        context at the input: ``text_states(clip, embeddings, eot)``, one text batch per image if need be
MMRL, ANPrompt      rows added after the start or class token at layer J: ``Tokens(layers, insert=True)``
MaPLe, PromptSRC    context at the input, overwritten in deeper layers: ``Tokens(layers)``; in the vision tower the
                    rows stand at the end: ``vision_trunk(..., appended=rows)`` with ``Tokens(layers, at_end=True)``
MMRL++              fresh tokens mixed with the previous layer's output: ``Tokens(..., beta=0.9)``
==================  ==============================================================================================

Two exact savings are built in. Text is cut behind the longest end-of-text token of the batch: attention is causal, so
later rows never reach a feature. And layers below J are left to the caller to compute once per class set (text) or
once for the prompted and the frozen pass (vision). ``tests/oracle.py`` holds the formulation without either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

CLIP = Any  # an open_clip.CLIP; not imported here, because that takes seconds


@dataclass(frozen=True)
class Tokens:
    """The tokens of one tower: what enters which layer, and at which rows.

    Attributes:
        layers: layer -> ``[K, D]``, or ``[N, K, D]`` for one set of tokens per sequence.
        insert: the first layer listed adds K rows to the sequence; otherwise they are there already.
        at_end: the rows are the last K of the sequence instead of those after the first one.
        beta: weight of the fresh token where rows are overwritten; the rest is the previous layer's output there.
            1 replaces.
    """

    layers: Mapping[int, Tensor]
    insert: bool = False
    at_end: bool = False
    beta: float = 1.0

    @property
    def first(self) -> int:
        return min(self.layers)

    @property
    def count(self) -> int:
        return self.layers[self.first].shape[-2]


@dataclass(frozen=True)
class TextStates:
    """Text sequences on their way through the tower.

    Attributes:
        hidden: ``[N, L, D]``, about to enter layer ``layer``.
        eot: ``[N]`` row of each sequence's end-of-text token.
        layer: the next layer to run.
    """

    hidden: Tensor
    eot: Tensor
    layer: int = 1


@dataclass(frozen=True)
class VisionStates:
    """Image sequences on their way through the tower: ``hidden`` ``[B, 1 + P (+ K), D]`` about to enter ``layer``."""

    hidden: Tensor
    layer: int = 1


@dataclass(frozen=True)
class VisionRows:
    """Output rows of the vision tower after the last LayerNorm, before any projection.

    Attributes:
        class_row: ``[B, D]``.
        token_rows: ``[B, K, D]``; K is 0 without tokens.
    """

    class_row: Tensor
    token_rows: Tensor


def end_of_text(ids: Tensor) -> Tensor:
    """Row of the end-of-text token, which has the largest id of CLIP's vocabulary: ``[N, L] -> [N]``."""
    return ids.argmax(dim=-1)


def text_states(clip: CLIP, embeddings: Tensor, eot: Tensor) -> TextStates:
    """Start from token embeddings ``[N, L, D]`` without positions, cut behind the longest end-of-text token."""
    length = int(eot.max()) + 1
    return TextStates(embeddings[:, :length] + clip.positional_embedding[:length], eot)


def text_trunk(clip: CLIP, ids: Tensor, layer: int = 1) -> TextStates:
    """Embed token ids ``[N, L]`` and run the layers below ``layer``, which no token reaches."""
    eot = end_of_text(ids)
    states = text_states(clip, clip.token_embedding(ids[:, : int(eot.max()) + 1]), eot)
    mask = causal_mask(states.hidden.shape[1], states.hidden)
    hidden = run_layers(clip.transformer.resblocks, states.hidden, range(1, layer), mask=mask)
    return replace(states, hidden=hidden, layer=layer)


def text_features(clip: CLIP, states: TextStates, tokens: Tokens | None = None) -> Tensor:
    """Run the remaining layers with ``tokens``; end-of-text features ``[N, E]``, not normalised.

    Inserted tokens stand behind the start token, before the words. They carry no position of their own, and the words
    keep the positions they got at the input (MMRL, ANPrompt).
    """
    added = tokens.count if tokens and tokens.insert else 0
    blocks = clip.transformer.resblocks
    mask = causal_mask(states.hidden.shape[1] + added, states.hidden)
    hidden = run_layers(blocks, states.hidden, range(states.layer, len(blocks) + 1), tokens, mask)
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    # LayerNorm works row by row: normalising only the rows that are read is exact.
    last = clip.ln_final(hidden[rows, states.eot + added])
    projection = clip.text_projection
    return projection(last) if isinstance(projection, nn.Module) else last @ projection


def vision_trunk(clip: CLIP, images: Tensor, layer: int = 1, appended: Tensor | None = None) -> VisionStates:
    """Embed images ``[B, 3, H, W]`` and run the layers below ``layer``.

    Args:
        appended: tokens ``[K, D]`` or ``[B, K, D]`` behind the patches, added before the first LayerNorm (MaPLe).
    """
    visual = clip.visual
    patches = visual.conv1(images).flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
    hidden = torch.cat([class_token, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
    if appended is not None:
        hidden = torch.cat([hidden, _per_sequence(appended, hidden)], dim=1)
    hidden = run_layers(visual.transformer.resblocks, visual.ln_pre(hidden), range(1, layer))
    return VisionStates(hidden, layer)


def vision_rows(clip: CLIP, states: VisionStates, tokens: Tokens | None = None) -> VisionRows:
    """Run the remaining layers with ``tokens``; the class row and the token rows after the last LayerNorm."""
    visual = clip.visual
    blocks = visual.transformer.resblocks
    hidden = run_layers(blocks, states.hidden, range(states.layer, len(blocks) + 1), tokens)
    count = tokens.count if tokens else 0
    start = hidden.shape[1] - count if tokens and tokens.at_end else 1
    normed = visual.ln_post(torch.cat([hidden[:, :1], hidden[:, start : start + count]], dim=1))
    return VisionRows(class_row=normed[:, 0], token_rows=normed[:, 1:])


def causal_mask(length: int, like: Tensor) -> Tensor:
    """Additive mask ``[length, length]`` that hides later rows, with the device and dtype of ``like``."""
    mask = torch.full((length, length), float("-inf"), device=like.device, dtype=like.dtype)
    return mask.triu_(1)


def run_layers(
    blocks: nn.ModuleList, hidden: Tensor, layers: range, tokens: Tokens | None = None, mask: Tensor | None = None
) -> Tensor:
    """Run ``layers`` over ``hidden`` ``[N, S, D]``; before a layer that has tokens, put them in place."""
    for layer in layers:
        if tokens is not None and layer in tokens.layers:
            hidden = place_tokens(hidden, tokens, layer)
        length = hidden.shape[1]
        hidden = blocks[layer - 1](hidden, attn_mask=None if mask is None else mask[:length, :length])
    return hidden


def place_tokens(hidden: Tensor, tokens: Tokens, layer: int) -> Tensor:
    """``hidden`` with the tokens of ``layer`` inserted, or written over the rows that the tokens own."""
    fresh = _per_sequence(tokens.layers[layer], hidden)
    insert = tokens.insert and layer == tokens.first
    old = 0 if insert else tokens.count
    start = hidden.shape[1] - old if tokens.at_end else 1
    if not insert and tokens.beta != 1:
        fresh = tokens.beta * fresh + (1 - tokens.beta) * hidden[:, start : start + old]
    return torch.cat([hidden[:, :start], fresh.to(hidden.dtype), hidden[:, start + old :]], dim=1)


def _per_sequence(tokens: Tensor, hidden: Tensor) -> Tensor:
    return tokens.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
