"""``run``: a whole protocol, datasets x trainers x seeds, each run in a process of its own."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anprompt.utils.files import at_home
from anprompt.utils.suggest import require_known
from anprompt.utils.text import printable, printable_lines

if TYPE_CHECKING:
    from anprompt.protocols.executors import Executor
    from anprompt.protocols.plan import Job, Request
    from anprompt.protocols.scheduling import Schedule

EPILOG = """\
The runs are those of scripts/. Finished ones are skipped, interrupted ones resume, a failed one stops no other; give
the same command again to go on. It ends with what failed, the last lines of its log, and the table of what did not.

  python -m anprompt run --protocol base2new --datasets all --trainers ANPrompt MMRL --seeds 1 2 3 --root DATA
  python -m anprompt run --protocol few_shot --datasets dtd eurosat --shots 1 16 --root DATA --opts OPTIM.MAX_EPOCH 20
  python -m anprompt run --protocol cross_dataset --root DATA --executor slurm --slurm partition=gpu timeout_min=120
"""
EXECUTORS = ("local", "slurm")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "run",
        help="a whole protocol: datasets x trainers x seeds",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--protocol", required=True, help="base2new, few_shot, cross_dataset or domain_generalisation")
    parser.add_argument(
        "--datasets",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="stems of configs/datasets; all (default): the protocol's",
    )
    parser.add_argument(
        "--trainers",
        nargs="+",
        default=["ANPrompt"],
        metavar="NAME",
        help="default: ANPrompt; all: every one that needs no stage 0",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N", help="default: 1 2 3")
    parser.add_argument("--root", default=os.environ.get("DATA"), help="folder of the datasets (default: $DATA)")
    parser.add_argument(
        "--output", default=os.environ.get("OUTPUT"), help="root of all results (default: $OUTPUT, or output/)"
    )
    parser.add_argument(
        "--cfg",
        default=os.environ.get("CFG"),
        metavar="STEM",
        help="YAML file of the trainers (default: the scripts' choice)",
    )
    parser.add_argument("--shots", nargs="+", type=int, default=[], metavar="N", help="training images per class")
    parser.add_argument("--source", default="imagenet", help="data to train on before the transfer (default: imagenet)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at the same time (default: one per visible GPU)")
    parser.add_argument("--executor", default="local", help="local (default), or slurm: a cluster, through submitit")
    parser.add_argument(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of a cluster's jobs, as partition=gpu",
    )
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides for all runs")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    require_known("executor", args.executor, EXECUTORS)
    from anprompt.protocols.plan import plan  # not for other commands: what runs processes knows POSIX only

    jobs = plan(request_of(args))
    if args.dry_run:
        return print_calls(jobs)
    return work(jobs, build_executor(args, len(jobs)))


def print_calls(jobs: "list[Job]") -> int:
    for job in jobs:
        print(*(shlex.join([*job.train_py, *call]) for call in job.calls), sep="\n")
    return 0


def request_of(args: argparse.Namespace) -> "Request":
    from anprompt.protocols.plan import Request
    from anprompt.protocols.scripts import EMBEDDED, checkout

    repository = checkout()
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs: expected at least 1, got {args.jobs}")
    if min([*args.seeds, *args.shots]) < 0:
        raise ValueError("--seeds and --shots: expected no negative number")
    if len(args.opts) % 2:
        raise ValueError(f"--opts takes pairs of KEY VALUE, got {len(args.opts)} words: {' '.join(args.opts)}")
    root = at_home(args.root).absolute() if args.root else None
    if root and not root.is_dir() and not {*args.datasets} <= {*EMBEDDED}:
        raise FileNotFoundError(f"no folder {root}: --root is the folder that holds the datasets")
    return Request(
        protocol=args.protocol,
        datasets=args.datasets,
        trainers=args.trainers,
        seeds=list(dict.fromkeys(args.seeds)),
        repository=repository,
        root=root,
        output=at_home(args.output).absolute() if args.output else repository / "output",
        cfg=args.cfg or None,
        shots=list(dict.fromkeys(args.shots)),
        source=args.source,
        overrides=args.opts,
    )


def build_executor(args: argparse.Namespace, jobs: int) -> "Executor":
    from anprompt.protocols.executors import ClusterExecutor, LocalExecutor

    if args.executor == "local":
        if args.slurm:
            raise ValueError("--slurm goes with --executor slurm")
        return LocalExecutor(args.jobs)
    wrong = [pair for pair in args.slurm if "=" not in pair]
    if wrong:
        raise ValueError(f"--slurm takes KEY=VALUE, such as partition=gpu, got {wrong[0]!r}")
    folder = request_of(args).output / "runs" / "submitit"
    return ClusterExecutor(args.jobs or jobs, folder, dict(pair.split("=", 1) for pair in args.slurm))


def work(jobs: "list[Job]", executor: "Executor", cost: bool = False) -> int:
    """Run the jobs and say what came of them; the exit status.

    Args:
        cost: the table has parameters, time and memory, too.
    """
    from anprompt.protocols.finished import FinishedCheck
    from anprompt.protocols.processes import interrupted_once
    from anprompt.protocols.scheduling import Schedule
    from anprompt.protocols.screen import Screen
    from anprompt.protocols.scripts import checkout

    screen = Screen(sys.stdout)
    schedule = screen.schedule = Schedule(jobs, executor, FinishedCheck(checkout()), screen.event)
    try:
        with interrupted_once():
            schedule.run(screen.redraw)
    except KeyboardInterrupt:
        screen.close()
        print("interrupted: the same command goes on", file=sys.stderr)
        return 130
    screen.close()
    return summary(schedule, cost)


def summary(schedule: "Schedule", cost: bool) -> int:
    """The table of the jobs that succeeded, then what failed; the exit status."""
    from anprompt.protocols.scheduling import failures

    failed = bool(schedule.of("failed", "not run"))
    try:
        print_table([folder for one in schedule.of("done", "skipped") for folder in one.job.folders()], cost)
    except (ValueError, OSError) as error:  # what failed is to be said in any case
        print(f"error: no table: {error}", file=sys.stderr)
        failed = True
    for failure in failures(schedule):
        print(f"\nfailed: {'; '.join(failure.names)} ({failure.log})", file=sys.stderr)
        print(*(f"    {printable(line)}" for line in failure.lines), sep="\n", file=sys.stderr)
    not_run = [one.job.name for one in schedule.of("not run")]
    if not_run:
        print(f"\nnot run, for want of the training: {'; '.join(not_run)}", file=sys.stderr)
    return int(failed)


def print_table(folders: list[Path], cost: bool) -> None:
    """Of the runs in these folders."""
    from anprompt.commands.table import warn
    from anprompt.runs.read_results import find_results
    from anprompt.table import build_tables
    from anprompt.table.core import Options
    from anprompt.table.render import render

    if folders:
        print()
        tables = build_tables(find_results(folders, warn), Options(warn, cost=cost))
        print(printable_lines(render(tables, "md")))
