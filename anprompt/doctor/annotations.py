"""Labels in the MATLAB files that Stanford Cars and Oxford Flowers come with, to compare the split files with."""

from collections.abc import Callable
from pathlib import Path

from scipy.io import loadmat


def annotated_labels(registry_name: str, folder: Path) -> dict[str, int]:
    """Labels, counted from zero, by path relative to the image folder; ``{}`` where there are no such annotations.

    Raises:
        ValueError: a file is damaged; names it.
    """
    labels: dict[str, int] = {}
    for file, read in _FILES.get(registry_name, {}).items():
        path = folder / file
        try:
            labels |= read(path) if path.is_file() else {}
        except Exception as error:  # a damaged file may raise anything
            raise ValueError(f"cannot read {path} ({type(error).__name__}: {error})") from error
    return labels


def _flowers(path: Path) -> dict[str, int]:
    """``labels[i]`` is the class, from 1 on, of ``image_<i + 1>.jpg``."""
    labels = loadmat(path, squeeze_me=True)["labels"]
    return {f"image_{number:05d}.jpg": int(label) - 1 for number, label in enumerate(labels, start=1)}


def _cars(folder: str) -> Callable[[Path], dict[str, int]]:
    """Entries with a file name and its class, from 1 on."""

    def read(path: Path) -> dict[str, int]:
        annotations = loadmat(path, squeeze_me=True)["annotations"]
        return {f"{folder}/{item['fname']}": int(item["class"]) - 1 for item in annotations}

    return read


_FILES: dict[str, dict[str, Callable[[Path], dict[str, int]]]] = {
    "OxfordFlowers": {"imagelabels.mat": _flowers},
    "StanfordCars": {
        "devkit/cars_train_annos.mat": _cars("cars_train"),
        "cars_test_annos_withlabels.mat": _cars("cars_test"),
    },
}
