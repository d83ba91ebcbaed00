"""Run CLIP's two towers with extra tokens at chosen layers, exactly and without repeated work.

Notation, used in the whole project: ``B`` images, ``C`` classes, ``K`` tokens, ``L`` text length, ``P`` patches,
``D`` width of a tower, ``E`` joint width, ``J`` first layer that receives tokens. Layers count from 1. In the text
tower, prompts come in ``G`` groups of ``C``: one group, or one per image where the text depends on the image (CoCoOp).

Wherever images ``[B, 3, H, W]`` are taken, so are clips of ``T`` frames, ``[B, T, 3, H, W]``, and ``V`` views of each,
``[B, V, T, 3, H, W]``. Frames go through the vision tower one by one, and its output rows are averaged over them, in
:func:`vision_rows` and nowhere else: what follows, up to the unit length, is linear, so every feature, head and loss
sees a clip's mean before it is normalised.

The backbone is an untouched :class:`open_clip.CLIP`; nothing here has parameters. A tower runs in two halves: a
*trunk* up to a chosen layer, which no learnable token reaches and which may therefore be computed once and shared,
and the rest, which takes :class:`Tokens`. That carries the whole family:

==================  ==============================================================================================
CoOp, CoCoOp        context at the input: ``TextStates`` from ``prompts/context.py``, one group per image if need be
MMRL, ANPrompt      rows added after the start or class token at layer J: ``Tokens(layers, insert=True)``
MaPLe, PromptSRC    context at the input, overwritten in deeper layers: ``Tokens(layers)``; in the vision tower the
                    rows stand at the end: ``vision_trunk(..., appended=rows)`` with ``Tokens(layers, at_end=True)``
MMRL++              fresh tokens mixed with the previous layer's output: ``Tokens(..., beta=0.9)``
==================  ==============================================================================================

What the savings are, all of them exact (``tests/helpers/oracle.py`` holds the formulation without any):

* Attention in text is causal, so rows behind the end-of-text token never reach a feature: they are not computed.
* For the same reason the rows that all prompts have in common at their start (start token, inserted tokens, context,
  the words "a photo of a") are the same rows in every prompt: they are computed once, and every prompt attends to them.
* The remaining rows of all prompts lie in one list without padding; only attention sees them class by class.
* In the last layer only rows that are read get queries and an MLP.
* Layers below J are left to the caller to compute once per class set (text) or once for the prompted and the frozen
  pass (vision).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anprompt.clip import blocks
from anprompt.clip.interface import CLIP, VisionTower

MAX_CLASSES = 2000  # prompts that go through the text tower at a time: ImageNet's pass whole


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
class TextLayout:
    """Where the rows of C prompts are stored once what they share is stored once.

    Attributes:
        shared: number S of leading rows that are equal in all prompts; at least the start token, never an end token.
        width: longest own part W, in rows.
        places: ``[R]`` row of the flattened ``[C, W]`` own parts that each of the R stored rows stands for.
        rows: ``[C * W]`` the inverse; padding points anywhere.
        last: ``[C]`` stored row of each end-of-text token.
        valid: bool ``[C, W]``, false at padding.
        parts: of more than ``MAX_CLASSES`` prompts, layouts of consecutive ones, which go through the tower in turn.
    """

    shared: int
    width: int
    places: Tensor
    rows: Tensor
    last: Tensor
    valid: Tensor
    parts: tuple[TextLayout, ...] = ()


@dataclass(frozen=True)
class TextStates:
    """Prompts on their way through the text tower, about to enter layer ``layer``.

    Attributes:
        prefix: ``[G, S, D]`` rows that all prompts of a group share.
        own: ``[G, R, D]`` all other rows, without padding.
    """

    prefix: Tensor
    own: Tensor
    layout: TextLayout
    layer: int = 1


@dataclass(frozen=True)
class VisionStates:
    """Image sequences on their way through the vision tower, about to enter ``layer``.

    Attributes:
        hidden: ``[B, 1 + P (+ K), D]``; of clips, one sequence per frame: ``[B * V * T, ...]``.
        frames: V * T, of consecutive sequences that belong to one clip; 1 for images.
        recompute: compute the layers again in the backward pass instead of keeping what they need for it.
    """

    hidden: Tensor
    layer: int = 1
    frames: int = 1
    recompute: bool = False


@dataclass(frozen=True)
class VisionRows:
    """Output rows of the vision tower after the last LayerNorm, before any projection; of clips, the frames' mean.

    Attributes:
        class_row: ``[B, D]``.
        token_rows: ``[B, K, D]``; K is 0 without tokens.
    """

    class_row: Tensor
    token_rows: Tensor


def end_of_text(ids: Tensor) -> Tensor:
    """Row of the end-of-text token, which has the largest id of CLIP's vocabulary: ``[N, L] -> [N]``."""
    return ids.argmax(dim=-1)


def text_layout(ids: Tensor, shared_up_to: int | None = None) -> TextLayout:
    """Layout of the prompts with token ids ``[C, L]``, which decides on the CPU; its tensors are where ``ids`` is.

    Args:
        shared_up_to: rows from this one on count as different even where ids are equal: their embeddings differ.
    """
    device, ids = ids.device, ids.cpu()
    eot = end_of_text(ids)
    equal = int((ids == ids[:1]).all(dim=0).long().cumprod(dim=0).sum())
    shared = min([equal, int(eot.min()), *([] if shared_up_to is None else [shared_up_to])])
    return _layouts(eot + 1, shared, device)


def with_shared(layout: TextLayout, shared: int) -> TextLayout:
    """The layout of the same prompts with fewer leading rows stored once: ``shared``, at least the start token."""
    lengths = layout.valid.sum(dim=1).cpu() + layout.shared
    return _layouts(lengths, shared, layout.last.device)


def _layouts(lengths: Tensor, shared: int, device: torch.device) -> TextLayout:
    """For prompts of ``lengths`` ``[C]`` rows, of which the first ``shared`` are equal."""
    lengths = lengths - shared
    whole = _layout(lengths, shared, device)
    parts = math.ceil(len(lengths) / MAX_CLASSES)
    if parts == 1:
        return whole
    return replace(whole, parts=tuple(_layout(some, shared, device) for some in lengths.chunk(parts)))


def _layout(lengths: Tensor, shared: int, device: torch.device) -> TextLayout:
    """For own parts of ``lengths`` ``[C]`` rows."""
    width = int(lengths.max())
    valid = torch.arange(width) < lengths[:, None]
    places = valid.flatten().nonzero().flatten()
    rows = torch.zeros(valid.numel(), dtype=torch.long)
    rows[places] = torch.arange(len(places))
    places, rows, last, valid = (tensor.to(device) for tensor in (places, rows, lengths.cumsum(0) - 1, valid))
    return TextLayout(shared, width, places, rows, last, valid)


def text_states(clip: CLIP, embeddings: Tensor, layout: TextLayout) -> TextStates:
    """Start from token embeddings ``[C, L, D]`` without positions."""
    length = layout.shared + layout.width
    placed = embeddings[:, :length] + clip.positional_embedding[:length]
    own = placed[:, layout.shared :].flatten(0, 1).index_select(0, layout.places)
    return TextStates(placed[:1, : layout.shared], own[None], layout)


def text_trunk(clip: CLIP, ids: Tensor, layer: int = 1) -> TextStates:
    """Embed token ids ``[C, L]`` and run the layers below ``layer``, which no token reaches."""
    layout = text_layout(ids)
    embeddings = clip.token_embedding(ids[:, : layout.shared + layout.width])
    parts = split_prompts(text_states(clip, embeddings, layout))
    done = [run_text_layers(clip, part, range(1, layer)) for part in parts]
    return replace(done[0], own=torch.cat([part.own for part in done], dim=1), layout=layout)


def split_prompts(states: TextStates) -> list[TextStates]:
    """The states by the parts of their layout; as they are where there are none."""
    parts = states.layout.parts or (states.layout,)
    rows = states.own.split([len(part.places) for part in parts], dim=1)
    return [replace(states, own=own, layout=part) for own, part in zip(rows, parts, strict=True)]


def text_features(clip: CLIP, states: TextStates, tokens: Tokens | None = None) -> Tensor:
    """Run the remaining layers with ``tokens``; end-of-text features ``[G * C, E]``, group by group, not normalised.

    Inserted tokens stand behind the start token, before the words. They carry no position of their own, and the words
    keep the positions they got at the input (MMRL, ANPrompt). Tokens are the same in all prompts of a group.

    Of more than ``MAX_CLASSES`` prompts, some at a time: for the backward pass they are computed again, so that memory
    does not grow with C.
    """
    features = in_turn(lambda part: _text_features(clip, part, tokens), split_prompts(states))
    return torch.cat([rows.unflatten(0, (len(states.own), -1)) for rows in features], dim=1).flatten(0, 1)


def in_turn(run: Callable[[Any], Tensor], parts: Sequence[Any]) -> list[Tensor]:
    """``run`` of every part. Of several, nothing is kept for the backward pass: there, each is computed again."""
    if len(parts) == 1 or not torch.is_grad_enabled():
        return [run(part) for part in parts]
    return [checkpoint(run, part, use_reentrant=False, preserve_rng_state=False) for part in parts]


def _text_features(clip: CLIP, states: TextStates, tokens: Tokens | None) -> Tensor:
    depth = len(clip.transformer.resblocks)
    states = run_text_layers(clip, states, range(states.layer, depth), tokens)
    prefix = place_tokens(states.prefix, tokens, depth)
    last = clip.ln_final(run_last_text_block(clip.transformer.resblocks[-1], prefix, states.own, states.layout))
    projection = clip.text_projection
    return projection(last) if isinstance(projection, nn.Module) else last @ projection


def run_text_layers(clip: CLIP, states: TextStates, layers: range, tokens: Tokens | None = None) -> TextStates:
    """Run ``layers``; before a layer that has tokens, put them in place."""
    prefix, own = states.prefix, states.own
    for layer in layers:
        prefix = place_tokens(prefix, tokens, layer)
        prefix, own = run_text_block(clip.transformer.resblocks[layer - 1], prefix, own, states.layout)
    return replace(states, prefix=prefix, own=own, layer=layers.stop)


def run_text_block(block: Any, prefix: Tensor, own: Tensor, layout: TextLayout) -> tuple[Tensor, Tensor]:
    """One layer for the shared rows ``[G, S, D]`` and the own rows ``[G, R, D]``, which also attend to the former."""
    count, width = prefix.shape[1], layout.width
    queries, keys, values = blocks.project(block, prefix)
    mask = causal_mask(count + width, own.device)
    prefix = blocks.finish(block, prefix, blocks.attend(block, queries, keys, values, mask[:count, :count]))
    own_queries, own_keys, own_values = (_by_class(rows, layout) for rows in blocks.project(block, own))
    keys, values = _behind(keys, own_keys), _behind(values, own_values)
    attended = blocks.attend(block, own_queries, keys, values, mask[count:])
    attended = attended.reshape(len(own), -1, own.shape[-1]).index_select(1, layout.places)
    return prefix, blocks.finish(block, own, attended)


@cache
def causal_mask(rows: int, device: torch.device) -> Tensor:
    """Bool ``[rows, rows]``, true where a row (first index) sees a row (second): itself and those before it."""
    with torch.inference_mode(False):  # it is kept, and a training step may be the next to use it
        return torch.ones(rows, rows, dtype=torch.bool, device=device).tril_()


def run_last_text_block(block: Any, prefix: Tensor, own: Tensor, layout: TextLayout) -> Tensor:
    """The last layer for the end-of-text rows alone: ``[G * C, D]``."""
    normed = block.ln_1(own)
    keys, values = blocks.project_keys_values(block, block.ln_1(prefix))
    own_keys, own_values = (_by_class(rows, layout) for rows in blocks.project_keys_values(block, normed))
    keys, values = _behind(keys, own_keys), _behind(values, own_values)
    queries = blocks.project_queries(block, normed.index_select(1, layout.last)).flatten(0, 1)
    mask = F.pad(layout.valid, (prefix.shape[1], 0), value=True).repeat(len(own), 1)[:, None, None]
    attended = blocks.attend(block, queries[:, None], keys, values, mask)
    return blocks.finish(block, own.index_select(1, layout.last).flatten(0, 1), attended[:, 0])


def _by_class(rows: Tensor, layout: TextLayout) -> Tensor:
    """``[G, R, D]`` without padding -> ``[G * C, W, D]`` with padding."""
    return rows.index_select(1, layout.rows).reshape(-1, layout.width, rows.shape[-1])


def _behind(prefix: Tensor, own: Tensor) -> Tensor:
    """``[G, S, D]`` before each of its group's ``[G * C, W, D]``: ``[G * C, S + W, D]``."""
    shared = prefix[:, None].expand(-1, len(own) // len(prefix), -1, -1).flatten(0, 1)
    return torch.cat([shared, own], dim=1)


def vision_trunk(
    clip: CLIP, images: Tensor, layer: int = 1, appended: Tensor | None = None, recompute: bool = False
) -> VisionStates:
    """Embed images ``[B, 3, H, W]``, or clips, and run the layers below ``layer``.

    Args:
        appended: tokens ``[K, D]`` or ``[B, K, D]`` behind the patches, added before the first LayerNorm (MaPLe).
        recompute: see :class:`VisionStates`.
    """
    visual, frames = clip.visual, math.prod(images.shape[1:-3])
    patches = visual.conv1(images.flatten(0, -4)).flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
    hidden = torch.cat([class_token, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
    if appended is not None:
        hidden = torch.cat([hidden, _per_sequence(appended, hidden)], dim=1)
    start = VisionStates(visual.ln_pre(hidden), 1, frames, recompute)
    return replace(start, hidden=run_vision_layers(visual, start, range(1, layer)), layer=layer)


def vision_rows(clip: CLIP, states: VisionStates, tokens: Tokens | None = None) -> VisionRows:
    """Run the remaining layers with ``tokens``; the class row and the token rows after the last LayerNorm.

    Those of a clip are the mean of its frames'.
    """
    visual = clip.visual
    depth = len(visual.transformer.resblocks)
    hidden = run_vision_layers(visual, states, range(states.layer, depth), tokens)
    hidden = place_tokens(hidden, tokens, depth)
    count = tokens.count if tokens else 0
    start = hidden.shape[1] - count if tokens and tokens.at_end else 1

    def read(rows: Tensor) -> Tensor:
        class_row, _, token_rows, _ = rows.split([1, start - 1, count, rows.shape[1] - start - count], dim=1)
        return torch.cat([class_row, token_rows], dim=1)

    normed = visual.ln_post(run_vision_block(visual.transformer.resblocks[-1], hidden, states.recompute, read))
    if states.frames > 1:
        normed = normed.unflatten(0, (-1, states.frames)).mean(dim=1)
    return VisionRows(class_row=normed[:, 0], token_rows=normed[:, 1:])


def run_vision_layers(visual: VisionTower, states: VisionStates, layers: range, tokens: Tokens | None = None) -> Tensor:
    """Run ``layers`` and return what enters the next one; before a layer that has tokens, put them in place."""
    hidden = states.hidden
    for layer in layers:
        hidden = place_tokens(hidden, tokens, layer)
        hidden = run_vision_block(visual.transformer.resblocks[layer - 1], hidden, states.recompute)
    return hidden


def run_vision_block(
    block: Any, hidden: Tensor, recompute: bool, pick: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """``run_block``; with ``recompute``, only ``hidden`` is kept for the backward pass. Nothing in it is random."""
    if recompute and torch.is_grad_enabled():
        run = partial(blocks.run_block, block, pick=pick)
        return checkpoint(run, hidden, use_reentrant=False, preserve_rng_state=False)
    return blocks.run_block(block, hidden, pick=pick)


def place_tokens(hidden: Tensor, tokens: Tokens | None, layer: int) -> Tensor:
    """``hidden`` with the tokens of ``layer``, if any, inserted, or written over the rows that the tokens own."""
    if tokens is None or layer not in tokens.layers:
        return hidden
    fresh = _per_sequence(tokens.layers[layer], hidden)
    insert = tokens.insert and layer == tokens.first
    old = 0 if insert else tokens.count
    start = hidden.shape[1] - old if tokens.at_end else 1
    # Not by slices: the backward pass would fill a tensor of the whole size for each of them, and add them up.
    before, replaced, behind = hidden.split([start, old, hidden.shape[1] - start - old], dim=1)
    if not insert and tokens.beta != 1:
        fresh = tokens.beta * fresh + (1 - tokens.beta) * replaced
    return torch.cat([before, fresh.to(hidden.dtype), behind], dim=1)


def _per_sequence(tokens: Tensor, hidden: Tensor) -> Tensor:
    return tokens.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
