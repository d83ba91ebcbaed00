"""A trainer file that knows only `torch`, `dassl` and `clip` is dropped into `trainers/` and runs."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from tests.helpers import REPOSITORY

FOREIGN = REPOSITORY / "tests" / "fixtures" / "foreign"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of the command line and of `trainers/`, with the foreign file and its settings beside ours."""
    place = tmp_path_factory.mktemp("checkout")
    shutil.copy(REPOSITORY / "train.py", place)
    shutil.copytree(REPOSITORY / "trainers", place / "trainers", ignore=shutil.ignore_patterns("__pycache__"))
    for file in FOREIGN.glob("*.py"):
        shutil.copy(file, place / "trainers")
    return place


def run(place, output, *arguments):
    """One call of train.py on Shapes; nothing is read from or written to the user's home."""
    command = [sys.executable, "train.py", "--root", str(place / "data"), "--seed", "1", "--trainer", "TailAdapted"]
    files = ["--dataset-config-file", str(REPOSITORY / "configs" / "datasets" / "shapes.yaml")]
    files += ["--config-file", str(FOREIGN / "tail_adapter.yaml"), "--output-dir", str(output)]
    home = str(place / "home")
    own = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HOME": home, "USERPROFILE": home}
    done = subprocess.run(
        [*command, *files, *arguments], cwd=place, env=os.environ | own, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracy(text):
    (found,) = re.findall(r"^\* accuracy: ([\d.]+)%$", text, re.MULTILINE)
    return float(found)


def learned(output, epoch):
    path = output / "adapter" / f"model.pth.tar-{epoch}"
    return torch.load(path, weights_only=True)["state_dict"]["up.weight"]


@pytest.fixture(scope="module")
def trained(place):
    """Two epochs on base classes, in single precision."""
    settings = ("TRAINER.TAILADAPTED.PREC", "fp32", "DATASET.NUM_SHOTS", "4")
    text = run(place, place / "base", *settings, "DATASET.SUBSAMPLE_CLASSES", "base", "TRAIN.CHECKPOINT_FREQ", "1")
    return place / "base", settings, text


def test_it_trains(trained):
    output, _, text = trained
    assert "epoch [2/2]" in text
    assert "Finish training" in text
    assert accuracy(text) > 100 / 12 * 2  # twice chance on the 12 base classes
    first, second = learned(output, 1), learned(output, 2)
    assert second.isfinite().all()
    assert not torch.equal(first, second)


def test_it_tests_new_classes_from_its_checkpoint(place, trained):
    """What belongs to the training's classes is dropped from the checkpoint, what was learned stays."""
    output, settings, _ = trained
    test = ("--eval-only", "--model-dir", str(output), "--load-epoch", "2", *settings)
    text = run(place, place / "new", *test, "DATASET.SUBSAMPLE_CLASSES", "new")
    assert f"Loaded adapter of epoch 2 from {output}" in text
    assert accuracy(text) > 100 / 12 * 2


def test_the_same_model_gets_the_same_accuracy_again(place, trained):
    output, settings, text = trained
    test = ("--eval-only", "--model-dir", str(output), "--load-epoch", "2", *settings)
    assert accuracy(run(place, place / "again", *test, "DATASET.SUBSAMPLE_CLASSES", "base")) == accuracy(text)


@pytest.mark.parametrize("precision", ["fp16", "amp"])
def test_it_trains_in_the_familys_other_precisions(place, precision):
    """On a CPU, too, where its `autocast` and `GradScaler` switch themselves off."""
    settings = ("TRAINER.TAILADAPTED.PREC", precision, "TRAINER.TAILADAPTED.RANK", "4", "DATASET.NUM_SHOTS", "1")
    output = place / precision
    text = run(
        place, output, *settings, "OPTIM.MAX_EPOCH", "2", "DATASET.SUBSAMPLE_CLASSES", "base", "TEST.NO_TEST", "True"
    )
    weight = learned(output, 2)
    assert weight.dtype == {"fp16": torch.float16, "amp": torch.float32}[precision]
    assert weight.isfinite().all()
    assert weight.any(), "it starts at zero"
    assert weight.shape == (128, 4)
    assert "nan" not in text
