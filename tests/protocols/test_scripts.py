"""What a script leaves to its processes, and how it is called without bash."""

import dataclasses
import re
import subprocess
import sys

import pytest

from anprompt.cli import main
from anprompt.protocols import processes
from anprompt.protocols.scripts import Call, plan_script
from tests.helpers import REPOSITORY


@pytest.mark.parametrize(
    ("script", "protocol"),
    [
        ("base2new_train", "base2new"),
        ("base2new_test", "base2new"),
        ("zeroshot", "base2new"),
        ("few_shot", "few_shot"),
        ("xd_train", "source"),
        ("xd_test", "target"),
    ],
)
def test_train_py_is_told_which_protocol_its_runs_belong_to(tmp_path, monkeypatch, script, protocol):
    told = []

    def run(command, environment):
        told.append(environment["ANPROMPT_PROTOCOL"])
        return 3

    monkeypatch.setattr(processes, "run", run)
    call = Call(REPOSITORY, "CoOp", ["shapes"], {"OUTPUT": str(tmp_path), "DRY_RUN": "1"}, "")
    planned = plan_script(script, call)
    assert processes.work(planned, dataclasses.replace(call, environment={})) == 3
    assert told == [protocol] == [planned.protocol]


def test_no_later_run_and_no_report_after_a_failure(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(processes, "run", lambda command, environment: commands.append(command) or 7)
    call = Call(REPOSITORY, "CoOp", ["shapes"], {"OUTPUT": str(tmp_path)}, "")
    assert processes.work(plan_script("few_shot", call), call) == 7
    assert len(commands) == 1


@pytest.mark.parametrize(("code", "status"), [("exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_status_of_a_process_is_that_of_a_shell(code, status):
    assert processes.run([sys.executable, "-c", code], {}) == status


def test_windows_needs_no_bash(tmp_path):
    """Nor what only POSIX has."""
    code = "import signal, sys; sys.modules |= {'fcntl': None, 'grp': None, 'pwd': None, 'resource': None}; "
    code += "del signal.SIGHUP; from anprompt.cli import main; sys.exit(main())"
    environment = {"PYTHONPATH": str(REPOSITORY), "DRY_RUN": "1", "DATA": "/d", "OUTPUT": "/out"}
    command = [sys.executable, "-c", code, "script", "base2new_train", "ANPrompt", "caltech101", "1"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{sys.executable}\t{REPOSITORY}/train.py\t--root\t/d\t--seed\t1\t")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["base2new_tset", "CoOp", "shapes"], "unknown script 'base2new_tset': there are base2new_train, "),
        (["few_shot", "", "shapes"], "TRAINER is not set: name one of configs/trainers"),
        (["few_shot", "CoOp", "dtd"], "DATA is not set: .* python -m anprompt script few_shot CoOp dtd"),
        (["xd_test", "CoOp", ""], "which dataset"),
    ],
)
def test_mistakes_are_named(monkeypatch, capsys, words, message):
    monkeypatch.delenv("DATA", raising=False)
    assert main(["script", *words]) == 2
    assert re.match(f"error: {message}", capsys.readouterr().err)


def test_starting_a_script_imports_nothing_heavy(tmp_path):
    code = "import sys; from anprompt.cli import main; main(); print({'torch', 'numpy', 'sklearn'} & {*sys.modules})"
    environment = {"PYTHONPATH": str(REPOSITORY), "DRY_RUN": "1"}
    command = [sys.executable, "-c", code, "script", "few_shot", "CoOp", "shapes", "1"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
