"""CoOp (Zhou et al., IJCV 2022): learn the context words of the prompt, and nothing else.

"[v1] ... [vM] class name.": M vectors take the place of hand-written words, either one context for all classes or one
per class (CSC), behind, around or before the class name. The loss is the cross-entropy of CLIP's usual logits.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.engine.resumable import describe
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.context import (
    POSITIONS,
    ContextCLIP,
    ContextLearner,
    check_context,
    context_length,
    context_prompts,
    start_context,
)
from anprompt.prompts.prompted_clip import random_prompts
from anprompt.utils.config import add_trainer_node, require, require_number
from anprompt.utils.suggest import require_known
from dassl.engine import TRAINER_REGISTRY


def extend_cfg(cfg: CfgNode) -> None:
    """Add ``TRAINER.COOP``."""
    node = add_trainer_node(cfg, "COOP")
    node.N_CTX = 16  # M; with CTX_INIT, the number of its tokens counts instead
    node.CSC = False  # class-specific context
    node.CTX_INIT = ""  # words to start from, such as "a photo of a"; empty: random
    node.CLASS_TOKEN_POSITION = "end"  # of the class name: end, middle or front


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """Context optimisation."""

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node = cfg.TRAINER.COOP
        require_number("TRAINER.COOP.N_CTX", node.N_CTX, 1)
        check_context("TRAINER.COOP.CTX_INIT", node.CTX_INIT, 1)
        require_known("TRAINER.COOP.CLASS_TOKEN_POSITION", node.CLASS_TOKEN_POSITION, POSITIONS)

    @classmethod
    def build_prompted_model(cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]) -> ContextCLIP:
        node = cfg.TRAINER.COOP
        count = context_length(node.CTX_INIT, node.N_CTX)
        start = start_context(backbone, node.CTX_INIT, count)
        if node.CSC:  # the classes start apart, unless from the same words
            start = start.repeat(len(classnames), 1, 1)
            start = start if node.CTX_INIT else random_prompts(*start.shape)
        write = partial(context_prompts, count=count, position=node.CLASS_TOKEN_POSITION, per_class=node.CSC)
        return ContextCLIP(backbone, ContextLearner(start), write)

    def required_settings(self) -> dict[str, Any]:
        return super().required_settings() | self.own_settings("CSC", "CLASS_TOKEN_POSITION")

    def check_classes(self, trained_on: dict[str, Any]) -> None:
        require(
            not self.cfg.TRAINER.COOP.CSC or trained_on["classnames"] == self.data_identity()["classnames"],
            f"class-specific contexts exist for {describe(trained_on)} only, not for {describe(self.data_identity())}: "
            "train with TRAINER.COOP.CSC False to test on other classes",
        )
