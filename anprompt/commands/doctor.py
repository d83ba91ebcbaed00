"""``python -m anprompt doctor``: is the data folder complete, readable and consistent?"""

import argparse
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate
from yacs.config import CfgNode

from anprompt.doctor.checks import Reader, examine, move_aside
from anprompt.doctor.clips import examine_clips
from anprompt.doctor.report import Problem, Report
from anprompt.utils.config import add_shared_cfg, merge_file
from anprompt.utils.drop_in import checkout_package
from anprompt.utils.files import at_home
from anprompt.utils.suggest import require_known
from anprompt.utils.text import printable
from anprompt.video.dataset import VideoDataset
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY

SHOWN_FILES = 3
HELP = "check the datasets under a root folder"
DESCRIPTION = """
Look at every dataset below ROOT: folders, lists, labels, numbers of classes and images, files that do not decode,
pictures in two parts, outdated caches, anchors of videos that are tested; and say what to do about each finding.
Nothing is changed without --repair.
Exit status: 0 no errors (warnings are fine), 1 errors, 2 a wrong command line.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("doctor", help=HELP, description=DESCRIPTION)
    parser.add_argument("--root", required=True, help="folder that holds the datasets")
    parser.add_argument(
        "--datasets",
        nargs="+",
        metavar="NAME",
        help="ids (caltech101), registry names (Caltech101) or YAML files of your own data; each must be there "
        "(default: whichever of the known ones are there)",
    )
    parser.add_argument("--quick", action="store_true", help="do not open images and clips")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--repair", action="store_true", help="move outdated caches aside, to <name>.bak")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    root = at_home(args.root)
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: --root names the folder that holds the datasets")
    readers = dict(named_readers(args.datasets, root) if args.datasets else known_readers(root))
    if not any(Path(reader.dataset_dir).is_dir() for reader in readers.values()) and not args.datasets:
        raise ValueError(f"none of the {len(readers)} known datasets is in {root}, such as {first_folder(readers)}")
    reports = [examined(reader, name, bool(args.datasets), args.quick) for name, reader in readers.items()]
    if args.repair:
        for report in reports:
            for problem in report.problems:
                move_aside(problem)
    print(as_json(reports) if args.json else as_text(reports))
    return int(any(report.count("error") for report in reports))


def examined(reader: Reader | VideoDataset, name: str, required: bool, quick: bool) -> Report:
    if isinstance(reader, VideoDataset):
        return examine_clips(reader, name, required, quick)
    return examine(reader, name, required, quick)


def first_folder(readers: dict[str, Reader | VideoDataset]) -> str:
    return min(reader.dataset_dir for reader in readers.values())


# ---------------------------------------------------------------------------------------------- which datasets


def dataset_classes() -> dict[str, Any]:
    """This project's dataset classes by registry name."""
    checkout_package("datasets").register_all()
    shared = importlib.import_module("anprompt.data.split_dataset").SplitDataset
    classes = {name: DATASET_REGISTRY.get(name) for name in DATASET_REGISTRY.registered_names()}
    ours = (shared, VideoDataset)
    return {name: cls for name, cls in sorted(classes.items()) if isinstance(cls, type) and issubclass(cls, ours)}


def known_readers(root: Path) -> Iterator[tuple[str, Reader | VideoDataset]]:
    """All datasets that need no YAML file to be found."""
    for name, cls in dataset_classes().items():
        if cls.folder:
            yield name, cls.located(config(root))


def named_readers(names: Sequence[str], root: Path) -> Iterator[tuple[str, Reader | VideoDataset]]:
    """Datasets by id, registry name or YAML file."""
    classes = dataset_classes()
    by_id = {cls.__module__.rpartition(".")[2]: name for name, cls in classes.items() if cls.folder}
    for given in names:
        cfg = config(root)
        if given.endswith((".yaml", ".yml")):
            merge_file(cfg, given)
            cfg.DATASET.ROOT = str(root)
            require_known("DATASET.NAME", cfg.DATASET.NAME, classes)
            yield given, classes[cfg.DATASET.NAME].located(cfg)
        else:
            require_known("dataset", given, [*by_id, *classes])
            name = by_id.get(given, given)
            yield name, classes[name].located(cfg)


def config(root: Path) -> CfgNode:
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    cfg.DATASET.ROOT = str(root)
    return cfg


# ---------------------------------------------------------------------------------------------- output


def as_json(reports: Sequence[Report]) -> str:
    """All findings, with all files, as one document."""
    datasets = [{**asdict(report), "status": report.status} for report in reports]
    totals = {f"{severity}s": sum(report.count(severity) for report in reports) for severity in ("error", "warning")}
    return json.dumps({"datasets": datasets, **totals}, indent=2, default=str)


def as_text(reports: Sequence[Report]) -> str:
    """A table of the datasets, then the findings one by one."""
    rows = [
        [
            printable(report.name),
            report.status,
            report.classes,
            *(report.images.get(part) for part in ("train", "val", "test")),
        ]
        + [report.count("error"), report.count("warning")]
        for report in reports
    ]
    headers = ("dataset", "status", "classes", "train", "val", "test", "errors", "warnings")
    lines = [tabulate(rows, headers, missingval="-", intfmt=",")]
    for report in reports:
        if report.problems:
            lines += ["", printable(f"{report.name} ({report.folder})")]
        lines += [printable(line) for problem in report.problems for line in describe(problem)]
    return "\n".join(lines)


def describe(problem: Problem) -> Iterator[str]:
    severity = "repaired" if problem.repaired else problem.severity
    yield f"  {severity}: {problem.kind}: {problem.what}"
    for file in problem.files[:SHOWN_FILES]:
        yield f"      {file}"
    if len(problem.files) > SHOWN_FILES:
        yield f"      and {len(problem.files) - SHOWN_FILES:,} more (--json lists all)"
    yield f"    fix: {'moved aside to .bak' if problem.repaired else problem.fix}"
