"""Paired differences: one trainer against every other over the seeds that both have, base to new.

A seed draws the images that all trainers see, so that differences per seed vary less than the accuracies themselves.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from anprompt.runs.measures import harmonic_mean
from anprompt.runs.read_results import RunResult
from anprompt.table.base_to_new import setting_of
from anprompt.table.core import Cell, Difference, Options, Table, group, shots_text
from anprompt.utils.suggest import require_known

MEASURES = ("base", "new", "HM")
NOTES = (  # what the intervals do not say
    "An interval that contains zero shows no difference, which does not show that there is none.",
    "Each interval errs in one of twenty cases: of many rows, some do. HM of an average: of the HMs.",
)
FEW = 3  # seeds that are too few for a claim: one odd seed decides

Scores: TypeAlias = Mapping[str, Mapping[int, tuple[float, float, float]]]  # base, new, HM by data and seed


class Setting(NamedTuple):
    """What is compared."""

    trainer: str
    configuration: str | None
    shots: int
    split: str

    def __str__(self) -> str:
        return f"{self.trainer} ({self.configuration})" if self.configuration else self.trainer


def paired(results: Sequence[RunResult], name: str, options: Options) -> list[Table]:
    """Differences of every setting of the trainer ``name`` to every other setting, on each data set and on average.

    No table where there is nothing to compare with, which is then warned of.

    Raises:
        ValueError: there is no such trainer among the base-to-new results.
    """
    settings = {Setting(*setting): scores(runs) for setting, runs in group(results, setting_of).items()}
    require_known("--paired: trainer with base-to-new results", name, sorted({one.trainer for one in settings}))
    rows: list[list[Cell]] = []
    few: list[str] = []
    own = [setting for setting in settings if setting.trainer == name]
    for number, ours in enumerate(own):
        for theirs in settings:
            if theirs in own[: number + 1] or not comparable(ours, theirs):
                continue
            differences = by_data(settings[ours], settings[theirs])
            if not differences:
                options.warn(f"{ours} and {theirs} have no data set and seed in common: no paired difference")
            for data, by_seed in differences.items():
                row = compare(by_seed)
                rows.append([str(ours), str(theirs), shots_text(ours.shots), data, seeds_of(by_seed), *row])
                if len(by_seed) <= FEW and any(cell in ("higher", "lower") for cell in row):
                    few.append(f"{ours} - {theirs} on {data}")
    if few:
        options.warn(
            f"{FEW} seeds or fewer are too few for what is claimed of {'; '.join(few)}: the interval rests on at most "
            f"{FEW - 1} degrees of freedom, and one odd seed decides. Run more seeds"
        )
    if not rows:
        options.warn(f"--paired {name}: no other setting has results on the same data with the same seeds")
        return []
    header = ["trainer", "against", "shots", "data", "seeds"]
    header += [column for measure in MEASURES for column in (measure, f"{measure}: shown")]
    caption = f"{name} minus others: mean difference ± half the 95 % interval of the paired differences (Student t)."
    return [Table(caption, header, rows, list(NOTES))]


def comparable(one: Setting, other: Setting) -> bool:
    """The same shots; a trainer that learns nothing has none."""
    return one.split == other.split and (one.shots == other.shots or min(one.shots, other.shots) < 1)


def scores(runs: Sequence[RunResult]) -> Scores:
    """Of the seeds that have both halves."""
    found: dict[str, dict[int, tuple[float, float, float]]] = {}
    for data, here in group(runs, lambda run: run.data).items():
        base, new = ({run.seed: run.accuracy for run in here if run.classes == half} for half in ("base", "new"))
        both = sorted(base.keys() & new.keys())
        found[data] = {seed: (base[seed], new[seed], harmonic_mean(base[seed], new[seed])) for seed in both}
    return found


def by_data(ours: Scores, theirs: Scores) -> dict[str, dict[int, tuple[float, ...]]]:
    """Differences of base, new and HM by seed; with several data sets in common, also their average per seed."""
    found: dict[str, dict[int, tuple[float, ...]]] = {}
    for data in ours:
        seeds = sorted(ours[data].keys() & theirs.get(data, {}).keys())
        differences = {
            seed: tuple(a - b for a, b in zip(ours[data][seed], theirs[data][seed], strict=True)) for seed in seeds
        }
        if differences:
            found[data] = differences
    shared = set.intersection(*(set(by_seed) for by_seed in found.values())) if len(found) > 1 else set()
    if shared:
        average = {
            seed: tuple(statistics.fmean(column) for column in zip(*(one[seed] for one in found.values()), strict=True))
            for seed in sorted(shared)
        }
        found[f"average of {len(found)}"] = average
    return found


def compare(by_seed: Mapping[int, tuple[float, ...]]) -> list[Cell]:
    """Of base, new and HM: the difference, and what its interval shows."""
    row: list[Cell] = []
    for values in zip(*by_seed.values(), strict=True):
        difference = Difference.of(values, ci95=True)
        row += [difference, verdict(difference)]
    return row


def verdict(difference: Difference) -> str | None:
    """None where one seed has no interval."""
    if difference.spread is None:
        return None
    if abs(difference.mean) <= difference.spread:
        return "no difference shown"
    return "higher" if difference.mean > 0 else "lower"


def seeds_of(by_seed: Mapping[int, object]) -> str:
    return " ".join(str(seed) for seed in by_seed)
