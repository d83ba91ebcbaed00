"""The context that another run has learned: found in its folder, or in a file of somebody else's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt.clip.backbone import read_any_format
from anprompt.engine import checkpoint
from anprompt.engine.resumable import LEARNER
from anprompt.utils.config import require
from anprompt.utils.files import BEST, at_home, require_file

# By the last parts of their names, the first one that is there: GA2-CLIP's own release; CoOp's line, and ours.
NAMES = ("prompt_learner.ctx_VPT", "ctx_VPT", "prompt_learner.ctx", "ctx")


def find_checkpoint(place: str, key: str) -> Path:
    """The file itself, or the checkpoint that a test of a run's folder would take: the best one, else the newest.

    Raises:
        OSError, ValueError: there is none; ``key`` names the setting.
    """
    path = at_home(place)
    if path.is_dir():
        folder = path / LEARNER if (path / LEARNER).is_dir() else path
        newest = checkpoint.read_pointer(folder)
        name = BEST if (folder / BEST).is_file() else newest
        if name is None:
            raise FileNotFoundError(
                f"{key}: no checkpoint in {folder}: name the OUTPUT_DIR of a finished run, or a file"
            )
        return folder / name
    require_file(path, f"{key}:")
    if not path.is_file():
        raise FileNotFoundError(
            f"{key}: no file or folder {path}: name the OUTPUT_DIR of a run, or a checkpoint such as "
            f"OUTPUT_DIR/{LEARNER}/model.pth.tar-10"
        )
    return path


def read_context(path: Path, key: str) -> tuple[Tensor, str]:
    """A context ``[K, D]`` in fp32, and what its file tells of the data that it was trained on, or "".

    Nothing in the file runs. ``ctx`` of a checkpoint of ours (GA2CLIP, CoOp, PromptSRC, ...) or of the family's, or
    ``prompt_learner.ctx_VPT`` of a whole model, as GA2-CLIP's authors store it.

    Raises:
        OSError, ValueError: names ``key`` and the file.
    """
    try:
        content = read_any_format(path)
    except ValueError as error:
        raise ValueError(f"{key}: cannot read {path}: {error}. Is it a checkpoint, and a whole one?") from None
    found = {name: tensor for state in _states(content) for name, tensor in state.items()}
    context = next((found[name] for wanted in NAMES for name in found if _ends_with(name, wanted)), None)
    require(
        context is not None,
        f"{key}: {path} has no learned context: expected a tensor {' or '.join(NAMES)}, found "
        f"{', '.join(sorted(found)[:5]) or 'no tensors'}",
    )
    assert context is not None
    require(
        context.dim() == 2 and context.is_floating_point(),
        f"{key}: {path} has a context of shape {tuple(context.shape)}: expected [tokens, width], one for all classes "
        "(trained with CSC False)",
    )
    require(bool(torch.isfinite(context).all()), f"{key}: the context in {path} holds numbers that are not finite")
    trained_on = content.get("trained_on")
    told = trained_on.get("dataset", "") if isinstance(trained_on, dict) else ""
    return context.detach().float().clone(), str(told)


def _states(content: Mapping[str, Any]) -> Iterator[dict[str, Tensor]]:
    """The tensors by name of a file, and those of the state dicts in it."""
    for part in (content, *(value for value in content.values() if isinstance(value, dict))):
        yield {key: value for key, value in part.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _ends_with(name: str, wanted: str) -> bool:
    return re.fullmatch(rf"(.*\.)?{re.escape(wanted)}", name) is not None
