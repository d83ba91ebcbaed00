"""CoCoOp (Zhou et al., CVPR 2022): a context that depends on the image.

A small network turns each image feature into one vector, which is added to all M context vectors. So every image brings
its own text features for all classes: B x C prompts per batch instead of C.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.clip.encoders import in_turn, text_features
from anprompt.engine.trainer import PromptTrainer
from anprompt.prompts.context import (
    ContextPrompts,
    PromptWriter,
    context_length,
    context_prompts,
    start_context,
    words,
)
from anprompt.prompts.prompted_clip import PromptedCLIP, unit
from anprompt.utils.config import require
from anprompt.utils.distributed import shared_out
from anprompt.utils.settings import Setting, Settings, whole
from anprompt.video.dataset import is_video_data
from dassl.engine import TRAINER_REGISTRY

# Prompts that run through the text tower at a time. A batch with more is split by images, and activations are
# recomputed in the backward pass. The words behind the context make about six rows of a prompt; in ViT-B/16's text
# tower each row keeps some 0.3 MB in fp32, so this is about 2 GB.
MAX_PROMPTS = 1024
REDUCTION = 16  # image feature width over the meta-net's hidden width


class ConditionalLearner(nn.Module):
    """Context ``[M, D]`` and the meta-net that moves it for each image.

    Args:
        start: ``[M, D]``.
        joint: width E of image features.
    """

    def __init__(self, start: Tensor, joint: int):
        super().__init__()
        hidden = joint // REDUCTION
        self.ctx = nn.Parameter(start)
        self.meta_net = nn.Sequential(
            OrderedDict(linear1=nn.Linear(joint, hidden), relu=nn.ReLU(), linear2=nn.Linear(hidden, start.shape[1]))
        )

    def forward(self, features: Tensor) -> Tensor:
        """Unit image features ``[B, E]`` -> contexts ``[B, M, D]``."""
        return self.ctx + self.meta_net(features)[:, None]


class ConditionalCLIP(PromptedCLIP[ConditionalLearner]):
    """CLIP whose prompts see the image."""

    prompts: ContextPrompts

    def __init__(self, backbone: Backbone, learner: ConditionalLearner, write: PromptWriter):
        super().__init__(backbone, learner)
        self.write = write

    def prepare_classes(self, classnames: list[str], template: str) -> None:
        self.prompts = self.write(self.backbone, classnames)

    @shared_out
    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        features = self.encode_frozen_image(images)
        text = self.encode_conditional_text(self.learner(features))
        with torch.autocast(features.device.type, enabled=False):
            return self.scale * torch.einsum("be,bce->bc", features, text)

    def encode_conditional_text(self, contexts: Tensor) -> Tensor:
        """Contexts ``[B, M, D]`` -> unit text features ``[B, C, E]``."""
        chunks = contexts.split(max(1, MAX_PROMPTS // len(self.prompts.slots)))
        return torch.cat(in_turn(self.encode_chunk, chunks))

    def encode_chunk(self, contexts: Tensor) -> Tensor:
        """The same for a few images at a time."""
        features = unit(text_features(self.clip, self.prompts.states(self.clip, contexts)))
        return features.unflatten(0, (len(contexts), -1))

    @contextmanager
    def fixed_text(self) -> Iterator[None]:
        """Nothing to encode beforehand: no text feature exists without an image."""
        yield


SETTINGS = Settings(
    "COCOOP",
    Setting("N_CTX", 4, whole(1)),  # M; with CTX_INIT, the number of its tokens counts instead
    Setting("CTX_INIT", "a photo of a", words(1)),  # words to start from; empty: random
)
extend_cfg = SETTINGS.extend_cfg


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer[ConditionalCLIP]):
    """Conditional context optimisation."""

    settings = SETTINGS

    @classmethod
    def check_test_cfg(cls, cfg: CfgNode) -> None:
        require(
            not is_video_data(cfg.DATASET.NAME),
            f"CoCoOp writes its prompts for one image, and {cfg.DATASET.NAME} has clips: use CoOp or another trainer",
        )
        super().check_test_cfg(cfg)

    @classmethod
    def build_prompted_model(cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]) -> ConditionalCLIP:
        node = cfg.TRAINER.COCOOP
        count = context_length(node.CTX_INIT, node.N_CTX)
        learner = ConditionalLearner(start_context(backbone, node.CTX_INIT, count), backbone.joint_width)
        return ConditionalCLIP(backbone, learner, partial(context_prompts, count=count))
