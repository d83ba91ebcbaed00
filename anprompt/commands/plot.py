"""``plot``: few-shot curves with error bars from the ``results.json`` files below some folders, as PNG and PDF."""

import argparse
from pathlib import Path

from anprompt.commands.table import warn
from anprompt.runs.read_results import find_results
from anprompt.table.core import Options
from anprompt.table.curves import draw, few_shot_figures


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "plot",
        help="few-shot curves as PNG and PDF",
        description="Few-shot curves: a figure per data set, and one of their average. Needs matplotlib.",
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="folder with results, at any depth")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("figures"), help="default: figures")
    parser.add_argument("--ci95", action="store_true", help="95 %% confidence intervals (Student t), not deviations")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    options = Options(warn, args.ci95)
    print(*draw(few_shot_figures(find_results(args.folders, warn), options), args.output, options), sep="\n")
    return 0
