"""What every table is made of: cells, options, and results in groups."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from anprompt.runs.read_results import RunResult, Warn

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing since Python 3.11

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Stat:
    """A mean and its spread over the seeds; one seed has none."""

    mean: float
    spread: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], ci95: bool = False) -> Self:
        """Spread: the deviation of the population, or half of Student's 95 % confidence interval."""
        mean, n = statistics.fmean(values), len(values)
        if n == 1:
            return cls(mean)
        return cls(mean, student_t(n) * statistics.stdev(values) / math.sqrt(n) if ci95 else statistics.pstdev(values))


class Difference(Stat):
    """A mean of differences, shown with its sign."""


def student_t(n: int) -> float:
    """Two-sided 95 % quantile for the mean of ``n`` values."""
    from scipy import stats  # comes with scikit-learn; slow to import, and few need it

    return float(stats.t.ppf(0.975, n - 1))


Cell: TypeAlias = Stat | int | float | str | None


@dataclass
class Table:
    """Rows of cells under a header. None stands for what is not known."""

    caption: str
    header: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """What the user asked of the tables."""

    warn: Warn
    ci95: bool = False  # intervals instead of deviations
    cost: bool = False  # columns of parameters, time and memory
    compare: bool = False  # published results
    paired: str | None = None  # trainer whose differences to all others are wanted

    @property
    def spread(self) -> str:
        return "half the 95 % confidence interval (Student t)" if self.ci95 else "population deviation"

    def stat(self, runs: Iterable[RunResult]) -> Stat | None:
        """Accuracy over runs that differ in the seed."""
        values = [run.accuracy for run in runs]
        return Stat.of(values, self.ci95) if values else None


def group(results: Iterable[RunResult], key: Callable[[RunResult], Key]) -> dict[Key, list[RunResult]]:
    """Runs by key, sorted by names, shots and seed."""
    groups: dict[Key, list[RunResult]] = defaultdict(list)
    for result in sorted(results, key=lambda r: (r.trainer.casefold(), r.stem, r.dataset.casefold(), r.shots, r.seed)):
        groups[key(result)].append(result)
    return dict(groups)


def shots_text(shots: int) -> str | None:
    """None: not limited, or nothing was trained."""
    return str(shots) if shots >= 1 else None


def seeds_text(runs: Iterable[RunResult]) -> str:
    return " ".join(str(seed) for seed in sorted({run.seed for run in runs}))


def average_name(count: int, split: str) -> str:
    """In the column of the data: an average over ``count`` data sets."""
    return f"average of {count}" if split == "test" else f"average of {count} ({split})"


def average_of(stats: Sequence[Stat | None]) -> Stat | None:
    """Mean over datasets; None where one is missing."""
    known = [stat.mean for stat in stats if stat]
    return Stat(statistics.fmean(known)) if known and len(known) == len(stats) else None


def notes_of(results: Iterable[RunResult]) -> list[str]:
    """Below a table: the head behind every trainer's accuracies, tests with settings of their own, resumed runs."""
    heads: dict[str, set[tuple[str, str]]] = {}
    settings: dict[str, None] = {}
    longer: dict[str, None] = {}
    for run in results:
        place = run.protocol if run.protocol in ("source", "target") else f"{run.classes} classes"
        if run.headline:
            heads.setdefault(run.trainer, set()).add((place, run.headline))
        for key, values in run.target_settings.items():
            settings[f"{run.trainer} on {run.dataset}: {key} {values['tested']}, trained with {values['trained']}"] = (
                None
            )
        if run.earlier_schedules:
            parts = ", ".join(f"{part['epochs']} of a run of {part['max_epoch']}" for part in run.earlier_schedules)
            longer[f"{run.trainer} on {run.dataset}, seed {run.seed} (epochs: {parts})"] = None
    by_trainer = "; ".join(
        f"{trainer}: {', '.join(f'{head} ({place})' for place, head in sorted(heads[trainer]))}"
        for trainer in sorted(heads, key=str.casefold)
    )
    notes = [f"Heads: {by_trainer}."] if heads else []
    if settings:
        notes.append(f"Settings chosen for the tested data: {'; '.join(settings)}.")
    if longer:
        notes.append(
            f"Resumed with a longer OPTIM.MAX_EPOCH, unlike that many epochs from the start: {'; '.join(longer)}."
        )
    return notes
