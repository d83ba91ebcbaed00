"""What all datasets share: CoOp's folders, split files, few-shot subsets and base/new halves.

A dataset file names its folders and, where it has no ``split_zhou_*.json``, overrides :meth:`SplitDataset.read`.
"""

import json
import logging
import math
import os
import random
import re
from collections.abc import Iterable
from pathlib import Path

from yacs.config import CfgNode

from anprompt.data.split_files import Entry, by_suffix, label_faults, read_cache, read_json, write_pickle
from anprompt.utils.files import atomic_path, remove_leftovers
from anprompt.utils.suggest import require_known
from dassl.data.datasets import DatasetBase, Datum

logger = logging.getLogger(__name__)

Parts = dict[str, list[Datum]]  # "train", "val" and "test"

PARTS = ("train", "val", "test")
SUBSETS = ("all", "base", "new")
MAX_VAL_SHOTS = 4
NO_PATH = re.compile(r"(^|[/\\])\.\.([/\\]|$)|[\x00-\x1f\x7f-\x9f]")  # climbs, or holds control characters
HOW_TO_GET = "docs/datasets.md tells what to download and where it goes"


class SplitDataset(DatasetBase):
    """A dataset in CoOp's layout, below ``cfg.DATASET.ROOT``.

    Attributes:
        folder: the dataset's folder under the root.
        image_folder: where its images are, relative to ``folder``.
        split_file: its ``split_zhou_*.json``, relative to ``folder``.
        listing: the file that keeps a list of all images, where walking the folders takes long; relative to ``folder``.
        sampled: the parts that ``DATASET.NUM_SHOTS`` reduces.

    Raises:
        FileNotFoundError: a folder, the split file or images are missing.
        ValueError: a file is there but cannot be used.
    """

    folder = ""
    image_folder = ""
    split_file = ""
    listing = ""
    sampled: tuple[str, ...] = ("train", "val")

    def __init__(self, cfg: CfgNode):
        require_known("DATASET.SUBSAMPLE_CLASSES", cfg.DATASET.SUBSAMPLE_CLASSES, SUBSETS)
        self.locate(cfg)
        self.prepare()
        self.check_folders()
        remove_leftovers(self.dataset_dir)
        remove_leftovers(os.path.join(self.dataset_dir, "split_fewshot"))
        parts = self.read()
        check_labels(parts, self.dataset_dir)
        self.keep(parts)
        if cfg.DATASET.NUM_SHOTS >= 1 and self.sampled:
            parts.update(self.few_shot(parts, cfg.DATASET.NUM_SHOTS, cfg.SEED))
        train, val, test = self.subsample_classes(*parts.values(), subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        check_images([*train, *val, *test], self.image_dir, os.path.join(self.dataset_dir, self.listing))
        super().__init__(train_x=train, val=val, test=test)

    @classmethod
    def located(cls, cfg: CfgNode) -> "SplitDataset":
        """An instance that knows its places but has read and made nothing: for ``python -m anprompt doctor``."""
        dataset = cls.__new__(cls)
        dataset.locate(cfg)
        return dataset

    def locate(self, cfg: CfgNode) -> None:
        """Set the paths."""
        if not cfg.DATASET.ROOT:
            raise ValueError("DATASET.ROOT is empty: give the folder that holds the datasets with --root")
        self.root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = os.path.join(self.root, self.folder)
        self.image_dir = os.path.join(self.dataset_dir, self.image_folder) if self.image_folder else self.dataset_dir
        self.split_path = os.path.join(self.dataset_dir, self.split_file)

    def prepare(self) -> None:
        """Hook for datasets that make their own files; the paths above are set, nothing has been read yet."""

    def check_folders(self) -> None:
        """The folders are there; FileNotFoundError names the first that is not."""
        name = type(self).__name__
        for place in (self.root, self.dataset_dir, self.image_dir):
            if not os.path.isdir(place):
                raise FileNotFoundError(
                    f"{name} expects its images in {self.image_dir}, but there is no folder {place}. "
                    f"Point --root at the folder that holds {self.folder}/; {HOW_TO_GET}."
                )

    def read(self) -> Parts:
        """All images of the dataset, in the order that the few-shot draw depends on. Writes nothing."""
        train, val, test = self.read_split(self.split_path, self.image_dir)
        return {"train": train, "val": val, "test": test}

    def list_images(self) -> Parts:
        """As :meth:`read`, but never from the ``listing`` that an earlier run kept."""
        return self.read()

    def keep(self, parts: Parts) -> None:
        """Hook for datasets that keep their ``listing``; the labels have been checked."""

    @staticmethod
    def read_split(path: str, image_dir: str) -> tuple[list[Datum], list[Datum], list[Datum]]:
        """Train, val and test of a CoOp split file, whose paths are relative to ``image_dir``."""
        # Without the file CoOp would make its own split by shuffling: other images than in anybody's published numbers.
        if not os.path.isfile(path):
            raise FileNotFoundError(f"the split file {path} is missing: place it there; {HOW_TO_GET}.")
        try:
            entries = read_json(Path(path), PARTS)
        except ValueError as error:
            raise ValueError(
                f'{error}; expected {{"train": [[path, label, class name], ...], "val": ..., "test": ...}}. '
                f"Fetch it again; {HOW_TO_GET}."
            ) from error
        train, val, test = (place_items(entries[part], image_dir, path) for part in PARTS)
        return train, val, test

    # ------------------------------------------------------------------ few-shot subsets

    def few_shot(self, parts: Parts, shots: int, seed: int) -> Parts:
        """The sampled parts, reduced to ``shots`` images per class: the cached subset, or a new one.

        Python's random generator is left as it was: whether the subset was drawn or cached changes nothing later.
        """
        cache = Path(self.dataset_dir, "split_fewshot", f"shot_{shots}-seed_{seed}.pkl")
        cached = read_cache(cache)
        if cached is not None:
            logger.info("few-shot subset from %s", cache)
            return {part: self.find_cached(cached, part, parts[part], cache) for part in self.sampled}
        state = random.getstate()
        drawn = {part: self.draw(part, parts[part], shots) for part in self.sampled}
        random.setstate(state)
        self.write_cache(drawn, cache)
        return drawn

    def draw(self, part: str, items: list[Datum], shots: int) -> list[Datum]:
        return self.generate_fewshot_dataset(items, num_shots=self.shots_of(part, shots))

    def shots_of(self, part: str, shots: int) -> int:
        """Images per class of a part in a subset of ``shots``."""
        return min(shots, MAX_VAL_SHOTS) if part == "val" else shots

    def find_cached(self, cached: dict[str, list[Entry]], part: str, items: list[Datum], cache: Path) -> list[Datum]:
        """The items of the split that the cache names, wherever the data lay when it was written."""
        by_path = {self.relative(item): item for item in items}
        found = []
        for path, label, _ in cached.get(part, []):
            item = by_suffix(path, by_path)
            if item is None or item.label != label:
                raise ValueError(
                    f"{cache} holds {path!r} with label {label}, which is not in the {part} part of the split: "
                    "it belongs to other data. Delete it to have the subset drawn again."
                )
            found.append(item)
        if not found and items:
            raise ValueError(f"{cache} holds no {part} images. Delete it to have the subset drawn again.")
        return found

    def write_cache(self, drawn: Parts, cache: Path) -> None:
        """Keep the subset as CoOp does (a pickle of its items), and as JSON with relative paths beside it."""
        portable = {
            part: [[self.relative(item), item.label, item.classname] for item in items] for part, items in drawn.items()
        }
        try:
            with atomic_path(cache.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps(portable, indent=1), encoding="utf-8")
            write_pickle(drawn, cache)
        except OSError as error:  # a shared, read-only data folder: the same subset is drawn next time
            logger.warning("the few-shot subset is not kept: %s", error)

    def relative(self, item: Datum) -> str:
        """Path of an image relative to the image folder, with forward slashes."""
        return item.impath[len(self.image_dir) + 1 :].replace(os.sep, "/")

    # ------------------------------------------------------------------ base and new classes

    @staticmethod
    def subsample_classes(*parts: list[Datum], subsample: str = "all") -> tuple[list[Datum], ...]:
        """Keep the base classes (the first half of the labels in ``parts[0]``, rounded up) or the new ones.

        Labels of what is kept count from zero again.
        """
        if subsample == "all":
            return parts
        labels = sorted({item.label for item in parts[0]})
        middle = math.ceil(len(labels) / 2)
        kept = labels[:middle] if subsample == "base" else labels[middle:]
        relabel = {label: index for index, label in enumerate(kept)}
        return tuple(
            [make_datum(item.impath, relabel[item.label], item.classname) for item in items if item.label in relabel]
            for items in parts
        )


# ---------------------------------------------------------------------------------------------- items


def make_datum(impath: str, label: int, classname: str) -> Datum:
    """A Datum without the file look-up that its constructor makes.

    ImageNet has 1.3 million images, of which a run uses a few: :func:`check_images` looks for those.
    """
    item = Datum.__new__(Datum)
    # The attribute names are those of Dassl's pickles, hence fixed.
    item.__dict__.update(_impath=impath, _label=label, _domain=0, _classname=classname)
    return item


def place_items(entries: Iterable[Entry], image_dir: str, source: str | Path) -> list[Datum]:
    """Items of entries whose paths are relative to ``image_dir``.

    Raises:
        ValueError: a path leads out of that folder, or would play tricks on the terminal; names the file ``source``
            that the entries are from.
    """
    items = []
    for name, label, text in entries:
        if os.path.isabs(name) or NO_PATH.search(name):
            raise ValueError(f"{source}: {name!r} is no path that leads from {image_dir} to a place below it")
        items.append(make_datum(os.path.join(image_dir, name), label, text))
    return items


def check_labels(parts: Parts, source: str) -> None:
    """Raise a ValueError at the first of the :func:`label_faults`."""
    for fault in label_faults(parts):
        raise ValueError(f"{source}: {fault}")


def check_images(items: Iterable[Datum], image_dir: str, listing: str = "") -> None:
    """Every image is on disk. ``listing``: the file that names them, if it may be out of date."""
    paths = {item.impath for item in items}
    missing = sorted(path for path in paths if not os.path.isfile(path))
    if missing:
        outdated = f"If the images changed, delete {listing}, which lists them. " if os.path.isfile(listing) else ""
        raise FileNotFoundError(
            f"{len(missing):,} of {len(paths):,} images are missing under {image_dir}, such as {missing[0]}: "
            f"the archive was not unpacked there, or only in part. {outdated}{HOW_TO_GET}."
        )


def read_lines(path: str) -> list[str]:
    """Non-empty lines of a list that belongs to a dataset."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the list {path} is missing: place it there; {HOW_TO_GET}.")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except ValueError as error:
        raise ValueError(f"{path} is damaged or no text ({error}). Fetch it again; {HOW_TO_GET}.") from error
    return [line.strip() for line in lines if line.strip()]
