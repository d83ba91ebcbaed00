"""Memory that is full, as an error of the user's: PyTorch reports it as a RuntimeError among others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SIGNS = ("can't allocate memory", "out of memory", "Cannot allocate memory", "not enough memory", "MemoryError")


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory, of the machine or of a GPU, is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@contextmanager
def named_shortage(what: str, mend: str) -> Iterator[None]:
    """Turn an error of full memory into an OSError that says during what it came, and what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        where = "of the GPU" if isinstance(error, torch.OutOfMemoryError) else "of this machine"
        raise OSError(f"the memory {where} is full ({what}): {mend}") from error
