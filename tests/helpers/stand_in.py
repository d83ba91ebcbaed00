"""The bash scripts with a stand-in for Python, which notes how train.py and the others were called."""

import os
import re
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
leave_results() {
    mkdir -p "$folder/prompt_learner"
    echo 'Finish training' >"$folder/log.txt"
    echo model.pth.tar-10 >"$folder/prompt_learner/checkpoint"
    [[ -z "${FOREIGN:-}" ]] || return 0
    echo '{"accuracy": 50.0, "correct": 1, "total": 2, "split": "test", "config": {}, "trainer": "'"$trainer"'",' \\
        '"parameters": 512, "cost": {"train_seconds": 1.5, "peak_memory_bytes": 1000, "memory_of": "process"},' \\
        '"dataset": "'"$dataset"'", "classes": "'"$classes"'", "seed": '"$seed"'}' >"$folder/results.json"
}
classes=all
while [[ $# -gt 0 ]]; do
    case "$1" in
        --output-dir) folder="$2" ;;
        --trainer) trainer="$2" ;;
        --seed) seed="$2" ;;
        --dataset-config-file) dataset="$(basename "$2" .yaml)" ;;
        DATASET.SUBSAMPLE_CLASSES) classes="$2" ;;
        --then) leave_results ;;
    esac
    shift
done
[[ -z "${folder:-}" ]] || leave_results
"""
READ_BY_SCRIPTS = (
    "CFG", "DATA", "DRY_RUN", "FAIL", "FOREIGN", "NPROC", "SEEDS", "SHOTS", "SOURCE", "THEN_NEW", "TRAINER", "TRAINERS",
)  # fmt: skip


def make_checkout(folder):
    """A checkout without YAML files of trainers, which the test adds."""
    if not folder.exists():
        (folder / "configs" / "trainers").mkdir(parents=True)
        for name in (
            "anprompt",
            "configs/datasets",
            "datasets",
            "parse_test_res.py",
            "scripts",
            "train.py",
            "trainers",
        ):
            (folder / name).symlink_to(REPOSITORY / name)
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
