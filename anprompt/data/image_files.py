"""The images in folders of classes; and what lies there but is left out, which is counted and told."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from dassl.utils import listdir_nohidden

ENDINGS = (*IMG_EXTENSIONS, ".jfif")  # in lower or upper case; the last one is what Windows calls some JPEG files
PARTS = ("train", "val", "test")


class Remark(NamedTuple):
    """Something about a dataset that a user should know: one line of the log, one finding of the doctor."""

    kind: str  # a word or two to sort by
    what: str
    fix: str
    files: list[str]  # those concerned

    def __str__(self) -> str:
        example = f", such as {self.files[0]}" if self.files else ""
        return f"Warning: {self.what}{example} (fix: {self.fix})"


class LeftOut:
    """Collects the visible files and folders that no reader takes."""

    def __init__(self) -> None:
        self.others: list[str] = []
        self.deeper: list[str] = []
        self.loose: list[str] = []
        self.folders: list[str] = []

    def remarks(self) -> Iterator[Remark]:
        """One for each reason why something is left out."""
        others, deeper, loose, folders = (
            [printable(path) for path in paths] for paths in (self.others, self.deeper, self.loose, self.folders)
        )
        if others:
            endings = Counter(os.path.splitext(path)[1].lower() or "none" for path in others)
            shown = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(5))
            what = f"{len(others):,} files in class folders are left out, not an image by their endings ({shown})"
            yield Remark("left out", what, f"images among them need one of the endings {' '.join(ENDINGS)}", others)
        if deeper:
            what = f"{len(deeper):,} images are left out, in folders within a class folder"
            yield Remark("left out", what, "move them up into the folder of their class", deeper)
        if loose:
            what = f"{len(loose):,} images are left out, in no class folder"
            yield Remark("left out", what, "move them into the folder of their class", loose)
        if folders:
            what = f"{len(folders):,} folders with class folders are left out, called neither train, val nor test"
            yield Remark("left out", what, "rename them if they are one of these, such as valid/ to val/", folders)


def printable(path: str) -> str:
    """``path``, or with escapes where a terminal or a text file could not take it as it is."""
    return path if path.isprintable() else ascii(path)[1:-1]


def class_folders(place: str, left_out: LeftOut) -> list[str]:
    """Names of the folders in ``place``, sorted; none where there is no such place.

    Raises:
        ValueError: a name is not UTF-8.
    """
    if not os.path.isdir(place):
        return []
    names = listdir_nohidden(place, sort=True)
    folders = [name for name in names if os.path.isdir(os.path.join(place, name))]
    left_out.loose += [os.path.join(place, name) for name in set(names) - set(folders) if has_ending(name)]
    left_out.loose.sort()
    return [require_utf8(place, name) for name in folders]


def images_in(folder: str, left_out: LeftOut, by_content: bool = False) -> list[str]:
    """Names of the image files in ``folder``, sorted.

    Args:
        folder: of one class.
        left_out: is told of the other visible files, and of the images that lie deeper.
        by_content: take a file whose ending says nothing if Pillow knows it as an image.

    Raises:
        ValueError: a name is not UTF-8.
    """
    images = []
    for name in listdir_nohidden(folder, sort=True):
        path = os.path.join(folder, name)
        if has_ending(name):
            images.append(require_utf8(folder, name))
        elif os.path.isdir(path):
            left_out.deeper += images_below(path)
        elif by_content and is_image(path):
            images.append(require_utf8(folder, name))
        else:
            left_out.others.append(path)
    return images


def images_below(folder: str) -> list[str]:
    """Paths of the visible image files in ``folder`` and the folders in it, sorted."""
    return sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if has_ending(name) and not name.startswith(".")
    )


def has_ending(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def is_image(path: str) -> bool:
    """Whether Pillow finds an image in the first bytes of a file."""
    try:
        with Image.open(path):
            return True
    except Exception:  # not only its own errors: a file may look like an image for a few bytes
        return False


def is_utf8(text: str) -> bool:
    """Bytes of a file's name that are not UTF-8 are lone surrogates in Python, which no text file takes."""
    return text == text.encode("utf-8", "replace").decode()


def require_utf8(folder: str, name: str) -> str:
    """``name``; a ValueError where neither a prompt, nor a list of images, nor a log could hold it."""
    if not is_utf8(name):
        raise ValueError(f"{os.path.join(folder, name)!r}: the name is not UTF-8, rename the file or folder")
    return name
