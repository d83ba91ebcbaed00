"""Registry of datasets, and the function that builds the one a config names."""

from __future__ import annotations

from typing import Any

from dassl.utils import Registry, check_availability

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg: Any) -> Any:
    """Build the dataset ``cfg.DATASET.NAME``; an unknown name is a ValueError that lists the known ones."""
    name = cfg.DATASET.NAME
    check_availability(name, DATASET_REGISTRY.registered_names())
    if cfg.VERBOSE:
        print(f"Loading dataset: {name}")
    return DATASET_REGISTRY.get(name)(cfg)
