"""Samplers. Those that balance domains or classes draw from Python's ``random``, as runs of the reference did."""

from __future__ import annotations

import random
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import RandomSampler, Sampler, SequentialSampler


class _EpochSampler(Sampler):
    """A sampler whose epochs differ in length; ``len`` is that of one epoch drawn at construction."""

    def __init__(self) -> None:
        self.length = len(self._draw_epoch())

    def _draw_epoch(self) -> list[int]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return iter(self._draw_epoch())

    def __len__(self) -> int:
        return self.length


class RandomDomainSampler(_EpochSampler):
    """Batches made of ``n_domain`` random domains with equally many random images of each.

    A domain with fewer images than its share of a batch does no harm until it is drawn, which then ends the run.

    Args:
        data_source: items with a ``domain``.
        batch_size: images per batch, a multiple of ``n_domain``.
        n_domain: domains per batch; None, 0 or less means all.

    Raises:
        ValueError: the batch cannot be shared equally, or a domain that is too small for its share was drawn.
    """

    def __init__(self, data_source: Sequence[Any], batch_size: int, n_domain: int | None = None) -> None:
        self.indices = _index_by(data_source, "domain")
        self.domains = list(self.indices)
        known = len(self.domains)
        self.n_domain = n_domain if n_domain and n_domain > 0 else known
        if batch_size % self.n_domain or self.n_domain > known:
            raise ValueError(
                f"Cannot share a batch of {batch_size} equally among {self.n_domain} of {known} domains: "
                "choose a BATCH_SIZE that is a multiple of N_DOMAIN, and an N_DOMAIN that the data has"
            )
        self.batch_size = batch_size
        self.n_img_per_domain = batch_size // self.n_domain
        super().__init__()
        small = self._small_domains()
        if small:
            warnings.warn(
                f"A batch that draws one of the domains {small} ends the run: {self._too_few()}", stacklevel=2
            )

    def _small_domains(self) -> list[int]:
        return [domain for domain, indices in self.indices.items() if len(indices) < self.n_img_per_domain]

    def _too_few(self) -> str:
        return f"they have fewer than the {self.n_img_per_domain} images of one batch; lower BATCH_SIZE"

    def _choose_domains(self) -> list[int]:
        return random.sample(self.domains, self.n_domain)

    def _draw_epoch(self) -> list[int]:
        share = self.n_img_per_domain
        remaining = {domain: list(indices) for domain, indices in self.indices.items()}
        epoch: list[int] = []
        complete = True  # whether every domain drawn so far still has the images of another batch
        while complete:
            for domain in self._choose_domains():
                if len(remaining[domain]) < share:
                    raise ValueError(f"Domains {self._small_domains()}: {self._too_few()}")
                drawn = random.sample(remaining[domain], share)
                epoch += drawn
                taken = set(drawn)
                remaining[domain] = [index for index in remaining[domain] if index not in taken]
                complete &= len(remaining[domain]) >= share
        return epoch


class SeqDomainSampler(RandomDomainSampler):
    """Batches made of equally many random images of every domain, domains in sorted order."""

    def __init__(self, data_source: Sequence[Any], batch_size: int) -> None:
        super().__init__(data_source, batch_size, n_domain=0)

    def _choose_domains(self) -> list[int]:
        return sorted(self.domains)


class RandomClassSampler(_EpochSampler):
    """Batches made of ``n_ins`` images of each of ``batch_size // n_ins`` random classes.

    A class with fewer than ``n_ins`` images is filled up by drawing with replacement (numpy's global generator).

    Args:
        data_source: items with a ``label``.
        batch_size: images per batch, at least ``n_ins``.
        n_ins: images per class.

    Raises:
        ValueError: the batch is too small for one class, or the data has too few classes for one batch.
    """

    def __init__(self, data_source: Sequence[Any], batch_size: int, n_ins: int) -> None:
        if batch_size < n_ins:
            raise ValueError(f"BATCH_SIZE ({batch_size}) must be at least N_INS ({n_ins})")
        self.indices = _index_by(data_source, "label")
        self.labels = list(self.indices)
        self.n_ins = n_ins
        self.ncls_per_batch = batch_size // n_ins
        if len(self.labels) < self.ncls_per_batch:
            raise ValueError(
                f"A batch of {batch_size} with {n_ins} images per class needs {self.ncls_per_batch} classes, "
                f"the data has {len(self.labels)}: lower BATCH_SIZE or raise N_INS"
            )
        super().__init__()

    def _chunks(self, label: int) -> list[list[int]]:
        indices = list(self.indices[label])
        if len(indices) < self.n_ins:
            indices = np.random.choice(indices, size=self.n_ins, replace=True).tolist()  # noqa: NPY002 (global by contract)
        random.shuffle(indices)
        full = len(indices) - len(indices) % self.n_ins
        return [indices[start : start + self.n_ins] for start in range(0, full, self.n_ins)]

    def _draw_epoch(self) -> list[int]:
        chunks = {label: self._chunks(label) for label in self.labels}
        available = list(self.labels)
        epoch: list[int] = []
        while len(available) >= self.ncls_per_batch:
            for label in random.sample(available, self.ncls_per_batch):
                epoch += chunks[label].pop(0)
                if not chunks[label]:
                    available.remove(label)
        return epoch


def build_sampler(
    sampler_type: str,
    cfg: Any = None,
    data_source: Any = None,
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler:
    """Build a sampler by name; an unknown name is a ValueError. ``cfg`` is accepted for compatibility and unused."""
    builders = {
        "RandomSampler": lambda: RandomSampler(data_source),
        "SequentialSampler": lambda: SequentialSampler(data_source),
        "RandomDomainSampler": lambda: RandomDomainSampler(data_source, batch_size, n_domain),
        "SeqDomainSampler": lambda: SeqDomainSampler(data_source, batch_size),
        "RandomClassSampler": lambda: RandomClassSampler(data_source, batch_size, n_ins),
    }
    if sampler_type not in builders:
        raise ValueError(f"Unknown sampler {sampler_type!r}: choose one of {', '.join(builders)}")
    return builders[sampler_type]()


def _index_by(data_source: Sequence[Any], attribute: str) -> dict[int, list[int]]:
    """Positions in ``data_source`` grouped by an attribute of the items, groups in order of first appearance."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(data_source):
        groups[getattr(item, attribute)].append(index)
    return dict(groups)
