"""Real processes: the runner is interrupted and started again, one run is killed, one data set is broken."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import REPOSITORY, fakes
from tests.helpers.stand_in import READ_BY_SCRIPTS
from tests.protocols.conftest import SHORT
from tests.protocols.test_protocols import per_cent, rows_of

# Notes every call. The first run of dtd with seed 2 gets killed after its first epoch.
INTERPRETER = """#!/usr/bin/env bash
echo "$*" >>calls
if [[ "$*" == */dtd/*/seed2* && ! -e killed ]]; then
    "{python}" "$@" &
    while [[ ! -e {checkpoint} ]]; do sleep 0.02; done
    touch killed
    kill -9 $!
    wait $!
    exit
fi
exec "{python}" "$@"
"""
BROKEN = "food101"


@pytest.fixture
def data(tmp_path):
    for name in ("DescribableTextures", "EuroSAT", "Food101"):
        fakes.make_split_dataset(tmp_path / "data", name, classes=4)
    (tmp_path / "data/food-101/split_zhou_Food101.json").write_text("{")
    return tmp_path / "data"


def folder(tmp_path, half, dataset, seed):
    return tmp_path / "out/base2new" / half / dataset / "shots_16/ANPrompt/tiny" / f"seed{seed}"


@pytest.mark.slow
def test_three_datasets_and_two_seeds(data, tmp_path):
    interpreter = tmp_path / "python"
    checkpoint = folder(tmp_path, "train_base", "dtd", 2) / "prompt_learner" / "checkpoint"
    interpreter.write_text(INTERPRETER.format(python=sys.executable, checkpoint=checkpoint))
    interpreter.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if key not in READ_BY_SCRIPTS}
    environment = kept | {"PYTHON": str(interpreter), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    datasets = f"dtd {BROKEN} eurosat".split()
    command = [sys.executable, "-m", "anprompt", "run", "--protocol", "base2new", "--datasets", *datasets]
    command += ["--seeds", "1", "2", "--root", str(data), "--output", str(tmp_path / "out"), "--cfg", "tiny"]
    command += ["--jobs", "2", "--opts", *SHORT, "OPTIM.MAX_EPOCH", "40"]
    calls = tmp_path / "calls"

    def start():
        calls.write_text("")
        return subprocess.Popen(
            command,
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    interrupted = start()
    deadline = time.monotonic() + 300
    while not calls.read_text():  # the first run is at work
        assert interrupted.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    interrupted.send_signal(signal.SIGINT)
    _, error = interrupted.communicate(timeout=300)
    assert (interrupted.returncode, error) == (130, "interrupted: the same command goes on\n")

    whole = start()
    printed, error = whole.communicate(timeout=600)
    assert whole.returncode == 1, error
    assert "ANPrompt on dtd, seed 2: was killed, goes on later" in printed
    check_table(printed, tmp_path)
    assert error.count("failed: ") == 1
    assert f"failed: ANPrompt on {BROKEN}, seed 1; ANPrompt on {BROKEN}, seed 2 (" in error
    assert "    error: " in error and "split_zhou_Food101.json" in error
    log = (folder(tmp_path, "train_base", "dtd", 2) / "log.txt").read_text()
    assert "will resume training" in log

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/base2new").rglob("results.json")}
    assert len(written) == 8
    again = start()
    printed, _ = again.communicate(timeout=600)
    assert again.returncode == 1
    check_table(printed, tmp_path)
    assert len(calls.read_text().splitlines()) == 2 and calls.read_text().count(f"/{BROKEN}.yaml") == 4
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/base2new").rglob("results.json")} == written


def check_table(printed, tmp_path):
    """Mean and population deviation of two seeds, by hand."""
    rows = {row["data"]: row for row in rows_of(printed, "Base to new")}
    assert set(rows) >= {"DescribableTextures", "EuroSAT"} and "Food101" not in rows
    for dataset, name in (("dtd", "DescribableTextures"), ("eurosat", "EuroSAT")):
        pairs = [
            [per_cent(folder(tmp_path, half, dataset, seed)) for half in ("train_base", "test_new")] for seed in (1, 2)
        ]
        for column, (one, two) in {
            "base": [base for base, _ in pairs],
            "new": [new for _, new in pairs],
            "HM": [2 * base * new / (base + new) if base + new else 0.0 for base, new in pairs],
        }.items():
            assert rows[name][column] == f"{(one + two) / 2:.2f} ± {abs(one - two) / 2:.2f}"
