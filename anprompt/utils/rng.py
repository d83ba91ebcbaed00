"""Random generators, the global ones and a run's own: kept as plain data, and continued from there."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def rng_state() -> dict[str, Any]:
    """State of all global random generators, as plain data."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002  (Dassl seeds the global one)
    numpy_state["state"]["key"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": numpy_state,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Continue the global random generators where :func:`rng_state` saw them."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = {**state["numpy"], "state": dict(state["numpy"]["state"])}
    numpy_state["state"]["key"] = numpy_state["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the global random generators of the CPU as they were. Those of a GPU are not asked."""
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002


class NamedGenerators:
    """A run's own generators on the CPU, one per purpose: what one draws, neither the others nor the global ones see.

    Args:
        seed: each generator's start follows from it and the name; negative: from nothing that can be repeated.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._made: dict[str, torch.Generator] = {}
        self._states: dict[str, Tensor] = {}  # of generators that nobody has asked for yet

    def __getitem__(self, name: str) -> torch.Generator:
        """The generator of that name, always the same object."""
        if name not in self._made:
            generator = self._made[name] = torch.Generator()
            if name in self._states:
                generator.set_state(self._states.pop(name))
            elif self.seed < 0:
                generator.seed()
            else:
                digest = hashlib.sha256(f"{name}, seed {self.seed}".encode()).digest()
                generator.manual_seed(int.from_bytes(digest[:7], "big"))
        return self._made[name]

    def state(self) -> dict[str, Tensor]:
        """Plain data, by name."""
        return self._states | {name: generator.get_state() for name, generator in self._made.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue where :meth:`state` saw them."""
        self._states = dict(state)
        for name, generator in self._made.items():
            if name in self._states:
                generator.set_state(self._states.pop(name))
