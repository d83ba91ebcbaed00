"""MaPLe (Khattak et al., CVPR 2023): deep prompts in both towers, the visual ones projected from the textual ones.

The first layers of the text tower each get K prompts of their own, and a linear map per layer turns them into the
prompts of the same layer of the vision tower, where they stand behind the patches. The loss is the cross-entropy.
"""

import copy
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone, layers_of, text_depth, vision_depth
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.context import ContextCLIP, context_prompts, start_context, words
from anprompt.prompts.prompted_clip import random_prompts
from anprompt.utils.settings import FIXED, Setting, Settings, whole
from dassl.engine import TRAINER_REGISTRY


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


SETTINGS = Settings(
    "MAPLE",
    Setting("N_CTX", 2, whole(1), FIXED),  # K
    Setting("CTX_INIT", "a photo of a", words("N_CTX"), FIXED),  # its first K tokens start the context; empty: random
    Setting("PROMPT_DEPTH", 9, layers_of(text_depth, vision_depth), FIXED),  # first layers of each tower with prompts
)
extend_cfg = SETTINGS.extend_cfg


@TRAINER_REGISTRY.register()
class MaPLe(PromptTrainer[ContextCLIP[CoupledLearner]]):
    """Multi-modal prompt learning."""

    settings = SETTINGS

    @classmethod
    def build_prompted_model(
        cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]
    ) -> ContextCLIP[CoupledLearner]:
        node = cfg.TRAINER.MAPLE
        start = start_context(backbone, node.CTX_INIT, node.N_CTX)
        learner = CoupledLearner(start, node.PROMPT_DEPTH, backbone.vision_width)
        return ContextCLIP(backbone, learner, partial(context_prompts, count=node.N_CTX, words=node.CTX_INIT))
