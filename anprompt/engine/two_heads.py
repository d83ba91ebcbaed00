"""Trainers whose model answers with two heads, the class token's and the prototype's, and with both fused."""

from __future__ import annotations

from torch import Tensor

from anprompt.engine.trainer import PromptTrainer

HEADS = ("class", "prototype", "fused")


class TwoHeadTrainer(PromptTrainer):
    """Heads of a trainer whose model is an :class:`DeepTokenCLIP`."""

    def alpha(self) -> float:
        """Weight of the class head against the prototype head."""
        raise NotImplementedError

    def head_logits(self, images: Tensor) -> dict[str, Tensor]:
        text = self.model.encode_text()
        features = self.model.encode_image(images)
        class_logits = self.model.logits(features.class_token, text)
        prototype_logits = self.model.logits(features.prototype, text)
        fused = self.alpha() * class_logits + (1 - self.alpha()) * prototype_logits
        return {"class": class_logits, "prototype": prototype_logits, "fused": fused}

    def headline(self) -> str:
        """Fixed before any test number: one head for the data and classes trained on, one for all other."""
        seen, unseen = self.headline_heads()
        return seen if self.trained_on in (None, self.data_identity()) else unseen

    def headline_heads(self) -> tuple[str, str]:
        """Heads for classes that were trained on and for any other: MMRL's rule."""
        return "fused", "class"
