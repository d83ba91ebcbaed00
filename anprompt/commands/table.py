"""``table``: the field's tables from the ``results.json`` files below some folders, never from logs."""

import argparse
import sys
from pathlib import Path

from anprompt.runs.read_results import find_results
from anprompt.table import build_tables
from anprompt.table.core import Options
from anprompt.table.render import render
from anprompt.utils.text import printable, printable_lines

EPILOG = """\
The folders may be the output folder of the scripts or any part of it. Every protocol that is found gives its own table:
base to new, few-shot, cross-dataset transfer, domain generalisation. Warnings about runs that are missing, damaged or
do not compare go to the error output.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "table",
        help="tables of base-to-new, few-shot and cross-dataset runs",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="folder with results, at any depth")
    parser.add_argument("--format", choices=("md", "csv", "latex"), default="md", help="default: md")
    parser.add_argument("--ci95", action="store_true", help="95 %% confidence intervals (Student t), not deviations")
    parser.add_argument(
        "--cost", action="store_true", help="base to new: parameters, training time and peak memory, too"
    )
    parser.add_argument("--compare", action="store_true", help="base to new: published results of peers, too")
    parser.add_argument(
        "--paired",
        metavar="TRAINER",
        help="base to new: its differences to every other trainer over common seeds, with 95 %% intervals, too",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="write there instead of to the terminal")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    options = Options(warn, args.ci95, args.cost, args.compare, args.paired)
    text = render(build_tables(find_results(args.folders, warn), options), args.format)
    if args.output:
        if args.output.is_dir():
            raise ValueError(f"--output {args.output} is a folder: name a file, such as {args.output / 'table.md'}")
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text, encoding="utf-8")
    else:
        print(printable_lines(text), end="")
    return 0


def warn(message: str) -> None:
    print(f"warning: {printable(message)}", file=sys.stderr)
