"""The CoOp family's command line: ``anprompt/commands/train.py`` with this checkout's trainers and datasets."""

import sys
from argparse import Namespace
from collections.abc import Sequence

from yacs.config import CfgNode

import datasets
import trainers
from anprompt.commands import train
from anprompt.commands.train import build_parser, split_runs  # for who reads a command line without running it
from anprompt.utils.config import add_shared_cfg
from dassl.utils import set_random_seed  # for who takes the steps of a run one by one

__all__ = ["build_parser", "extend_cfg", "is_finished", "main", "set_random_seed", "setup_cfg", "split_runs"]


def extend_cfg(cfg: CfgNode) -> None:
    """Add the keys that are not Dassl's: the family's, the backbone's file and every trainer's own node.

    Registers all trainers and datasets on the way.
    """
    add_shared_cfg(cfg)
    trainers.extend_cfg(cfg)
    datasets.register_all()


def setup_cfg(args: Namespace) -> CfgNode:
    """The frozen config of one run from its parsed command line."""
    return train.setup_cfg(args, extend_cfg)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    return train.main(sys.argv[1:] if argv is None else argv, extend_cfg)


def is_finished(words: Sequence[str]) -> bool:
    """Whether one run's output folder holds its result; asked by the runner."""
    return train.is_finished(words, extend_cfg)


if __name__ == "__main__":
    train.leave(main())
