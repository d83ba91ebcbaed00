"""What a run leaves behind as ``results.json``: unrounded counts, calibration, cost and the means to repeat it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anprompt._version import __version__

CALIBRATION_BINS = 15  # of equal width, as in Guo et al. (ICML 2017)


class Tally:
    """Hits of every head over one pass through a test set; of the headline head also per class and calibration.

    Counts stay on the device until they are asked for.

    Args:
        headline: name of the head whose accuracy is the result.
        classes: C.
    """

    def __init__(self, headline: str, classes: int, device: torch.device):
        self.headline = headline
        self.hits: dict[str, Tensor] = {}
        self.class_hits = torch.zeros(classes, dtype=torch.long, device=device)
        self.class_totals = torch.zeros(classes, dtype=torch.long, device=device)
        # per bin: images, correct ones, sum of confidences
        self.bins = torch.zeros(CALIBRATION_BINS, 3, dtype=torch.float64, device=device)

    def add(self, heads: Mapping[str, Tensor], labels: Tensor) -> None:
        """Count one batch: logits ``[B, C]`` by head, labels ``[B]``."""
        for head, logits in heads.items():
            hits = logits.argmax(dim=1) == labels
            self.hits[head] = self.hits.get(head, 0) + hits.sum()
            if head == self.headline:
                self.add_headline(logits, hits, labels)

    def add_headline(self, logits: Tensor, hits: Tensor, labels: Tensor) -> None:
        self.class_totals += torch.bincount(labels, minlength=len(self.class_totals))
        self.class_hits += torch.bincount(labels[hits], minlength=len(self.class_hits))
        confidence = logits.double().softmax(dim=1).amax(dim=1)
        # A bin is (low, high]: a confidence of exactly one belongs to the last.
        index = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
        self.bins.index_add_(0, index, torch.stack([torch.ones_like(confidence), hits.double(), confidence], dim=1))

    @property
    def total(self) -> int:
        return int(self.class_totals.sum())

    def correct(self) -> dict[str, int]:
        """Hits by head."""
        return {head: int(hits) for head, hits in self.hits.items()}

    def calibration_error(self) -> float:
        """Expected calibration error in per cent: |accuracy - confidence| per bin, weighted by the bin's share."""
        count, correct, confidence = self.bins.T
        return 100 * float((correct - confidence).abs().sum() / count.sum().clamp(min=1))

    def per_class(self, classnames: Sequence[str]) -> list[dict[str, Any]]:
        """``{"class", "total", "correct"}`` of every class, in order of the labels."""
        totals, hits = self.class_totals.tolist(), self.class_hits.tolist()
        return [
            {"class": name, "total": total, "correct": correct}
            for name, total, correct in zip(classnames, totals, hits, strict=True)
        ]


def subset_digest(items: Iterable[Any], root: str) -> str:
    """sha256 of a list of images (paths below the data root, and labels): two runs saw the same subset or not."""
    digest, root = hashlib.sha256(), os.path.expanduser(root)
    for item in items:
        path = os.path.relpath(item.impath, root) if root else item.impath
        digest.update(f"{path.replace(os.sep, '/')}\t{item.label}\n".encode())
    return digest.hexdigest()


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 of what a training has learned: names, types, shapes and bytes. Two results are of one model or not."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}\t{tensor.dtype}\t{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    packages = ("av", "numpy", "open_clip_torch", "torch", "torchvision", "pillow")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"anprompt": __version__, "python": platform.python_version(), **found}


def peak_memory(device: torch.device) -> dict[str, Any]:
    """Largest memory so far: of the tensors on a CUDA device, else of the whole process where the system tells."""
    if device.type == "cuda":
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(device), "memory_of": "cuda"}
    try:
        import resource
    except ImportError:  # Windows
        return {"peak_memory_bytes": None, "memory_of": "process"}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_memory_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "memory_of": "process"}
