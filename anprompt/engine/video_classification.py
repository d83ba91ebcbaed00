"""The evaluator of clips: what video recognition reports, accuracy among one and among five."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.evaluation import EVALUATOR_REGISTRY, Classification

TOP = 5


@EVALUATOR_REGISTRY.register()
class VideoClassification(Classification):
    """Dassl's ``Classification`` with ``top5_accuracy``, in per cent; ``accuracy``, of the best one, stays first."""

    def __init__(self, cfg: CfgNode, lab2cname: Any = None, **kwargs: Any):
        super().__init__(cfg, lab2cname=lab2cname, **kwargs)
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._among: list[Tensor] = []

    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Add a batch: logits ``[B, C]``, labels ``[B]``. Of fewer than five classes, every label is among the best."""
        super().process(mo, gt)
        best = mo.topk(min(TOP, mo.shape[1]), dim=1).indices
        self._among.append((best == gt[:, None]).any(dim=1))

    def evaluate(self) -> OrderedDict[str, float]:
        results = super().evaluate()
        results["top5_accuracy"] = 100.0 * torch.cat(self._among).double().mean().item()
        print(f"* top5_accuracy: {results['top5_accuracy']:.1f}%")
        return results
