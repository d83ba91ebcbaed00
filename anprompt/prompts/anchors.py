"""Generic attribute anchors (GA2-CLIP): irrelevant clips must stay closer to a negative text than to any class.

With ``a`` an anchor's feature, ``t_c`` those of the classes and ``q_j`` those of the negative texts, all unit:

* ``softplus``: mean over the anchors of ``softplus(kappa delta) / kappa``, with
  ``delta = max_c cos(a, t_c) - max_j cos(a, q_j) + margin``;
* ``hinge``: mean of ``max(0, delta)``;
* ``extra_class``: cross-entropy of the anchors, with the negative text as class C + 1, which is the right one;
* ``additive``: the authors' code: ``alpha`` max_j cos(a, q_j) joins the cosine of every class alike. Softmax does not
  see what is added to all classes: the term is zero, and so is its gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MODES = ("none", "softplus", "hinge", "extra_class", "additive")


def nearest(anchors: Tensor, texts: Tensor) -> Tensor:
    """Largest cosine ``[A]`` of each unit feature ``[A, E]`` among unit features ``[N, E]``."""
    return (anchors @ texts.T).amax(dim=1)


def softplus_loss(classes: Tensor, negative: Tensor, margin: float, kappa: float) -> Tensor:
    """From the largest cosines ``[A]`` with a class and with a negative text."""
    return F.softplus(kappa * (classes - negative + margin)).mean() / kappa


def hinge_loss(classes: Tensor, negative: Tensor, margin: float) -> Tensor:
    """As :func:`softplus_loss`, and zero where the anchors keep the margin."""
    return F.relu(classes - negative + margin).mean()


def extra_class_loss(logits: Tensor, negative: Tensor) -> Tensor:
    """Cross-entropy of anchors.

    Args:
        logits: ``[A, C]``, of the classes.
        negative: ``[A]``, of the negative text.
    """
    right = torch.full((len(logits),), logits.shape[1], device=logits.device)
    return F.cross_entropy(torch.cat([logits, negative[:, None]], dim=1), right)


def additive_loss(logits: Tensor, labels: Tensor, negative: Tensor, alpha: float) -> Tensor:
    """What the authors' term adds to the cross-entropy of the real clips: zero, up to rounding.

    Args:
        logits: ``[B, C]``, of real clips.
        negative: ``[A]`` logits of anchors with the negative text.
    """
    return F.cross_entropy(logits + alpha * negative.mean(), labels) - F.cross_entropy(logits, labels)
