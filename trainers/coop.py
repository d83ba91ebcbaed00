"""CoOp (Zhou et al., IJCV 2022): learn the context words of the prompt, and nothing else.

"[v1] ... [vM] class name.": M vectors take the place of hand-written words, either one context for all classes or one
per class (CSC), behind, around or before the class name. The loss is the cross-entropy of CLIP's usual logits.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.engine.resumable import describe
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.context import (
    ContextCLIP,
    ContextLearner,
    class_name_position,
    context_length,
    context_prompts,
    start_context,
    words,
)
from anprompt.prompts.prompted_clip import random_prompts
from anprompt.utils.config import require
from anprompt.utils.settings import FIXED, Setting, Settings, whole
from dassl.engine import TRAINER_REGISTRY

SETTINGS = Settings(
    "COOP",
    Setting("N_CTX", 16, whole(1)),  # M; with CTX_INIT, the number of its tokens counts instead
    Setting("CSC", False, None, FIXED),  # class-specific context
    Setting("CTX_INIT", "", words(1)),  # words to start from, such as "a photo of a"; empty: random
    Setting("CLASS_TOKEN_POSITION", "end", class_name_position, FIXED),  # of the class name: end, middle or front
)
extend_cfg = SETTINGS.extend_cfg


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer[ContextCLIP[ContextLearner]]):
    """Context optimisation."""

    settings = SETTINGS

    @classmethod
    def build_prompted_model(
        cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]
    ) -> ContextCLIP[ContextLearner]:
        node = cfg.TRAINER.COOP
        count = context_length(node.CTX_INIT, node.N_CTX)
        start = start_context(backbone, node.CTX_INIT, count)
        if node.CSC:  # the classes start apart, unless from the same words
            start = start.repeat(len(classnames), 1, 1)
            start = start if node.CTX_INIT else random_prompts(*start.shape)
        write = partial(context_prompts, count=count, position=node.CLASS_TOKEN_POSITION, per_class=node.CSC)
        return ContextCLIP(backbone, ContextLearner(start), write)

    def check_classes(self, trained_on: Mapping[str, Any]) -> None:
        require(
            not self.cfg.TRAINER.COOP.CSC or trained_on["classnames"] == self.data_identity()["classnames"],
            f"class-specific contexts exist for {describe(trained_on)} only, not for {describe(self.data_identity())}: "
            "train with TRAINER.COOP.CSC False to test on other classes",
        )
