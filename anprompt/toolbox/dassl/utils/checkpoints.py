"""Checkpoint files: written atomically, plain data only, and old ones of Dassl read safely."""

from __future__ import annotations

import os
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from dassl.utils.legacy import load_legacy
from dassl.utils.tools import mkdir_if_missing

BEST = "model-best.pth.tar"  # the checkpoint that validation chose
POINTER = "checkpoint"  # text file beside the checkpoints that names the one saved last


def save_checkpoint(
    state: Mapping[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write ``state`` to ``save_dir`` and make it the checkpoint that a resume starts from.

    A process killed at any moment leaves complete files, and a pointer to one of them.

    Args:
        state: ``state_dict``, ``epoch`` and whatever else is to be kept; plain data and tensors.
        is_best: also write it as ``model-best.pth.tar``.
        remove_module_from_keys: drop the leading ``module.`` that DataParallel puts before names.
        model_name: file name; default ``model.pth.tar-<epoch>``.
    """
    state = dict(state)
    if remove_module_from_keys:
        state["state_dict"] = without_module(state["state_dict"])
    name = model_name or f"model.pth.tar-{state['epoch']}"
    fpath = os.path.join(save_dir, name)
    mkdir_if_missing(save_dir)
    _write(fpath, lambda file: torch.save(state, file))
    print(f"Checkpoint saved to {fpath}")
    _write(os.path.join(save_dir, POINTER), lambda file: file.write(f"{name}\n".encode()))
    if is_best:
        best = os.path.join(save_dir, BEST)
        _write(best, lambda file: torch.save(state, file))
        print(f"Best checkpoint saved to {best}")


def _write(fpath: str, write: Callable[[IO[bytes]], Any]) -> None:
    """Fill a temporary file beside ``fpath``, and move it there once it is on the disk."""
    path = Path(fpath)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def without_module(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """The same entries without the leading ``module.`` of their names."""
    return OrderedDict((name.removeprefix("module."), value) for name, value in state_dict.items())


def load_checkpoint(fpath: str) -> Any:
    """Content of a checkpoint; on the CPU where there is no GPU, else on the devices it was saved from.

    Raises:
        ValueError: ``fpath`` is None, or the file does not have the checksums that it was written with.
        FileNotFoundError: no such file.
    """
    if fpath is None:
        raise ValueError("expected the path of a checkpoint, got None")
    if not os.path.exists(fpath):
        raise FileNotFoundError(f'no checkpoint at "{fpath}"')
    map_location = None if torch.cuda.is_available() else "cpu"
    try:
        _test_checksums(fpath)
        try:
            return torch.load(fpath, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError:
            return load_legacy(fpath, map_location)
    except Exception:
        print(f'Unable to load checkpoint from "{fpath}"')
        raise


def _test_checksums(fpath: str) -> None:
    """Raise a ValueError where a bit has changed since the file was written: PyTorch would load another number."""
    if not zipfile.is_zipfile(fpath):  # cut short, which PyTorch notices, or written before PyTorch 1.6
        return
    try:
        with zipfile.ZipFile(fpath) as archive:
            summed = any(record.CRC for record in archive.infolist())  # not after set_crc32_options(False)
            damaged = archive.testzip() if summed else None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OverflowError, RuntimeError) as error:
        damaged = str(error)
    if damaged is not None:
        raise ValueError(f'the checkpoint "{fpath}" is damaged ({damaged}): name another one, or train again')


def newest_checkpoint(fdir: str) -> str | None:
    """Path of the checkpoint saved last in a folder; None if nothing was saved there."""
    pointer = Path(fdir, POINTER)
    lines = pointer.read_text(encoding="utf-8").splitlines() if pointer.is_file() else []
    return os.path.join(fdir, lines[0].strip()) if lines else None


def resume_from_checkpoint(fdir: str, model: nn.Module, optimizer: Any = None, scheduler: Any = None) -> int:
    """Restore the newest checkpoint of a folder into the objects given.

    Returns:
        The number of epochs that it has been trained for.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
    """
    fpath = newest_checkpoint(fdir)
    if fpath is None:
        raise FileNotFoundError(f'nothing to resume in "{fdir}": there is no file "{POINTER}" that names a checkpoint')
    print(f'Loading checkpoint from "{fpath}"')
    state = load_checkpoint(fpath)
    model.load_state_dict(state["state_dict"])
    print("Loaded model weights")
    if optimizer is not None and state.get("optimizer") is not None:
        optimizer.load_state_dict(state["optimizer"])
        print("Loaded optimizer")
    if scheduler is not None and state.get("scheduler") is not None:  # after the optimizer: it sets the rates
        scheduler.load_state_dict(state["scheduler"])
        print("Loaded scheduler")
    print(f"Previous epoch: {state['epoch']}")
    return state["epoch"]
