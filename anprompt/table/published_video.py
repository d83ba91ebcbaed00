"""``--compare`` on video: what GA2-CLIP and ViFi-CLIP have published, beside what was measured here and compares."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from anprompt.runs.read_results import RunResult
from anprompt.table.base_to_new import outcome, setting_of
from anprompt.table.core import Cell, Options, Stat, Table, group
from anprompt.utils.config import leaves

PUBLISHED = Path(__file__).parent.parent / "assets" / "published_video.json"


@cache
def published_video() -> Mapping[str, Any]:
    """Base-to-new and few-shot results by data set, each with its source."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def is_on_video(run: RunResult) -> bool:
    """Whether its data are among those of the published rows, or stand in for them."""
    data = published_video()
    return run.dataset in (*data["data"], *data["also_with"])


def video_base_to_new(results: Sequence[RunResult]) -> Table:
    """Published rows, data set by data set, and first what was measured on the same data in the same setting."""
    data = published_video()
    rows: list[list[Cell]] = []
    for (trainer, configuration, *_), runs in group(comparable(results, data), setting_of).items():
        for one in (
            outcome(same, Options(warn=lambda _: None)) for same in group(runs, lambda run: run.dataset).values()
        ):
            if one.hm:
                name = f"{trainer} ({configuration})" if configuration else trainer
                rows.append([name, one.data, one.base, one.new, one.hm, "here"])
    for row in data["base_to_new"]:
        numbers: list[Cell] = [Stat(row[key]) for key in ("base", "new", "HM")]
        rows.append([row["method"], row["data"], *numbers, row["source"]])
    return Table(
        caption("base-to-new", data),
        ["method", "data", "base", "new", "HM", "from"],
        rows,
        [*data["notes"], data["note_on_hm"]],
    )


def video_few_shot(results: Sequence[RunResult]) -> Table:
    """The same of few-shot classification, by training clips per class."""
    data = published_video()
    columns = ("2", "4", "8", "16")
    rows: list[list[Cell]] = []
    measured = group(
        comparable(results, data, any_shots=True), lambda run: (run.trainer, run.configuration, run.dataset)
    )
    for (trainer, configuration, dataset), runs in measured.items():
        by_shots = group(runs, lambda run: str(run.shots))
        stats: list[Cell] = [Options(warn=lambda _: None).stat(by_shots.get(column, ())) for column in columns]
        rows.append([f"{trainer} ({configuration})" if configuration else trainer, dataset, *stats, "here"])
    for row in data["few_shot"]:
        rows.append([row["method"], row["data"], *(Stat(row[column]) for column in columns), row["source"]])
    header = ["method", "data", *(f"{column} shots" for column in columns), "from"]
    return Table(caption("few-shot", data), header, rows, list(data["notes"]))


def caption(protocol: str, data: Mapping[str, Any]) -> str:
    return f"Published {protocol} results on video ({data['backbone']}, {data['frames']} frames), in per cent."


def comparable(results: Iterable[RunResult], data: Mapping[str, Any], any_shots: bool = False) -> list[RunResult]:
    """Runs on the same test data with the same backbone, frames and, where they are fixed, shots."""

    def fits(run: RunResult) -> bool:
        config = dict(leaves(run.config))
        same = config.get("MODEL.BACKBONE.NAME"), config.get("VIDEO.NUM_FRAMES")
        shots = any_shots or run.shots in (data["shots"], -1)
        return (
            run.dataset in data["data"] and run.split == "test" and shots and same == (data["backbone"], data["frames"])
        )

    return [run for run in results if fits(run)]
