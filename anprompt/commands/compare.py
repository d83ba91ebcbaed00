"""``compare``: all trainers, base to new, side by side in one table with their costs."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anprompt.protocols.plan import Request

EPILOG = """\
Every trainer with a YAML file for the data takes part: tiny.yaml on shapes, any other file elsewhere. One that starts
from what it has learned on other data (GA2-CLIP) has to be named. Runs follow one another, so that times compare.
Finished ones are skipped, a failed one does not stop the others.

Environment:
  TRAINERS   only these, as in TRAINERS="CoOp MMRL"
  SEEDS      default: "1 2 3"; zero-shot trainers need none
  CFG        YAML file; where it is set, it holds for all
  DATA OUTPUT SHOTS PYTHON NPROC DRY_RUN   as for the other scripts (anprompt/protocols/scripts.py)
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="all trainers, base to new, in one table with their costs",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--typed", default="python -m anprompt compare", metavar="COMMAND", help="how it was called, for error messages"
    )
    parser.add_argument("dataset", nargs="?", metavar="DATASET", help="default: shapes")
    parser.add_argument(
        "pairs", nargs=argparse.REMAINDER, metavar="OPTIM.KEY VALUE", help="overrides, of keys that all trainers share"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from anprompt.commands.run import print_calls, work
    from anprompt.protocols.plan import plan

    jobs = plan(request_of(args.dataset or "shapes", args.pairs, args.typed, os.environ))
    if os.environ.get("DRY_RUN"):
        return print_calls(jobs)
    from anprompt.protocols.executors import LocalExecutor

    return work(jobs, LocalExecutor(1), cost=True)


def request_of(dataset: str, pairs: list[str], typed: str, environment: Mapping[str, str]) -> "Request":
    """The runs that arguments and environment ask for.

    Raises:
        ValueError: one of them is wrong.
    """
    from anprompt.protocols.plan import Request
    from anprompt.protocols.scripts import EMBEDDED, checkout

    repository = checkout()
    check_pairs(pairs)
    seeds = (environment.get("SEEDS") or "1 2 3").split()
    for seed in seeds:
        if not (seed.isascii() and seed.isdigit()):
            raise ValueError(f"""the seed must be a number, got {seed!r}. Usage: SEEDS="1 2 3" {typed} DATASET""")
    if not (repository / "configs" / "datasets" / f"{dataset}.yaml").is_file():
        raise ValueError(f"no data set {dataset!r} in configs/datasets")
    shots = environment.get("SHOTS") or "16"
    if not (shots.isascii() and shots.isdigit()):
        raise ValueError(f"SHOTS: expected one number of training images per class, got {shots!r}")
    data = environment.get("DATA")
    if not data and dataset not in EMBEDDED:
        raise ValueError(
            f"DATA is not set: give the folder that holds the datasets, as in DATA=/path/to/datasets {typed} {dataset}"
        )
    cfg = environment.get("CFG") or ""
    return Request(
        protocol="base2new",
        datasets=[dataset],
        trainers=choose_trainers(repository / "configs" / "trainers", dataset, cfg, environment.get("TRAINERS") or ""),
        seeds=list(dict.fromkeys(map(int, seeds))),
        repository=repository,
        root=Path(data).absolute() if data else None,
        output=Path(environment.get("OUTPUT") or repository / "output").absolute(),
        cfg=cfg or None,
        shots=[int(shots)],
        overrides=pairs,
        processes=environment.get("NPROC") or "",
    )


def check_pairs(pairs: list[str]) -> None:
    for key in pairs[::2]:
        if not key.startswith("OPTIM."):
            raise ValueError(f"{key!r} is no key of all trainers: only OPTIM.* pairs may follow the dataset")
    if len(pairs) % 2:
        raise ValueError(f"{pairs[-1]!r} has no value: KEY VALUE pairs may follow the dataset")


def choose_trainers(folder: Path, dataset: str, cfg: str, named: str) -> list[str]:
    """Trainers that have a YAML file for the data: all of them, or those that were named."""
    from anprompt.protocols.plan import stems, takes_part
    from anprompt.protocols.scripts import EMBEDDED

    def has_file(trainer: Path) -> bool:
        if wanted := cfg or ("tiny" if dataset in EMBEDDED else ""):
            return wanted in stems(trainer)
        return any(not stem.startswith("tiny") for stem in stems(trainer))

    candidates = [trainer.name for trainer in sorted(folder.iterdir()) if has_file(trainer)]
    for name in named.split():
        if name not in candidates:
            raise ValueError(
                f"no YAML file for {dataset} in configs/trainers/{name}; "
                f"trainers that have one: {' '.join(candidates) or 'none'}"
            )
    if not candidates:
        raise ValueError(f"no trainer has a YAML file for {dataset} (CFG={cfg})")
    return list(dict.fromkeys(named.split())) or [one for one in candidates if takes_part(folder / one, "base2new")]
