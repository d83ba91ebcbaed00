"""Checkpoints of learnables: atomic on disk, plain data inside, and enough state to resume bit for bit.

A file has Dassl's keys (``state_dict, epoch, optimizer, scheduler, val_result``) followed by ours, so other tools of
the family read it; all of it loads with ``torch.load(path)`` under ``weights_only=True``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anprompt.utils.files import atomic_path

POINTER = "checkpoint"  # Dassl's name for the text file that names the newest checkpoint


def save_checkpoint(state: Mapping[str, Any], path: str | Path) -> None:
    """Write ``state`` to ``path`` atomically.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    try:
        with atomic_path(path) as temporary:
            torch.save(dict(state), temporary)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OSError(
            f"cannot write the checkpoint {path} ({error}). Is the disk full? Earlier checkpoints are kept: make room "
            "and give the same command again."
        ) from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        FileNotFoundError: no such file; the message lists the checkpoints that are there.
        ValueError: the file is truncated or is no checkpoint of this library.
    """
    path = Path(path)
    if not path.is_file():
        found = sorted(file.name for file in path.parent.glob("model*")) if path.parent.is_dir() else []
        raise FileNotFoundError(
            f"no checkpoint at {path}; found there: {', '.join(found) or 'none'}. "
            "Check --model-dir (the OUTPUT_DIR of the training run) and --load-epoch."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen unrelated types here
        raise ValueError(
            f"cannot read the checkpoint {path} ({path.stat().st_size:,} bytes): it is truncated or not a checkpoint "
            f"({type(error).__name__}). Remove the folder {path.parent} to start over, or load another epoch with "
            "--load-epoch."
        ) from error
    if not isinstance(state, dict) or "state_dict" not in state:
        raise ValueError(
            f"{path} is not a checkpoint: expected a dict with 'state_dict', found {type(state).__name__}."
        )
    return state


def write_pointer(folder: str | Path, name: str) -> None:
    """Make ``name`` the checkpoint that a resume starts from."""
    with atomic_path(Path(folder) / POINTER) as temporary:
        temporary.write_text(f"{name}\n", encoding="utf-8")


def read_pointer(folder: str | Path) -> str | None:
    """Name of the newest checkpoint in ``folder``, None where nothing was saved yet.

    Raises:
        ValueError: the file names no checkpoint that is there.
    """
    path = Path(folder) / POINTER
    if not path.is_file():
        return None
    name = path.read_text(encoding="utf-8", errors="replace").strip()
    if not name.startswith("model") or not (path.parent / name).is_file():
        raise ValueError(f"{path} names {name!r}, which is no checkpoint there. Remove the folder to start over.")
    return name


def remove_leftovers(folder: str | Path, keep: str) -> None:
    """Remove what a killed process could not: half-written files, and rolling checkpoints other than ``keep``."""
    for pattern in (".model*", f".{POINTER}.*"):
        for temporary in Path(folder).glob(pattern):
            temporary.unlink(missing_ok=True)
    for path in Path(folder).glob("model.pth.tar-*"):
        if path.name != keep and _is_rolling(path):
            path.unlink(missing_ok=True)


def _is_rolling(path: Path) -> bool:
    try:
        return load_checkpoint(path).get("rolling", False)
    except ValueError:  # damaged, and not ours to judge
        return False


def load_strictly(module: nn.Module, state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Load every learnable, none missing, none left over, all of the same shape.

    Raises:
        ValueError: lists each difference.
    """
    expected = module.state_dict()
    problems = [f"missing {name}" for name in expected if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in expected]
    problems += [
        f"{name}: shape {tuple(state[name].shape)} in the file, {tuple(tensor.shape)} here"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(
            f"{path} does not fit this model: {shown}. It was trained with another backbone or other token settings; "
            "use the configuration of the training run."
        )
    module.load_state_dict(state)
