"""``python -m anprompt COMMAND``: tools beside ``train.py``. A module put into ``anprompt/commands/`` is a command."""

import argparse
import os
import sys
from collections.abc import Sequence

from anprompt import commands
from anprompt.utils.drop_in import import_all, import_one


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Parser of one command, or of all. What the others import takes longer than many a command does."""
    parser = argparse.ArgumentParser(prog="python -m anprompt", description="Tools beside train.py.")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    one = import_one(commands.__name__, commands.__path__, command) if command else None
    for module in [one] if one else import_all(commands.__name__, commands.__path__):
        module.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: its own, 2 after a mistake of the user, 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser(words[0] if words else None).parse_args(words)
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head` has seen enough; Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
