"""Whether runs compare: seeds of one row with one config, trainers on the same images, means over the same seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from yacs.config import CfgNode

from anprompt.runs.read_results import RunResult, Warn
from anprompt.table.core import group, seeds_text
from anprompt.utils.config import differences, leaves


def warn_of_configs(results: Iterable[RunResult], warn: Warn) -> None:
    """Runs that one row averages differ in their seed and in nothing else."""
    kept = [result for result in results if dict(leaves(result.config)).get("TRAINER.NAME") == result.trainer]
    same = group(kept, lambda r: (r.protocol, r.trainer, r.stem, r.shots, r.dataset, r.classes))
    for first, *others in same.values():
        for other in others:
            lines = differences(first.config, CfgNode(other.config))
            changed = [line for line in lines if not line.startswith("SEED ")]
            if changed:
                warn(f"{first.path} and {other.path} are averaged, but their configs differ: {'; '.join(changed)}")


def warn_of_images(results: Iterable[RunResult], warn: Warn) -> None:
    """Trainers that are compared saw the same training images with the same seed."""
    trained = [run for run in results if run.subset and run.classes != "new" and run.protocol != "target"]
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
