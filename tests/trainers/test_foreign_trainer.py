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


def run(place, **arguments):
    """One call of train.py for runs on Shapes, by the name of their output folder; what each has logged.

    Nothing is read from or written to the user's home.
    """
    words = ["--root", str(place / "data"), "--seed", "1", "--trainer", "TailAdapted"]
    words += ["--dataset-config-file", str(REPOSITORY / "configs" / "datasets" / "shapes.yaml")]
    words += ["--config-file", str(FOREIGN / "tail_adapter.yaml")]
    runs = [[*words, "--output-dir", str(place / name), *own] for name, own in arguments.items()]
    home = str(place / "home")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HOME": home}
    done = subprocess.run(
        [sys.executable, "train.py", *runs[0], *(word for more in runs[1:] for word in ("--then", *more))],
        cwd=place,
        env=environment | {"USERPROFILE": home},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return [(place / name / "log.txt").read_text() for name in arguments]


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
    (text,) = run(place, base=(*settings, "DATASET.SUBSAMPLE_CLASSES", "base", "TRAIN.CHECKPOINT_FREQ", "1"))
    return place / "base", settings, text


@pytest.fixture(scope="module")
def tested(place, trained):
    """What tests of its checkpoint on new and on base classes print."""
    output, settings, _ = trained
    test = ("--eval-only", "--model-dir", str(output), "--load-epoch", "2", *settings, "DATASET.SUBSAMPLE_CLASSES")
    return run(place, new=(*test, "new"), again=(*test, "base"))


def test_it_trains(trained):
    output, _, text = trained
    assert "epoch [2/2]" in text
    assert "Finish training" in text
    assert accuracy(text) > 100 / 12 * 2  # twice chance on the 12 base classes
    first, second = learned(output, 1), learned(output, 2)
    assert second.isfinite().all()
    assert not torch.equal(first, second)


def test_it_tests_new_classes_from_its_checkpoint(trained, tested):
    """What belongs to the training's classes is dropped from the checkpoint, what was learned stays."""
    assert f"Loaded adapter of epoch 2 from {trained[0]}" in tested[0]
    assert accuracy(tested[0]) > 100 / 12 * 2


def test_the_same_model_gets_the_same_accuracy_again(trained, tested):
    assert accuracy(tested[1]) == accuracy(trained[2])


def test_it_trains_in_the_familys_other_precisions(place):
    """On a CPU, too, where its `autocast` and `GradScaler` switch themselves off."""
    options = ("TRAINER.TAILADAPTED.RANK", "4", "DATASET.NUM_SHOTS", "1", "DATASET.SUBSAMPLE_CLASSES", "base")
    options += ("OPTIM.MAX_EPOCH", "2", "TEST.NO_TEST", "True", "TRAINER.TAILADAPTED.PREC")
    for text in run(place, fp16=(*options, "fp16"), amp=(*options, "amp")):
        assert "nan" not in text and "Finish training" in text
    for precision, dtype in {"fp16": torch.float16, "amp": torch.float32}.items():
        weight = learned(place / precision, 2)
        assert weight.dtype == dtype and weight.isfinite().all() and weight.shape == (128, 4)
        assert weight.any(), "it starts at zero"
