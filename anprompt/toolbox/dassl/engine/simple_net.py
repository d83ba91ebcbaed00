from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.modeling import build_backbone, build_head

# Keys under MODEL that the builders get, in lower case.
OPTIONS = {"BACKBONE": ("PRETRAINED",), "HEAD": ("HIDDEN_LAYERS", "ACTIVATION", "BN", "DROPOUT")}


class SimpleNet(nn.Module):
    """A backbone, a head if ``MODEL.HEAD`` asks for one, and a linear classifier.

    Args:
        num_classes: 0 for features only.
    """

    def __init__(self, cfg: CfgNode, model_cfg: CfgNode, num_classes: int, **kwargs: Any) -> None:
        super().__init__()

        def part(build: Callable[..., Any], node: str, **more: Any) -> Any:
            options = {key.lower(): model_cfg[node][key] for key in OPTIONS[node]}
            return build(model_cfg[node].NAME, verbose=cfg.VERBOSE, **options, **more, **kwargs)

        has_head = model_cfg.HEAD.NAME and model_cfg.HEAD.HIDDEN_LAYERS
        self.backbone = part(build_backbone, "BACKBONE")
        self.head = part(build_head, "HEAD", in_features=self.backbone.out_features) if has_head else None
        self.classifier = nn.Linear(self.fdim, num_classes) if num_classes > 0 else None

    @property
    def fdim(self) -> int:
        """Width of the features."""
        last = self.backbone if self.head is None else self.head
        return last.out_features

    def forward(self, x: Tensor, return_feature: bool = False) -> Any:
        """Logits ``[B, C]``, with ``return_feature`` also the features ``[B, fdim]``; features without a classifier."""
        features = self.backbone(x) if self.head is None else self.head(self.backbone(x))
        logits = None if self.classifier is None else self.classifier(features)
        if logits is None:
            return features
        return (logits, features) if return_feature else logits
