"""The terms of ANPrompt's objective, as functions of tensors. Equations and their sources: ``docs/method.md``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STD_EPS = 1e-6  # keeps the scale of WALoss finite when all class logits are equal


def head_cross_entropy(class_logits: Tensor, prototype_logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """``alpha * CE(class head) + (1 - alpha) * CE(prototype head)``: two terms, not the CE of fused logits.

    Args:
        class_logits, prototype_logits: ``[B, C]``.
        labels: ``[B]`` class indices.
    """
    return alpha * F.cross_entropy(class_logits, labels) + (1 - alpha) * F.cross_entropy(prototype_logits, labels)


def similarity_loss(features: Tensor, frozen: Tensor) -> Tensor:
    """``1 - mean cosine`` between tuned and frozen features, both ``[N, E]``."""
    return 1 - F.cosine_similarity(features, frozen, dim=-1).mean()


def weak_alignment_loss(class_logits: Tensor, noise_logits: Tensor) -> Tensor:
    """WALoss: KL(noise || class) summed over the batch, divided by ``(std + eps) * B * C``.

    ``std`` is the unbiased standard deviation of all B*C class logits. Nothing is detached: the gradient also flows
    through the noise prediction and through ``std``. Computed in at least fp32, because ``std * B * C`` exceeds
    fp16's largest number at ImageNet's size and would silently switch the loss off.

    Args:
        class_logits: ``[B, C]`` of the class head.
        noise_logits: ``[B, C]`` of the prototype against the weak-noise text features.
    """
    dtype = torch.promote_types(class_logits.dtype, torch.float32)
    class_logits, noise_logits = class_logits.to(dtype), noise_logits.to(dtype)
    log_p, log_q = class_logits.log_softmax(dim=-1), noise_logits.log_softmax(dim=-1)
    divergence = (log_q.exp() * (log_q - log_p)).sum()
    # One logit has no spread; torch's unbiased estimate would be NaN.
    std = class_logits.std() if class_logits.numel() > 1 else class_logits.new_zeros(())
    return divergence / ((std + STD_EPS) * class_logits.numel())
