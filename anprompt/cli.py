"""The commands of ``python -m anprompt``, one per file in ``commands/``; a file dropped in there is found."""

import argparse
import sys
from collections.abc import Sequence

from anprompt import commands
from anprompt.plugins import import_all


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m anprompt", description="Tools around training runs.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in import_all(commands.__name__, commands.__path__):
        module.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. A mistake of the user is answered with one line and status 2."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
