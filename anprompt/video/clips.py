"""From a list of clips to the items of a batch, as Dassl's wrapper makes them of images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from anprompt.data.loaders import NamingLoader, StayingLoader, arguments
from anprompt.utils.text import printable
from anprompt.video.decoding import Clip, VideoError, open_video
from anprompt.video.items import locate
from anprompt.video.sampling import test_indices, train_indices, train_indices_vifi

SAMPLINGS = {"segment": train_indices, "segment_vifi": train_indices_vifi}

logger = logging.getLogger(__name__)


def with_staying_workers(loader: Any) -> Any:
    """``loader`` with workers that stay between epochs, where it is one of clips; as it is where it is not."""
    return StayingLoader(loader.dataset, **arguments(loader)) if _is_of_clips(loader) else loader


def with_named_clips(loader: Any) -> Any:
    """``loader`` whose errors are one line that names the clip, where it is one of clips; as it is where it is not."""
    return NamingLoader(loader.dataset, **arguments(loader)) if _is_of_clips(loader) else loader


def _is_of_clips(loader: Any) -> bool:
    return type(loader) is DataLoader and isinstance(loader.dataset, VideoDatasetWrapper)


class VideoDatasetWrapper(Dataset):
    """Turns a list of clips into dictionaries with ``label``, ``domain``, ``impath``, ``index`` and ``img``.

    ``img`` is ``[T, 3, H, W]``, or ``[V, T, 3, H, W]`` in tests of several views: views in time one after the other,
    and for each those in space. Draws come from PyTorch's global generator, which a loader seeds in its workers.

    In training, another clip of the list is drawn in place of one that cannot be read, ``VIDEO.MAX_RETRIES`` times at
    most; its label and path are the item's. Each is told in the log. In evaluation it is an error.

    Args:
        cfg: the config.
        data_source: list of :class:`~anprompt.video.items.VideoDatum`, or of other items with their attributes.
        transform: from uint8 ``[T, H, W, 3]`` to a tensor (see :mod:`~anprompt.video.transforms`); None: that itself.
        is_train: whether frames are drawn, and clips replaced.
    """

    def __init__(
        self,
        cfg: Any,
        data_source: Sequence[Any],
        transform: Callable[[np.ndarray], Any] | None = None,
        is_train: bool = False,
    ):
        self.cfg, self.data_source = cfg, data_source
        self.transform, self.is_train = transform, is_train
        # In memory that workers share: what each of them meets counts.
        self._failures = torch.zeros(len(data_source), dtype=torch.int32).share_memory_()

    @property
    def broken(self) -> dict[str, int]:
        """How often each clip could not be read so far, by its path."""
        met = self._failures.nonzero().flatten().tolist()
        return {self.data_source[index].impath: int(self._failures[index]) for index in met}

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for retries_left in range(self.cfg.VIDEO.MAX_RETRIES if self.is_train else 0, -1, -1):
            try:
                return self._item(index)
            except (VideoError, OSError) as error:
                self._failures[index] += 1
                if not retries_left:
                    raise self._final(error) from error
                instead = int(torch.randint(len(self), ()))
                name = printable(self.data_source[instead].impath)
                logger.warning("Warning: %s; another clip was drawn instead, %s", printable(error), name)
                index = instead
        raise AssertionError("unreachable")

    def _final(self, error: Exception) -> Exception:
        tried = self.cfg.VIDEO.MAX_RETRIES + 1
        if not self.is_train or tried == 1:
            return error
        return ValueError(f"{tried} clips in a row cannot be read (VIDEO.MAX_RETRIES), the last one: {error}")

    def _item(self, index: int) -> dict[str, Any]:
        item = self.data_source[index]
        path = locate(item.impath, self.cfg.VIDEO.BACKEND)
        with open_video(path, getattr(item, "num_frames", -1)) as clip:
            frames = self._train_frames(clip) if self.is_train else self._test_frames(clip)
        facts = {"label": item.label, "domain": item.domain, "impath": item.impath}
        return {**facts, "index": index, "img": frames}

    def _train_frames(self, clip: Clip) -> Any:
        video = self.cfg.VIDEO
        frames = clip.read(SAMPLINGS[video.TRAIN_SAMPLING](len(clip), video.NUM_FRAMES))
        return frames if self.transform is None else self.transform(frames)

    def _test_frames(self, clip: Clip) -> Any:
        """Frames of all views are read at once, since they lie between each other."""
        video = self.cfg.VIDEO
        views = test_indices(len(clip), video.NUM_FRAMES, video.TEST_SAMPLING, video.TEST_CLIPS)
        frames = clip.read([index for view in views for index in view])
        if self.transform is None:
            return frames
        made = self.transform(frames)
        if video.TEST_CLIPS == 1:
            return made
        # [clips * T, ...] or [crops, clips * T, ...]
        crops = made if made.dim() == 5 else made[None]
        crops = crops.unflatten(1, (video.TEST_CLIPS, video.NUM_FRAMES))
        return crops.transpose(0, 1).flatten(0, 1)
