"""Base of the data sets of clips."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase


class VideoDataset(DatasetBase):
    """A data set whose items are :class:`~anprompt.video.items.VideoDatum`."""


def is_video_data(name: str) -> bool:
    """Whether ``DATASET.NAME`` is registered as a data set of clips."""
    known = name in DATASET_REGISTRY.registered_names()
    found = DATASET_REGISTRY.get(name) if known else None  # a function may be registered, too
    return isinstance(found, type) and issubclass(found, VideoDataset)
