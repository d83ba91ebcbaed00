"""How many multiply-adds a step needs: the textbook formulation, and the fewest that give exactly the same numbers.

Counted are the matrix products of both towers: linear layers, attention, patch embedding. Left out are the projections
into the joint space, the learner and everything elementwise, together about 1 % of the operations (not of the time).
Only activations get gradients in the frozen towers: a linear layer costs as much backwards as forwards, attention twice
as much.

The fewest (``fewest_*``) take all exact savings that we know, whether the code has them or not:

* text: each prompt ends at its own end-of-text token; rows that all prompts have in common serve them all; the start
  token's rows are constants; layers below J are computed once per class set, and so are the query, key and value
  projections in layer J of rows that no token has reached; nobody reads the outputs of tokens, so K rows of keys and
  values do;
* vision: layers below J, and the projections in layer J, are shared by the student and its frozen teacher;
* both: in the last layer only the rows that are read get queries, output projection and MLP; the backward pass of layer
  J reaches nothing but the tokens.

GA2-CLIP has prompts from the first layer on, which in further layers overwrite what came out in their places, up to
some depth. Until there nobody reads that, so keys and values of K rows do for all frames and all classes alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

QKV, KEY_VALUE = 3, 2  # matrices of D x D that one row passes


@dataclass(frozen=True)
class Tower:
    """``first`` is J in this tower; the MLP goes from D to ``mlp`` times D and back."""

    width: int
    depth: int
    first: int
    mlp: float = 4

    @classmethod
    def of(cls, blocks: Any, first: int) -> Tower:
        hidden, width = blocks[0].mlp.c_fc.weight.shape
        return cls(width, len(blocks), first, hidden / width)

    @property
    def behind(self) -> float:
        """Matrices of D x D behind the attention: output and MLP."""
        return 1 + 2 * self.mlp

    @property
    def prompted(self) -> int:
        """Layers with tokens."""
        return self.depth - self.first + 1

    def blocks(self, layers: int, rows: float, pairs: float) -> float:
        """Multiply-adds of whole blocks: ``rows`` in all sequences together, ``pairs`` of query and key."""
        return layers * ((QKV + self.behind) * rows * self.width**2 + 2 * pairs * self.width)

    def blocks_backward(self, layers: int, rows: float, pairs: float) -> float:
        return layers * ((QKV + self.behind) * rows * self.width**2 + 4 * pairs * self.width)


@dataclass(frozen=True)
class Work:
    """A step's sizes.

    Attributes:
        lengths: tokens of each prompt, with start and end.
        shared: how many of them, with the start, all prompts have in common.
        context: text positions of the model, 77.
        patches: image patches, P.
        patch_values: numbers in one patch, all channels.
    """

    text: Tower
    vision: Tower
    lengths: tuple[int, ...]
    batch: int
    tokens: int
    context: int
    patches: int
    patch_values: int
    shared: int = 1

    @classmethod
    def of(
        cls, clip: Any, first: tuple[int, int], lengths: Sequence[int], batch: int, tokens: int, shared: int = 1
    ) -> Work:
        visual = clip.visual
        kernel = visual.conv1.weight
        return cls(
            text=Tower.of(clip.transformer.resblocks, first[0]),
            vision=Tower.of(visual.transformer.resblocks, first[1]),
            lengths=tuple(lengths),
            batch=batch,
            tokens=tokens,
            context=clip.context_length,
            patches=visual.positional_embedding.shape[0] - 1,
            patch_values=kernel[0].numel(),
            shared=shared,
        )

    def embedding(self) -> float:
        return self.batch * self.patches * self.patch_values * self.vision.width

    def images(self, added: int = 0) -> tuple[float, float]:
        """Rows and pairs of the batch's image sequences with ``added`` tokens."""
        length = 1 + self.patches + added
        return self.batch * length, self.batch * length**2


Counts = dict[str, float]  # tower -> multiply-adds


def textbook_eval(work: Work) -> Counts:
    classes, longer = len(work.lengths), work.context + work.tokens
    text, vision = work.text, work.vision
    return {
        "text": text.blocks(text.first - 1, classes * work.context, classes * work.context**2)
        + text.blocks(text.prompted, classes * longer, classes * longer**2),
        "vision": work.embedding()
        + vision.blocks(vision.first - 1, *work.images())
        + vision.blocks(vision.prompted, *work.images(work.tokens)),
    }


def textbook_step(work: Work) -> Counts:
    classes, longer = len(work.lengths), work.context + work.tokens
    text, vision = work.text, work.vision
    forward = textbook_eval(work)
    teacher = work.embedding() + vision.blocks(vision.depth, *work.images())
    return {
        "text": forward["text"] + text.blocks_backward(text.prompted, classes * longer, classes * longer**2),
        "vision": forward["vision"] + teacher + vision.blocks_backward(vision.prompted, *work.images(work.tokens)),
    }


def fewest_step(work: Work) -> Counts:
    shared = work.embedding() + work.vision.blocks(work.vision.first - 1, *work.images())
    images = sum(_student(work)) + _teacher(work)
    return {"text": sum(_prompts(work)), "vision": shared + images}


def fewest_eval(work: Work) -> Counts:
    """Per batch: the classes are encoded once per test set."""
    shared = work.embedding() + work.vision.blocks(work.vision.first - 1, *work.images())
    rows, _ = work.images()
    return {"text": 0.0, "vision": shared + QKV * rows * work.vision.width**2 + _student(work)[0]}


def textbook_clips(work: Work) -> Counts:
    """A step of GA2-CLIP: ``work.batch`` counts frames; ``work.lengths`` lack the K prompts, which 77 include."""
    classes, context = len(work.lengths), work.context
    text, words = work.text, (classes * context, classes * context**2)
    vision, images = work.vision, work.images(work.tokens)
    both_ways = vision.blocks(vision.depth, *images) + vision.blocks_backward(vision.depth, *images)
    return {
        "text": text.blocks(text.depth, *words) + text.blocks_backward(text.depth, *words),
        "vision": work.embedding() + both_ways,
    }


def fewest_clips(work: Work, depths: tuple[int, int]) -> Counts:
    """``depths``: number of text and of vision layers that get prompts."""
    return {
        "text": sum(_prompts(work)) + _below_fresh(work, depths[0]),
        "vision": work.embedding() + sum(_frames(work, depths[1])),
    }


def _below_fresh(work: Work, depth: int) -> float:
    """What :func:`_prompts` lacks where text layers behind ``depth`` read the rows of the prompts, once for all."""
    tower, tokens = work.text, work.tokens
    pairs = tokens + tokens * (tokens + 1) / 2  # with the start token, and with each other
    layer = 2 * (1 + tower.behind) * tokens * tower.width**2 + (2 + 4) * pairs * tower.width
    return (tower.depth - depth) * layer


def _frames(work: Work, depth: int) -> tuple[float, float]:
    """All vision layers, forward and backward; those up to ``depth`` get prompts."""
    tower, frames, tokens = work.vision, work.batch, work.tokens
    rows, _ = work.images()
    length = 1 + work.patches + tokens
    forward = backward = 0.0
    for layer in range(1, tower.depth + 1):
        is_last, is_read = layer == tower.depth, depth <= layer < tower.depth
        prompts = tokens if layer <= depth else frames * tokens  # fresh ones are the same in all frames
        queries = frames if is_last else rows + frames * tokens * is_read
        projections = (frames if is_last else rows + prompts * is_read) + KEY_VALUE * (rows + prompts)
        pairs = queries * length
        forward += (projections + tower.behind * queries) * tower.width**2 + 2 * pairs * tower.width
        attention = 4 * pairs
        if layer == 1:  # towards the prompts' keys and values alone
            projections, attention = KEY_VALUE * prompts, pairs + 2 * queries * tokens
        backward += (projections + tower.behind * queries) * tower.width**2 + attention * tower.width
    return forward, backward


def _prompts(work: Work) -> tuple[float, float]:
    """Text layers from J on, forward and backward."""
    tower, tokens, classes = work.text, work.tokens, len(work.lengths)
    parts = [(1, work.shared), *((work.shared, length) for length in work.lengths)]  # rows from, to
    words = sum(stop - start for start, stop in parts)  # all rows but the start token
    all_pairs = sum((stop - start) * (tokens + (start + stop + 1) / 2) for start, stop in parts)
    last_pairs = sum(tokens + length for length in work.lengths)
    forward = backward = 0.0
    for layer in range(tower.first, tower.depth + 1):
        queries, pairs = (classes, last_pairs) if layer == tower.depth else (words, all_pairs)
        projections = 0 if layer == tower.first else queries + KEY_VALUE * words
        shared = KEY_VALUE * tokens  # rows times matrices: the tokens' keys and values
        forward += (projections + tower.behind * queries + shared) * tower.width**2 + 2 * pairs * tower.width
        backward += (projections + tower.behind * queries + shared) * tower.width**2
        # Towards the tokens' keys and values alone in layer J; towards queries, keys and values elsewhere
        backward += (pairs + 2 * queries * tokens if layer == tower.first else 4 * pairs) * tower.width
    return forward, backward


def _student(work: Work) -> tuple[float, float]:
    """Vision layers from J on with tokens, forward and backward; without the projections shared in layer J."""
    tower, tokens = work.vision, work.tokens
    rows, _ = work.images(tokens)
    length = rows // work.batch
    forward = backward = 0.0
    for layer in range(tower.first, tower.depth + 1):
        queries = work.batch * (1 + tokens) if layer == tower.depth else rows
        projections = QKV * tokens if layer == tower.first else queries + KEY_VALUE * rows
        pairs = queries * length
        forward += (projections + tower.behind * queries) * tower.width**2 + 2 * pairs * tower.width
        backward += (projections + tower.behind * queries) * tower.width**2
        backward += (pairs + 3 * queries * tokens if layer == tower.first else 4 * pairs) * tower.width
    return forward, backward


def _teacher(work: Work) -> float:
    tower = work.vision
    rows, pairs = work.images()
    whole = tower.blocks(tower.prompted - 1, rows, pairs)
    last = (KEY_VALUE * rows + (1 + tower.behind) * work.batch) * tower.width**2
    return whole + last + 2 * work.batch * (1 + work.patches) * tower.width
