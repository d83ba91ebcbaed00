"""Checkpoints of learnables: atomic on disk, plain data inside, and enough state to resume bit for bit.

A file has Dassl's keys (``state_dict, epoch, optimizer, scheduler, val_result``) followed by ours, so other tools of
the family read it; all of it loads with ``torch.load(path)`` under ``weights_only=True``. What is read back is tested
first: checksums, types, ranges, and that all numbers are finite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anprompt.utils import files
from anprompt.utils.archive import read_torch_file
from anprompt.utils.config import require
from anprompt.utils.files import atomic_path, require_file
from anprompt.utils.memory import named_shortage
from anprompt.utils.rng import rng_state, set_rng_state

POINTER = "checkpoint"  # Dassl's name for the text file that names the newest checkpoint
ANOTHER = "Test another epoch with --load-epoch, or train again with another OUTPUT_DIR"

# What a checkpoint of ours holds, and what a resume needs besides
ENTRIES: dict[str, tuple[type, ...]] = {
    "state_dict": (dict,),
    "epoch": (int,),
    "settings": (dict,),
    "backbone_digest": (str,),
    "trained_on": (dict,),
    "method_state": (dict,),
}
TO_GO_ON: dict[str, tuple[type, ...]] = {
    "optimizer": (dict,),
    "scheduler": (dict,),
    "scaler": (dict,),
    "rng": (dict,),
    "best_result": (float, int),
    "rolling": (bool,),
    "seed": (int,),
}
LATER: dict[str, tuple[type, ...]] = {  # earlier files lack them
    "train_seconds": (float, int),
    "training_state": (dict,),
    "generators": (dict,),
    "training": (dict,),
    "data": (dict,),
    "sentences": (str, type(None)),
    "workers": (int, type(None)),
    "max_epoch": (int,),
    "earlier_schedules": (list,),
}
TRAINING = ("classes", "shots", "subset")  # what "training" tells
SCHEDULE = ("max_epoch", "epochs")  # what each of "earlier_schedules" tells, in whole numbers
PLAIN = ("settings", "trained_on", "method_state", "data", "earlier_schedules")  # no tensors in them
MAY_BE_INFINITE = ("best_result", "val_result", "settings", "trained_on")


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


def require_checkpoint(path: str, key: str) -> None:
    """Raise an OSError or a ValueError, which names ``key``, where there is no file to start from."""
    require_file(Path(path), f"{key}:")
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{key}: no checkpoint at {path}. Name a file such as OUTPUT_DIR/prompt_learner/model.pth.tar-10"
        )


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Nothing in it runs, its checksums are tested, and its numbers are finite.

    Raises:
        FileNotFoundError: no such file; the message lists the checkpoints that are there.
        ValueError: the file is damaged, holds no learnables, or numbers that are not finite.
    """
    path = Path(path)
    require_file(path, "the checkpoint")
    if not path.is_file():
        found = sorted(file.name for file in path.parent.glob("model*")) if path.parent.is_dir() else []
        raise FileNotFoundError(
            f"no checkpoint at {path}; found there: {', '.join(found) or 'none'}. "
            "Check --model-dir (the OUTPUT_DIR of the training run) and --load-epoch."
        )
    try:
        with named_shortage(f"reading {path}", "free some of it"):
            state = read_torch_file(path)
    except ValueError as error:
        raise ValueError(
            f"cannot read the checkpoint {path} ({path.stat().st_size:,} bytes): {error}. {ANOTHER}."
        ) from None
    learnables = state.get("state_dict") if isinstance(state, dict) else None
    if not isinstance(learnables, dict):
        raise ValueError(
            f"{path} is not a checkpoint: expected a dict with 'state_dict', found {_what_is(state)}. {ANOTHER}."
        )
    odd = [name for name, value in learnables.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    require(not odd, f"{path}: expected tensors by name in its 'state_dict', found another {odd[:1]}. {ANOTHER}.")
    broken = [name for key, value in state.items() if key not in MAY_BE_INFINITE for name in _not_finite(value, key)]
    require(
        not broken,
        f"{path} holds numbers that are not finite: {', '.join(broken[:5])}. No result can come from it: {ANOTHER}.",
    )
    return state


def _what_is(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    return f"a dict with {', '.join(map(repr, list(content)[:5])) or 'nothing in it'}"


def _not_finite(value: Any, name: str) -> Iterator[str]:
    """Names of the tensors and numbers in ``value`` that are not finite."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{name}.{index}")
    elif not _is_finite(value):
        yield name


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        # PyTorch tells of no float of eight bits whether it is finite.
        comparable = value.float() if value.is_floating_point() and value.element_size() == 1 else value
        return bool(torch.isfinite(comparable).all())
    return not isinstance(value, float) or math.isfinite(value)


def check_entries(state: Mapping[str, Any], path: str | Path) -> None:
    """Raise a ValueError unless all that a test needs is there, of the right type and in range."""
    _check_types(state, ENTRIES, path)
    _check_types(state, {key: kinds for key, kinds in LATER.items() if key in state}, path)
    for key in filter(state.__contains__, PLAIN):
        odd = next(_not_plain(state[key], key), None)
        require(odd is None, f"{path}: {odd} is not plain data. It was changed after training: {ANOTHER}.")
    names = state["trained_on"].get("classnames")
    require(
        isinstance(state["trained_on"].get("dataset"), str)
        and isinstance(names, list)
        and bool(names)
        and all(isinstance(name, str) for name in names),
        f"{path}: expected 'trained_on' to tell the dataset and its classnames. {ANOTHER}.",
    )
    lacking = [key for key in TRAINING if "training" in state and key not in state["training"]]
    require(not lacking, f"{path}: expected 'training' to tell {', '.join(lacking)}. {ANOTHER}.")
    require(
        all(isinstance(digest, str) for digest in state.get("data", {}).values()),
        f"{path}: expected 'data' to tell the digests of lists. {ANOTHER}.",
    )
    require(
        all(
            isinstance(part, dict) and all(type(part.get(key)) is int for key in SCHEDULE)
            for part in state.get("earlier_schedules", [])
        ),
        f"{path}: expected 'earlier_schedules' to tell {' and '.join(SCHEDULE)} of each. {ANOTHER}.",
    )
    require(state.get("max_epoch", 1) >= 1, f"{path}: expected 'max_epoch' of at least 1. {ANOTHER}.")
    epoch, named = state["epoch"], re.fullmatch(r"model\.pth\.tar-(\d+)", Path(path).name)
    wanted = named[1] if named else "at least 1"
    require(
        epoch >= 1 and (not named or epoch == int(named[1])),
        f"{path}: expected epoch {wanted}, found {epoch}. It was renamed or changed after training: {ANOTHER}.",
    )


def check_resumable(state: Mapping[str, Any], path: str | Path) -> None:
    """Raise a ValueError unless a training can go on from this: see :func:`load_part` for what fits it."""
    _check_types(state, TO_GO_ON, path)
    now = rng_state()
    try:
        set_rng_state(state["rng"])
        for kept in state.get("generators", {}).values():
            torch.Generator().set_state(kept)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{path}: no random generator takes its 'rng' or 'generators' ({type(error).__name__}). {ANOTHER}."
        ) from None
    finally:
        set_rng_state(now)


def _check_types(state: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], path: str | Path) -> None:
    for key, types in kinds.items():
        expected = " or ".join(kind.__name__ for kind in types)
        found = f"a {type(state[key]).__name__}" if key in state else "nothing"
        require(
            key in state and type(state[key]) in types,
            f"{path}: expected {key!r}: {expected}, found {found}. {ANOTHER}.",
        )


def _not_plain(value: Any, name: str) -> Iterator[str]:
    """Names of the parts of ``value`` that are no text, numbers and containers of them."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _not_plain(item, f"{name}.{key}") if isinstance(key, str) else iter([f"{name}.{key}"])
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_plain(item, f"{name}.{index}")
    elif not isinstance(value, str | int | float | bool | None):
        yield name


def load_part(part: str, state: Mapping[str, Any], owner: Any, path: str | Path) -> None:
    """``owner.load_state_dict(state[part])`` for the optimiser, the schedule and the scaler.

    Raises:
        ValueError: it is not the state of such an object.
    """
    odd = next(_unlike(state[part], owner.state_dict(), part), None)
    require(odd is None, f"{path}: {odd}. {ANOTHER}.")
    take_back(owner.load_state_dict, part, path, state[part])
    if isinstance(owner, torch.optim.Optimizer):
        for parameter, kept in owner.state.items():
            for key, value in kept.items():
                fits = not isinstance(value, Tensor) or value.dim() == 0 or value.shape == parameter.shape
                require(fits, f"{path}: {key} in its {part!r} has another shape than the learnables. {ANOTHER}.")


def take_back(restore: Callable[..., None], part: str, path: str | Path, *stored: Any) -> None:
    """``restore(*stored)``; ValueError where a method does not find there what it has stored."""
    try:
        restore(*stored)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{path}: its {part!r} does not fit ({type(error).__name__}: {error}). {ANOTHER}.") from None


def _unlike(stored: Any, here: Any, name: str) -> Iterator[str]:
    """Where the state of an object has values of other types than the object at hand."""
    if isinstance(here, dict) and isinstance(stored, dict):
        for key in here.keys() & stored.keys():
            yield from _unlike(stored[key], here[key], f"{name}.{key}")
    elif isinstance(here, list) and isinstance(stored, list):
        if here and len(here) != len(stored):
            yield f"{name} has {len(stored)} entries, expected {len(here)}"
        for index, (one, other) in enumerate(zip(stored, here, strict=False)):
            yield from _unlike(one, other, f"{name}.{index}")
    elif None not in (stored, here) and _kind(stored) is not _kind(here):
        yield f"{name} is a {type(stored).__name__}, expected a {type(here).__name__}"


def _kind(value: Any) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


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
    if not name.startswith("model") or Path(name).name != name or not (path.parent / name).is_file():
        raise ValueError(f"{path} names {name[:80]!r}, which is no checkpoint there. Remove the folder to start over.")
    return name


def remove_leftovers(folder: str | Path, keep: str) -> None:
    """Remove what a killed process could not: half-written files, and rolling checkpoints other than ``keep``."""
    files.remove_leftovers(folder)
    for path in Path(folder).glob("model.pth.tar-*"):
        if path.name != keep and _is_rolling(path):
            path.unlink(missing_ok=True)


def _is_rolling(path: Path) -> bool:
    try:
        return load_checkpoint(path).get("rolling", False)
    except ValueError:  # damaged, and not ours to judge
        return False


def load_strictly(module: nn.Module, state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Load every learnable, none missing, none left over, all of the same shape, numbers for numbers.

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
    problems += [
        f"{name}: {state[name].dtype} in the file, {tensor.dtype} here"
        for name, tensor in expected.items()
        if name in state and not _same_sort(state[name].dtype, tensor.dtype)
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(
            f"{path} does not fit this model: {shown}. It was trained with another backbone or other token settings; "
            "use the configuration of the training run."
        )
    module.load_state_dict(state)


def _same_sort(one: torch.dtype, other: torch.dtype) -> bool:
    """The same dtype, or two precisions of real numbers."""
    return one == other or (one.is_floating_point and other.is_floating_point)
