"""Your own images, described by a YAML file alone: a folder per class, or a split as CSV or JSON.

``docs/datasets.md`` has examples.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from yacs.config import CfgNode

from anprompt.data.image_files import PARTS, LeftOut, class_folders, images_in
from anprompt.data.split_dataset import HOW_TO_GET, Parts, SplitDataset, place_items, read_names
from anprompt.data.split_files import Entry, entry
from anprompt.prompts.templates import class_text
from anprompt.utils.suggest import require_known
from dassl.data.datasets import DATASET_REGISTRY

COLUMNS = ("path", "label", "split")  # and, if you like, classname


@DATASET_REGISTRY.register()
class ImageFolder(SplitDataset):
    """``DATASET.FOLDER`` below the root, with ``{train,val,test}/<class>/`` or whatever ``DATASET.SPLIT`` lists.

    Labels follow the sorted names of the classes. ``classnames.txt`` in the folder (lines of ``<class> <text>``) says
    how a class is written in a prompt; without it, that is its name with spaces for underscores.
    """

    mend = "put your images and their list right: docs/datasets.md shows how they are sorted or listed"

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
        left_out = LeftOut()
        folders = {part: class_folders(os.path.join(self.dataset_dir, part), left_out) for part in PARTS}
        classes = folders["train"]
        if not classes:
            raise ValueError(f"{os.path.join(self.dataset_dir, 'train')} holds no class folders: {self.mend}")
        texts = self.class_texts(classes)
        left_out.folders = self.unread_folders(classes)
        parts: dict[str, list[Entry]] = {part: [] for part in PARTS}
        for part, entries in parts.items():
            for name in folders[part]:
                place = os.path.join(self.dataset_dir, part, name)
                require_known(f"class folder in {os.path.dirname(place)}", name, classes)
                paths = [os.path.join(part, name, image) for image in images_in(place, left_out)]
                entries += [(path, classes.index(name), texts[name]) for path in paths]
        self.noticed = list(left_out.remarks())
        self.require_images(parts, classes)
        return {part: place_items(entries, self.image_dir, self.dataset_dir) for part, entries in parts.items()}

    def require_images(self, parts: dict[str, list[Entry]], classes: list[str]) -> None:
        """There are images in ``test/``, and in the folder of every class in ``train/``. ValueError otherwise."""
        filled = {label for _, label, _ in parts["train"]}
        empty = [os.path.join(self.dataset_dir, "train", name) for n, name in enumerate(classes) if n not in filled]
        if not parts["test"]:
            empty = [os.path.join(self.dataset_dir, "test")]
        if empty:
            remarks = "".join(f". {remark}" for remark in self.noticed)
            more = f" (and {len(empty) - 1} more like it)" if len(empty) > 1 else ""
            raise ValueError(f"the folder {empty[0]} holds no images{more}: fill or remove it{remarks}")

    def unread_folders(self, classes: list[str]) -> list[str]:
        """Folders beside ``train/`` that hold folders of the same names: ``valid/``, ``Test/``."""
        ignored = LeftOut()
        others = [name for name in class_folders(self.dataset_dir, ignored) if name not in PARTS]
        places = [os.path.join(self.dataset_dir, name) for name in others]
        return [place for place in places if set(classes) & set(class_folders(place, ignored))]

    def read_table(self) -> Parts:
        """The images that a CSV file with the columns path, label, split and perhaps classname lists."""
        try:
            rows = read_rows(self.split_path)
            labels = {row["label"] for row in rows}
            require_different(labels)
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
            for name, text in read_names(path).items():
                require_known(f"class in {path}", name, texts)
                texts[name] = text or texts[name]
        return texts


def require_different(labels: Iterable[str]) -> None:
    """Raise a ValueError for labels that were meant to be one: ``oak`` and ``oak`` with a blank, ``1`` and ``01``."""
    plain: dict[str, str] = {}
    for label in sorted(labels):
        text = str(int(label)) if label.isdecimal() else " ".join(label.split())
        if plain.setdefault(text, label) != label:
            what = "leading zeros" if label.isdecimal() else "blanks"
            raise ValueError(f"the labels {plain[text]!r} and {label!r} differ in {what} only: write one of them")


def read_rows(path: str) -> list[Mapping[str, str]]:
    """The lines of a CSV file that lists images, by column."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the list of images {path} is missing (DATASET.SPLIT, relative to DATASET.FOLDER)")
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"no column {missing[0]}: its first line must be path,label,split or more")
        twice = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1 and name]
        if twice:
            raise ValueError(f"its first line names the column {twice[0]} twice: only the last would count")
        rows: list[Mapping[str, str]] = list(reader)
    for number, row in enumerate(rows, start=1):
        if not all(row[column] for column in COLUMNS):
            raise ValueError(f"image {number} has an empty path, label or split")
        require_known(f"split of image {number}", row["split"], PARTS)
    return rows
