"""Trainers whose model answers with two heads, the class token's and the prototype's, and with both fused."""

from __future__ import annotations

from yacs.config import CfgNode

from anprompt.engine.trainer import PromptTrainer

HEADS = ("class", "prototype", "fused")  # of a DeepTokenCLIP


class TwoHeadTrainer(PromptTrainer):
    """Trainer of a :class:`~anprompt.prompts.deep_tokens.DeepTokenCLIP`."""

    @classmethod
    def headline_heads(cls, cfg: CfgNode) -> tuple[str, str]:
        """MMRL's rule: both heads together where classes were trained on, the class head alone for any other."""
        return "fused", "class"
