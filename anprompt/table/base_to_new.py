"""Base-to-new generalisation: base, new and their harmonic mean H, with the costs and beside published results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anprompt.runs.read_results import RunResult
from anprompt.table.core import Cell, Options, Stat, Table, group, notes_of, seeds_text, shots_text

PUBLISHED = Path(__file__).parent.parent / "assets" / "published.json"
MEMORY = {"process": "peak memory (MB)", "cuda": "peak GPU memory (MB)"}


@dataclass
class Outcome:
    """Base-to-new of one setting on one dataset."""

    dataset: str
    base_runs: list[RunResult]
    base: Stat | None
    new: Stat | None
    h: Stat | None
    seeds: str

    def cells(self) -> list[Cell]:
        return [self.dataset, self.seeds, self.base, self.new, self.h]


def base_to_new(results: Iterable[RunResult], options: Options) -> Table:
    """Base, new and H of every trainer, YAML file, number of shots and dataset; averages where there are several."""
    results = list(results)
    rows: list[list[Cell]] = []
    averaged: dict[str, str] = {}
    for (trainer, stem, shots), runs in group(results, lambda run: (run.trainer, run.stem, run.shots)).items():
        setting: list[Cell] = [trainer, stem or None, shots_text(shots)]
        outcomes = [outcome(one, options) for one in group(runs, lambda run: run.dataset).values()]
        rows += [[*setting, *one.cells(), *costs(one.base_runs, options)] for one in outcomes]
        complete = [one for one in outcomes if one.h]
        if len(complete) > 1:
            rows += [[*setting, *average, *[None] * len(cost_header(options))] for average in averages(complete)]
            averaged[" ".join(str(cell) for cell in setting if cell)] = ", ".join(one.dataset for one in complete)
    if len(set(averaged.values())) > 1:
        scopes = "; ".join(f"{setting}: {data}" for setting, data in averaged.items())
        options.warn(f"averages over different data sets do not compare: {scopes}")
    header = ["trainer", "config", "shots", "data", "seeds", "base", "new", "H", *cost_header(options)]
    caption = f"Base to new: accuracy in per cent, mean ± {options.spread} over seeds. H: harmonic mean of each seed."
    return with_published(Table(caption, header, rows, notes_of(results)), options)


def outcome(runs: Sequence[RunResult], options: Options) -> Outcome:
    """Pair the halves of each seed. A seed with one half does not count, unless no seed has both."""
    base, new = ({run.seed: run for run in runs if run.classes == classes} for classes in ("base", "new"))
    both = sorted(base.keys() & new.keys())
    for missing, there, lacking in (("new", base, new), ("base", new, base)):
        seeds = [str(seed) for seed in sorted(there.keys() - lacking.keys())]
        if seeds:
            consequence = "left out" if both else "no H"
            options.warn(f"{label(runs[0])}: no {missing} half of seed {', '.join(seeds)}: {consequence}")
    if both:
        base, new = ({seed: half[seed] for seed in both} for half in (base, new))
    values = [harmonic_mean(base[seed].accuracy, new[seed].accuracy) for seed in both]
    return Outcome(
        dataset=runs[0].dataset,
        base_runs=list(base.values()),
        base=options.stat(base.values()),
        new=options.stat(new.values()),
        h=Stat.of(values, options.ci95) if values else None,
        seeds=seeds_text([*base.values(), *new.values()]),
    )


def label(run: RunResult) -> str:
    """A setting on a dataset, for warnings."""
    shots = shots_text(run.shots)
    details = ", ".join(filter(None, (run.stem, shots and f"{shots} shots")))
    return f"{run.trainer}{f' ({details})' if details else ''} on {run.dataset}"


def averages(outcomes: Sequence[Outcome]) -> list[list[Cell]]:
    """Data, seeds, base, new and H over several datasets; H by both conventions, which differ."""
    base, new, h = (
        statistics.fmean(stat.mean for stat in stats if stat)
        for stats in zip(*((one.base, one.new, one.h) for one in outcomes), strict=True)
    )
    name = f"average of {len(outcomes)}"
    return [
        [f"{name}, H of the averages", None, Stat(base), Stat(new), Stat(harmonic_mean(base, new))],
        [f"{name}, average of the Hs", None, Stat(base), Stat(new), Stat(h)],
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


def published() -> Mapping[str, Any]:
    """Results that others have published, each with its source."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def with_published(table: Table, options: Options) -> Table:
    """``--compare``: a column that says where a row is from, and the published rows."""
    if not options.compare:
        return table
    data = published()
    rows = [[*row, "measured"] for row in table.rows]
    scope = f"average of {data['datasets']}, H of the averages"
    for peer in data["rows"]:
        numbers: list[Cell] = [Stat(peer[key]) for key in ("base", "new", "H")]
        venue = f", {peer['venue']}" if peer["venue"] else ""
        source = f"published, not measured here{venue}: {peer['source']}"
        unknown = [None] * len(cost_header(options))
        shots = shots_text(peer.get("shots", data["shots"]))
        rows.append([peer["method"], None, shots, scope, None, *numbers, *unknown, source])
    return Table(table.caption, [*table.header, "source"], rows, [*table.notes, *data["notes"]])
