"""GA2-CLIP's training step as its authors and ViFi-CLIP's write such a step: the baseline of ``benchmarks.video``.

As in ``benchmarks/textbook.py``: the same weights and numbers, and PyTorch's attention. What is different is what that
code does: all 77 text positions of every class in every step, the class's own copy of the prompts coupled before they
enter the text tower, all rows in every layer of both towers, every frame projected before the frames are averaged, and
loss and accuracy fetched after each step. As in ours, clips and anchors are one batch of frames, the negative text is
encoded once, and dropout is one draw for all classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.prompts.coupling import draw_kept
from anprompt.utils.rng import NamedGenerators
from benchmarks.textbook import TextbookCLIP, run_block

Tokens = Mapping[int, Tensor]  # layer -> ``[K, D]``


class TextbookFrames(TextbookCLIP):
    """With prompts from the input on: behind the start token in text, behind the patches in images."""

    def encode_prompts(self, embeddings: Tensor, eot: Tensor, context: Tensor, tokens: Tokens) -> Tensor:
        """``[C, 77, D]`` embeddings, whose rows from 1 on take the context ``[C, K, D]`` -> ``[C, E]``.

        ``tokens`` overwrite it from layer 2 on.
        """
        clip, count = self.clip, context.shape[1]
        x = torch.cat([embeddings[:, :1], context, embeddings[:, 1 + count :]], dim=1)
        x = (x + clip.positional_embedding).permute(1, 0, 2)
        for layer, block in enumerate(clip.transformer.resblocks, start=1):
            if layer in tokens:
                fresh = tokens[layer].unsqueeze(1).expand(-1, x.shape[1], -1)
                x = torch.cat([x[:1], fresh, x[1 + count :]], dim=0)
            x = run_block(block, x, clip.attn_mask.to(dtype=x.dtype, device=x.device))
        x = clip.ln_final(x.permute(1, 0, 2))
        return x[torch.arange(len(x), device=x.device), eot] @ clip.text_projection

    def encode_frames(self, frames: Tensor, tokens: Tokens) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, E]``; ``tokens`` join the patches at layer 1, and are overwritten from then on."""
        visual, count = self.clip.visual, len(tokens[1])
        x = torch.cat([self.embed(frames), tokens[1].expand(len(frames), -1, -1)], dim=1)
        x = visual.ln_pre(x).permute(1, 0, 2)
        for layer, block in enumerate(visual.transformer.resblocks, start=1):
            if layer > 1 and layer in tokens:
                fresh = tokens[layer].unsqueeze(1).expand(-1, x.shape[1], -1)
                x = torch.cat([x[:-count], fresh], dim=0)
            x = run_block(block, x)
        return visual.ln_post(x.permute(1, 0, 2)[:, 0]) @ visual.proj


@dataclass
class Anchoring:
    """The ``softplus`` term: ``negative`` ``[J, E]`` are unit features."""

    negative: Tensor
    margin: float
    kappa: float
    weight: float


class TextbookVideo:
    """The training step, in fp32.

    Args:
        clip: the frozen CLIP, which is copied.
        learner: has ``hard``, ``ctx``, ``coupling``, ``deep_text`` and ``vision_tokens()``; taken as it is.
        ids: ``[C, 77]`` token ids of the prompts, with words in the context's places.
        dropout: probability, of the coupled prompts; drawn from the generator of that name.
        optim: of the learner.
    """

    def __init__(
        self, clip: Any, learner: Any, ids: Tensor, anchoring: Anchoring, dropout: float, generators: NamedGenerators,
        optim: torch.optim.Optimizer,
    ):  # fmt: skip
        self.student, self.learner, self.anchoring, self.optim = TextbookFrames(clip), learner, anchoring, optim
        self.dropout, self.generators = dropout, generators
        with torch.no_grad():
            self.embeddings, self.eot = clip.token_embedding(ids), ids.argmax(dim=-1)

    def text(self, kept: Tensor) -> Tensor:
        """Unit features ``[C, E]``; ``kept`` ``[K, D]`` is what dropout multiplies with."""
        learner, classes = self.learner, len(self.embeddings)
        hard, soft = (prompts.expand(classes, -1, -1) for prompts in (learner.hard, learner.ctx))
        coupled = F.linear(torch.cat([hard, soft], dim=-1), learner.coupling.weight, learner.coupling.bias)
        context = F.relu(coupled) * kept.to(coupled.dtype)
        deeper = dict(enumerate(learner.deep_text, start=2))
        features = self.student.encode_prompts(self.embeddings, self.eot, context, deeper)
        return features / features.norm(dim=-1, keepdim=True)

    def clips(self, clips: Tensor) -> Tensor:
        """``[B, T, 3, H, W]`` -> unit features ``[B, E]``."""
        frames = self.student.encode_frames(clips.flatten(0, 1), self.learner.vision_tokens())
        features = frames.unflatten(0, clips.shape[:2]).mean(dim=1)
        return features / features.norm(dim=-1, keepdim=True)

    def loss(self, clips: Tensor, labels: Tensor, anchors: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """The objective and the logits ``[B, C]``."""
        text, terms = self.text(kept), self.anchoring
        features = self.clips(torch.cat([clips, anchors]))
        real, irrelevant = features[: len(clips)], features[len(clips) :]
        logits = self.student.clip.logit_scale.exp() * real @ text.t()
        nearest, negative = ((irrelevant @ t.t()).max(dim=1).values for t in (text, terms.negative))
        anchor = F.softplus(terms.kappa * (nearest - negative + terms.margin)).mean() / terms.kappa
        return F.cross_entropy(logits, labels) + terms.weight * anchor, logits

    def train_step(self, batch: Mapping[str, Any]) -> dict[str, float]:
        clips, labels, anchors = batch["img"], batch["label"], batch["anchors"]["img"]
        kept = draw_kept(tuple(self.learner.ctx.shape), self.dropout, self.generators["dropout"])
        loss, logits = self.loss(clips, labels, anchors, kept)
        if not torch.isfinite(loss).all():  # as Dassl does
            raise FloatingPointError("Loss is infinite or NaN!")
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        accuracy = (logits.argmax(dim=1) == labels).float().mean() * 100
        return {"loss": loss.item(), "acc": accuracy.item()}
