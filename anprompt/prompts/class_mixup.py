"""Class-wise mixup: an image is mixed with another one of its class (``intra``), or of another class (``inter``).

A small batch rarely has two images of a class where there are many classes, so ``intra`` also looks among the last few
images of each class (:class:`ClassQueue`). Partners are found on the device, by array operations of fixed shapes: the
host never waits. What is drawn at random comes in as data (:func:`draw_mixup`), so that a step can be repeated.

Notation: ``B`` images, ``C`` classes, ``Q`` queued items per class. An item is an image ``[3, H, W]`` or a feature
``[E]``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anprompt.prompts.prompted_clip import unit

MODES = ("intra", "inter")


class MixupDraws(NamedTuple):
    """What one batch draws.

    Attributes:
        share: lambda of each image, ``[B]``: what it keeps of itself.
        among_batch: ``[B, B]``; the candidate with the largest number in an image's row is its partner.
        among_queue: ``[B, Q]``, likewise.
    """

    share: Tensor
    among_batch: Tensor
    among_queue: Tensor


def draw_mixup(batch: int, queued: int, beta: float, probability: float, generator: torch.Generator) -> MixupDraws:
    """Draws on the CPU, whose number depends on the shapes alone.

    lambda is the quantile of a uniform number under Beta(beta, beta), and 1 with ``1 - probability``.
    """
    from scipy.special import betaincinv  # slow to import, and no other trainer needs it

    uniform = torch.rand(batch, 2 + batch + queued, dtype=torch.float64, generator=generator)
    share = torch.from_numpy(betaincinv(beta, beta, uniform[:, 0].numpy()))
    share = torch.where(uniform[:, 1] < probability, share, 1.0)
    return MixupDraws(share, uniform[:, 2 : 2 + batch], uniform[:, 2 + batch :])


class ClassQueue:
    """The last few items of every class, first in first out, on the device.

    Memory: ``C * Q`` items, from the first batch on; at 224 pixels 0.6 MB each.

    Args:
        classes: C.
        length: Q; 0 keeps nothing.
    """

    def __init__(self, classes: int, length: int):
        self.classes, self.length = classes, length
        self.items: Tensor | None = None  # [C * Q + 1, ...]; the last row takes what no one will read
        self.pushed: Tensor | None = None  # [C], items of each class so far

    def clear(self) -> None:
        """Begin anew; the memory stays where it is."""
        if self.pushed is not None:
            self.pushed.zero_()

    def push(self, items: Tensor, labels: Tensor) -> None:
        """Take a batch ``[B, ...]`` in, in its order; of a class with more than Q images there, the last Q stay."""
        if self.length == 0:
            return
        if self.items is None or self.pushed is None:
            self.items = items.new_zeros(self.classes * self.length + 1, *items.shape[1:])
            self.pushed = labels.new_zeros(self.classes)
        same = labels[:, None] == labels
        earlier, total = same.tril(-1).sum(dim=1), same.sum(dim=1)
        slots = labels * self.length + (self.pushed[labels] + earlier) % self.length
        # Two rows for one slot would be written in any order.
        slots = torch.where(earlier >= total - self.length, slots, len(self.items) - 1)
        self.items.index_copy_(0, slots, items.to(self.items.dtype))
        self.pushed += (labels[:, None] == torch.arange(self.classes, device=labels.device)).sum(dim=0)

    def pick(self, items: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
        """For each image a queued item of its class, ``[B, ...]``, itself where there is none.

        Args:
            items: ``[B, ...]``, the images themselves.
            draws: ``[B, Q]``, see :class:`MixupDraws`.
        """
        if self.items is None or self.pushed is None:
            return items
        filled = torch.arange(self.length, device=labels.device) < self.pushed[labels][:, None]
        slots = torch.where(filled, draws, -1.0).argmax(dim=1)
        return _choose(filled.any(dim=1), self.items[labels * self.length + slots].to(items.dtype), items)


def find_partners(
    items: Tensor, labels: Tensor, draws: MixupDraws, mode: str = "intra", queue: ClassQueue | None = None
) -> tuple[Tensor, Tensor]:
    """A partner for each image: from the batch, else from the queue (``intra``), else itself.

    Args:
        items: ``[B, ...]``.
        labels: ``[B]``.
        queue: as it stands before this batch.

    Returns:
        The partners ``[B, ...]`` and their labels ``[B]``.
    """
    same = labels[:, None] == labels
    candidates = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device) if mode == "intra" else ~same
    chosen, found = torch.where(candidates, draws.among_batch, -1.0).argmax(dim=1), candidates.any(dim=1)
    others = items if queue is None or mode == "inter" else queue.pick(items, labels, draws.among_queue)
    return _choose(found, items[chosen], others), torch.where(found, labels[chosen], labels)


def _choose(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """``[B]`` decides between rows of two ``[B, ...]``."""
    return torch.where(condition.view(-1, *[1] * (yes.dim() - 1)), yes, no)


def mix(items: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """``share * item + (1 - share) * partner``; exactly the item where the share is 1 or the partner is the item."""
    return torch.lerp(partners, items, share.to(items.dtype).view(-1, *[1] * (items.dim() - 1)))


def mix_features(features: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """:func:`mix` of unit features ``[B, E]``, made unit again: without that, logits would be mixed and no more."""
    return unit(mix(features, partners, share))


def mixed_labels(labels: Tensor, partner_labels: Tensor, share: Tensor, classes: int) -> Tensor:
    """Shares ``[B, C]`` of the classes in images that are mixed across classes."""
    every = torch.arange(classes, device=labels.device)
    share = share[:, None]
    return share * (labels[:, None] == every) + (1 - share) * (partner_labels[:, None] == every)


def class_means(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Unit mean of the features ``[B, E]`` of each class, ``[C, E]``, and how many there are, ``[C]``.

    The mean of a class without images is zero.
    """
    members = (torch.arange(classes, device=labels.device)[:, None] == labels).to(features.dtype)
    return unit(members @ features), members.sum(dim=1)
