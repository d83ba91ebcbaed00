"""What a method's file imports: the base class, CLIP with something learned, and settings. Stays where rooms move.

Beside it, ``dassl.engine.TRAINER_REGISTRY`` registers the trainer. ``docs/extending.md`` shows a whole method.
"""

from anprompt.clip.backbone import Backbone, layers_of, text_depth, vision_depth
from anprompt.clip.encoders import Tokens, text_features, text_trunk, vision_rows, vision_trunk
from anprompt.engine.batch import Batch
from anprompt.engine.trainer import PromptTrainer
from anprompt.engine.two_heads import TwoHeadTrainer
from anprompt.prompts.context import ContextCLIP, ContextLearner, context_prompts, start_context, words
from anprompt.prompts.deep_tokens import DeepTokenCLIP, LinearAligner, PrototypeProjection, last_layers
from anprompt.prompts.independent import IndependentLearner
from anprompt.prompts.prompted_clip import PromptedCLIP, random_prompts, unit
from anprompt.prompts.templates import filled
from anprompt.utils.config import add_trainer_node, require, require_number
from anprompt.utils.distributed import shared_out
from anprompt.utils.settings import FIXED, Setting, Settings, number, one_of, whole

__all__ = [
    "Backbone",
    "Batch",
    "ContextCLIP",
    "ContextLearner",
    "DeepTokenCLIP",
    "FIXED",
    "IndependentLearner",
    "LinearAligner",
    "PromptTrainer",
    "PromptedCLIP",
    "PrototypeProjection",
    "Setting",
    "Settings",
    "Tokens",
    "TwoHeadTrainer",
    "add_trainer_node",
    "context_prompts",
    "filled",
    "last_layers",
    "layers_of",
    "number",
    "one_of",
    "random_prompts",
    "require",
    "require_number",
    "shared_out",
    "start_context",
    "text_depth",
    "text_features",
    "text_trunk",
    "unit",
    "vision_depth",
    "vision_rows",
    "vision_trunk",
    "whole",
    "words",
]
