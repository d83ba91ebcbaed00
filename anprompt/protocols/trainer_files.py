"""What a protocol takes from ``configs/trainers/<Trainer>/``: a YAML file, and settings that replace some of its.

    vit_b16.yaml                        a YAML file; its stem is part of the results' folders
    protocols/files.yaml                which of several YAML files a protocol takes
    protocols/few_shot.yaml             settings that training by this protocol changes: only the keys that differ
    protocols/few_shot_imagenet.yaml    the same on one dataset, by the stem of its YAML file, in place of the former

Protocols are called base2new, few_shot, cross_dataset and zero_shot here. All files but the first are optional.
``files.yaml`` has a line per protocol, with ``_imagenet`` at its end for ImageNet alone, and one for all others::

    default: vit_b16_ep50_ctxv1
    few_shot: {"1": vit_b16_ep50, "2": vit_b16_ep100, other: vit_b16}   # by shots, or one name for all of them
    few_shot_imagenet: vit_b16_ep50
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anprompt.utils import strict_yaml
from anprompt.utils.config import leaves

PROTOCOLS = ("base2new", "few_shot", "cross_dataset", "zero_shot")
IMAGENET = "_imagenet"
FILES = "files.yaml"
DEFAULT, OTHER = "default", "other"
LAST_RESORT = "vit_b16"


def stem_for(trainer: Path, protocol: str, dataset: str, shots: str) -> str:
    """Stem of the YAML file. Without ``files.yaml``: the only one besides the tiny one, else vit_b16.

    Args:
        trainer: its folder.
        shots: as a word.

    Raises:
        ValueError: ``files.yaml`` does not say.
    """
    file = trainer / f"protocols/{FILES}"
    if not file.is_file():
        return only_stem(trainer)
    table = read(file)
    check_names(file, table)
    names = [f"{protocol}{IMAGENET}"] * (dataset == "imagenet") + [protocol, DEFAULT]
    entry = next((table[name] for name in names if name in table), None)
    if isinstance(entry, dict):
        entry = entry.get(shots, entry.get(OTHER))
    if not isinstance(entry, str):
        raise ValueError(
            f"{file}: expected the stem of a YAML file for {protocol} with {shots} shots, got {entry!r}: "
            f"add a line {protocol}: STEM, or {DEFAULT}: STEM for all protocols"
        )
    return entry


def only_stem(trainer: Path) -> str:
    others = [file.stem for file in trainer.glob("*.yaml") if file.stem != "tiny"]
    return others[0] if len(others) == 1 else LAST_RESORT


def check_names(file: Path, table: Mapping[str, Any]) -> None:
    """Raise a ValueError for a line that no protocol reads."""
    known = [DEFAULT, *PROTOCOLS, *(f"{protocol}{IMAGENET}" for protocol in PROTOCOLS)]
    for name in table:
        if name not in known:
            raise ValueError(f"{file}: unknown protocol {name!r}; known: {', '.join(known)}")


def settings_for(trainer: Path, protocol: str, dataset: str) -> list[str]:
    """The protocol's settings as ``KEY VALUE`` words, in the order of their file.

    Raises:
        ValueError: the file holds no settings.
    """
    names = [f"{protocol}_{dataset}", protocol]
    files = (trainer / f"protocols/{name}.yaml" for name in names)
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return []
    return [
        word for key, value in leaves(read(file)) for word in (key, value if isinstance(value, str) else repr(value))
    ]


def read(file: Path) -> dict[str, Any]:
    """Content of a YAML file that holds keys.

    Raises:
        ValueError: it does not.
    """
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except ValueError as error:  # that of bytes which are no UTF-8 is one, too
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected YAML keys with values, got {content!r}")
    return content


@functools.lru_cache(maxsize=256)
def parse(text: str) -> Any:
    """A plan of many runs reads the same files again and again; parsing them takes longest."""
    return strict_yaml.load(text)
