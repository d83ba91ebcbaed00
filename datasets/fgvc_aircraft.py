"""FGVC-Aircraft: 100 aircraft variants. It comes with its own split, as text lists."""

import os

from anprompt.data.split_dataset import Parts, SplitDataset, numbered_lines, place_items, read_lines, require_first
from dassl.data.datasets import DATASET_REGISTRY, Datum


@DATASET_REGISTRY.register()
class FGVCAircraft(SplitDataset):
    folder = "fgvc_aircraft"
    image_folder = "images"

    def read(self) -> Parts:
        path = os.path.join(self.dataset_dir, "variants.txt")
        lines: dict[str, int] = {}
        labels: dict[str, int] = {}
        for label, (number, variant) in enumerate(numbered_lines(path)):
            require_first(path, variant, number, lines)
            labels[variant] = label
        return {part: self.read_list(f"images_variant_{part}.txt", labels) for part in ("train", "val", "test")}

    def read_list(self, name: str, labels: dict[str, int]) -> list[Datum]:
        """Items of a list with lines of ``<image number> <variant, which may hold spaces>``."""
        path, entries = os.path.join(self.dataset_dir, name), []
        for line in read_lines(path):
            number, _, variant = line.partition(" ")
            if variant not in labels:
                raise ValueError(f"{path}: {variant!r} in the line {line!r} is not in variants.txt")
            entries.append((f"{number}.jpg", labels[variant], variant))
        return place_items(entries, self.image_dir, path)
