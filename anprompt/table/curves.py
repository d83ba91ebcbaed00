"""Figures of the few-shot protocol: accuracy by the number of training images per class, as PNG and PDF."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from anprompt.runs.read_results import RunResult
from anprompt.table.core import Options, Stat, average_of, group
from anprompt.table.few_shot import column_name, configs, split_by_config
from anprompt.table.names import shown
from anprompt.table.rows import settled

FORMATS = ("png", "pdf")
SIZE = (4.2, 3.4)  # inches: a column of most papers
UNFIT_FOR_FILES = re.compile(r"[^\w.+-]+")
DPI = 200  # of the PNG
MARKERS = "osD^vP*X<>"

Points: TypeAlias = dict[int, Stat]  # accuracy by shots, in ascending order
Figures: TypeAlias = dict[str, dict[str, Points]]  # by data, then by label of the curve


def few_shot_figures(results: Iterable[RunResult], options: Options) -> Figures:
    """The curves of every dataset and, where there are several, of their average.

    A curve is that of a trainer or, where two of its YAML files compete, of a file. It enters the average with the
    shots that it has on all datasets. Runs on all images have no place on the axis.
    """
    few_shot = [run for run in settled(results, options.warn) if run.protocol == "few_shot" and run.shots >= 1]
    limited = [run for run in few_shot if run.split == "test"]
    if len(limited) < len(few_shot):
        options.warn(f"{len(few_shot) - len(limited)} results on validation images are not drawn")
    figures: Figures = {name: {} for name in sorted({run.dataset for run in limited}, key=str.casefold)}
    for (trainer, name), runs in group(limited, lambda run: (run.trainer, run.dataset)).items():
        lines = split_by_config(runs)
        for line in lines:
            label = trainer if len(lines) == 1 else f"{trainer} ({configs(line)})"
            figures[name][label] = points_of(line, options)
    if len(figures) > 1:
        average = average_curves(list(figures.values()), options)
        figures |= {f"average of {len(figures)}": average} if average else {}
    return figures


def average_curves(figures: Sequence[dict[str, Points]], options: Options) -> dict[str, Points]:
    """Every curve's mean over all datasets."""
    averages: dict[str, Points] = {}
    for label in sorted({label for curves in figures for label in curves}, key=str.casefold):
        curves = [curves.get(label, {}) for curves in figures]
        shots = sorted({number for points in curves for number in points})
        means = {number: average_of([points.get(number) for points in curves]) for number in shots}
        missing = [column_name(number) for number, mean in means.items() if mean is None]
        if missing:
            options.warn(f"{label}: not on all data sets, hence not in the average: {', '.join(missing)}")
        if len(missing) < len(shots):
            averages[label] = {number: mean for number, mean in means.items() if mean}
    return averages


def points_of(runs: Sequence[RunResult], options: Options) -> Points:
    """Mean and spread over the seeds."""
    by_shots = group(runs, lambda run: run.shots)
    return {shots: Stat.of([run.accuracy for run in by_shots[shots]], options.ci95) for shots in sorted(by_shots)}


def draw(figures: Figures, folder: Path, options: Options) -> list[Path]:
    """Write ``few_shot_<data>.png`` and ``.pdf`` of every figure; the files.

    Raises:
        ValueError: there is nothing to draw, or matplotlib is not installed.
    """
    if not figures:
        raise ValueError("no few-shot results here: run the few_shot protocol first")
    try:
        from matplotlib.figure import Figure  # not pyplot, which wants a display
    except ImportError as error:
        raise ValueError("figures need matplotlib: pip install matplotlib") from error
    folder.mkdir(parents=True, exist_ok=True)
    styles = styles_of(figures)
    files = []
    for name, curves in figures.items():
        figure = Figure(figsize=SIZE, layout="constrained")
        draw_curves(figure.add_subplot(title=name), curves, styles, options)
        for suffix in FORMATS:
            file = folder / f"few_shot_{UNFIT_FOR_FILES.sub('_', name)}.{suffix}"
            figure.savefig(file, dpi=DPI)
            files.append(file)
    return files


def draw_curves(axes: Any, curves: dict[str, Points], styles: dict[str, dict[str, str]], options: Options) -> None:
    """Curves with error bars. Shots double from tick to tick."""
    for label, points in curves.items():
        means, spreads = zip(*((stat.mean, stat.spread or 0.0) for stat in points.values()), strict=True)
        axes.errorbar(list(points), means, spreads, label=shown(label), capsize=3, **styles[label])
    ticks = sorted({shots for points in curves.values() for shots in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(shots) for shots in ticks], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("training images per class")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    has_bars = any(stat.spread is not None for points in curves.values() for stat in points.values())
    spread = "95 % confidence" if options.ci95 else "deviation over seeds"
    axes.legend(fontsize="small", title=f"mean ± {spread}" if has_bars else None, title_fontsize="small")


def styles_of(figures: Figures) -> dict[str, dict[str, str]]:
    """A curve looks the same in all figures, and its marker tells it apart in grey."""
    labels = sorted({label for curves in figures.values() for label in curves}, key=str.casefold)
    return {
        label: {"color": f"C{number % 10}", "marker": MARKERS[number % len(MARKERS)]}
        for number, label in enumerate(labels)
    }
