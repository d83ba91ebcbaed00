"""The frames of a clip by their number, whatever form it has: a video file, a folder of images, or an array."""

from __future__ import annotations

import os
from pathlib import Path

from anprompt.video.frames import ArrayFile, Clip, FrameFolder, VideoError
from anprompt.video.items import ARRAYS

__all__ = ["Clip", "VideoError", "open_video"]


def open_video(path: str | Path, num_frames: int = -1) -> Clip:
    """The clip at ``path``, to be used as a context manager.

    Args:
        path: a video file, a folder of images or an ``.npz`` file of one uint8 array ``[n, H, W, 3]``.
        num_frames: of a folder, as a list says; only the first ones are taken. -1: all. Of no meaning for files.

    Raises:
        VideoError: missing, empty, truncated, no video, or no frames.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return FrameFolder(path, num_frames)
    if not os.path.exists(path):
        raise VideoError.of(path, "does not exist: check DATASET.VIDEO_DIR, and that the data set is complete")
    if not os.path.isfile(path):
        raise VideoError.of(path, "is neither a file nor a folder: name another")
    if not os.path.getsize(path):
        raise VideoError.of(path, "is empty (0 bytes): fetch it again")
    if path.endswith(ARRAYS):
        return ArrayFile(path)
    from anprompt.video.video_file import VideoFile  # brings PyAV, for which images have no use

    return VideoFile(path)
