"""Base-to-new generalisation: base, new and their harmonic mean HM, with the costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from anprompt.runs.measures import harmonic_mean
from anprompt.runs.read_results import RunResult, Warn
from anprompt.table.checks import warn_of_averages
from anprompt.table.core import Cell, Options, Stat, Table, average_name, group, notes_of, seeds_text, shots_text
from anprompt.table.rows import changed, settings_of

TOP5 = ("base, top 5", "new, top 5")
MEMORY = {"process": "peak memory (MB)", "cuda": "peak GPU memory (MB)"}


@dataclass
class Outcome:
    """Base-to-new of one setting on one dataset."""

    data: str
    base_runs: list[RunResult]
    base: Stat | None
    new: Stat | None
    hm: Stat | None
    seeds: str
    top5: tuple[Stat | None, Stat | None] = (None, None)  # of base and new

    def cells(self, top5: bool = False) -> list[Cell]:
        return [self.data, self.seeds, self.base, self.new, self.hm, *(self.top5 if top5 else ())]


def base_to_new(results: Iterable[RunResult], options: Options) -> Table:
    """Base, new and HM of every trainer, configuration, number of shots and dataset; averages where there are some."""
    results = list(results)
    top5 = any(run.top5 is not None for run in results)
    rows: list[list[Cell]] = []
    averaged: dict[str, list[str]] = {}
    for (trainer, configuration, shots, split), runs in group(results, setting_of).items():
        setting: list[Cell] = [trainer, configuration, shots_text(shots)]
        outcomes = [outcome(one, options) for one in group(runs, lambda run: run.data).values()]
        rows += [[*setting, *one.cells(top5), *costs(one.base_runs, options)] for one in outcomes]
        complete = [one for one in outcomes if one.hm]
        if len(complete) > 1:
            beside = [None] * (len(TOP5 if top5 else ()) + len(cost_header(options)))
            rows += [[*setting, *average, *beside] for average in averages(complete, split)]
            averaged[" ".join(str(cell) for cell in setting if cell)] = [one.data for one in complete]
    warn_of_averages(averaged, options.warn)
    header = ["trainer", "config", "shots", "data", "seeds", "base", "new", "HM"]
    header += [*(TOP5 if top5 else ()), *cost_header(options)]
    caption = f"Base to new: accuracy in per cent, mean ± {options.spread} over seeds. HM: harmonic mean of each seed."
    return Table(caption, header, rows, notes_of(results))


def setting_of(run: RunResult) -> tuple[str, str | None, int, str]:
    """What rows share that one average is over."""
    return run.trainer, run.configuration, run.shots, run.split


def outcome(runs: Sequence[RunResult], options: Options) -> Outcome:
    """Pair the halves of each seed. A seed with one half does not count, unless no seed has both."""
    base, new = ({run.seed: run for run in runs if run.classes == classes} for classes in ("base", "new"))
    both = sorted(base.keys() & new.keys())
    for missing, there, lacking in (("new", base, new), ("base", new, base)):
        seeds = [str(seed) for seed in sorted(there.keys() - lacking.keys())]
        if seeds:
            consequence = "left out" if both else "no HM"
            options.warn(f"{label(runs[0])}: no {missing} half of seed {', '.join(seeds)}: {consequence}")
    if both:
        base, new = ({seed: half[seed] for seed in both} for half in (base, new))
        warn_of_halves(base, new, options.warn)
    values = [harmonic_mean(base[seed].accuracy, new[seed].accuracy) for seed in both]
    return Outcome(
        data=runs[0].data,
        base_runs=list(base.values()),
        base=options.stat(base.values()),
        new=options.stat(new.values()),
        hm=Stat.of(values, options.ci95) if values else None,
        seeds=seeds_text([*base.values(), *new.values()]),
        top5=(top5_of(base.values(), options), top5_of(new.values(), options)),
    )


def top5_of(runs: Iterable[RunResult], options: Options) -> Stat | None:
    values = [run.top5 for run in runs if run.top5 is not None]
    return Stat.of(values, options.ci95) if values else None


def warn_of_halves(base: Mapping[int, RunResult], new: Mapping[int, RunResult], warn: Warn) -> None:
    """Files of earlier versions do not say which training a half belongs to: their configs must do."""
    for one, other in ((base[seed], new[seed]) for seed in base if not base[seed].training and not new[seed].training):
        keys = changed(settings_of(one), settings_of(other))
        if keys:
            warn(f"{one.path} and {other.path} may be of two trainings: their configs differ in {', '.join(keys)}")


def label(run: RunResult) -> str:
    """A setting on a dataset, for warnings."""
    shots = shots_text(run.shots)
    details = ", ".join(filter(None, (run.configuration, shots and f"{shots} shots")))
    return f"{run.trainer}{f' ({details})' if details else ''} on {run.data}"


def averages(outcomes: Sequence[Outcome], split: str) -> list[list[Cell]]:
    """Data, seeds, base, new and HM over several datasets; HM by both conventions, which differ."""
    base, new, hm = (
        statistics.fmean(stat.mean for stat in stats if stat)
        for stats in zip(*((one.base, one.new, one.hm) for one in outcomes), strict=True)
    )
    name = average_name(len(outcomes), split)
    return [
        [f"{name}, HM of the averages", None, Stat(base), Stat(new), Stat(harmonic_mean(base, new))],
        [f"{name}, average of the HMs", None, Stat(base), Stat(new), Stat(hm)],
    ]


def cost_header(options: Options) -> list[str]:
    return ["parameters", "training (s)", *MEMORY.values()] if options.cost else []


def costs(runs: Sequence[RunResult], options: Options) -> list[Cell]:
    """Learnable parameters, mean training time and highest memory of the runs that trained."""
    if not options.cost:
        return []
    parameters = [run.parameters for run in runs if run.parameters is not None]
    seconds = [run.train_seconds for run in runs if run.train_seconds is not None]
    peaks = [
        max((run.peak_memory for run in runs if run.memory_of == kind and run.peak_memory is not None), default=None)
        for kind in MEMORY
    ]
    return [
        max(parameters, default=None),
        statistics.fmean(seconds) if seconds else None,
        *(None if peak is None else round(peak / 1e6) for peak in peaks),
    ]
