"""From batches of logits to the printed result. Log parsers of the family read these lines: do not touch them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.evaluation.build import EVALUATOR_REGISTRY
from dassl.utils import mkdir_if_missing


class EvaluatorBase:
    """Collects predictions batch by batch, then sums them up."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        raise NotImplementedError

    def process(self, mo: Tensor, gt: Tensor) -> None:
        raise NotImplementedError

    def evaluate(self) -> OrderedDict[str, float]:
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy and macro F1, on demand also per class and as confusion matrix.

    Args:
        lab2cname: class name of each label, needed for ``TEST.PER_CLASS_RESULT``.
    """

    def __init__(self, cfg: CfgNode, lab2cname: Mapping[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(cfg)
        assert lab2cname is not None or not cfg.TEST.PER_CLASS_RESULT, "TEST.PER_CLASS_RESULT needs lab2cname"
        self._lab2cname = lab2cname or {}
        self.reset()

    def reset(self) -> None:
        self._labels: list[Tensor] = []
        self._predictions: list[Tensor] = []

    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Add a batch: model output (logits ``[B, C]``) and ground truth (labels ``[B]``)."""
        self._predictions.append(mo.max(1)[1])
        self._labels.append(gt)

    def evaluate(self) -> OrderedDict[str, float]:
        """Print the results and return them in per cent; ``accuracy`` comes first.

        Raises:
            ValueError: no image was processed.
        """
        if not any(len(batch) for batch in self._labels):
            raise ValueError("nothing to evaluate: not one image was processed. Is this split of the dataset empty?")
        labels, predictions = torch.cat(self._labels).cpu(), torch.cat(self._predictions).cpu()
        total, correct = len(labels), int((predictions == labels).sum())
        accuracy = 100.0 * correct / total
        results = OrderedDict(
            accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=100.0 * macro_f1(predictions, labels)
        )
        counts = {"total": f"{total:,}", "correct": f"{correct:,}"}
        shares = {name.removesuffix("_rate"): f"{value:.1f}%" for name, value in results.items()}
        print("\n".join(["=> result", *(f"* {name}: {value}" for name, value in (counts | shares).items())]))
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._print_classes(predictions, labels)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion_matrix(predictions, labels)
        return results

    def _print_classes(self, predictions: Tensor, labels: Tensor) -> float:
        """One line per class that occurs; the mean of their accuracies."""
        print("=> per-class result")
        accuracies = []
        for label in labels.unique().tolist():
            hits = predictions[labels == label] == label
            total, correct = len(hits), int(hits.sum())
            accuracies.append(100.0 * correct / total)
            # From a file: no character of it acts on the terminal.
            name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in self._lab2cname[label])
            print(f"* class: {label} ({name})\ttotal: {total:,}\tcorrect: {correct:,}\tacc: {accuracies[-1]:.1f}%")
        average = sum(accuracies) / len(accuracies)
        print(f"* average: {average:.1f}%")
        return average

    def _save_confusion_matrix(self, predictions: Tensor, labels: Tensor) -> None:
        path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        mkdir_if_missing(self.cfg.OUTPUT_DIR)
        torch.save(confusion_matrix(predictions, labels), path)
        print(f"Confusion matrix is saved to {path}")


def macro_f1(predictions: Tensor, labels: Tensor) -> float:
    """Mean over the classes in ``labels`` of F1 = 2 TP / (2 TP + FP + FN), in [0, 1]."""
    scores = []
    for label in labels.unique():
        predicted, actual = predictions == label, labels == label
        scores.append(2 * int((predicted & actual).sum()) / int(predicted.sum() + actual.sum()))
    return sum(scores) / len(scores)


def confusion_matrix(predictions: Tensor, labels: Tensor) -> Tensor:
    """Share of each true class (row) that was taken for each class (column), float64 ``[K, K]``.

    The K classes are those that occur as label or as prediction, in ascending order; a row without images is 0.
    """
    classes, indices = torch.cat([labels, predictions]).unique(return_inverse=True)
    rows, columns = indices.chunk(2)
    size = len(classes)
    counts = torch.bincount(rows * size + columns, minlength=size * size).view(size, size).double()
    return counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
