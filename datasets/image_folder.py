"""Your own images, described by a YAML file alone: a folder per class, or a split as CSV or JSON.

``docs/datasets.md`` has examples.
"""

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS
from yacs.config import CfgNode

from anprompt.data.split_dataset import HOW_TO_GET, PARTS, Parts, SplitDataset, place_items, read_lines
from anprompt.data.split_files import Entry, entry
from anprompt.prompts.templates import class_text
from anprompt.utils.suggest import require_known
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import listdir_nohidden

COLUMNS = ("path", "label", "split")  # and, if you like, classname


@DATASET_REGISTRY.register()
class ImageFolder(SplitDataset):
    """``DATASET.FOLDER`` below the root, with ``{train,val,test}/<class>/`` or whatever ``DATASET.SPLIT`` lists.

    Labels follow the sorted names of the classes. ``classnames.txt`` in the folder (lines of ``<class> <text>``) says
    how a class is written in a prompt; without it, that is its name with spaces for underscores.
    """

    def locate(self, cfg: CfgNode) -> None:
        self.folder, self.split_file = cfg.DATASET.FOLDER, cfg.DATASET.SPLIT
        if not self.folder:
            raise ValueError(f"DATASET.FOLDER is empty: name the folder of your images; {HOW_TO_GET}")
        super().locate(cfg)

    def read(self) -> Parts:
        if not self.split_file:
            return self.read_folders()
        kind = Path(self.split_file).suffix.lower()
        require_known("kind of DATASET.SPLIT", kind, (".csv", ".json"))
        return self.read_table() if kind == ".csv" else super().read()

    def read_folders(self) -> Parts:
        """The images of ``train/<class>/`` and so on; there may be no val."""
        for part in ("train", "test"):
            if not os.path.isdir(os.path.join(self.dataset_dir, part)):
                raise FileNotFoundError(
                    f"there is no folder {part}/ in {self.dataset_dir}: sort the images into train/<class>/ and "
                    f"test/<class>/, or name a list of them with DATASET.SPLIT; {HOW_TO_GET}"
                )
        classes = class_folders(os.path.join(self.dataset_dir, "train"))
        texts = self.class_texts(classes)
        parts: dict[str, list[Entry]] = {part: [] for part in PARTS}
        for part, entries in parts.items():
            for name in class_folders(os.path.join(self.dataset_dir, part)):
                require_known(f"class folder in {os.path.join(self.dataset_dir, part)}", name, classes)
                paths = images_in(self.dataset_dir, part, name)
                entries += [(path, classes.index(name), texts[name]) for path in paths]
        return {part: place_items(entries, self.image_dir, self.dataset_dir) for part, entries in parts.items()}

    def read_table(self) -> Parts:
        """The images that a CSV file with the columns path, label, split and perhaps classname lists."""
        try:
            rows = read_rows(self.split_path)
            labels = {row["label"] for row in rows}
            numbered = all(label.isdecimal() for label in labels)
            numbers = {label: int(label) if numbered else index for index, label in enumerate(sorted(labels))}
            texts = self.class_texts(labels)
            parts: dict[str, list[Entry]] = {part: [] for part in PARTS}
            for row in rows:
                text = row.get("classname") or texts[row["label"]]
                if text == row["label"] and numbered:
                    raise ValueError(f"the label {text} has no name: add a column classname, or use names as labels")
                parts[row["split"]].append(entry(row["path"], numbers[row["label"]], text))
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{self.split_path}: {error}") from error
        return {part: place_items(entries, self.image_dir, self.split_path) for part, entries in parts.items()}

    def class_texts(self, classes: Iterable[str]) -> dict[str, str]:
        """How each class is written in a prompt, by its name in the folders or in the list."""
        texts = {name: class_text(name) for name in classes}
        path = os.path.join(self.dataset_dir, "classnames.txt")
        if os.path.exists(path):
            for name, _, text in (line.partition(" ") for line in read_lines(path)):
                require_known(f"class in {path}", name, texts)
                texts[name] = text.strip() or texts[name]
        return texts


def class_folders(place: str) -> list[str]:
    """Names of the folders in ``place``, sorted; none where there is no such place."""
    if not os.path.isdir(place):
        return []
    return [name for name in listdir_nohidden(place, sort=True) if os.path.isdir(os.path.join(place, name))]


def images_in(root: str, *folders: str) -> list[str]:
    """Paths, relative to ``root``, of the image files in a folder below it, sorted."""
    names = listdir_nohidden(os.path.join(root, *folders), sort=True)
    return [os.path.join(*folders, name) for name in names if name.lower().endswith(IMG_EXTENSIONS)]


def read_rows(path: str) -> list[Mapping[str, str]]:
    """The lines of a CSV file that lists images, by column."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the list of images {path} is missing (DATASET.SPLIT, relative to DATASET.FOLDER)")
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"no column {missing[0]}: its first line must be path,label,split or more")
        rows: list[Mapping[str, str]] = list(reader)
    for number, row in enumerate(rows, start=1):
        if not all(row[column] for column in COLUMNS):
            raise ValueError(f"image {number} has an empty path, label or split")
        require_known(f"split of image {number}", row["split"], PARTS)
    return rows
