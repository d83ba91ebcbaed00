"""Cross-dataset transfer and domain generalisation: one source, other data as targets."""

from __future__ import annotations

from collections.abc import Sequence

from anprompt.runs.read_results import RunResult
from anprompt.table.checks import warn_of_seeds
from anprompt.table.core import Cell, Options, Table, average_of, group, notes_of, seeds_text, shots_text

VARIANTS_OF_IMAGENET = ("ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR")


def cross_dataset(sources: Sequence[RunResult], targets: Sequence[RunResult], options: Options) -> list[Table]:
    """A table of other datasets and one of ImageNet's variants, as far as there are such targets."""
    variants = [run for run in targets if run.dataset in VARIANTS_OF_IMAGENET]
    others = [run for run in targets if run.dataset not in VARIANTS_OF_IMAGENET]
    tables = []
    if others or (sources and not variants):
        tables.append(transfer("Cross-dataset transfer", sources, others, options))
    if variants:
        tables.append(transfer("Domain generalisation", sources, variants, options))
    return tables


def transfer(name: str, sources: Sequence[RunResult], targets: Sequence[RunResult], options: Options) -> Table:
    """A row per trainer, configuration, shots and source; columns for source, targets and the targets' average."""
    columns = [("source", data) for data in names(sources)] + [("target", data) for data in names(targets)]
    rows: list[list[Cell]] = []
    for setting, runs in group([*sources, *targets], setting_of).items():
        cells = group(runs, lambda run: (run.protocol, run.data))
        trainer, configuration, shots, source, _ = setting
        row = f"{trainer} ({configuration}) trained on {source}, {name}"
        warn_of_seeds(row, {data: cells[place, data] for place, data in cells}, options.warn)
        stats = [options.stat(cells.get(column, ())) for column in columns]
        average = average_of([stat for stat, (place, _) in zip(stats, columns, strict=True) if place == "target"])
        rows.append([trainer, configuration, source, shots_text(shots), seeds_text(runs), *stats, average])
    header = ["trainer", "config", "trained on", "shots", "seeds"]
    header += [f"source: {data}" if place == "source" else data for place, data in columns]
    caption = f"{name}: accuracy in per cent, mean ± {options.spread} over the seeds."
    return Table(caption, [*header, "average of targets"], rows, notes_of([*sources, *targets]))


def setting_of(run: RunResult) -> tuple[str, str | None, int, str | None, str]:
    """What the source and the targets of one row share."""
    source = run.dataset if run.protocol == "source" else run.source
    return run.trainer, run.configuration, run.shots, source, run.split


def names(runs: Sequence[RunResult]) -> list[str]:
    return sorted({run.data for run in runs}, key=str.casefold)
