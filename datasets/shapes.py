"""Shapes: 24 kinds of coloured shapes, the embedded default. Rendered below the data root on first use."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from anprompt.data import shapes_world
from anprompt.data.split_dataset import SplitDataset
from anprompt.utils.files import atomic_path, remove_leftovers
from dassl.data.datasets import DATASET_REGISTRY


class Picture(NamedTuple):
    """One image of the dataset; the first three fields say what it shows, see `shapes_world.dataset_photo`."""

    split: str
    classname: str
    number: int
    label: int

    @property
    def path(self) -> str:
        """Relative to the image folder, with forward slashes."""
        folder = self.classname.replace(" ", "_")
        return f"{folder}/{folder}_{self.split}_{self.number:04d}.jpg"


@DATASET_REGISTRY.register()
class Shapes(SplitDataset):
    folder = "shapes"
    image_folder = "images"
    split_file = "split_zhou_Shapes.json"

    def prepare(self) -> None:
        render(Path(self.image_dir), Path(self.split_path))


def pictures() -> Iterator[Picture]:
    """All images of the dataset, split by split and class by class."""
    for split, count in shapes_world.SPLIT_SIZES.items():
        for label, classname in enumerate(shapes_world.CLASSNAMES):
            yield from (Picture(split, classname, index, label) for index in range(count))


def render(image_dir: Path, split_path: Path) -> None:
    """Make whatever is missing of the image files, then the split file.

    Every file appears under its name only when it is whole, and its content depends on nothing but that name. So an
    interrupted rendering continues where it was, and two processes may render into one folder at the same time.

    Raises:
        OSError: the folder cannot be written to.
    """
    for folder in {(image_dir / picture.path).parent for picture in pictures()}:
        remove_leftovers(folder)
    missing = [picture for picture in pictures() if not _is_there(image_dir / picture.path)]
    try:
        for picture in tqdm(missing, desc=f"Rendering Shapes into {image_dir}", unit="image", disable=not missing):
            write_picture(picture, image_dir)
        if not _is_there(split_path):
            with atomic_path(split_path) as temporary:
                temporary.write_text(json.dumps(split_content(), indent=1), encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"cannot write the Shapes images to {image_dir} ({error}). They are rendered on first use: "
            "point --root at a folder that you can write to, with 20 MB of free space."
        ) from error


def write_picture(picture: Picture, image_dir: Path) -> None:
    path = image_dir / picture.path
    # Another process may have been here since the list was made.
    if not _is_there(path):
        with atomic_path(path) as temporary:
            temporary.write_bytes(shapes_world.jpeg(shapes_world.dataset_photo(*picture[:3])))


def split_content() -> dict[str, list[tuple[str, int, str]]]:
    """The split file, in CoOp's form: ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``."""
    content: dict[str, list[tuple[str, int, str]]] = {split: [] for split in shapes_world.SPLIT_SIZES}
    for picture in pictures():
        content[picture.split].append((picture.path, picture.label, picture.classname))
    return content


def _is_there(path: Path) -> bool:
    """A file with content: a crash of the machine can leave a name without."""
    return path.is_file() and path.stat().st_size > 0
