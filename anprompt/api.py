"""What a method's file imports: the base class, CLIP with something learned, and settings. Stays where rooms move.

Beside it, ``dassl.engine.TRAINER_REGISTRY`` registers the trainer. ``docs/extending.md`` shows a whole method.
"""

from anprompt.clip.backbone import Backbone, text_depth, vision_depth
from anprompt.clip.encoders import Tokens, text_features, text_trunk, vision_rows, vision_trunk
from anprompt.engine.trainer import PromptTrainer
from anprompt.engine.two_heads import TwoHeadTrainer
from anprompt.prompts.context import ContextCLIP, ContextLearner
from anprompt.prompts.deep_tokens import DeepTokenCLIP
from anprompt.prompts.prompted_clip import PromptedCLIP, random_prompts, unit
from anprompt.utils.config import add_trainer_node, require, require_number
from anprompt.utils.distributed import shared_out

__all__ = [
    "Backbone",
    "ContextCLIP",
    "ContextLearner",
    "DeepTokenCLIP",
    "PromptTrainer",
    "PromptedCLIP",
    "Tokens",
    "TwoHeadTrainer",
    "add_trainer_node",
    "random_prompts",
    "require",
    "require_number",
    "shared_out",
    "text_depth",
    "text_features",
    "text_trunk",
    "unit",
    "vision_depth",
    "vision_rows",
    "vision_trunk",
]
