"""Prompts of their own for every layer, in both towers: PromptSRC, and independent vision-language prompting (IVLP)."""

from __future__ import annotations

from torch import Tensor, nn

from anprompt.prompts.prompted_clip import random_prompts


class IndependentLearner(nn.Module):
    """Prompts of the first layers of both towers.

    Args:
        start: ``[K, D_text]`` of the first text layer.
        depths: number of text layers, at least 1, and of vision layers, at least 0.
        vision_shape: ``(K, D_vision)`` of one vision layer's prompts.
    """

    def __init__(self, start: Tensor, depths: tuple[int, int], vision_shape: tuple[int, int]):
        super().__init__()
        self.ctx = nn.Parameter(start)
        self.deep_text = nn.ParameterList(random_prompts(*start.shape) for _ in range(depths[0] - 1))
        self.vision = nn.ParameterList(random_prompts(*vision_shape) for _ in range(depths[1]))

    def text_tokens(self) -> dict[int, Tensor]:
        """Layer -> ``[K, D_text]``."""
        return dict(enumerate([self.ctx, *self.deep_text], start=1))

    def vision_tokens(self) -> dict[int, Tensor]:
        """Layer -> ``[K, D_vision]``."""
        return dict(enumerate(self.vision, start=1))
