"""ANPrompt's training step as the CoOp family writes such a step: the baseline of the benchmarks, and no caricature.

Same weights, same numbers (``tests/benchmarks/test_benchmarks.py`` compares the loss and every gradient), same
attention kernels of PyTorch behind ``nn.MultiheadAttention``. What is different is what the family's code does: all
77 text positions, every text layer for every class in every step, sequences first and batch second, the causal mask
built on the CPU in each text layer that has tokens, a second frozen CLIP for the frozen image features, loss and
accuracy fetched from the device after each step, and the classes encoded again for every test batch. As there, the
frozen text features are computed once, and no gradient is computed below the first layer with tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def causal_mask(length: int) -> Tensor:
    return torch.empty(length, length).fill_(float("-inf")).triu_(1)


def run_block(block: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One residual block over ``[S, N, D]``."""
    normed = block.ln_1(x)
    x = x + block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
    return x + block.mlp(block.ln_2(x))


def put(x: Tensor, rows: Tensor, insert: bool, beta: float) -> Tensor:
    """``x`` ``[S, N, D]`` with ``rows`` ``[K, D]`` behind its first row, or mixed into the K rows that stand there."""
    rows = rows.to(x.dtype).unsqueeze(1).expand(-1, x.shape[1], -1)
    if insert:
        return torch.cat([x[:1], rows, x[1:]], dim=0)
    count = rows.shape[0]
    return torch.cat([x[:1], beta * rows + (1 - beta) * x[1 : 1 + count], x[1 + count :]], dim=0)


class TextbookCLIP(nn.Module):
    """A copy of an ``open_clip.CLIP`` that works on ``[S, N, D]``, as OpenAI's code does."""

    def __init__(self, clip: Any):
        super().__init__()
        self.clip = copy.deepcopy(clip)
        for module in self.clip.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.batch_first = False

    def encode_text(self, embeddings: Tensor, eot: Tensor, tokens: list[Tensor], first: int) -> Tensor:
        """``[C, 77, D]`` embeddings -> ``[C, E]``; ``tokens[i]`` enters layer ``first + i``."""
        clip = self.clip
        x = (embeddings + clip.positional_embedding).permute(1, 0, 2)
        for layer, block in enumerate(clip.transformer.resblocks, start=1):
            mask = clip.attn_mask
            if layer >= first and tokens:
                x = put(x, tokens[layer - first], insert=layer == first, beta=1.0)
                mask = causal_mask(len(x))
            x = run_block(block, x, mask.to(dtype=x.dtype, device=x.device))
        x = clip.ln_final(x.permute(1, 0, 2))
        added = len(tokens[0]) if tokens else 0
        return x[torch.arange(len(x), device=x.device), eot + added] @ clip.text_projection

    def embed(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> class and patch rows ``[B, 1 + P, D]`` with their positions."""
        visual = self.clip.visual
        x = visual.conv1(images)
        x = x.reshape(*x.shape[:2], -1).permute(0, 2, 1)
        class_row = visual.class_embedding.to(x.dtype) + torch.zeros_like(x[:, :1])
        return torch.cat([class_row, x], dim=1) + visual.positional_embedding.to(x.dtype)

    def encode_image(self, images: Tensor, tokens: list[Tensor], first: int, beta: float) -> tuple[Tensor, Tensor]:
        """``[B, 3, H, W]`` -> class rows ``[B, D]`` and token rows ``[B, K, D]`` (none without tokens)."""
        visual = self.clip.visual
        x = visual.ln_pre(self.embed(images)).permute(1, 0, 2)
        for layer, block in enumerate(visual.transformer.resblocks, start=1):
            if layer >= first and tokens:
                x = put(x, tokens[layer - first], insert=layer == first, beta=beta)
            x = run_block(block, x)
        x = x.permute(1, 0, 2)
        added = len(tokens[0]) if tokens else 0
        return visual.ln_post(x[:, 0]), visual.ln_post(x[:, 1 : 1 + added])


@dataclass
class Objective:
    """Constants of the loss: ``weak_noise`` and ``frozen_text`` are unit features ``[C, E]``."""

    weak_noise: Tensor
    frozen_text: Tensor
    alpha: float
    beta: float
    sim_w: float
    wa_w: float


class Textbook:
    """The training step and the evaluation of one batch.

    Args:
        clip: the frozen CLIP; both its copies are made here.
        learner: has ``text_tokens()``, ``vision_tokens()`` and ``prototype_proj``; taken as it is.
        ids: ``[C, 77]`` token ids of the prompts.
        first: first text and first vision layer that receives tokens.
        optim, scaler: of the learner.
        autocast: makes the context of the forward pass.
    """

    def __init__(
        self, clip: Any, learner: Any, ids: Tensor, first: tuple[int, int], objective: Objective,
        optim: torch.optim.Optimizer, scaler: torch.amp.GradScaler, autocast: Callable[[], AbstractContextManager],
    ):  # fmt: skip
        self.student, self.teacher = TextbookCLIP(clip), TextbookCLIP(clip)
        self.learner, self.first, self.objective = learner, first, objective
        self.optim, self.scaler, self.autocast = optim, scaler, autocast
        with torch.no_grad():
            self.embeddings, self.eot = clip.token_embedding(ids), ids.argmax(dim=-1)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit features: text ``[C, E]``, class row and prototype ``[B, E]``."""
        text_first, vision_first = self.first
        text = self.student.encode_text(self.embeddings, self.eot, self.learner.text_tokens(), text_first)
        tokens = self.learner.vision_tokens()
        class_row, rows = self.student.encode_image(images, tokens, vision_first, self.objective.beta)
        projected = class_row @ self.student.clip.visual.proj, self.learner.prototype_proj(rows.mean(dim=1))
        text, class_row, prototype = (x / x.norm(dim=-1, keepdim=True) for x in (text, *projected))
        return text, class_row, prototype

    def frozen_features(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            frozen = self.teacher.encode_image(images, [], 0, 1.0)[0] @ self.teacher.clip.visual.proj
            return frozen / frozen.norm(dim=-1, keepdim=True)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The objective and the logits ``[B, C]`` of the class head."""
        constants = self.objective
        text, class_row, prototype = self.features(images)
        scale = self.student.clip.logit_scale.exp()
        class_logits, prototype_logits = scale * class_row @ text.t(), scale * prototype @ text.t()
        loss = constants.alpha * F.cross_entropy(class_logits, labels)
        loss = loss + (1 - constants.alpha) * F.cross_entropy(prototype_logits, labels)
        image_similarity = F.cosine_similarity(class_row, self.frozen_features(images), dim=1).mean()
        text_similarity = F.cosine_similarity(text, constants.frozen_text, dim=1).mean()
        loss = loss + constants.sim_w * (1 - image_similarity) + constants.sim_w * (1 - text_similarity)
        noise_logits = scale * prototype @ constants.weak_noise.t()
        log_p, q = F.log_softmax(class_logits, dim=1), F.softmax(noise_logits, dim=1)
        divergence = F.kl_div(log_p, q, reduction="sum")
        spread = (class_logits.std() + 1e-6) * class_logits.numel()
        return loss + constants.wa_w * divergence / spread, class_logits

    def train_step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        images, labels = batch["img"], batch["label"]
        with self.autocast():
            loss, logits = self.loss(images, labels)
        if not torch.isfinite(loss).all():  # as Dassl does
            raise FloatingPointError("Loss is infinite or NaN!")
        self.optim.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optim)
        self.scaler.update()
        accuracy = (logits.argmax(dim=1) == labels).float().mean() * 100
        return {"loss": loss.item(), "acc": accuracy.item()}

    @torch.no_grad()
    def eval_batch(self, images: Tensor) -> dict[str, Tensor]:
        with self.autocast():
            text, class_row, prototype = self.features(images)
            scale, alpha = self.student.clip.logit_scale.exp(), self.objective.alpha
            class_logits, prototype_logits = scale * class_row @ text.t(), scale * prototype @ text.t()
        fused = alpha * class_logits + (1 - alpha) * prototype_logits
        return {"class": class_logits, "prototype": prototype_logits, "fused": fused}
