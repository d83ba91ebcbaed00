"""docs/extending.md is true: its files and commands, taken literally, make an eighth method."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY

PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")


def block(language):
    """The only code block of that language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return text


def test_the_trainer_has_at_most_sixty_lines():
    assert len(block("python").splitlines()) <= 60


@pytest.mark.slow
def test_one_file_and_one_yaml_make_a_method(tmp_path):
    checkout = tmp_path / "checkout"
    for part in ("anprompt", "configs", "datasets", "scripts", "trainers"):
        shutil.copytree(REPOSITORY / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("train.py", "parse_test_res.py"):
        shutil.copy(REPOSITORY / file, checkout)
    (checkout / "trainers" / "vpt.py").write_text(block("python"))
    (checkout / "configs" / "trainers" / "VPT").mkdir()
    (checkout / "configs" / "trainers" / "VPT" / "tiny.yaml").write_text(block("yaml"))

    environment = os.environ | {"PYTHON": sys.executable, "DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
    environment.pop("OUTPUT", None)
    done = subprocess.run(
        ["bash", "-euc", block("bash")], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if re.match(r"\| *VPT\b", line))
    results = json.loads(
        (checkout / "output/base2new/train_base/shapes/shots_16/VPT/tiny/seed1/results.json").read_text()
    )
    assert f"{results['accuracy']:.2f}" in row
    assert results["parameters"] == 4 * 4 * 160  # layers, prompts, width of the tiny vision tower
