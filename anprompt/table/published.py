"""``--compare``: results that others have published, beside what was measured here and compares with them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anprompt.runs.measures import harmonic_mean
from anprompt.runs.read_results import RunResult
from anprompt.table.base_to_new import Outcome, outcome, setting_of
from anprompt.table.core import Cell, Options, Stat, Table, group
from anprompt.utils.config import DESCRIPTION_FOLDERS, leaves

PUBLISHED = Path(__file__).parent.parent / "assets" / "published.json"
HEADER = ["method", "extra supervision", "base", "new", "HM", "rerun", "from"]


def published() -> Mapping[str, Any]:
    """Base-to-new results, each with its source."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def beside_published(results: Sequence[RunResult]) -> Table:
    """The published rows and, first, the averages of the same data in the same setting that were measured here.

    What was measured otherwise (another backbone, other data) does not compare, and stays in the table of its own.
    """
    data = published()
    measured = comparable_rows(results, data)
    setting = f"{data['backbone']}, {data['shots']} shots, {len(data['data'])} data sets"
    beside = "below what was measured here" if measured else "nothing measured here compares with them"
    caption = f"Published base-to-new results ({setting}): {beside}"
    sources = list(dict.fromkeys(one["source"] for row in data["rows"] for one in (row, *row.get("reruns", ()))))
    rows = measured + [published_row(row, sources) for row in data["rows"]]
    return Table(f"{caption}.", HEADER, rows, notes(data, sources))


def published_row(row: Mapping[str, Any], sources: Sequence[str]) -> list[Cell]:
    numbers: list[Cell] = [None if row[key] is None else Stat(row[key]) for key in ("base", "new", "HM")]
    reruns = "/".join(f"{one['HM']:.2f}" for one in row.get("reruns", ()))
    origin = " ".join(filter(None, (str(1 + sources.index(row["source"])), row.get("mark"))))
    return [row["method"], row["extra"], *numbers, reruns or None, origin]


def notes(data: Mapping[str, Any], sources: Sequence[str]) -> list[str]:
    reruns = []
    for row in data["rows"]:
        for one in row.get("reruns", ()):
            numbers = "/".join(f"{one[key]:.2f}" for key in ("base", "new", "HM"))
            precision = f", {one['precision']}" if one["precision"] else ""
            reruns.append(f"{row['method']}{precision}: {numbers} (from {1 + sources.index(one['source'])})")
    marks = [f"{mark}: {meaning}" for mark, meaning in data["marks"].items()]
    origins = [f"from {number}: {source}." for number, source in enumerate(sources, start=1)]
    return [*data["notes"], *reruns, *marks, *data["left_out"], *origins]


# ---------------------------------------------------------------------------------------------- what was measured


def comparable_rows(results: Iterable[RunResult], data: Mapping[str, Any]) -> list[list[Cell]]:
    """Averages over exactly the published data, with the same backbone and number of shots."""
    same = [run for run in results if run.split == "test" and backbone(run) == data["backbone"]]
    settings = group([run for run in same if run.shots in (data["shots"], -1)], setting_of)
    rows: list[list[Cell]] = []
    for (trainer, configuration, *_), runs in settings.items():
        outcomes = [outcome(one, Options(warn=lambda _: None)) for one in group(runs, lambda run: run.dataset).values()]
        complete = [one for one in outcomes if one.hm]
        if sorted(one.data for one in complete) != sorted(data["data"]):
            continue
        several = sum(other[0] == trainer for other in settings) > 1
        method = f"{trainer} ({configuration})" if several and configuration else trainer
        rows.append([method, extra_supervision(runs), *of_averages(complete), None, "here"])
    return rows


def of_averages(outcomes: Sequence[Outcome]) -> list[Cell]:
    base, new = (
        statistics.fmean(stat.mean for stat in stats if stat)
        for stats in zip(*((one.base, one.new) for one in outcomes), strict=True)
    )
    return [Stat(base), Stat(new), Stat(harmonic_mean(base, new))]


def backbone(run: RunResult) -> object:
    return dict(leaves(run.config)).get("MODEL.BACKBONE.NAME")


def extra_supervision(runs: Iterable[RunResult]) -> str:
    """Class descriptions of a language model are all that a trainer here takes besides images and names."""
    given = any(value for run in runs for key, value in leaves(run.config) if key.endswith(DESCRIPTION_FOLDERS))
    return "LLM text" if given else "none"
