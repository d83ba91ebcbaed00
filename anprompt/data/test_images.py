"""Test images, decoded and resized once per machine: a memory-mapped file that all later evaluations read.

The file's name is a digest of all that its content depends on, the bytes of the image files among it, which are read
every time (decoding them takes far longer): it cannot be stale. The first evaluation writes it as it goes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, features
from torch.utils.data import DataLoader
from torchvision import transforms as T
from tqdm import tqdm

from anprompt.data.train_images import Images, in_threads, is_plain, size_of
from anprompt.data.workers import name_shortage
from anprompt.utils import distributed
from anprompt.utils.files import held, is_held, remove_leftovers
from dassl.utils import read_image

LAYOUT = "2"  # to be raised where what is stored for the same images changes
DECODERS = ("jpg", "libjpeg_turbo", "jpg_2000", "webp", "libtiff")
PROBLEM = "cache problem"  # key of a batch: why an image could not be stored, "" where it was
PART = re.compile(r"[0-9a-f]{40}\.[0-9a-f]{32}\.part")  # names of unfinished files


def cache_folder() -> Path:
    """``anprompt/test_images`` in the user's folder for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anprompt" / "test_images"


# ---------------------------------------------------------------------------------------------- what is stored


class Steps(NamedTuple):
    """A test transform in two parts."""

    fixed: T.Compose  # PIL image to PIL image of one size, the same for the same image
    rest: T.Compose  # whatever follows
    size: tuple[int, int]  # [H, W] in between


def split_transform(transform: Any) -> Steps | None:
    """``transform`` in two parts; None where nothing is known of its beginning."""
    steps = transform.transforms if type(transform) is T.Compose else []
    known = next((place for place, step in enumerate(steps) if type(step) not in (T.Resize, T.CenterCrop)), len(steps))
    size = steps[known - 1].size if known else None
    if not isinstance(size, list | tuple) or len(size) != 2:  # Resize of the shorter edge
        return None
    return Steps(T.Compose(steps[:known]), T.Compose(steps[known:]), (size[0], size[1]))


def fingerprint(path: str) -> tuple[bytes, tuple[int, int]]:
    """Digest of a file's bytes; size and time of its last change."""
    with open(path, "rb") as file:  # noqa: PTH123
        status = os.fstat(file.fileno())
        return hashlib.sha256(file.read()).digest(), (status.st_size, status.st_mtime_ns)


def stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def digest_of(files: list[bytes], fixed: T.Compose) -> str:
    """Of all that the stored images depend on."""
    versions = [PIL.__version__, torchvision.__version__, *(str(features.version(name)) for name in DECODERS)]
    whole = hashlib.sha256("\n".join([LAYOUT, *versions, repr(fixed)]).encode())
    for file in files:
        whole.update(file)
    return whole.hexdigest()[:40]


# ---------------------------------------------------------------------------------------------- the file


class CacheFile:
    """One ``.npy`` file of uint8 ``[N, H, W, 3]``, and the one of this process that is to take its place."""

    def __init__(self, path: Path, shape: tuple[int, int, int, int]):
        self.path = path
        self.shape = shape
        self.part: Path | None = None
        self.hold = contextlib.ExitStack()  # the lock on it, of the process that has made it
        self.offset = 0  # bytes before the first image

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:]))

    @property
    def total_bytes(self) -> int:
        return self.shape[0] * self.row_bytes

    def read(self) -> np.ndarray | None:
        """The images, memory-mapped; None where there is no such file, or not as it has to be."""
        try:
            images = np.load(self.path, mmap_mode="r")
            size = self.path.stat().st_size
        except (OSError, ValueError, EOFError):
            return None
        as_written = isinstance(images, np.memmap) and images.dtype == np.uint8 and images.flags.c_contiguous
        right_size = as_written and images.shape == self.shape and size == images.offset + self.total_bytes
        return images if right_size else None

    def is_being_written(self) -> bool:
        """Whether another process is at it. Two at a time would do no harm, but take the room twice."""
        return any(map(is_held, self.path.parent.glob(f"{self.path.stem}.*.part")))

    def begin(self) -> None:
        """Make room for all images.

        Raises:
            OSError: there is none, or nothing can be written there.
        """
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder, PART)
        free = shutil.disk_usage(folder).free
        if free < 2 * self.total_bytes:  # a disk filled to the brim serves nobody
            raise OSError(f"it takes {size_of(self.total_bytes)}, and only {size_of(free)} are free")
        self.part = folder / f"{self.path.stem}.{uuid.uuid4().hex}.part"
        self.hold.enter_context(held(self.part))
        self.offset = np.lib.format.open_memmap(self.part, mode="w+", dtype=np.uint8, shape=self.shape).offset
        reserve(self.part, self.offset + self.total_bytes)

    def write(self, index: int, image: Image.Image) -> None:
        """Store one image. From any process; not through the map, where a full disk would kill it."""
        if self.part is None:
            return
        with self.part.open("r+b", buffering=0) as file:
            file.seek(self.offset + index * self.row_bytes)
            pixels = np.ascontiguousarray(image)
            if pixels.shape != self.shape[1:]:
                raise OSError(f"an image of {self.shape[1:]} was expected, got {pixels.shape}")
            if file.write(pixels.data) != pixels.nbytes:
                raise OSError("the disk is full")

    def finish(self) -> None:
        """Let the complete file take its place."""
        if self.part is None:
            return
        with self.part.open("r+b") as file:
            os.fsync(file.fileno())  # or a power failure might leave it there with zeros in it
        os.replace(self.part, self.path)
        self.part = None
        self.hold.close()

    def abandon(self) -> None:
        if self.part is not None:
            with contextlib.suppress(OSError):
                self.part.unlink()
        self.part = None
        self.hold.close()

    def __getstate__(self) -> dict[str, Any]:
        """A worker that is not forked writes, too, but the lock stays where it is."""
        return {**self.__dict__, "hold": contextlib.ExitStack()}


def reserve(file: Path, size: int) -> None:
    """Take the room now, so that others who ask how much is free count it in. OSError: there is not enough."""
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise


# ---------------------------------------------------------------------------------------------- dataset and loader


class CachedImages(Images):
    """Dassl's dataset with images from the cache, where :meth:`prepare` has found them.

    While ``file.part`` is set, the images are decoded and stored, and items have the additional key ``PROBLEM``.
    """

    steps: Steps | None = None
    file: CacheFile | None = None
    images: np.ndarray | None = None
    prepared = False

    def prepare(self) -> None:
        """Look into the cache, and begin to fill it if the images are not there."""
        if not self.prepared:
            self.prepared = True
            self.steps = split_transform(self.transform)
            if self.steps is not None and is_plain(self) and self.cfg.DATALOADER.CACHE_TEST:
                self._open(self.steps)
        if self.file is None or self.images is not None or self.file.part is not None:
            return
        self.images = self.file.read()
        if self.images is not None:
            self._say(f"Test images: {len(self.images):,} decoded ones are read from {self.file.path}")
            return
        if self.file.is_being_written() or not distributed.is_main():  # this process decodes until they are there
            return
        try:
            self.file.begin()
        except OSError as error:
            self.give_up(error)

    def _open(self, steps: Steps) -> None:
        paths = [item.impath for item in self.data_source]
        try:
            prints = list(in_threads(fingerprint, paths, "looking for cached test images"))
            folder = cache_folder()
        except (OSError, RuntimeError):  # read_image will name the file; or there is no home folder
            return
        self.stamps = [changed for _, changed in prints]
        name = digest_of([content for content, _ in prints], steps.fixed)
        self.file = CacheFile(folder / f"{name}.npy", (len(paths), *steps.size, 3))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.file is None or self.steps is None:
            return super().__getitem__(index)
        if self.images is not None:
            return self.sample(index, self.steps.rest(Image.fromarray(self.images[index])))
        if self.file.part is None:
            return super().__getitem__(index)
        image = self.steps.fixed(read_image(self.data_source[index].impath))
        return {**self.sample(index, self.steps.rest(image)), PROBLEM: self._store(index, image)}

    def _store(self, index: int, image: Image.Image) -> str:
        try:
            self.file.write(index, image)  # type: ignore[union-attr]
        except OSError as error:
            return str(error) or type(error).__name__
        return ""

    def publish(self) -> None:
        """All images are stored: others may read them, and so does the next evaluation of this process."""
        if self.file is None:
            return
        try:
            if self.stamps != [stamp(item.impath) for item in self.data_source]:
                raise OSError("image files were changed meanwhile")
            self.file.finish()
        except OSError as error:
            self.give_up(error)
            return
        self.images = self.file.read()
        self._say(f"Test images: {len(self.data_source):,} decoded ones are now kept in {self.file.path}")

    def give_up(self, reason: object) -> None:
        """Decode for every evaluation, as without a cache."""
        if self.file is not None:
            self.file.abandon()
            tqdm.write(
                f"Test images are not kept in {self.file.path.parent} ({reason}): they are decoded for every evaluation"
            )
        self.file = None

    def _say(self, what: str) -> None:
        size = size_of(self.file.total_bytes) if self.file else ""
        tqdm.write(f"{what} ({size}; DATALOADER.CACHE_TEST False switches this off)")

    def __getstate__(self) -> dict[str, Any]:
        """A worker that is not forked opens the file itself."""
        return {**self.__dict__, "images": None, "mapped": self.images is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        mapped = state.pop("mapped")
        self.__dict__.update(state)
        self.images = self.file.read() if mapped and self.file else None  # None: removed meanwhile, to be decoded again


class CachingLoader(DataLoader):
    """A DataLoader of :class:`CachedImages`. The first complete pass fills the cache; one left early leaves nothing."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        images: CachedImages = self.dataset  # type: ignore[assignment]
        images.prepare()
        batches = name_shortage(super().__iter__(), self.num_workers)
        return self._filling(images, batches) if images.file and images.file.part else batches

    def _filling(self, images: CachedImages, batches: Iterator[Any]) -> Iterator[Any]:
        stored = torch.zeros(len(images), dtype=torch.bool)
        try:
            for batch in batches:
                problems = list(filter(None, batch.pop(PROBLEM, [])))
                if problems and images.file and images.file.part:
                    images.give_up(problems[0])
                stored[batch["index"]] = True
                yield batch
            if images.file and stored.all():
                images.publish()
        finally:
            if images.file:
                images.file.abandon()
