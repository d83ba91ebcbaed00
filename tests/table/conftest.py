"""Runs written by hand, and the command that makes tables of them."""

import json

import pytest

from anprompt.cli import main

ACCURACIES = {"base": {1: 80.0, 2: 84.0, 3: 82.0}, "new": {1: 70.0, 2: 72.0, 3: 77.0}}


@pytest.fixture
def write(tmp_path):
    """Write the ``results.json`` of one run under ``tmp_path``."""

    def write_run(folder, accuracy, seed=1, trainer="CoOp", dataset="DTD", classes="all", shots=16, **more):
        content = {"dataset": dataset, "classes": classes, "seed": seed, "trainer": trainer, "shots": shots}
        path = tmp_path / folder / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | {"accuracy": accuracy, "config": {}} | more))
        return path

    return write_run


@pytest.fixture
def base2new(write):
    """Write both halves of some seeds: ``base2new(CoOp={...})``, by trainer."""

    def write_runs(trainer="CoOp", dataset="DTD", stem="ep50", accuracies=ACCURACIES, **more):
        for classes, place in (("base", "train_base"), ("new", "test_new")):
            for seed, accuracy in accuracies.get(classes, {}).items():
                folder = f"base2new/{place}/{dataset}/shots_16/{trainer}/{stem}/seed{seed}"
                write(folder, accuracy, seed, trainer, dataset, classes, **more)

    return write_runs


@pytest.fixture
def table(tmp_path, capsys):
    """Status, output and error output of the command on everything written."""

    def run(*arguments):
        status = main(["table", str(tmp_path), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
