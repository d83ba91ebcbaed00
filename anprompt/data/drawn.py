"""What the embedded data sets share: items that follow from their names alone, drawn into files on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from anprompt.utils.files import atomic_path, remove_leftovers


class Drawn(NamedTuple):
    """One item; all but the label say what it shows."""

    split: str
    classname: str
    number: int
    label: int

    @property
    def stem(self) -> str:
        """Path of its file without the ending, with forward slashes."""
        folder = self.classname.replace(" ", "_")
        return f"{folder}/{folder}_{self.split}_{self.number:04d}"


def drawn_items(split_sizes: Mapping[str, int], classnames: Sequence[str]) -> Iterator[Drawn]:
    """All items, split by split and class by class.

    Args:
        split_sizes: items per class.
    """
    for split, count in split_sizes.items():
        for label, classname in enumerate(classnames):
            yield from (Drawn(split, classname, number, label) for number in range(count))


def draw_missing(files: Mapping[Path, Callable[[], bytes]], doing: str, unit: str) -> None:
    """Make the files that are not there, with a progress bar.

    Every file appears under its name only when it is whole, and its content depends on nothing but that name. So an
    interrupted drawing continues where it was, and two processes may draw into one folder at the same time.

    Raises:
        OSError: a folder cannot be written to.
    """
    for folder in {path.parent for path in files}:
        remove_leftovers(folder)
    missing = [path for path in files if not has_content(path)]
    for path in tqdm(missing, desc=doing, unit=unit, disable=not missing):
        if not has_content(path):  # another process may have been here since the list was made
            with atomic_path(path) as temporary:
                temporary.write_bytes(files[path]())


def has_content(path: Path) -> bool:
    """Whether there is such a file, and not only its name, which is what a crash of the machine can leave."""
    return path.is_file() and path.stat().st_size > 0
