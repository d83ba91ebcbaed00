"""``python -m anprompt COMMAND``: tools beside ``train.py``, each a module of ``anprompt/commands/``."""

import argparse
import os
import pkgutil
import sys
from collections.abc import Sequence

from anprompt import commands
from anprompt.utils.drop_in import import_one
from anprompt.utils.text import printable_lines, show_anything


def build_parser(only: str = "") -> argparse.ArgumentParser:
    """The parser of all commands; where ``only`` names one, nothing is imported for the others."""
    parser = argparse.ArgumentParser(prog="python -m anprompt", description="Tools beside train.py.")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    names = [name for _, name, _ in pkgutil.iter_modules(commands.__path__)]
    only = only.replace("-", "_")
    for name in [only] if only in names else names:
        module = import_one(commands.__name__, commands.__path__[0], name)
        if hasattr(module, "add_parser"):
            module.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: its own, 2 after a mistake of the user, 130 after Ctrl-C."""
    show_anything(sys.stdout)
    show_anything(sys.stderr)
    words = sys.argv[1:] if argv is None else argv
    args = build_parser(only=words[0] if words else "").parse_args(words)
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head` has seen enough; Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {printable_lines(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
