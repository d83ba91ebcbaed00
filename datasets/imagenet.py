"""ImageNet: 1,000 classes. Read from its folders; validation images serve as the test set, as in all of the family."""

import os
from collections.abc import Iterator
from pathlib import Path

from anprompt.data.split_dataset import HOW_TO_GET, Parts, SplitDataset, logger, make_datum, place_items, read_lines
from anprompt.data.split_files import DELETE_IT, read_pickle, write_pickle
from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import listdir_nohidden


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
        """The list that an earlier run (CoOp's or ours) kept, with its order and the images' present place."""
        logger.info("list of images from %s", path)
        listing = read_pickle(path)
        if set(listing) != {"train", "test"}:
            raise ValueError(f"{path} holds {sorted(listing)}, expected train and test. {DELETE_IT}.")
        train, test = (
            place_items([(as_listed(name), label, text) for name, label, text in listing[part]], self.image_dir, path)
            for part in ("train", "test")
        )
        return {"train": train, "val": test, "test": test}

    def list_images(self) -> Parts:
        """All images, sorted: the few-shot draw must not depend on the file system's order."""
        names = read_classnames(self.dataset_dir)
        train, test = (list_folders(os.path.join(self.image_dir, folder), names) for folder in ("train", "val"))
        return {"train": train, "val": test, "test": test}

    def keep(self, parts: Parts) -> None:
        kept = Path(self.dataset_dir, self.listing)
        if kept.is_file():
            return
        try:
            write_pickle({part: parts[part] for part in ("train", "test")}, kept)
        except OSError as error:
            logger.warning("the list of images is not kept: %s", error)


def as_listed(path: str) -> str:
    """The end of an image's former path that does not change: ``train/n01440764/n01440764_10026.JPEG``."""
    return "/".join(path.replace("\\", "/").split("/")[-3:])


class ImageNetVariant(SplitDataset):
    """A test set for ImageNet classifiers: one folder per class, all of it train and test, never sampled."""

    sampled = ()

    def read(self) -> Parts:
        items = self.class_images(read_classnames(self.dataset_dir))
        return {"train": items, "val": [], "test": items}

    def class_images(self, names: dict[str, str]) -> list[Datum]:
        return list_folders(self.image_dir, names)


def read_classnames(dataset_dir: str) -> dict[str, str]:
    """``{folder: class name}`` from lines of ``n01440764 tench``, in the order of the file."""
    path = os.path.join(dataset_dir, "classnames.txt")
    names = {folder: name.strip() for folder, _, name in (line.partition(" ") for line in read_lines(path))}
    unnamed = [folder for folder, name in names.items() if not name]
    if unnamed:
        raise ValueError(f"{path}: the line {unnamed[0]!r} has no class name, expected lines of 'n01440764 tench'")
    return names


def list_folders(place: str, names: dict[str, str]) -> list[Datum]:
    """Images of the class folders in ``place``; labels follow the sorted folder names."""
    if not os.path.isdir(place):
        raise FileNotFoundError(f"the folder {place} is missing: it should hold one folder per class")
    folders = [name for name in listdir_nohidden(place, sort=True) if os.path.isdir(os.path.join(place, name))]
    if not folders:
        raise ValueError(f"{place} has no folders: its images belong into one folder per class; {HOW_TO_GET}")
    unknown = [folder for folder in folders if folder not in names]
    if unknown:
        raise ValueError(
            f"{place} has {len(unknown)} folders that classnames.txt does not list, such as {unknown[0]}: "
            "expected WordNet ids such as n01440764"
        )
    return [
        make_datum(path, label, names[folder])
        for label, folder in enumerate(folders)
        for path in image_paths(os.path.join(place, folder))
    ]


def image_paths(folder: str) -> Iterator[str]:
    """Paths of the visible files in ``folder``, sorted."""
    return (os.path.join(folder, name) for name in listdir_nohidden(folder, sort=True))
