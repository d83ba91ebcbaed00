"""Shapes: 24 kinds of coloured shapes, the embedded default. Rendered below the data root on first use."""

import json
from collections.abc import Callable
from pathlib import Path

from anprompt.data import shapes_world
from anprompt.data.drawn import Drawn, draw_missing, drawn_items, has_content
from anprompt.data.split_dataset import SplitDataset
from anprompt.utils.files import atomic_path
from dassl.data.datasets import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class Shapes(SplitDataset):
    folder = "shapes"
    image_folder = "images"
    split_file = "split_zhou_Shapes.json"

    def prepare(self) -> None:
        render(Path(self.image_dir), Path(self.split_path))


def pictures() -> dict[str, Drawn]:
    """All images of the dataset by their paths relative to the image folder."""
    items = drawn_items(shapes_world.SPLIT_SIZES, shapes_world.CLASSNAMES)
    return {f"{item.stem}.jpg": item for item in items}


def render(image_dir: Path, split_path: Path) -> None:
    """Make whatever is missing of the image files, then the split file.

    Raises:
        OSError: the folder cannot be written to.
    """
    try:
        files = {image_dir / path: jpeg_of(item) for path, item in pictures().items()}
        draw_missing(files, f"Rendering Shapes into {image_dir}", "image")
        if not has_content(split_path):
            with atomic_path(split_path) as temporary:
                temporary.write_text(json.dumps(split_content(), indent=1), encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"cannot write the Shapes images to {image_dir} ({error}). They are rendered on first use: "
            "point --root at a folder that you can write to, with 20 MB of free space."
        ) from error


def jpeg_of(item: Drawn) -> Callable[[], bytes]:
    return lambda: shapes_world.jpeg(shapes_world.dataset_photo(item.split, item.classname, item.number))


def split_content() -> dict[str, list[tuple[str, int, str]]]:
    """The split file, in CoOp's form: ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``."""
    content: dict[str, list[tuple[str, int, str]]] = {split: [] for split in shapes_world.SPLIT_SIZES}
    for path, item in pictures().items():
        content[item.split].append((path, item.label, item.classname))
    return content
