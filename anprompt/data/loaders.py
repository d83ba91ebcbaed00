"""The loaders of a run: those that Dassl made, with images decoded once and workers that stay between epochs.

What they yield and what they draw from the random generators is bit for bit what Dassl's own loaders would.
"""

from __future__ import annotations

import hashlib
import inspect
import random
import weakref
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info
from torchvision import transforms as T

from anprompt.data.device_images import DeviceImages
from anprompt.data.test_images import CachedImages, CachingLoader
from anprompt.data.train_images import KeptImages
from anprompt.data.workers import name_shortage
from anprompt.utils.rng import kept_generators
from dassl.data import DatasetWrapper

try:
    from torch.utils.data._utils.worker import _generate_state as numpy_seed
except ImportError:  # private to PyTorch: without it, workers are started anew in every epoch
    numpy_seed = None  # type: ignore[assignment]

ARGUMENTS = (
    "batch_size", "sampler", "drop_last", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn",
    "multiprocessing_context", "generator", "prefetch_factor",
)  # fmt: skip
WITHOUT_WORKERS = {
    "num_workers": 0, "pin_memory": False, "timeout": 0, "multiprocessing_context": None, "prefetch_factor": None,
}  # fmt: skip
WITHOUT_DRAWS = (T.Resize, T.CenterCrop, T.ToTensor, T.Normalize)
SeededIndex = tuple[int, int, int]  # index of the item; epoch of these workers, from 0; its base seed
OWN_WORKERS = 2  # at most: they load little, and an epoch that ends in the middle of a pass ends them
SEEDS = 2**32  # as many as NumPy's generator takes


def with_kept_images(loader: Any) -> Any:
    """``loader`` with images kept in memory and workers that stay; as it is where it is not one of Dassl's."""
    if not is_dassls(loader):
        return loader
    return StayingLoader(KeptImages.like(loader.dataset), **arguments(loader))


def with_device_images(loader: Any, device: torch.device) -> Any:
    """``loader`` with images kept and augmented on ``device``, without workers; as it is where it is not Dassl's."""
    if not is_dassls(loader):
        return loader
    images = DeviceImages.like(loader.dataset)
    images.device = device
    return DeviceLoader(images, **arguments(loader))


def with_cached_images(loader: Any) -> Any:
    """``loader`` with a cache of decoded images on disk; as it is where it is not one of Dassl's."""
    if not is_dassls(loader) or loader.collate_fn is not default_collate:
        return loader
    return CachingLoader(CachedImages.like(loader.dataset), **arguments(loader))


def with_own_draws(loader: DataLoader, seed: int) -> StayingLoader:
    """``loader`` with an order and an augmentation that follow from (seed, epoch) alone: see :class:`OwnOrder`.

    Batches of other loaders are those of a run without it, with and without workers, and of any number of them.
    """
    order = OwnOrder(len(loader.dataset), seed)  # type: ignore[arg-type]
    options = arguments(loader) | {"sampler": order, "generator": torch.Generator()}  # its base seed is drawn here
    options["num_workers"] = min(loader.num_workers, OWN_WORKERS)
    return StayingLoader(OwnDraws(loader.dataset), **options)


def stop_workers(loader: Any) -> None:
    """End the workers that stay, if ``loader`` has any: they would idle until it is gone."""
    if isinstance(loader, StayingLoader):
        loader.stop()


def endless(loader: Any) -> Iterator[Any]:
    """The batches of ``loader`` over and over; each round is a new pass, with new draws."""
    while True:
        yield from loader


def drawing_workers(loader: Any) -> int | None:
    """Number of workers among which the draws of augmentation are shared out, 0 where this process makes them all.

    Another number gives other draws. None: it does not matter, for nothing is drawn, or the GPU augments.
    """
    images: Any = getattr(loader, "dataset", None)
    if isinstance(images, OwnDraws):
        return None
    if isinstance(loader, DeviceLoader):
        images.prepare()
        if images.on_device is not None:
            return None
    transform: Any = getattr(images, "transform", None)
    steps = transform.transforms if type(transform) is T.Compose else [transform]
    if isinstance(images, DatasetWrapper) and all(type(step) in WITHOUT_DRAWS for step in steps):
        return None
    return getattr(loader, "num_workers", None)


def is_dassls(loader: Any) -> bool:
    """Whether it is a loader as ``dassl.data.DataManager`` makes it: trainers may have their own."""
    plain = type(loader) is DataLoader and loader.batch_size is not None
    return plain and type(loader.dataset) is DatasetWrapper


def arguments(loader: DataLoader) -> dict[str, Any]:
    """What ``loader`` was made with, but for its dataset."""
    return {name: getattr(loader, name) for name in ARGUMENTS}


class NamingLoader(DataLoader):
    """A DataLoader that passes on what a worker cannot read with its own message, not PyTorch's around it."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return name_shortage(super().__iter__(), self.num_workers)


class StayingLoader(DataLoader):
    """A DataLoader whose workers stay from its first epoch on, and draw what workers started anew would draw.

    With ``num_workers`` 0, or a ``worker_init_fn``, it is the plain loader. PyTorch's ``persistent_workers`` alone
    would change the draws: workers started anew are seeded with a number that the main process draws for every epoch,
    those that stay are not. Here it is drawn all the same, and travels to the workers beside the indices.

    Changes to the dataset do not reach the workers of a later epoch, unless :meth:`stop` comes first.
    """

    _staying: DataLoader | None = None
    _seeds: SeededSampler
    _running: weakref.ref[Generator] | None = None

    def stop(self) -> None:
        """End the workers; the next epoch starts others. An epoch that is under way keeps its own."""
        self._staying = None  # the last reference to PyTorch's iterator, which ends them when it goes

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        prepare = getattr(self.dataset, "prepare", None)
        if prepare is not None:
            prepare()
        if not self.num_workers or self.worker_init_fn is not None or numpy_seed is None or self._is_under_way():
            return name_shortage(super().__iter__(), self.num_workers)
        if self._staying is None:
            self._seeds = SeededSampler(self.sampler)
            options = arguments(self) | {"sampler": self._seeds, "persistent_workers": True}
            self._staying = DataLoader(SeededDataset(self.dataset), **options)
        else:
            self._seeds.next_epoch(base_seed(self.generator))
        batches = self._batches(iter(self._staying))
        self._running = weakref.ref(batches)
        return batches

    def _is_under_way(self) -> bool:
        """Whether somebody is in the middle of an epoch: two at a time cannot share workers."""
        batches = self._running() if self._running else None
        return batches is not None and inspect.getgeneratorstate(batches) != inspect.GEN_CLOSED

    def _batches(self, batches: Iterator[Any]) -> Generator[Any, None, None]:
        try:
            yield from name_shortage(batches, self.num_workers)
        except BaseException:  # left early, a mistake, Ctrl-C: whatever state the workers are in goes with them
            self.stop()
            raise


class DeviceLoader(StayingLoader):
    """A loader of :class:`DeviceImages`; without workers where these are on the device, which workers cannot use."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        images: DeviceImages = self.dataset  # type: ignore[assignment]
        images.prepare()
        if images.on_device is None:
            return super().__iter__()
        return iter(DataLoader(images, **arguments(self) | WITHOUT_WORKERS))


class SeededSampler(Sampler):
    """Indices of ``sampler``, each with the epoch and its seed."""

    def __init__(self, sampler: Any):
        self.sampler = sampler
        self.epoch = 0
        self.seed = 0  # not used: PyTorch has just seeded the workers of their first epoch

    def next_epoch(self, seed: int) -> None:
        self.epoch += 1
        self.seed = seed

    def __iter__(self) -> Iterator[SeededIndex]:
        for index in self.sampler:
            yield index, self.epoch, self.seed

    def __len__(self) -> int:
        return len(self.sampler)


class SeededDataset(Dataset):
    """Items of ``dataset``; the first one of an epoch seeds the worker."""

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self.epoch = 0

    def __getitem__(self, index: SeededIndex) -> Any:
        item, epoch, seed = index
        if epoch != self.epoch:
            self.epoch = epoch
            seed_worker(seed)
        return self.dataset[item]

    def __len__(self) -> int:
        return len(self.dataset)


class OwnOrder(Sampler):
    """All items in an order of their own, each with a seed for what its augmentation draws.

    Args:
        count: of items.
        seed: of the run. Negative: from nothing that can be repeated.
    """

    def __init__(self, count: int, seed: int):
        self.count = count
        self.seed = seed if seed >= 0 else torch.Generator().seed()
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """The next pass is the first one of ``epoch``."""
        self.epoch, self.passes = epoch, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        digest = hashlib.sha256(f"seed {self.seed}, epoch {self.epoch}, pass {self.passes}".encode()).digest()
        self.passes += 1
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        order = torch.randperm(self.count, generator=generator).tolist()
        return iter(zip(order, torch.randint(SEEDS, (self.count,), generator=generator).tolist(), strict=True))

    def __len__(self) -> int:
        return self.count


class OwnDraws(Dataset):
    """Items of ``dataset``, whose draws follow from the seed that comes with an index, and move no other generator."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __getitem__(self, index: tuple[int, int]) -> Any:
        item, seed = index
        with kept_generators():
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002  (the global generator is what transforms draw from)
            torch.default_generator.manual_seed(seed)
            return self.dataset[item]

    def __len__(self) -> int:
        return len(self.dataset)


def base_seed(generator: torch.Generator | None) -> int:
    """Drawn as PyTorch draws it when it starts workers."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def seed_worker(seed: int) -> None:
    """Seed this worker's generators as PyTorch does at its start, given the base seed of the epoch."""
    worker = get_worker_info().id  # type: ignore[union-attr]
    random.seed(seed + worker)
    torch.manual_seed(seed + worker)
    np.random.seed(numpy_seed(seed, worker))  # noqa: NPY002  (the global generator is what transforms draw from)
