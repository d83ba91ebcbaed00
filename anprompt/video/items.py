"""One labelled clip of a data set, and the form in which it lies on disk."""

from __future__ import annotations

import os

from dassl.data.datasets import Datum

ARRAYS = ".npz"
BACKENDS = ("auto", "pyav", "frames", "npz")


class VideoDatum(Datum):
    """A clip where Dassl has an image: a video file, a folder of frames, or an ``.npz`` file of them.

    Args:
        impath: path of an existing file or folder.
        label: class index, 0-based.
        domain: domain index.
        classname: class name as the data set spells it.
        num_frames: of a frame folder, as its list says; -1: as many as lie there.

    Raises:
        FileNotFoundError: nothing lies at ``impath``.
    """

    def __init__(
        self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "", num_frames: int = -1
    ) -> None:
        # Datum's own check takes files only.
        if not os.path.exists(impath):
            raise FileNotFoundError(
                f'No clip at "{impath}": check DATASET.ROOT and DATASET.VIDEO_DIR, and that the data set is complete'
            )
        self._impath, self._label, self._domain, self._classname = impath, label, domain, classname
        self._num_frames = num_frames

    @property
    def num_frames(self) -> int:
        return self._num_frames


def locate(path: str, backend: str = "auto") -> str:
    """Where a clip lies that a list names ``path``, in the form that ``VIDEO.BACKEND`` asks for.

    ``frames`` is the folder, ``npz`` the file of arrays that has the place and the name of the video file, but for the
    ending; ``auto`` and ``pyav`` are what the list names. The result may not exist.
    """
    stem, ending = os.path.splitext(path)
    if backend == "frames" and ending and not os.path.isdir(path):
        return stem
    if backend == "npz" and ending != ARRAYS:
        return (path if os.path.isdir(path) else stem) + ARRAYS
    return path
