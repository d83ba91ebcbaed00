"""Whether rows compare: trainers on the same images, means over the same seeds, averages over the same data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from anprompt.runs.read_results import RunResult, Warn
from anprompt.table.core import group, seeds_text


def warn_of_images(results: Iterable[RunResult], warn: Warn) -> None:
    """Trainers that are compared saw the same training images with the same seed."""
    trained = [run for run in results if run.subset and not run.is_test]
    for (data, classes, shots, seed), runs in group(trained, lambda r: (r.dataset, r.classes, r.shots, r.seed)).items():
        sides = group(runs, lambda run: run.subset)
        if len(sides) > 1:
            names = " / ".join(", ".join(sorted({run.trainer for run in side})) for side in sides.values())
            warn(f"{data} ({classes} classes, {shots} shots, seed {seed}): trained on different images: {names}")


def warn_of_seeds(name: str, columns: Mapping[str, Sequence[RunResult]], warn: Warn) -> None:
    """The means of one row compare where they are over the same seeds."""
    seeds = {column: seeds_text(runs) for column, runs in columns.items() if runs}
    if len(set(seeds.values())) > 1:
        warn(f"{name}: means over different seeds: {'; '.join(f'{column}: {text}' for column, text in seeds.items())}")


def warn_of_averages(averaged: Mapping[str, Sequence[str]], warn: Warn) -> None:
    """Averages compare where they are over the same data; ``averaged``: data by row."""
    if len({tuple(data) for data in averaged.values()}) > 1:
        scopes = "; ".join(f"{row}: {', '.join(data)}" for row, data in averaged.items())
        warn(f"averages over different data sets do not compare: {scopes}")
