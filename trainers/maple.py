"""MaPLe (Khattak et al., CVPR 2023): deep prompts in both towers, the visual ones projected from the textual ones.

The first layers of the text tower each get K prompts of their own, and a linear map per layer turns them into the
prompts of the same layer of the vision tower, where they stand behind the patches. The loss is the cross-entropy.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone, text_depth, vision_depth
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.context import ContextCLIP, check_context, context_prompts, start_context
from anprompt.prompts.prompted_clip import random_prompts
from anprompt.utils.config import add_trainer_node, require_number
from dassl.engine import TRAINER_REGISTRY


def extend_cfg(cfg: CfgNode) -> None:
    """Add ``TRAINER.MAPLE``."""
    node = add_trainer_node(cfg, "MAPLE")
    node.N_CTX = 2  # K
    node.CTX_INIT = "a photo of a"  # its first K tokens start the context, the others stay; empty: random
    node.PROMPT_DEPTH = 9  # layers of each tower that get prompts, counted from the first


class CoupledLearner(nn.Module):
    """Textual prompts of the first layers, and their projections into the vision tower.

    Args:
        start: ``[K, D_text]`` of the first layer.
        depth: number of layers.
        vision_width: ``D_vision``.
    """

    def __init__(self, start: Tensor, depth: int, vision_width: int):
        super().__init__()
        count, width = start.shape
        self.ctx = nn.Parameter(start)
        self.proj = nn.Linear(width, vision_width)
        self.compound_prompts_text = nn.ParameterList(random_prompts(count, width) for _ in range(depth - 1))
        deeper = nn.Linear(width, vision_width)  # one start for all layers but the first
        self.compound_prompt_projections = nn.ModuleList(copy.deepcopy(deeper) for _ in range(depth - 1))

    def text_tokens(self) -> dict[int, Tensor]:
        """Layer -> ``[K, D_text]``."""
        return dict(enumerate([self.ctx, *self.compound_prompts_text], start=1))

    def vision_tokens(self) -> dict[int, Tensor]:
        """Layer -> ``[K, D_vision]``."""
        maps = [self.proj, *self.compound_prompt_projections]
        tokens = self.text_tokens().items()
        return {layer: project(rows) for project, (layer, rows) in zip(maps, tokens, strict=True)}


@TRAINER_REGISTRY.register()
class MaPLe(PromptTrainer):
    """Multi-modal prompt learning."""

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node = cfg.TRAINER.MAPLE
        depth = min(text_depth(cfg.MODEL.BACKBONE.NAME), vision_depth(cfg.MODEL.BACKBONE.NAME))
        require_number("TRAINER.MAPLE.N_CTX", node.N_CTX, 1)
        require_number("TRAINER.MAPLE.PROMPT_DEPTH", node.PROMPT_DEPTH, 1, depth)
        check_context("TRAINER.MAPLE.CTX_INIT", node.CTX_INIT, node.N_CTX)

    @classmethod
    def build_prompted_model(cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]) -> ContextCLIP:
        node = cfg.TRAINER.MAPLE
        start = start_context(backbone, node.CTX_INIT, node.N_CTX)
        learner = CoupledLearner(start, node.PROMPT_DEPTH, backbone.vision_width)
        return ContextCLIP(backbone, learner, partial(context_prompts, count=node.N_CTX, words=node.CTX_INIT))

    def required_settings(self) -> dict[str, Any]:
        return super().required_settings() | self.own_settings("N_CTX", "CTX_INIT", "PROMPT_DEPTH")
