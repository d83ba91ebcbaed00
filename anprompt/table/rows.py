"""Which runs share a row.

A row holds runs of one (trainer, configuration, dataset, protocol, source, shots, split) that differ in the seed, and a
test beside the very training whose model it tested. What does not fit is named and left out; where runs differ in
settings, the settings become part of the row's name.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from anprompt.runs.read_results import RunResult, Warn
from anprompt.table.core import group
from anprompt.utils.config import compared, leaves, same_value

# What seeds, and base and new classes, differ in anyway.
NO_SETTINGS = ("SEED", "DATASET.SUBSAMPLE_CLASSES")


def settled(results: Iterable[RunResult], warn: Warn) -> list[RunResult]:
    """The runs that belong into tables, each with its ``variant`` and ``source``."""
    fitting = []
    for run in results:
        reason = misfit(run)
        if reason:
            warn(f"{run.path} is in no table: {reason}")
        else:
            fitting.append(run)
    trainings = first_of_equals(with_variants([run for run in fitting if not run.is_test]), warn)
    tests = beside_trainings([run for run in fitting if run.is_test], trainings, warn)
    return trainings + first_of_equals(tests, warn)


def misfit(run: RunResult) -> str | None:
    """Why a run has no place in a table; None where it has one."""
    if run.untrained:
        return "nothing was trained (--eval-only without --model-dir)"
    other_classes = bool(run.trained_classes and run.tested_classes) and run.trained_classes != run.tested_classes
    trained_on = f"trained on {len(run.trained_classes)} classes of {run.source}, tested on {run.classes} classes of "
    trained_on += f"{run.dataset} ({len(run.tested_classes)})"
    if run.protocol is None:
        return f"{trained_on}, which no protocol does"
    if (run.classes == "all") == (run.protocol == "base2new"):
        return f"protocol {run.protocol} with {run.classes} classes"
    elsewhere = run.source not in (run.dataset, None)
    if run.protocol in ("few_shot", "source") and (elsewhere or other_classes):
        return f"{trained_on}, which protocol {run.protocol} does not"
    if run.protocol == "base2new" and elsewhere:
        return f"{trained_on}, which protocol base2new does not"
    learned = run.parameters != 0 and bool(run.trained_classes)
    same_classes = learned and bool(run.tested_classes) and not other_classes
    if run.source_classes == "new" or (run.classes == "new" and same_classes):
        return "trained on the new classes, which only a test may see"
    if run.source_classes and (run.source_classes == "base") != (run.protocol == "base2new"):
        return f"protocol {run.protocol} with a model of {run.source_classes} classes of {run.source}"
    return None


# ---------------------------------------------------------------------------------------------- configurations


@dataclass
class Cluster:
    """Runs of one row whose configs agree in all that both tell."""

    settings: Mapping[str, Any]
    runs: list[RunResult] = field(default_factory=list)


def with_variants(runs: Sequence[RunResult]) -> list[RunResult]:
    """The same runs. Where those of one row differ in settings, these become the ``variant`` of each.

    The keys that tell the variants of one YAML file apart are the same on all data, so that averages over data sets are
    averages of one configuration.
    """
    found = []
    for family in group(runs, lambda run: (run.protocol, run.trainer, run.stem)).values():
        rows = [clusters(row) for row in group(family, row_of).values()]
        keys = sorted({key for row in rows for key in disputed(row)})
        for cluster in (cluster for row in rows for cluster in row):
            variant = ", ".join(f"{key} {cluster.settings[key]}" for key in keys if key in cluster.settings)
            found += [replace(run, variant=variant) for run in cluster.runs]
    return found


def clusters(runs: Iterable[RunResult]) -> list[Cluster]:
    """In order of their first runs."""
    found: list[Cluster] = []
    for run in runs:
        settings = settings_of(run)
        fitting = (cluster for cluster in found if not changed(cluster.settings, settings))
        cluster = next(fitting, None)
        if cluster is None:
            cluster = Cluster(settings)
            found.append(cluster)
        elif not cluster.settings:
            cluster.settings = settings
        cluster.runs.append(run)
    return found


def disputed(row: Sequence[Cluster]) -> set[str]:
    """The keys in which the configs of one row differ."""
    return {key for one in row for other in row for key in changed(one.settings, other.settings)}


def settings_of(run: RunResult) -> dict[str, Any]:
    """What decides the numbers of a run beside its seed; ``{}`` where its file does not tell."""
    if dict(leaves(run.config)).get("TRAINER.NAME") != run.trainer:
        return {}
    return {key: value for key, value in compared(run.config, run.trainer).items() if key not in NO_SETTINGS}


def changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys of both whose values differ. Keys of one came with another version."""
    return [key for key in sorted(one.keys() & other.keys()) if not same_value(key, one[key], other[key])]


# ---------------------------------------------------------------------------------------------- tests and trainings


def beside_trainings(tests: Sequence[RunResult], trainings: Sequence[RunResult], warn: Warn) -> list[RunResult]:
    """The tests, each with the ``variant`` of the training whose model it tested, as far as that is known."""
    known = group(trainings, lambda run: (transferred(run), run.trainer, run.stem, run.shots, run.split))
    found, alone = [], []
    for test in tests:
        candidates = known.get((transferred(test), test.trainer, test.stem, test.shots, test.split), [])
        if not transferred(test):
            candidates = [run for run in candidates if run.dataset == test.dataset]
        elif test.source is None:  # of an earlier version
            sources = {run.dataset for run in candidates}
            test = replace(test, source=sources.pop() if len(sources) == 1 else None)
        candidates = [run for run in candidates if test.source in (None, run.dataset)]
        of_seed = [run for run in candidates if run.seed == test.seed]
        theirs = [run for run in of_seed if run.training == test.training is not None]
        if theirs:
            found.append(replace(test, variant=theirs[0].variant))
        elif test.training and any(run.training for run in of_seed):
            warn(f"{test.path} tests another training than that of {of_seed[0].path}: left out")
        elif candidates:
            found.append(replace(test, variant=most_alike(test, candidates).variant))
        else:
            alone.append(test)
    return found + with_variants(alone)


def transferred(run: RunResult) -> bool:
    return run.protocol in ("source", "target")


def most_alike(test: RunResult, trainings: Sequence[RunResult]) -> RunResult:
    """The training whose config differs least: all that there is to go by where no file says which one it was."""
    return min(trainings, key=lambda run: len(changed(settings_of(run), settings_of(test))))


# ---------------------------------------------------------------------------------------------- runs found twice


def first_of_equals(runs: Iterable[RunResult], warn: Warn) -> list[RunResult]:
    """Of runs with the same row and seed, the first."""
    found: dict[Hashable, RunResult] = {}
    for run in runs:
        first = found.setdefault((row_of(run), run.variant, run.seed), run)
        if first is not run:
            warn(f"{first.path} and {run.path} are the same seed of the same run: only the first counts")
    return list(found.values())


def row_of(run: RunResult) -> Hashable:
    """What runs of one row share, beside their settings."""
    source = run.source if run.protocol == "target" else run.dataset
    return run.protocol, run.trainer, run.stem, run.shots, source, run.dataset, run.split, run.classes
