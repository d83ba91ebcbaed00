"""What a loader's worker processes run out of, and what they cannot read, told as such."""

import re
from collections.abc import Iterator
from typing import Any

# PyTorch's words where a worker cannot place a batch in shared memory, or was killed for that.
SHARED_MEMORY = ("out of shared memory", "shared memory object", "file </torch_")


def name_shortage(batches: Iterator[Any], workers: int) -> Iterator[Any]:
    """``batches``, from worker processes if there are any.

    Raises:
        OSError: there is not enough shared memory for them.
        ValueError, OSError: what a worker raised, whose own message PyTorch hides at the end of a traceback.
    """
    return _naming(batches, workers) if workers else batches


def _naming(batches: Iterator[Any], workers: int) -> Iterator[Any]:
    try:
        yield from batches
    except RuntimeError as error:
        if not any(words in str(error) for words in SHARED_MEMORY):
            raise
        raise OSError(
            f"shared memory (/dev/shm) is too small for the batches of {workers} workers: lower "
            "DATALOADER.NUM_WORKERS (0 needs none) or the batch size, or give a container more (--shm-size)"
        ) from error
    except (ValueError, OSError) as error:
        own = _own_message(error)
        if own is None:
            raise
        raise type(error)(own) from error


def _own_message(error: Exception) -> str | None:
    """The message of an error that PyTorch made anew of one in a worker; None of any other."""
    text = str(error)
    if not text.startswith("Caught ") or "Traceback" not in text:
        return None
    starts = list(re.finditer(rf"^(?:\w+\.)*{type(error).__name__}: ", text, re.MULTILINE))
    return " ".join(text[starts[-1].end() :].split()) if starts else None
