"""What the runs left behind: every ``results.json`` below some folders, read and checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from anprompt.runs.identity import PROTOCOLS
from anprompt.runs.run_folder import RESULTS
from anprompt.utils.config import YAML_DATA
from anprompt.utils.files import require_file

Warn = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """One run. What its file does not tell is None: files of earlier versions lack the costs."""

    path: Path
    protocol: str | None  # base2new, few_shot, source or target (of cross-dataset transfer); None: it fits none
    trainer: str
    stem: str  # of the YAML file; empty where neither file nor folders tell
    shots: int  # of the training; below 1: not limited
    dataset: str
    classes: str  # base, new or all
    seed: int
    accuracy: float  # in per cent
    top5: float | None = None  # in per cent, on video
    split: str = "test"  # or val
    variant: str = ""  # settings that tell it from other runs with the same YAML file (anprompt/table/rows.py)
    source: str | None = None  # data that it was trained on; None: nothing was learned, or it is not known
    source_classes: str | None = None  # base, new or all of them; None: not known
    training: str | None = None  # digest of what was learned, the same for all results of one training
    untrained: bool = False  # there is something to learn, and it was not
    trained_classes: Sequence[str] = field(default=(), repr=False)
    tested_classes: Sequence[str] = field(default=(), repr=False)
    parameters: int | None = None
    train_seconds: float | None = None
    peak_memory: int | None = None  # in bytes
    memory_of: str | None = None  # process or cuda
    subset: str | None = None  # digest of the training images
    headline: str | None = None  # name of the head whose accuracy it is
    target_settings: Mapping[str, Any] = field(default_factory=dict)  # that a test does not share with its training
    earlier_schedules: Sequence[Mapping[str, int]] = ()  # of shorter runs, which its training went on from
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def configuration(self) -> str | None:
        """The YAML file and, where they decide, the settings that replace some of it."""
        return ", ".join(filter(None, (self.stem, self.variant))) or None

    @property
    def data(self) -> str:
        """The data and, where they are not the test images, which part of them."""
        return self.dataset if self.split == "test" else f"{self.dataset} ({self.split})"

    @property
    def is_test(self) -> bool:
        """Whether it tests what another run has learned."""
        return self.protocol == "target" or self.classes == "new"


def find_results(folders: Iterable[Path], warn: Warn) -> list[RunResult]:
    """All runs below ``folders``. Damaged files are named to ``warn`` and left out.

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
    found: list[RunResult] = []
    for file in files:
        try:
            found.append(read_result(file))
        except (ValueError, OSError) as error:
            warn(f"{file} is damaged ({error}): skipped; remove it and run again")
    if not found:
        places = ", ".join(str(folder) for folder in folders)
        raise ValueError(f"no results below {places}: give the output folder of finished runs, with their {RESULTS}")
    return found


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
    split = content.get("split") or "test"
    if split not in ("val", "test"):
        raise ValueError(f"split is {split!r}, expected val or test")
    cost = mapping(content, "cost")
    trained_on, trained_classes = trained_data(content)
    tested_classes = [text(row, "class") for row in rows(content, "per_class")]
    parameters, peak = number(content, "parameters"), number(cost, "peak_memory_bytes")
    by_folder = place(path, classes)
    shots: float | None = by_folder.shots
    if "protocol" in content:
        protocol, source, shots = optional(content, "protocol"), optional(content, "source"), number(content, "shots")
        if protocol not in (*PROTOCOLS, None):
            raise ValueError(f"protocol is {protocol!r}, expected {', '.join(PROTOCOLS)} or null")
    else:  # written by an earlier version
        protocol, source = by_folder.protocol, trained_on
        if protocol == "few_shot" and source not in (data_of(content), None):
            protocol = "target"
    return RunResult(
        path=path,
        protocol=protocol,
        trainer=text(content, "trainer"),
        stem=optional(content, "configuration") or by_folder.stem,
        shots=shots_of(content) if shots is None else int(shots),
        dataset=data_of(content),
        classes=classes,
        seed=seed,
        accuracy=accuracy,
        top5=number(content, "top5_accuracy"),
        split=split,
        source=source,
        source_classes=optional(content, "source_classes"),
        training=optional(content, "training"),
        untrained="training" in content and content["training"] is None and bool(parameters),
        trained_classes=trained_classes,
        tested_classes=tested_classes,
        parameters=None if parameters is None else int(parameters),
        train_seconds=number(cost, "train_seconds"),
        peak_memory=None if peak is None else int(peak),
        memory_of=cost.get("memory_of"),
        subset=optional(content, "subset"),
        headline=optional(content, "headline"),
        target_settings=differing_settings(content),
        earlier_schedules=shorter_schedules(content),
        config=mapping(content, "config"),
    )


class Place(NamedTuple):
    """What the folders of a run tell, where its file does not."""

    protocol: str
    stem: str = ""
    shots: int | None = None  # of the training of a cross-dataset run


def place(path: Path, classes: str) -> Place:
    """Read the names of the folders.

    The file tells base and new. Few-shot and cross-dataset runs differ in their folders only: ``STEM/seedN`` against
    ``STEM_16shots/seedN`` (source) and ``STEM_16shots/DATASET/seedN`` (target).
    """
    second, above, seed = ("", "", *path.parts[:-1])[-3:]
    if not re.fullmatch(r"seed-?\d+", seed):
        return Place("few_shot" if classes == "all" else "base2new")
    if classes != "all":
        return Place("base2new", above)
    for protocol, name in (("source", above), ("target", second)):
        match = re.fullmatch(r"(.+)_(\d+)shots", name)
        if match:
            return Place(protocol, match[1], int(match[2]))
    return Place("few_shot", above)


def data_of(content: Mapping[str, Any]) -> str:
    """Id of the tested data. Files of earlier versions have the folder of YAML data in their config only."""
    name = text(content, "dataset")
    return optional(mapping(mapping(content, "config"), "DATASET"), "FOLDER") or name if name in YAML_DATA else name


def trained_data(content: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """Id and class names of the data trained on, as far as they are known."""
    trained_on = mapping(content, "trained_on")
    names = trained_on.get("classnames", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"trained_on.classnames is {names!r}")
    name = optional(trained_on, "dataset")
    if name not in YAML_DATA:
        return name, names
    # An earlier version called all YAML data so. With the same classes, they are taken for the tested data.
    same = names == [text(row, "class") for row in rows(content, "per_class")]
    return (data_of(content) if same else None), names


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


def differing_settings(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a test and its training had, by key."""
    settings = mapping(content, "target_settings")
    if not all(isinstance(values, dict) and {"trained", "tested"} <= values.keys() for values in settings.values()):
        raise ValueError(f"target_settings is {settings!r}")
    return settings


def shorter_schedules(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """``MAX_EPOCH``, and the epochs done by then, of the runs that a training went on from."""
    found = rows(content, "earlier_schedules")
    if not all(isinstance(part.get(key), int) for part in found for key in ("max_epoch", "epochs")):
        raise ValueError(f"earlier_schedules is {found!r}")
    return found


def rows(content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A list of mappings; empty where there is none."""
    value = content.get(key)
    if not isinstance(value, list | None) or not all(isinstance(row, dict) for row in value or ()):
        raise ValueError(f"{key} is {value!r}")
    return value or []


def optional(content: Mapping[str, Any], key: str) -> str | None:
    """A text, None where there is none."""
    return text(content, key) if content.get(key) else None


def text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {value!r}")
    return value
