"""What the runs left behind: every ``results.json`` below some folders, read and checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anprompt.runs.run_folder import RESULTS
from anprompt.utils.files import require_file

Warn = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """One run. What its file does not tell is None: files of earlier versions lack the costs."""

    path: Path
    protocol: str  # base2new, few_shot, source or target (of cross-dataset transfer)
    trainer: str
    stem: str  # of the YAML file; empty where the folders do not tell
    shots: int  # below 1: not limited
    dataset: str
    classes: str  # base, new or all
    seed: int
    accuracy: float  # in per cent
    parameters: int | None = None
    train_seconds: float | None = None
    peak_memory: int | None = None  # in bytes
    memory_of: str | None = None  # process or cuda
    subset: str | None = None  # digest of the training images
    headline: str | None = None  # name of the head whose accuracy it is
    target_settings: Mapping[str, Any] = field(default_factory=dict)  # that a test does not share with its training
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)


def find_results(folders: Iterable[Path], warn: Warn) -> list[RunResult]:
    """All runs below ``folders``. Damaged files are named to ``warn`` and left out; so is the second of two equal runs.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: there is no run at all.
    """
    folders = list(folders)
    files: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
        files |= dict.fromkeys(file.resolve() for file in sorted(folder.rglob(RESULTS)))
    found: dict[tuple, RunResult] = {}
    for file in files:
        try:
            result = read_result(file)
        except (ValueError, OSError) as error:
            warn(f"{file} is damaged ({error}): skipped; remove it and run again")
            continue
        first = found.setdefault(identity(result), result)
        if first is not result:
            warn(f"{first.path} and {file} are the same seed of the same run: only the first counts")
    if not found:
        places = ", ".join(str(folder) for folder in folders)
        raise ValueError(f"no results below {places}: give the output folder of finished runs, with their {RESULTS}")
    return list(found.values())


def identity(result: RunResult) -> tuple:
    """What two runs must not share in one table."""
    return (
        result.protocol,
        result.trainer,
        result.stem,
        result.shots,
        result.dataset,
        result.classes,
        result.seed,
    )


def read_result(path: Path) -> RunResult:
    """One run from its file; ValueError says what is wrong with it."""
    require_file(path, "the result")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is not the result of a run")
    accuracy = number(content, "accuracy")
    if accuracy is None or not 0 <= accuracy <= 100:
        raise ValueError(f"accuracy is {accuracy}")
    classes, seed = text(content, "classes"), content.get("seed")
    if classes not in ("base", "new", "all"):
        raise ValueError(f"classes is {classes!r}, expected base, new or all")
    if not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}")
    cost = mapping(content, "cost")
    protocol, stem, shots_of_folder = place(path, classes)
    parameters, peak = number(content, "parameters"), number(cost, "peak_memory_bytes")
    return RunResult(
        path=path,
        protocol=protocol,
        trainer=text(content, "trainer"),
        stem=stem,
        shots=shots_of_folder or shots_of(content),
        dataset=text(content, "dataset"),
        classes=classes,
        seed=seed,
        accuracy=accuracy,
        parameters=None if parameters is None else int(parameters),
        train_seconds=number(cost, "train_seconds"),
        peak_memory=None if peak is None else int(peak),
        memory_of=cost.get("memory_of"),
        subset=text(content, "subset") if content.get("subset") else None,
        headline=text(content, "headline") if content.get("headline") else None,
        target_settings=mapping(content, "target_settings"),
        config=mapping(content, "config"),
    )


def place(path: Path, classes: str) -> tuple[str, str, int | None]:
    """Protocol, YAML stem and, of cross-dataset runs, the shots of the training, which no test results.

    The file tells base and new. Few-shot and cross-dataset runs differ in their folders only: ``STEM/seedN`` against
    ``STEM_16shots/seedN`` (source) and ``STEM_16shots/DATASET/seedN`` (target).
    """
    second, above, seed = ("", "", *path.parts[:-1])[-3:]
    if not re.fullmatch(r"seed-?\d+", seed):
        return ("few_shot" if classes == "all" else "base2new"), "", None
    if classes != "all":
        return "base2new", above, None
    for protocol, name in (("source", above), ("target", second)):
        match = re.fullmatch(r"(.+)_(\d+)shots", name)
        if match:
            return protocol, match[1], int(match[2])
    return "few_shot", above, None


def shots_of(content: Mapping[str, Any]) -> int:
    """Training images per class; files of earlier versions have it in their config only."""
    shots = number(content, "shots")
    if shots is None:
        shots = number(mapping(mapping(content, "config"), "DATASET"), "NUM_SHOTS")
    return -1 if shots is None else int(shots)


def number(content: Mapping[str, Any], key: str) -> float | None:
    """A finite number, None where there is none."""
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} is {value!r}")
    return value


def mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Empty where there is none."""
    value = content.get(key)
    if not isinstance(value, dict | None):
        raise ValueError(f"{key} is {value!r}")
    return value or {}


def text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {value!r}")
    return value
