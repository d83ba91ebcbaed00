"""Put measured results into docs/performance.md.

    python -m benchmarks.report step.json data.json run.json

Each file replaces the part of the page that is marked with its benchmark, device and precision, or is added at the end.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
MIB = 2**20
NOTHING = "does not fit"

Result = dict[str, Any]


def table(headers: list[str], rows: list[list[str]]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def where(result: Result) -> str:
    """The machine, in a sentence."""
    machine, found = result["machine"], result["machine"]["versions"]
    gpu = f"{machine['gpu']}, " if "gpu" in machine else ""
    return (
        f"Measured on {gpu}{machine['processor']}, {machine['cores']} cores, {machine['threads']} PyTorch threads, "
        f"{machine['system']}, Python {found['python']}, torch {found['torch']}:"
        f"\n```\n{result['command'].strip()}\n```"
    )


# ---------------------------------------------------------------------------------------------- benchmarks.step


def step_table(result: Result) -> str:
    """Three tables: training step, its memory, test batch."""
    cases = result["cases"]
    title = f"{result['method']}, {result['backbone']}, {result['device']}, {result['precision']}"
    return "\n\n".join(
        [
            f"### Step: {title}",
            where(result),
            "Training step, AdamW update included:",
            times_table(cases, "training"),
            "Memory that a training step adds to weights and optimiser, in MiB:",
            table(["C", "B", "textbook", "ours", "textbook / ours"], [memory_row(case) for case in cases]),
            "Test batch; textbook encodes the classes for every batch, ours once per test set, which is not timed:",
            times_table(cases, "evaluation"),
        ]
    )


def times_table(cases: list[Result], kind: str) -> str:
    headers = [
        "C", "B", "longest prompt", "textbook, ms", "ours, ms", "textbook / ours", "GMAC textbook", "ours", "floor",
        "floor, ms", "ours / floor",
    ]  # fmt: skip
    return table(headers, [times_row(case, case[kind]) for case in cases if kind in case])


def times_row(case: Result, times: Result) -> list[str]:
    counts = times["multiply_adds"]
    return [
        *(str(case[key]) for key in ("classes", "batch", "longest")),
        milliseconds(times.get("textbook")),
        milliseconds(times["ours"]),
        with_quartiles(times["ratio"], 1, 2) if "ratio" in times else "",
        *(f"{counts[name] / 1e9:,.1f}" for name in ("textbook", "ours", "floor")),
        f"{1000 * times['floor']['seconds']:,.0f}",
        f"{times['floor']['ours_over_floor']:.2f}",
    ]


def memory_row(case: Result) -> list[str]:
    memory = case["memory"]
    sizes = [f"{memory[name]['added'] / MIB:,.0f}" if memory[name] else NOTHING for name in ("textbook", "ours")]
    return [str(case["classes"]), str(case["batch"]), *sizes, f"{memory['ratio']:.2f}" if "ratio" in memory else ""]


def milliseconds(times: Result | None) -> str:
    return with_quartiles(times, 1000, 0) if times else NOTHING


def with_quartiles(values: Result, factor: float, digits: int) -> str:
    median, low, high = (f"{factor * values[key]:,.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


# ---------------------------------------------------------------------------------------------- the others


def data_table(result: Result) -> str:
    """Two tables: training, with the stages of the input, and test."""
    rows = result["loaders"]
    stages = ["decode", "transform", "collate"]
    passes = ["Dassl's loader, first epoch", "later", "ours, first epoch", "later"]
    training = [[*case_of(row), *(rounded(row[key]) for key in stages), *speeds(row["training"])] for row in rows]
    tests = [[*case_of(row), *speeds(row["test"])] for row in rows]
    return "\n\n".join(
        [
            "### Input pipeline",
            where(result),
            "Training, images per second: of one process for each stage alone, then of the loaders:",
            table(["images", "workers", *stages, *passes], training),
            "Test, images per second; our first pass fills the cache that later ones read:",
            table(["images", "workers", *(name.replace("epoch", "pass") for name in passes)], tests),
        ]
    )


def case_of(row: Result) -> list[str]:
    return [row["images"], str(row["workers"])]


def speeds(loaders: Result) -> list[str]:
    return [rounded(loaders[name][key]) for name in ("dassl", "ours") for key in ("first", "later")]


def rounded(value: float) -> str:
    return f"{value:,.0f}"


def run_table(result: Result) -> str:
    total = result["total"]
    rows = [[phase, f"{value:.2f}", f"{100 * value / total:.0f} %"] for phase, value in result["phases"].items()]
    rows.append(["total", f"{total:.2f}", ""])
    return "\n\n".join(["### A whole run", where(result), table(["phase", "seconds", "share"], rows)])


def video_table(result: Result) -> str:
    """Of the parts that were measured: decoding and loaders, and a step."""
    parts = ["### Clips", where(result)]
    if "decoding" in result:
        parts += reading_tables(result)
    if "step" in result:
        parts += clip_step_table(result["step"])
    return "\n\n".join(parts)


def reading_tables(result: Result) -> list[str]:
    width, height = result["size"]
    decoding = [
        [
            group["key_frames"], use, f"{group[use]['decoded']:,} of {group[use]['frames']:,}",
            milliseconds(group[use]["textbook"]), milliseconds(group[use]["ours"]),
            with_quartiles(group[use]["ratio"], 1, 2),
        ]
        for group in result["decoding"]
        for use in ("test", "training")
    ]  # fmt: skip
    loaders = [
        [row["key_frames"], str(row["workers"]), *(f"{row[use]:.1f}" for use in ("training", "test"))]
        for row in result["loaders"]
    ]
    return [
        f"{result['frames']} frames of a clip of {result['seconds']} s, {width}x{height}, H.264; textbook decodes "
        "every frame, with one thread as ours does:",
        table(["key frames", "use", "decoded", "textbook, ms", "ours, ms", "textbook / ours"], decoding),
        "Clips per second of the loader, scaled and cut to 224 pixels:",
        table(["key frames", "workers", "training", "test"], loaders),
    ]


def clip_step_table(step: Result) -> list[str]:
    counts, floor = step["multiply_adds"], step["floor"]
    rows = [clip_step_row(name, step) for name in step["times"]]
    share = {name: f"{100 * share:.0f} %" for name, share in step["vision_share"].items()}
    return [
        f"Training step of GA2-CLIP, {step['backbone']}, cpu, fp32: {step['clips']} + {step['anchors']} clips and "
        f"anchors of {step['frames']} frames, {step['classes']} classes, prompts of up to {step['longest']} tokens. "
        f"Vision is {share['textbook']} of the multiply-adds of textbook, {share['floor']} of those of the floor. "
        "Memory is what the step adds to weights and optimiser:",
        table(
            ["", "ms", "textbook / it", "GMAC", "it / floor", "memory, MiB"],
            [*rows, ["floor", f"{1000 * floor['seconds']:,.0f}", "", f"{counts['floor'] / 1e9:,.1f}", "", ""]],
        ),
    ]


def clip_step_row(name: str, step: Result) -> list[str]:
    times, memory = step["times"][name], step["memory"][name]
    return [
        name,
        milliseconds(times),
        with_quartiles(times["ratio"], 1, 2),
        f"{step['multiply_adds'][name] / 1e9:,.1f}",
        f"{times['median'] / step['floor']['seconds']:.2f}",
        f"{memory['added'] / MIB:,.0f}" if memory else "",
    ]


TABLES: dict[str, Callable[[Result], str]] = {
    "step": step_table,
    "data": data_table,
    "run": run_table,
    "video": video_table,
}


# ---------------------------------------------------------------------------------------------- the page


def key_of(result: Result) -> str:
    names = (result[key] for key in ("benchmark", "device", "precision") if key in result)
    return " ".join(names)


def insert(page: str, result: Result) -> str:
    """``page`` with the result's part replaced, or added."""
    begin, end = f"<!-- begin: {key_of(result)} -->", f"<!-- end: {key_of(result)} -->"
    part = f"{begin}\n{TABLES[result['benchmark']](result)}\n{end}"
    old = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return old.sub(lambda _: part, page) if old.search(page) else f"{page.rstrip()}\n\n{part}\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="files that --output wrote")
    parser.add_argument("--page", type=Path, default=PAGE, help="default: docs/performance.md")
    args = parser.parse_args(argv)
    page = args.page.read_text(encoding="utf-8")
    for file in args.results:
        page = insert(page, json.loads(file.read_text(encoding="utf-8")))
    args.page.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
