"""ImageNet: 1,000 classes. Read from its folders; validation images serve as the test set, as in all of the family."""

import os
from collections.abc import Iterable
from pathlib import Path

from anprompt.data.image_files import LeftOut, Remark, class_folders, images_in
from anprompt.data.split_dataset import (
    HOW_TO_GET,
    Parts,
    SplitDataset,
    logger,
    make_datum,
    place_items,
    read_names,
)
from anprompt.data.split_files import DELETE_IT, Entry, read_pickle, write_pickle
from dassl.data.datasets import DATASET_REGISTRY, Datum

FOLDERS = {"train": "train", "test": "val"}  # part: folder of its class folders


@DATASET_REGISTRY.register()
class ImageNet(SplitDataset):
    folder = "imagenet"
    image_folder = "images"
    listing = "preprocessed.pkl"
    sampled = ("train",)  # there is no third part: val is test

    def read(self) -> Parts:
        kept = Path(self.dataset_dir, self.listing)
        return self.read_listing(kept) if kept.is_file() else self.list_images()

    def read_listing(self, path: Path) -> Parts:
        """The list that an earlier run (CoOp's or ours) kept, with its order and the images' present place.

        Class names are those of ``classnames.txt``, where there is one: it may have been corrected since.

        Raises:
            ValueError: the list lacks images that are there, or counts classes in another order.
        """
        logger.info("list of images from %s", path)
        listing = read_pickle(path)
        if set(listing) != set(FOLDERS):
            raise ValueError(f"{path} holds {sorted(listing)}, expected train and test. {DELETE_IT}.")
        listed = {part: [(as_listed(name), label, text) for name, label, text in listing[part]] for part in FOLDERS}
        left_out = LeftOut()
        labels = {
            folder: label for label, folder in enumerate(sorted({class_of(name) for name, *_ in listed["train"]}))
        }
        for part, folder in FOLDERS.items():
            self.require_complete(path, listed[part], folder, left_out)
            require_order(path, listed[part], labels)
        self.noticed = list(left_out.remarks())
        listed = self.renamed(path, listed)
        train, test = (place_items(listed[part], self.image_dir, path) for part in FOLDERS)
        return {"train": train, "val": test, "test": test}

    def require_complete(self, path: Path, listed: Iterable[Entry], folder: str, left_out: LeftOut) -> None:
        """The list has every image of the class folders; what it has beyond them is looked for when it is used."""
        names: dict[str, set[str]] = {}
        for name, *_ in listed:
            names.setdefault(class_of(name), set()).add(os.path.basename(name))
        place = os.path.join(self.image_dir, folder)
        new = [
            os.path.join(place, name, image)
            for name in class_folders(place, left_out)
            for image in images_in(os.path.join(place, name), left_out, by_content=True)
            if image not in names.get(name, ())
        ]
        if new:
            raise ValueError(
                f"{path} lacks {len(new):,} images that are in {place}, such as {new[0]}, which came later. "
                f"{DELETE_IT}, or take them away."
            )

    def renamed(self, path: Path, listed: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
        """The entries with the names of ``classnames.txt``."""
        if not os.path.isfile(os.path.join(self.dataset_dir, "classnames.txt")):
            return listed
        names = read_classnames(self.dataset_dir)
        require_named(str(path), {class_of(name) for entries in listed.values() for name, *_ in entries}, names)
        other = sorted({
            f"{class_of(name)} {text!r} -> {names[class_of(name)]!r}"
            for name, _, text in listed["train"]
            if text != names[class_of(name)]
        })  # fmt: skip
        if other:
            what = f"{path} calls {len(other):,} classes otherwise than classnames.txt, which counts"
            fix = "nothing if classnames.txt is right; deleting the list makes a new one"
            self.noticed = [*self.noticed, Remark("renamed classes", what, fix, other)]
        return {
            part: [(name, label, names[class_of(name)]) for name, label, _ in entries]
            for part, entries in listed.items()
        }

    def list_images(self) -> Parts:
        """All images, sorted: the few-shot draw must not depend on the file system's order."""
        names, left_out = read_classnames(self.dataset_dir), LeftOut()
        train, test = (
            list_folders(os.path.join(self.image_dir, folder), names, left_out) for folder in FOLDERS.values()
        )
        self.noticed = list(left_out.remarks())
        return {"train": train, "val": test, "test": test}

    def keep(self, parts: Parts) -> None:
        kept = Path(self.dataset_dir, self.listing)
        if kept.is_file():
            return
        try:
            write_pickle({part: parts[part] for part in ("train", "test")}, kept)
        except OSError as error:
            logger.warning("the list of images is not kept in %s: %s", kept, error)


def as_listed(path: str) -> str:
    """The end of an image's former path that does not change: ``train/n01440764/n01440764_10026.JPEG``."""
    return "/".join(path.replace("\\", "/").split("/")[-3:])


def class_of(path: str) -> str:
    """The class folder of a path that ends like ``train/n01440764/n01440764_10026.JPEG``."""
    return path.rpartition("/")[0].rpartition("/")[2]


def require_order(path: Path, listed: Iterable[Entry], labels: dict[str, int]) -> None:
    """Labels follow the sorted folders, as in all of the family. ValueError otherwise."""
    for name, label, _ in listed:
        expected = labels.get(class_of(name))
        if label != expected:
            known = "it has no training images" if expected is None else f"expected {expected}, its place in order"
            raise ValueError(f"{path} gives {name} the label {label}: {known}. {DELETE_IT}.")


class ImageNetVariant(SplitDataset):
    """A test set for ImageNet classifiers: one folder per class, all of it train and test, never sampled."""

    sampled = ()

    def read(self) -> Parts:
        left_out = LeftOut()
        items = self.class_images(read_classnames(self.dataset_dir), left_out)
        self.noticed = list(left_out.remarks())
        return {"train": items, "val": [], "test": items}

    def class_images(self, names: dict[str, str], left_out: LeftOut) -> list[Datum]:
        return list_folders(self.image_dir, names, left_out)


def read_classnames(dataset_dir: str) -> dict[str, str]:
    """``{folder: class name}`` from lines of ``n01440764 tench``, in the order of the file."""
    path = os.path.join(dataset_dir, "classnames.txt")
    names = read_names(path)
    unnamed = [folder for folder, name in names.items() if not name]
    if unnamed:
        raise ValueError(f"{path}: the line {unnamed[0]!r} has no class name, expected lines of 'n01440764 tench'")
    return names


def require_named(place: str, folders: Iterable[str], names: dict[str, str]) -> None:
    unknown = sorted(set(folders) - set(names))
    if unknown:
        raise ValueError(
            f"{place} has {len(unknown)} folders that classnames.txt does not list, such as {unknown[0]}: "
            "expected WordNet ids such as n01440764"
        )


def list_folders(place: str, names: dict[str, str], left_out: LeftOut) -> list[Datum]:
    """Images of the class folders in ``place``; labels follow the sorted folder names."""
    if not os.path.isdir(place):
        raise FileNotFoundError(f"the folder {place} is missing: it should hold one folder per class")
    folders = class_folders(place, left_out)
    if not folders:
        raise ValueError(f"{place} has no folders: its images belong into one folder per class; {HOW_TO_GET}")
    require_named(place, folders, names)
    return [
        make_datum(path, label, names[folder])
        for label, folder in enumerate(folders)
        for path in image_paths(os.path.join(place, folder), left_out)
    ]


def image_paths(folder: str, left_out: LeftOut) -> list[str]:
    """Paths of the images of one class, sorted. CoOp takes every file; so an image needs no ending here."""
    return [os.path.join(folder, name) for name in images_in(folder, left_out, by_content=True)]
