"""Files, seeds, names and the report on the environment."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import os
import platform
import random
import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

# ---------------------------------------------------------------------------------------------- files


def mkdir_if_missing(dirname: str) -> None:
    """Create a folder and its parents; ``""`` is the current folder."""
    Path(dirname).mkdir(parents=True, exist_ok=True)


def check_isfile(fpath: str) -> bool:
    """Whether the file exists; warns if it does not."""
    found = os.path.isfile(fpath)
    if not found:
        warnings.warn(f'No file at "{fpath}"', stacklevel=2)
    return found


def read_json(fpath: str) -> Any:
    with Path(fpath).open(encoding="utf-8") as file:
        return json.load(file)


def write_json(obj: Any, fpath: str) -> None:
    """Write ``obj`` indented by 4, in ASCII; creates the folder."""
    mkdir_if_missing(os.path.dirname(fpath))
    Path(fpath).write_text(json.dumps(obj, indent=4, separators=(",", ": ")), encoding="utf-8")


def listdir_nohidden(path: str, sort: bool = False) -> list[str]:
    """Names in a folder that do not start with a dot.

    Without ``sort`` they come in the file system's order: few-shot subsets of some datasets depend on it.
    """
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def read_image(path: str) -> Image.Image:
    """The image as RGB, eight bits per channel. Of 16 bits the upper eight count, rounded: white stays white.

    Raises:
        FileNotFoundError: no such file.
        OSError: damaged, too large, or of numbers whose white nobody knows; the message names the file.
    """
    try:
        with Image.open(path) as image:
            return _rgb(image)
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise OSError(f'the image "{path}" has more than {limit:,} pixels: store it smaller') from error
    except UnknownWhite as error:
        raise OSError(f'cannot read the image "{path}" ({error}): store it with 8 or 16 bits') from error
    except MemoryError as error:
        raise OSError(f'not enough memory for the image "{path}": store it smaller, or use fewer workers') from error
    except Exception as error:  # a decoder may raise anything
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system names the file and the cause: it is missing, no permission, too many open files
        raise OSError(f'cannot read the image "{path}" ({error}): unpack or fetch it again') from error


class UnknownWhite(Exception):
    """Numbers that may mean any brightness."""


def _rgb(image: Image.Image) -> Image.Image:
    """Pillow's own conversion cuts what is above 255: a picture of 16 bits would be white, one of floats black."""
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen_bits:
        white = 2 ** _bits(image) - 1
        pixels = np.asarray(image).astype(np.int64)
        return Image.fromarray(((pixels * 255 + white // 2) // white).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        numbers = "floating-point numbers" if image.mode == "F" else "whole numbers of 32 bits"
        raise UnknownWhite(f"its pixels are {numbers}, which do not say what is white")
    return image.convert("RGB")


def _bits(image: Image.Image) -> int:
    """Those of a grey pixel: TIFF knows 12 beside 16, and Pillow keeps both in 16."""
    tags = getattr(image, "tag_v2", {})
    return next(iter(tags.get(258, (16,))))  # BitsPerSample


def download_url(url: str, dst: str) -> None:
    """Fetch ``url`` into the file ``dst``, which appears only when it is complete."""
    mkdir_if_missing(os.path.dirname(dst))
    temporary = f"{dst}.part"
    urllib.request.urlretrieve(url, temporary)
    os.replace(temporary, dst)


# ---------------------------------------------------------------------------------------------- randomness


def set_random_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's (every device's) global generators. Draws nothing."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (transforms of the family draw from the global generator)
    torch.manual_seed(seed)


# ---------------------------------------------------------------------------------------------- names


def get_most_similar_str_to_a_from_b(a: str, b: Sequence[str]) -> str | None:
    """The string in ``b`` most like ``a`` (the last of equals), None if there is none."""
    best, best_ratio = None, 0.0
    for candidate in b:
        ratio = difflib.SequenceMatcher(None, a, candidate).ratio()
        if ratio >= best_ratio:
            best, best_ratio = candidate, ratio
    return best


def check_availability(requested: str, available: Sequence[str]) -> None:
    """Accept a name that is in ``available``.

    Raises:
        ValueError: it is not; the message lists the names and the nearest one.
    """
    if requested in available:
        return
    same = [name for name in available if name.lower() == requested.lower()]
    nearest = same[0] if same else get_most_similar_str_to_a_from_b(requested, available)
    hint = f"did you mean {nearest!r}? " if nearest else ""
    raise ValueError(f"{requested!r} is not available; {hint}There are: {list(available)}")


def tolist_if_not(x: Any) -> list:
    """``x`` itself if it is a list, else a list of ``x`` alone (of a tuple, too)."""
    return x if isinstance(x, list) else [x]


# ---------------------------------------------------------------------------------------------- environment


def collect_env_info() -> str:
    """Versions and devices that a result may depend on, one per line."""
    lines = [
        f"Python: {platform.python_version()}",
        f"Platform: {platform.platform()}",
        f"CPU threads: {torch.get_num_threads()} of {os.cpu_count()}",
        f"PyTorch: {torch.__version__} (CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()})",
        f"GPUs: {_gpus()}",
        *(f"{name}: {_version(name)}" for name in ("torchvision", "open_clip_torch", "numpy", "scikit-learn", "yacs")),
        f"        Pillow ({PIL.__version__})",
    ]
    return "\n".join(lines)


def _gpus() -> str:
    try:
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    except RuntimeError as error:  # a driver that does not answer must not stop a run on the CPU
        return f"not usable ({error})"
    return ", ".join(names) or "none"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
