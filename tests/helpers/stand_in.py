"""The bash scripts with a stand-in for Python, which notes how it was called."""

import os
import re
import subprocess

from tests.helpers import REPOSITORY

# Notes its arguments, and leaves behind what a finished run leaves. FAIL: words of the calls that fail. FOREIGN: trains
# like a trainer that does not write results.json.
STAND_IN = """#!/usr/bin/env bash
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


def caller(tmp_path):
    """``call(SCRIPT, ...)`` runs ``scripts/SCRIPT``: the process, and the lines of arguments that the stand-in got."""
    stand_in, calls = tmp_path / "python", tmp_path / "calls"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)

    def run(script, *arguments, repo=REPOSITORY, **environment):
        calls.write_text("")
        kept = {key: value for key, value in os.environ.items() if key not in READ_BY_SCRIPTS}
        done = subprocess.run(
            ["bash", str(repo / "scripts" / script), *arguments],
            env=kept | {"PYTHON": str(stand_in), "CALLS": str(calls), "OUTPUT": str(tmp_path / "out")} | environment,
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
