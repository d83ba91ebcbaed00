"""ImageNet: 1,000 classes. Read from its folders; validation images serve as the test set, as in all of the family."""

import os
from collections.abc import Iterator
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import listdir_nohidden
from datasets.base import Parts, SplitDataset, logger, make_datum, read_lines, read_pickle, write_pickle


@DATASET_REGISTRY.register()
class ImageNet(SplitDataset):
    folder = "imagenet"
    image_folder = "images"
    sampled = ("train",)  # there is no third part: val is test

    def read(self) -> Parts:
        cache = Path(self.dataset_dir, "preprocessed.pkl")
        parts = self.read_listing(cache) if cache.is_file() else self.list_images(cache)
        return {"train": parts["train"], "val": parts["test"], "test": parts["test"]}

    def read_listing(self, cache: Path) -> Parts:
        """The listing that an earlier run (CoOp's or ours) kept, with its order and the images' present place."""
        logger.info("list of images from %s", cache)
        listing = read_pickle(cache)
        if set(listing) != {"train", "test"}:
            raise ValueError(f"{cache} holds {sorted(listing)}, expected train and test. Delete it to list again.")
        return {
            part: [make_datum(self.present_place(path), label, name) for path, label, name in records]
            for part, records in listing.items()
        }

    def present_place(self, path: str) -> str:
        # .../train/n01440764/n01440764_10026.JPEG
        return os.path.join(self.image_dir, *path.replace("\\", "/").split("/")[-3:])

    def list_images(self, cache: Path) -> Parts:
        """All images, sorted: the few-shot draw must not depend on the file system's order."""
        names = read_classnames(self.dataset_dir)
        parts = {
            part: list_folders(os.path.join(self.image_dir, folder), names)
            for part, folder in (("train", "train"), ("test", "val"))
        }
        try:
            write_pickle(parts, cache)
        except OSError as error:
            logger.warning("the list of images is not kept: %s", error)
        return parts


class ImageNetVariant(SplitDataset):
    """A test set for ImageNet classifiers: one folder per class, all of it train and test, never sampled."""

    sampled = ()

    def read(self) -> Parts:
        items = self.list_images(read_classnames(self.dataset_dir))
        return {"train": items, "val": [], "test": items}

    def list_images(self, names: dict[str, str]) -> list[Datum]:
        return list_folders(self.image_dir, names)


def read_classnames(dataset_dir: str) -> dict[str, str]:
    """``{folder: class name}`` from lines of ``n01440764 tench``, in the order of the file."""
    lines = read_lines(os.path.join(dataset_dir, "classnames.txt"))
    return {folder: name.strip() for folder, _, name in (line.partition(" ") for line in lines)}


def list_folders(place: str, names: dict[str, str]) -> list[Datum]:
    """Images of the class folders in ``place``; labels follow the sorted folder names."""
    if not os.path.isdir(place):
        raise FileNotFoundError(f"the folder {place} is missing: it should hold one folder per class")
    folders = [name for name in listdir_nohidden(place, sort=True) if os.path.isdir(os.path.join(place, name))]
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
