"""A clip that is open: its frames by their number. Here of folders of images and of arrays."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from anprompt.data.image_files import has_ending
from anprompt.utils.text import printable
from dassl.utils import listdir_nohidden, read_image

FLOW = "flow_"  # optical flow, which lies beside the frames in some collections


class VideoError(ValueError):
    """A clip that cannot be read. The message names it."""

    @classmethod
    def of(cls, path: str, reason: str) -> VideoError:
        return cls(f'the clip "{printable(path)}" {reason}')


class Clip(ABC):
    """A clip that is open.

    Attributes:
        path: of the file or folder.
        decoded: number of frames that have been decoded so far, wanted or not.
    """

    def __init__(self, path: str):
        self.path = path
        self.decoded = 0

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames, at least one."""

    @abstractmethod
    def frames(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames of rising numbers ``wanted``, uint8 ``[H, W, 3]``."""

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """RGB frames as they are to be looked at, uint8 ``[T, H, W, 3]``; in any order, and repeated where asked for.

        Raises:
            IndexError: there is no such frame.
            VideoError: a frame cannot be decoded, or has another size.
        """
        wanted = sorted(set(indices))
        if not wanted or wanted[0] < 0 or wanted[-1] >= len(self):
            raise IndexError(f"{self.path} has the frames 0..{len(self) - 1}, asked for {list(indices)}")
        found: dict[int, np.ndarray] = {}
        for index, frame in zip(wanted, self.frames(wanted), strict=True):
            first = found[wanted[0]] if found else frame
            if frame.shape != first.shape:
                sizes = [f"{shape[1]}x{shape[0]}" for shape in (first.shape, frame.shape)]
                raise VideoError.of(
                    self.path, f"changes its size from {sizes[0]} to {sizes[1]}: write it anew in one size"
                )
            found[index] = frame
        return np.stack([found[index] for index in indices])

    def close(self) -> None:  # noqa: B027  (most have nothing open)
        """Give back what is open; the clip cannot be read any more."""

    def __enter__(self) -> Clip:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class FrameFolder(Clip):
    """Images in a folder, in the order of the numbers in their names."""

    def __init__(self, path: str, num_frames: int = -1):
        super().__init__(path)
        names = [name for name in listdir_nohidden(path) if has_ending(name) and not name.startswith(FLOW)]
        if not names:
            raise VideoError.of(path, "is a folder without images: no frame to read")
        if num_frames == 0 or num_frames > len(names):
            raise VideoError.of(
                path, f"has {len(names)} frames where its list says {num_frames}: mend the list or the folder"
            )
        names.sort(key=_by_numbers)
        self.files = [os.path.join(path, name) for name in (names[:num_frames] if num_frames > 0 else names)]

    def __len__(self) -> int:
        return len(self.files)

    def frames(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        for index in wanted:
            try:
                frame = np.asarray(read_image(self.files[index]))
            except (OSError, SyntaxError) as error:  # Pillow's, for broken PNG files
                raise VideoError.of(self.path, f"has a frame that cannot be read: {printable(error)}") from error
            self.decoded += 1
            yield frame


def _by_numbers(name: str) -> list[Any]:
    """2 before 10, whether or not there are zeros before it."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


class ArrayFile(Clip):
    """The one array of an ``.npz`` file."""

    def __init__(self, path: str):
        super().__init__(path)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                names = list(arrays)
                self.array = arrays[names[0]] if len(names) == 1 else None
        except Exception as error:  # damaged ones raise anything
            raise VideoError.of(path, f"is damaged or no .npz file ({printable(error)}): write it again") from error
        expected = "expected one array of uint8 [n, H, W, 3]"
        if self.array is None:
            raise VideoError.of(path, f"holds {len(names)} arrays, {expected}")
        dtype, shape = self.array.dtype, self.array.shape
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape[1:]:
            raise VideoError.of(path, f"holds {dtype} {list(shape)}, {expected}")
        if not shape[0]:
            raise VideoError.of(path, "has no frame")

    def __len__(self) -> int:
        return len(self.array)  # type: ignore[arg-type]

    def frames(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        self.decoded += len(wanted)
        return iter(self.array[list(wanted)])  # type: ignore[index]
