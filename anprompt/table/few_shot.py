"""Few-shot classification: accuracy by the number of training images per class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from anprompt.runs.read_results import RunResult
from anprompt.table.checks import warn_of_averages, warn_of_seeds
from anprompt.table.core import Cell, Options, Table, average_name, average_of, group, notes_of, seeds_text, shots_text


def few_shot(results: Sequence[RunResult], options: Options) -> Table:
    """A row per trainer and dataset, and an average where there are several datasets; a column per number of shots."""
    columns = sorted({run.shots for run in results})
    rows: list[list[Cell]] = []
    averaged: dict[str, list[str]] = {}
    for (trainer, split), runs in group(results, lambda run: (run.trainer, run.split)).items():
        lines = [line for one in group(runs, lambda run: run.data).values() for line in split_by_config(one)]
        stats = []
        for line in lines:
            data, cells = line[0].data, group(line, lambda run: run.shots)
            warn_of_seeds(f"{trainer} on {data}", {column_name(shots): cells[shots] for shots in cells}, options.warn)
            stats.append([options.stat(cells.get(shots, ())) for shots in columns])
            rows.append([trainer, configs(line), data, seeds_text(line), *stats[-1]])
        if len(lines) > 1 and len({line[0].data for line in lines}) == len(lines):
            means = [average_of(column) for column in zip(*stats, strict=True)]
            rows.append([trainer, configs(runs), average_name(len(lines), split), None, *means])
            averaged.setdefault(trainer, []).extend(line[0].data for line in lines)
    warn_of_averages(averaged, options.warn)
    header = ["trainer", "config", "data", "seeds", *map(column_name, columns)]
    caption = f"Few-shot: accuracy in per cent by training images per class, mean ± {options.spread} over the seeds."
    return Table(caption, header, rows, notes_of(results))


def column_name(shots: int) -> str:
    return f"{shots_text(shots) or 'all'} shot{'s' * (shots != 1)}"


def split_by_config(runs: Sequence[RunResult]) -> list[list[RunResult]]:
    """Rows of one trainer and dataset: one, though its YAML file may depend on the shots, unless two compete."""
    by_shots = group(runs, lambda run: run.shots).values()
    competing = any(len({run.configuration for run in same}) > 1 for same in by_shots)
    return list(group(runs, lambda run: run.configuration).values()) if competing else [list(runs)]


def configs(runs: Iterable[RunResult]) -> str | None:
    return ", ".join(dict.fromkeys(run.configuration for run in runs if run.configuration)) or None
