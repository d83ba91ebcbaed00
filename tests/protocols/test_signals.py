"""TERM, HUP and INT end the training that a script or the runner has started, wherever they are sent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import REPOSITORY
from tests.helpers.stand_in import READ_BY_SCRIPTS

# In place of a training: notes its process id, and that of a child, and waits.
TRAINING = """#!/usr/bin/env bash
if [[ "$1" == */anprompt ]]; then exec "$REAL_PYTHON" "$@"; fi
sleep 600 &
echo $$ $! >"$PIDS.part"
mv "$PIDS.part" "$PIDS"
trap 'kill $!; trap - EXIT' EXIT
trap 'exit 9' TERM HUP INT
wait
"""
SCRIPT = ["bash", f"{REPOSITORY}/scripts/anprompt/base2new_train.sh", "shapes", "1"]
FRONT = [sys.executable, f"{REPOSITORY}/anprompt", "script", "few_shot", "CoOp", "shapes", "1"]
COMPARE = ["bash", f"{REPOSITORY}/scripts/compare.sh", "shapes"]
RUNNER = [sys.executable, "-m", "anprompt", "run", "--protocol", "base2new", "--datasets", "shapes", "--jobs", "1"]
PATIENCE = 120  # seconds


@pytest.fixture
def start(tmp_path):
    """Start a command; the process, and the ids of the processes of its training once there is one."""
    started = []

    def start(command, python=None, **options):
        if python is None:
            python = tmp_path / "python"
            python.write_text(TRAINING)
            python.chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if key not in READ_BY_SCRIPTS}
        own = {"PYTHON": str(python), "REAL_PYTHON": sys.executable, "PIDS": f"{tmp_path}/pids", "SEEDS": "1"}
        own |= {"OUTPUT": f"{tmp_path}/out", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(command, env=kept | own, cwd=tmp_path, stdout=log, stderr=log, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def wait_for(condition, process):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.05)


def training_of(process, tmp_path):
    """Ids of its processes."""
    pids = tmp_path / "pids"
    wait_for(pids.exists, process)
    found = [int(word) for word in pids.read_text().split()]
    assert len(found) == 2 and all(lives(pid) for pid in found)
    return found


def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize(
    ("command", "by_number"),
    [(SCRIPT, True), (FRONT, True), (COMPARE, False), (RUNNER, False)],
    ids=["script", "front", "compare", "runner"],
)
def test_no_training_outlives_what_started_it(start, tmp_path, command, by_number, name):
    process = start(command)
    training = training_of(process, tmp_path)
    process.send_signal(getattr(signal, name))  # to it alone, not to the group
    status = process.wait(PATIENCE)
    wait_for(lambda: not any(lives(pid) for pid in training), None)
    if by_number:
        assert status == (9 if name == "SIGINT" else 128 + getattr(signal, name))
    else:
        assert status == 130
        assert "interrupted: the same command goes on" in (tmp_path / "log").read_text()


def test_no_further_run_starts(start, tmp_path):
    """few_shot has five."""
    process = start(FRONT)
    training_of(process, tmp_path)
    (tmp_path / "pids").unlink()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    assert not (tmp_path / "pids").exists()


@pytest.mark.parametrize("command", [SCRIPT, RUNNER], ids=["script", "runner"])
def test_a_hang_up_that_nohup_ignores_stays_ignored(start, tmp_path, command):
    process = start(command, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    training = training_of(process, tmp_path)
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None and all(lives(pid) for pid in training)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == (143 if command is SCRIPT else 130)
    wait_for(lambda: not any(lives(pid) for pid in training), None)


def test_a_second_interrupt_leaves_no_training_behind(start, tmp_path):
    process = start(RUNNER)
    training = training_of(process, tmp_path)
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
        if process.poll() is not None:
            break
    assert process.wait(PATIENCE) in (130, -signal.SIGINT)  # 130 to a shell, both: one may reach Python's own ending
    wait_for(lambda: not any(lives(pid) for pid in training), None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_real_training_ends_and_goes_on(start, tmp_path, name):
    short = ["DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "500", "TRAIN.PRINT_FREQ", "1"]
    process = start([*SCRIPT, *short], python=sys.executable)
    folder = tmp_path / "out/base2new/train_base/shapes/shots_16/ANPrompt/tiny/seed1"
    wait_for(lambda: any(folder.glob("*/checkpoint")), process)
    (training,) = children(process.pid)
    process.send_signal(getattr(signal, name))
    assert process.wait(PATIENCE) == 128 + getattr(signal, name)
    wait_for(lambda: not lives(training), None)
    log = folder / "log.txt"
    before = log.stat().st_mtime_ns
    again = start([*SCRIPT, *short], python=sys.executable)
    wait_for(lambda: log.stat().st_mtime_ns != before and "will resume training" in log.read_text(), again)
    again.send_signal(signal.SIGTERM)
    again.wait(PATIENCE)


def children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(word) for word in listed.stdout.split()]
