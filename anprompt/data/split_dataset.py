"""What all datasets share: CoOp's folders, split files, few-shot subsets and base/new halves.

A dataset file names its folders and, where it has no ``split_zhou_*.json``, overrides :meth:`SplitDataset.read`.
"""

import json
import logging
import math
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from yacs.config import CfgNode

from anprompt.clip.backbone import count_tokens
from anprompt.data.image_files import PARTS, Remark, is_utf8
from anprompt.data.split_files import (
    Entry,
    by_suffix,
    distinct,
    label_faults,
    read_json,
    read_subset,
    repeated,
    subset_file,
    write_pickle,
)
from anprompt.prompts.templates import class_text
from anprompt.utils.files import atomic_path, remove_leftovers
from anprompt.utils.suggest import require_known
from dassl.data.datasets import DatasetBase, Datum

logger = logging.getLogger(__name__)

Parts = dict[str, list[Datum]]  # "train", "val" and "test"

SUBSETS = ("all", "base", "new")
MAX_VAL_SHOTS = 4
NO_PATH = re.compile(r"(^|[/\\])\.\.([/\\]|$)|[\x00-\x1f\x7f-\x9f]")  # climbs, or holds control characters
LONG = 100  # characters of a class name; the longest of the family's datasets has fewer than 70
HOW_TO_GET = "docs/datasets.md tells what to download and where it goes"


class SplitDataset(DatasetBase):
    """A dataset in CoOp's layout, below ``cfg.DATASET.ROOT``.

    Attributes:
        folder: the dataset's folder under the root.
        image_folder: where its images are, relative to ``folder``.
        split_file: its ``split_zhou_*.json``, relative to ``folder``.
        listing: the file that keeps a list of all images, where walking the folders takes long; relative to ``folder``.
        sampled: the parts that ``DATASET.NUM_SHOTS`` reduces.
        mend: what helps where files are missing or damaged.
        noticed: remarks of the last :meth:`read` or :meth:`list_images`.

    Raises:
        FileNotFoundError: a folder, the split file or images are missing.
        ValueError: a file is there but cannot be used, or ``TEST.SPLIT val`` has no images.
    """

    folder = ""
    image_folder = ""
    split_file = ""
    listing = ""
    sampled: tuple[str, ...] = ("train", "val")
    mend = f"unpack the archive again, or fetch it again: {HOW_TO_GET}"
    noticed: Iterable[Remark] = ()

    def __init__(self, cfg: CfgNode):
        require_known("DATASET.SUBSAMPLE_CLASSES", cfg.DATASET.SUBSAMPLE_CLASSES, SUBSETS)
        self.locate(cfg)
        self.prepare()
        self.check_folders()
        remove_leftovers(self.dataset_dir)
        remove_leftovers(os.path.join(self.dataset_dir, "split_fewshot"))
        parts = self.read()
        check_labels(parts, self.dataset_dir)
        for remark in self.remarks(parts):
            logger.warning("%s", remark)
        self.keep(parts)
        parts = each_once(parts)
        if cfg.DATASET.NUM_SHOTS >= 1 and self.sampled:
            parts.update(self.few_shot(parts, cfg.DATASET.NUM_SHOTS, cfg.SEED))
        train, val, test = self.subsample_classes(*parts.values(), subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        if cfg.TEST.SPLIT == "val" and not val:
            raise ValueError(
                f"TEST.SPLIT is val, but {self.dataset_dir} has no validation images of these classes: use TEST.SPLIT "
                f"test, or add them{''.join(f'. {remark}' for remark in self.noticed)}"
            )
        check_images([*train, *val, *test], self.image_dir, os.path.join(self.dataset_dir, self.listing), self.mend)
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

    def remarks(self, parts: Parts) -> Iterator[Remark]:
        """What was left out of ``parts``, is in them twice, or cannot be told apart."""
        yield from self.noticed
        yield from twice_listed(parts)
        yield from same_texts(parts)
        yield from long_names(parts)

    def keep(self, parts: Parts) -> None:
        """Hook for datasets that keep their ``listing``; the labels have been checked."""

    @classmethod
    def read_split(cls, path: str, image_dir: str) -> tuple[list[Datum], list[Datum], list[Datum]]:
        """Train, val and test of a CoOp split file, whose paths are relative to ``image_dir``."""
        # Without the file CoOp would make its own split by shuffling: other images than in anybody's published numbers.
        if not os.path.isfile(path):
            raise FileNotFoundError(f"the split file {path} is missing: place it there; {HOW_TO_GET}.")
        try:
            entries = read_json(Path(path), PARTS)
        except ValueError as error:
            raise ValueError(
                f'{error}; expected {{"train": [[path, label, class name], ...], "val": ..., "test": ...}}. '
                f"To mend it, {cls.mend}."
            ) from error
        train, val, test = (place_items(entries[part], image_dir, path) for part in PARTS)
        return train, val, test

    # ------------------------------------------------------------------ few-shot subsets

    def few_shot(self, parts: Parts, shots: int, seed: int) -> Parts:
        """The sampled parts, reduced to ``shots`` images per class: the cached subset, or a new one.

        Python's random generator is left as it was: whether the subset was drawn or cached changes nothing later.
        """
        cache = Path(self.dataset_dir, "split_fewshot", f"shot_{shots}-seed_{seed}.pkl")
        kept = self.kept_subset(parts, shots, cache)
        if kept is not None:
            logger.info("few-shot subset from %s", subset_file(cache))
            return kept
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

    def kept_subset(self, parts: Parts, shots: int, cache: Path) -> Parts | None:
        """The subset that ``cache``, or the JSON beside it, holds; None without either.

        Raises:
            ValueError: it is not a subset of ``shots`` images per class of these ``parts``; says why.
        """
        source = subset_file(cache)
        if source is None:
            return None
        entries = read_subset(source)
        # Without the pickle its twin would be read next.
        twin = cache.with_suffix(".json")
        both = f" and {twin.name} beside it" if source == cache and twin.is_file() else ""
        found = {}
        for part in self.sampled:
            try:
                found[part] = self.find_items(entries.get(part, []), part, parts[part])
                self.check_subset(part, found[part], parts[part], shots)
            except ValueError as error:
                raise ValueError(
                    f"{source} {error}: it belongs to other data. Delete it{both} to have the subset drawn again."
                ) from error
        return found

    def find_items(self, entries: Iterable[Entry], part: str, items: list[Datum]) -> list[Datum]:
        """The items of the split that a kept list names, wherever the data lay when it was written."""
        by_path = {self.relative(item): item for item in items}
        found = []
        for path, label, _ in entries:
            item = by_suffix(path, by_path)
            if item is None or item.label != label:
                raise ValueError(f"holds {path!r} with label {label}, which is not in the {part} part of the split")
            found.append(item)
        return found

    def check_subset(self, part: str, drawn: list[Datum], items: list[Datum], shots: int) -> None:
        """No image twice; of each class as many as are drawn, or all that there are. ValueError otherwise."""
        twice = next((path for path, count in Counter(item.impath for item in drawn).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"holds {twice} more than once in its {part} images")
        there = Counter({item.impath: item.label for item in items}.values())  # an image that is listed twice is one
        kept = Counter(item.label for item in drawn)
        names = {item.label: item.classname for item in items}
        for label in sorted(there):
            least = min(self.shots_of(part, shots), there[label])
            # CoOp's draw reduces val to four; who kept more validation images has lost nothing.
            if not least <= kept[label] <= shots:
                raise ValueError(
                    f"holds {kept[label]} {part} images of {names[label]!r} (label {label}), expected {least}"
                )

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
            logger.warning("the few-shot subset is not kept in %s: %s", cache, error)

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
        if not is_utf8(name + text):
            raise ValueError(f"{source}: {name!r} is not UTF-8: rename the file or folder")
        if os.path.isabs(name) or NO_PATH.search(name):
            raise ValueError(f"{source}: {name!r} is no path that leads from {image_dir} to a place below it")
        items.append(make_datum(os.path.join(image_dir, name), label, text))
    return items


def check_labels(parts: Parts, source: str) -> None:
    """Raise a ValueError at the first of the :func:`label_faults`."""
    for fault in label_faults(parts):
        raise ValueError(f"{source}: {fault}")


def each_once(parts: Parts) -> Parts:
    """Every image at its first place in a part; a part that is another one's list again stays so."""
    lists = {id(items): _each_once(items) for items in parts.values()}
    return {part: lists[id(items)] for part, items in parts.items()}


def _each_once(items: list[Datum]) -> list[Datum]:
    if len({item.impath for item in items}) == len(items):
        return items
    first: dict[str, Datum] = {}
    for item in items:
        first.setdefault(item.impath, item)
    return list(first.values())


def twice_listed(parts: Parts) -> Iterator[Remark]:
    """Images that a part lists more than once, and those that are in two parts."""
    paths = repeated(parts)
    if not paths:
        return
    parts_of: dict[str, list[str]] = defaultdict(list)
    for part, item in distinct(parts):
        if item.impath in paths:
            parts_of[item.impath].append(part)
    again = sorted(
        f"{path} (in {part})" for path, found in parts_of.items() for part in set(found) if found.count(part) > 1
    )
    if again:
        what = f"{len(again):,} images are listed more than once in the same part, where each counts once"
        yield Remark("duplicates", what, "list each image once", again)
    both = sorted(
        f"{path} ({', '.join(sorted(set(found)))})" for path, found in parts_of.items() if len(set(found)) > 1
    )
    if both:
        fix = "a mistake of the split unless it is the published one: take them out of one part"
        yield Remark("duplicates", f"images that are listed in two parts: {len(both):,}", fix, both)


def same_texts(parts: Parts) -> Iterator[Remark]:
    """:func:`same_names` of the classes that have items."""
    yield from same_names({item.label: item.classname for item in parts["train"]})


def same_names(names: Mapping[int, str]) -> Iterator[Remark]:
    """Classes, by label, that read the same in a prompt: CLIP's tokenizer knows neither upper case nor the number of
    blanks."""
    by_text = defaultdict(list)
    for label, name in sorted(names.items()):
        by_text[" ".join(class_text(name).lower().split())].append(f"{name!r} (label {label})")
    shared = [" and ".join(same) for same in by_text.values() if len(same) > 1]
    if shared:
        what = f"{len(shared):,} texts are shared by several classes, which then have the same prompt"
        fix = "give them different names, unless these are the published ones: one of each group is never predicted"
        yield Remark("same text", what, fix, shared)


def long_names(parts: Parts) -> Iterator[Remark]:
    """Class names that leave a prompt little room: those of a trainer may not fit around them."""
    names = {item.classname for item in parts["train"] if len(item.classname) > LONG}
    long = [f"{name!r} ({count_tokens(class_text(name))} tokens)" for name in sorted(names)]
    if long:
        what = f"{len(long):,} class names are long: CLIP reads 75 tokens, those around the name among them"
        yield Remark("long names", what, "nothing if it runs, else shorten them", long)


def check_images(items: Iterable[Datum], image_dir: str, listing: str = "", mend: str = SplitDataset.mend) -> None:
    """Every image is on disk.

    Args:
        items: what is looked for.
        image_dir: the folder to name.
        listing: the file that names them, if it may be out of date.
        mend: what to do.
    """
    paths = {item.impath for item in items}
    missing = sorted(path for path in paths if not os.path.isfile(path))
    if missing:
        found = f"{len(missing):,} of {len(paths):,} images are missing under {image_dir}, such as {missing[0]}"
        if any("\\" in path[len(image_dir) :] for path in missing) and os.sep == "/":
            raise FileNotFoundError(f"{found}: their list was written on Windows, put / for every \\ in it")
        outdated = f"If the images changed, delete {listing}, which lists them. " if os.path.isfile(listing) else ""
        raise FileNotFoundError(f"{found}. {outdated}To mend it, {mend}.")


def read_lines(path: str) -> list[str]:
    """Non-empty lines of a list that belongs to a dataset."""
    return [line for _, line in numbered_lines(path)]


def numbered_lines(path: str) -> list[tuple[int, str]]:
    """The same with their numbers in the file, from 1 on."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the list {path} is missing: place it there; {HOW_TO_GET}.")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except ValueError as error:
        raise ValueError(f"{path} is damaged or no text ({error}). Fetch it again; {HOW_TO_GET}.") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def read_names(path: str) -> dict[str, str]:
    """``{"n01440764": "tench"}`` from lines of ``n01440764 tench``, in the order of the file.

    Raises:
        ValueError: a first word is there twice; names both lines.
    """
    names: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in numbered_lines(path):
        name, _, text = line.partition(" ")
        require_first(path, name, number, lines)
        names[name] = text.strip()
    return names


def require_first(path: str, name: str, number: int, lines: dict[str, int]) -> None:
    """Enter ``name`` with the number of its line into ``lines``; ValueError where it is there already."""
    if name in lines:
        raise ValueError(
            f"{path}: {name!r} is there twice, in lines {lines[name]} and {number}: only the last would count"
        )
    lines[name] = number
