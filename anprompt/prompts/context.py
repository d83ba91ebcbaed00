"""Learnable context among the words of a prompt: the CoOp line of methods (CoOp, CoCoOp, KgCoOp, MaPLe, PromptSRC).

:func:`context_prompts` writes the prompts of a class list with rows left open for M context tokens;
:class:`ContextPrompts` fills them; :class:`ContextCLIP` runs both towers, with deeper prompts where a method has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone, count_tokens
from anprompt.clip.encoders import (
    TextLayout,
    TextStates,
    Tokens,
    end_of_text,
    run_text_layers,
    split_prompts,
    text_features,
    text_layout,
    text_states,
    vision_rows,
    vision_trunk,
    with_shared,
)
from anprompt.clip.interface import CLIP
from anprompt.prompts.prompted_clip import PromptedCLIP, random_prompts, unit
from anprompt.prompts.templates import class_text
from anprompt.utils.config import require
from anprompt.utils.distributed import shared_out
from anprompt.utils.settings import Check
from anprompt.utils.suggest import require_known

POSITIONS = ("end", "middle", "front")  # of the class name, relative to the context
MOST_WORDS = 77 - 4  # tokens before a class name: start, name, full stop and end take one each
PLACEHOLDER = "X"  # one token, whose embedding the context replaces


@dataclass(frozen=True)
class ContextPrompts:
    """Prompts of C classes in which M rows await a context.

    Attributes:
        embeddings: ``[C, L, D]`` token embeddings without positions, cut behind the longest prompt.
        slots: ``[C, M]`` rows that the context takes.
        layout: how the text tower stores the rows; the context is among the shared ones if it is the same, at the same
            rows, for all classes.
    """

    embeddings: Tensor
    slots: Tensor
    layout: TextLayout

    @property
    def is_shared(self) -> bool:
        """Whether one context serves all classes and stands at the start of every prompt."""
        return self.layout.shared > self.slots.shape[1]

    def fill(self, context: Tensor) -> Tensor:
        """Embeddings ``[C, L, D]`` with a context ``[M, D]`` for all classes, or ``[C, M, D]``, in its rows."""
        classes, _, width = self.embeddings.shape
        index = self.slots[..., None].expand(-1, -1, width)
        return self.embeddings.scatter(1, index, context.to(self.embeddings.dtype).expand(classes, -1, -1))

    def states(self, clip: CLIP, context: Tensor) -> TextStates:
        """What the text tower starts from.

        Args:
            context: ``[M, D]``; ``[C, M, D]``, one per class, unless :attr:`is_shared`; ``[G, M, D]``, one per image,
                if it is.
        """
        if not self.is_shared:
            return text_states(clip, self.fill(context), self.layout)
        empty = text_states(clip, self.embeddings, self.layout)
        context = context.reshape(-1, *context.shape[-2:])
        rows = slice(1, 1 + context.shape[1])
        placed = context.to(empty.prefix.dtype) + clip.positional_embedding[rows]
        prefix = empty.prefix.expand(len(context), -1, -1)
        prefix = torch.cat([prefix[:, :1], placed, prefix[:, rows.stop :]], dim=1)
        return TextStates(prefix, empty.own.expand(len(context), -1, -1), self.layout)

    def states_by_class(self, clip: CLIP, context: Tensor, overwritten: bool) -> TextStates:
        """The same for a context of each class ``[C, M, D]``, where the layout is made for one context (dropout).

        Args:
            overwritten: the next layer has a context for all: the first one runs here, and its rows are stored once
                again from then on.
        """
        apart, together, behind = self.layouts_by_class
        states = text_states(clip, self.fill(context), apart)
        if not overwritten:
            return states
        count = self.slots.shape[1]
        parts = [run_text_layers(clip, part, range(1, 2)) for part in split_prompts(states)]
        own = torch.cat([part.own for part in parts], dim=1).index_select(1, behind)
        prefix = parts[0].prefix.expand(-1, 1 + count, -1)  # the start token; the others await the next layer's
        return replace(parts[0], prefix=prefix, own=own, layout=together)

    @cached_property
    def layouts_by_class(self) -> tuple[TextLayout, TextLayout, Tensor]:
        """With the start token alone stored once, and with the context's rows; which of the former's rows are behind
        those. Once: to find them out, the host waits for the device, which no CUDA graph may.
        """
        count = self.slots.shape[1]
        apart, together = with_shared(self.layout, 1), with_shared(self.layout, 1 + count)
        return apart, together, (apart.places % apart.width >= count).nonzero().flatten()


PromptWriter = Callable[[Backbone, Sequence[str]], ContextPrompts]


def context_prompts(
    backbone: Backbone,
    classnames: Sequence[str],
    count: int,
    words: str = "",
    position: str = "end",
    per_class: bool = False,
) -> ContextPrompts:
    """Prompts with ``count`` open rows and the class name, on the device of the backbone.

    Args:
        words: what the context starts from, as for :func:`start_context`; its tokens from ``count`` on stay words.
        position: ``end``: the name stands behind the context; ``middle``: between its halves; ``front``: before it.
            The full stop stays last (where it merges with the name's own punctuation, with the name).
        per_class: there will be one context per class.

    Raises:
        ValueError: a prompt does not fit.
    """
    lead = class_text(words) or " ".join([PLACEHOLDER] * count)
    names = [class_text(name) for name in classnames]
    try:
        ids = backbone.tokenize([f"{lead} {name}." for name in names])
    except ValueError as error:
        raise ValueError(f"a context of {count} tokens leaves too little room for the class names: {error}") from error
    name_lengths = [count_tokens(name) for name in names]
    slots = torch.tensor([_slots(position, count, length) for length in name_lengths]).reshape(-1, count)
    # A name may have fewer tokens together with the full stop than without it.
    crowded = [name for name, fits in zip(names, slots.amax(dim=1) < end_of_text(ids), strict=True) if not fits]
    require(
        not crowded,
        f"class names {crowded[:5]} end in punctuation that merges with the full stop, so that the context has no "
        f"place with the name in {position} position: use position end (CLASS_TOKEN_POSITION end)",
    )
    ids = torch.stack([_move_words(row, row_slots) for row, row_slots in zip(ids, slots, strict=True)])
    device = backbone.device
    layout = text_layout(ids.to(device), shared_up_to=1 if per_class or position != "end" else None)
    with torch.no_grad():
        embeddings = backbone.model.token_embedding(ids[:, : layout.shared + layout.width].to(device))
    return ContextPrompts(embeddings, slots.to(device), layout)


def _slots(position: str, count: int, name_length: int) -> list[int]:
    """Rows of the context; row 0 is the start token."""
    ahead = {"end": count, "middle": count // 2, "front": 0}[position]  # context rows before the name
    return [1 + k + (0 if k < ahead else name_length) for k in range(count)]


def _move_words(ids: Tensor, slots: Tensor) -> Tensor:
    """``[L]`` ids with placeholders behind the start token -> the same with the placeholders at ``slots``."""
    count = len(slots)
    open_rows = torch.zeros(len(ids), dtype=torch.bool)
    open_rows[slots] = True
    moved = ids.clone()
    moved[open_rows] = ids[1 : 1 + count]
    moved[~open_rows] = torch.cat([ids[:1], ids[1 + count :]])
    return moved


def context_length(words: str, count: int) -> int:
    """Length of a context that starts from ``words``: the number of their tokens; ``count`` where there are none."""
    return count_tokens(class_text(words)) if words else count


def start_context(backbone: Backbone, words: str, count: int) -> Tensor:
    """Start of a context ``[count, D]``: the first tokens of ``words`` (underscores are spaces), else random rows."""
    if not words:
        return random_prompts(count, backbone.text_width)
    ids = backbone.tokenize([class_text(words)])[0, 1 : 1 + count]
    with torch.no_grad():
        return backbone.model.token_embedding(ids.to(backbone.device)).clone()


def check_context(key: str, words: str, count: int) -> None:
    """Raise a ValueError unless ``words``, if any, have ``count`` tokens to start from, and leave room for a name.

    ``key`` names them.
    """
    tokens = context_length(words, count)
    require(tokens >= count, f"{key}: expected words of at least {count} tokens, got {words!r} ({tokens})")
    fits = not words or tokens <= MOST_WORDS
    require(fits, f"{key}: expected words of at most {MOST_WORDS} tokens, got {tokens}: a class name follows them")


def class_name_position(key: str, value: str, cfg: CfgNode) -> None:
    """Check of the place of the class name in a prompt."""
    require_known(key, value, POSITIONS)


def words(count: int | str) -> Check:
    """Check of words to start from: at least ``count`` tokens, or as many as the method's key of that name says."""

    def check(key: str, value: str, cfg: CfgNode) -> None:
        node = cfg.TRAINER[key.split(".")[1]]
        check_context(key, value, node[count] if isinstance(count, str) else count)

    return check


class ContextLearner(nn.Module):
    """A context at the input of the text tower and nothing else (CoOp, KgCoOp).

    Args:
        start: ``[M, D]``, or ``[C, M, D]`` for one context per class.
    """

    def __init__(self, start: Tensor):
        super().__init__()
        self.ctx = nn.Parameter(start)

    def text_tokens(self) -> dict[int, Tensor]:
        return {1: self.ctx}

    def vision_tokens(self) -> dict[int, Tensor]:
        return {}


class LayerPrompts(Protocol):
    """What a learner of prompts offers, by layer: at the input (1), and where they overwrite those of before."""

    def text_tokens(self) -> Mapping[int, Tensor]:
        """Layer -> ``[K, D_text]``."""

    def vision_tokens(self) -> Mapping[int, Tensor]:
        """Layer -> ``[K, D_vision]``; none where the vision tower has no prompts."""


Prompts = TypeVar("Prompts", bound=LayerPrompts)


class ContextCLIP(PromptedCLIP[Prompts]):
    """CLIP with a context at the input of the text tower, and prompts in further layers where the learner has them.

    No layer can be computed once per class list here, nor shared with a frozen pass: the first one already sees the
    context or the prompts. Without vision tokens the vision tower is the frozen one and carries no graph.

    Args:
        learner: its prompts of layer 1 stand in the open rows (text) and behind the patches (vision); those of a
            deeper layer overwrite them there.
        write: the prompts of a class list, as :func:`context_prompts` gives them.
    """

    prompts: ContextPrompts
    recompute = False  # the vision layers in the backward pass, instead of keeping what they need for it

    def __init__(self, backbone: Backbone, learner: Prompts, write: PromptWriter):
        super().__init__(backbone, learner)
        self.write = write

    def prepare_classes(self, classnames: list[str], template: str) -> None:
        per_class = self.learner.text_tokens()[1].dim() == 3
        require(
            not per_class or self.classnames in ([], classnames),
            f"class-specific contexts exist for the {len(self.classnames)} classes that they were learned for only: "
            "train with CSC False to classify into others",
        )
        self.prompts = self.write(self.backbone, classnames)

    def compute_text(self) -> Tensor:
        return self.text_from(self.learner.text_tokens())

    def text_from(self, tokens: Mapping[int, Tensor]) -> Tensor:
        """Unit text features ``[C, E]`` with these prompts by layer."""
        context, deeper = _split_tokens(tokens)
        if context.dim() == 3 and self.prompts.is_shared:
            states = self.prompts.states_by_class(self.clip, context, overwritten=bool(deeper))
        else:
            states = self.prompts.states(self.clip, context)
        return unit(text_features(self.clip, states, Tokens(deeper) if deeper else None))

    @shared_out
    def encode_image(self, images: Tensor) -> Tensor:
        """Unit features ``[B, E]`` of images ``[B, 3, H, W]`` or clips ``[B, T, 3, H, W]``."""
        tokens = self.learner.vision_tokens()
        if not tokens:
            return self.encode_frozen_image(images)
        appended, deeper = _split_tokens(tokens)
        states = vision_trunk(self.clip, images, appended=appended, recompute=self.recompute)
        rows = vision_rows(self.clip, states, Tokens(deeper, at_end=True) if deeper else None)
        return unit(rows.class_row @ self.clip.visual.proj)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        return self.logits(self.encode_image(images), self.encode_text())


def _split_tokens(tokens: Mapping[int, Tensor]) -> tuple[Tensor, dict[int, Tensor]]:
    return tokens[1], {layer: rows for layer, rows in tokens.items() if layer > 1}
