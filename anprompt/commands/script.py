"""``script``: one step of a protocol, as the scripts in ``scripts/`` run it, which are fronts of this command."""

import argparse
import os

from anprompt.protocols.processes import work
from anprompt.protocols.scripts import SCRIPTS, Call, checkout, plan_script

EPILOG = f"""\
SCRIPT is one of {", ".join(SCRIPTS)}; its arguments and environment are those of the
bash scripts, which need no more than this on Windows:

  python -m anprompt script base2new_train ANPrompt caltech101 1     # DATA in the environment, or: shapes 1
  python -m anprompt script few_shot CoOp caltech101 1 OPTIM.MAX_EPOCH 20
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "script",
        help="one step of a protocol, as a script in scripts/ runs it",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--typed", metavar="COMMAND", help="how the caller was called, for error messages")
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("trainer", metavar="TRAINER", help="one of configs/trainers")
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="DATASET [SEED [KEY VALUE ...]]; zeroshot: no seed"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    typed = args.typed or f"python -m anprompt script {args.script} {args.trainer}"
    call = Call(checkout(), args.trainer, args.words, os.environ, typed)
    return work(plan_script(args.script, call), call)
