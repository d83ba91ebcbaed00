"""Trainers whose model answers with two heads, the class token's and the prototype's, and with both fused."""

from __future__ import annotations

from typing import TypeVar

from yacs.config import CfgNode

from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.deep_tokens import DeepTokenCLIP

HEADS = ("class", "prototype", "fused")  # of a DeepTokenCLIP


TwoHeaded = TypeVar("TwoHeaded", bound=DeepTokenCLIP)


class TwoHeadTrainer(PromptTrainer[TwoHeaded]):
    """Trainer of a :class:`~anprompt.prompts.deep_tokens.DeepTokenCLIP`."""

    @classmethod
    def headline_heads(cls, cfg: CfgNode) -> tuple[str, str]:
        """MMRL's rule: both heads together where classes were trained on, the class head alone for any other."""
        return "fused", "class"

    def beta_of_training(self, trained: float) -> float:
        """The weight of fresh tokens to test with: it depends on the data, and training settled it.

        ``TRAINER.<NAME>.BETA`` is the config's key; None leaves it to the data.
        """
        key, configured = f"{self.key(self.cfg)}.BETA", self.node(self.cfg).BETA
        if configured is not None:
            return self.setting_of_test(key, trained, configured)
        if self.model.beta != trained:
            print(f"BETA {trained}, from the training run")
        return trained
