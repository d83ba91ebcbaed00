"""Fifteen data sets in miniature, and the runner with an executor that starts no processes."""

import logging

import pytest

from anprompt.cli import main
from anprompt.commands import run
from anprompt.commands.train import MESSAGES_OF
from tests.helpers import fakes
from tests.helpers.inline import Inline
from tests.helpers.stand_in import READ_BY_SCRIPTS

SHORT = ("OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "0", "DATALOADER.NUM_WORKERS", "0")


@pytest.fixture(scope="session")
def fifteen(tmp_path_factory):
    """Data folder of all data sets."""
    root = tmp_path_factory.mktemp("fifteen")
    for name in fakes.SPLIT_LAYOUTS:
        fakes.make_split_dataset(root, name, classes=4)
    fakes.make_aircraft(root)
    fakes.make_imagenet(root)
    for name in fakes.VARIANT_LAYOUTS:
        fakes.make_variant(root, name)
    return root


@pytest.fixture
def environment(monkeypatch):
    """Without the variables that would steer the scripts."""
    for name in (*READ_BY_SCRIPTS, "OUTPUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def call(environment, fifteen, tmp_path, monkeypatch, capsys):
    """Call ``run`` on the fifteen, with the tiny CLIP: its status, what it printed, and what it started."""

    def call(protocol, *arguments, opts=SHORT, root=fifteen):
        executor = Inline()
        monkeypatch.setattr(run, "build_executor", lambda args, jobs: executor)
        flags = ["--protocol", protocol, "--root", str(root), "--output", str(tmp_path / "out"), "--cfg", "tiny"]
        status = main(["run", *flags, *arguments, "--opts", *opts])
        return status, capsys.readouterr(), executor.started

    yield call
    for name in MESSAGES_OF:  # their handler's stream is about to close
        logging.getLogger(name).handlers.clear()
