"""Training images, decoded once and kept in memory: a few-shot subset is small, and its every epoch reads it again."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dassl.data import DatasetWrapper
from dassl.utils import read_image

GB = 10**9
THREADS = 8  # for reading and decoding, which let other threads run
BLOCK = 1000  # images whose sizes are looked at before asking whether that is too much already
PATIENCE = 1.0  # seconds before a progress bar appears


def in_threads(function: Callable[[Any], Any], values: Sequence[Any], what: str) -> Iterator[Any]:
    """Results of ``function`` in order, with a progress bar if it takes long."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from tqdm(pool.map(function, values), desc=what, total=len(values), delay=PATIENCE)


def size_of(count: int) -> str:
    """``"3.1 GB"``, or MB below a tenth of that."""
    return f"{count / GB:,.1f} GB" if count >= GB / 10 else f"{count / 10**6:,.1f} MB"


def is_plain(dataset: DatasetWrapper) -> bool:
    """Whether an item is one image to which one transform is applied once."""
    options = dataset.cfg.DATALOADER
    views = options.K_TRANSFORMS if dataset.is_train else 1
    return callable(dataset.transform) and views == 1 and not options.RETURN_IMG0


class Images(DatasetWrapper):
    """Dassl's dataset, for subclasses that get at decoded images in another way."""

    @classmethod
    def like(cls, dataset: DatasetWrapper) -> Any:
        return cls(dataset.cfg, dataset.data_source, dataset.transform, dataset.is_train)

    def sample(self, index: int, image: Any) -> dict[str, Any]:
        """Item ``index`` as Dassl has it, with ``image`` in it."""
        item = self.data_source[index]
        return {"label": item.label, "domain": item.domain, "impath": item.impath, "index": index, "img": image}


class KeptImages(Images):
    """Dassl's dataset with images that :meth:`prepare` decodes; the transform is applied anew for every item.

    Nothing is kept where that would take more than ``DATALOADER.KEEP_TRAIN_GB``, or for workers that are not forked (on
    macOS, Windows, Python 3.14): they do not share the memory of this process.
    """

    kept: dict[str, np.ndarray] | None = None  # path to uint8 [H, W, 3]
    prepared = False

    def prepare(self) -> None:
        """Decode all images, the first time: to be called before workers are started.

        Raises:
            OSError: an image is damaged, with the message of ``read_image``.
        """
        if self.prepared:
            return
        self.prepared = True
        if self._is_worth_it() and self._fits():
            paths = self._paths()
            pixels = in_threads(lambda path: np.asarray(read_image(path)), paths, "decoding training images")
            self.kept = dict(zip(paths, pixels, strict=True))

    def _is_worth_it(self) -> bool:
        if self.cfg.OPTIM.MAX_EPOCH == 1:  # reads every image once anyway, and in workers
            return False
        forked = multiprocessing.get_start_method() == "fork"
        return is_plain(self) and (forked or not self.cfg.DATALOADER.NUM_WORKERS)

    def _fits(self) -> bool:
        limit = self.cfg.DATALOADER.KEEP_TRAIN_GB * GB
        if not limit:
            return False
        paths, needed = self._paths(), 0
        try:
            for start in range(0, len(paths), BLOCK):  # a whole data set of a million images need not be looked at
                block = paths[start : start + BLOCK]
                needed += sum(in_threads(decoded_size, block, "reading sizes of training images"))
                if needed > limit:
                    break
        except Exception:  # missing or damaged: read_image will name it when its turn comes
            return False
        if needed > limit:
            print(
                "Training images are decoded anew in every epoch: keeping them takes more than the "
                f"{size_of(limit)} that DATALOADER.KEEP_TRAIN_GB allows"
            )
        return needed <= limit

    def _paths(self) -> list[str]:
        return sorted({item.impath for item in self.data_source})

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.kept is None:
            return super().__getitem__(index)
        image = Image.fromarray(self.kept[self.data_source[index].impath])  # a copy, whatever the transform does to it
        return self.sample(index, self.transform(image))

    def __getstate__(self) -> dict[str, Any]:
        """For workers that are not forked: a copy of all images for each would be too much."""
        return {**self.__dict__, "kept": None}


def decoded_size(path: str) -> int:
    """Bytes of the image in RGB, from the file's header."""
    with Image.open(path) as image:
        return 3 * image.width * image.height
