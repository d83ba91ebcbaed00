"""The bash scripts with a stand-in for Python, which notes how train.py and the others were called."""

import os
import re
import shutil
import subprocess
import sys

from tests.helpers import REPOSITORY

# Notes its arguments, and leaves behind what a finished run leaves. FAIL: words of the calls that fail. FOREIGN: trains
# like a trainer that does not write results.json. The scripts themselves are in Python, which is real.
STAND_IN = """#!/usr/bin/env bash
if [[ "$1" == */anprompt ]]; then exec "$REAL_PYTHON" "$@"; fi
printf '%s\\n' "$*" >>"$CALLS"
if [[ -n "${FAIL:-}" && "$*" == *"$FAIL"* ]]; then
    echo "error: it broke" >&2
    exit 2
fi
while [[ $# -gt 0 ]]; do
    if [[ "$1" == --output-dir ]]; then
        mkdir -p "$2/prompt_learner"
        echo 'Finish training' >"$2/log.txt"
        [[ -n "${FOREIGN:-}" ]] || echo '{}' >"$2/results.json"
        echo model.pth.tar-10 >"$2/prompt_learner/checkpoint"
    fi
    shift
done
"""
READ_BY_SCRIPTS = (
    "CFG", "DATA", "DRY_RUN", "FAIL", "FOREIGN", "NPROC", "SEEDS", "SHOTS", "SOURCE", "THEN_NEW", "TRAINER", "TRAINERS",
)  # fmt: skip


def make_checkout(folder):
    """A checkout with the scripts, the library and the YAML files of the datasets; trainers are for the test to add."""
    shutil.copytree(REPOSITORY / "scripts", folder / "scripts", dirs_exist_ok=True)
    shutil.copytree(REPOSITORY / "configs" / "datasets", folder / "configs" / "datasets", dirs_exist_ok=True)
    (folder / "configs" / "trainers").mkdir(exist_ok=True)
    (folder / "train.py").touch()
    if not (folder / "anprompt").exists():
        (folder / "anprompt").symlink_to(REPOSITORY / "anprompt")
    return folder


def caller(tmp_path):
    """``call(SCRIPT, ...)`` runs ``scripts/SCRIPT``: the process, and the lines of arguments that the stand-in got."""
    stand_in, calls = tmp_path / "python", tmp_path / "calls"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)

    def run(script, *arguments, repo=REPOSITORY, **environment):
        calls.write_text("")
        kept = {key: value for key, value in os.environ.items() if key not in READ_BY_SCRIPTS}
        own = {"PYTHON": str(stand_in), "CALLS": str(calls), "REAL_PYTHON": sys.executable, "OUTPUT": f"{tmp_path}/out"}
        done = subprocess.run(
            ["bash", str(repo / "scripts" / script), *arguments],
            env=kept | own | environment,
            cwd=tmp_path,  # the scripts find the repository from their own path
            capture_output=True,
            text=True,
        )
        return done, [run for line in calls.read_text().splitlines() for run in runs_of(line)]

    return run


def runs_of(line):
    """A call of train.py with several runs, as if each had been called alone."""
    first, *others = line.split(" --then ")
    return [first, *(f"{first.split()[0]} {run}" for run in others)]


def value_after(line, flag):
    words = line.split()
    return words[words.index(flag) + 1]


def overrides(line):
    """Config overrides of a call; of a key given twice, the last value."""
    pairs = re.findall(r"([A-Z]\w*(?:\.\w+)+) (\S+)", line)
    return dict(pairs)
