"""Checkpoints that were damaged or changed: never taken, one line that names the file and what is wrong with it."""

import os
import random
import shutil

import pytest
import torch
from torch import nn

import train
from anprompt.engine import checkpoint
from anprompt.engine.resumable import LEARNER
from tests.helpers import REPOSITORY
from tests.helpers.archives import data_range, flip, records_of
from tests.helpers.runs import finish, start

EPOCHS = 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_root):
    """The folder of a finished run."""
    from tests.helpers.runs import run_cfg

    folder = tmp_path_factory.mktemp("trained") / "run"
    options = ["OPTIM.MAX_EPOCH", str(EPOCHS), "DATALOADER.CACHE_TEST", "False"]
    finish(run_cfg(data_root, folder, options, trainer="ANPrompt", classes="base", seed=1))
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "run")


def newest(run):
    return run / LEARNER / f"model.pth.tar-{EPOCHS}"


def change(path, **entries):
    """Replace entries of a checkpoint; None takes one out."""
    state = {**torch.load(path, weights_only=True), **entries}
    torch.save({key: value for key, value in state.items() if value is not None}, path)


# ------------------------------------------------------------------ damage

STATE = {"state_dict": {"tokens": torch.arange(60.0)}, "epoch": 3, "rng": torch.arange(9), "settings": {"A": "b"}}


def test_no_flipped_bit_of_a_checkpoint_passes_unnoticed(tmp_path):
    """In the records none is taken; elsewhere it is noticed, or lies in a gap, and all is as it was."""
    whole, damaged, rng = tmp_path / "whole", tmp_path / "damaged", random.Random(0)
    checkpoint.save_checkpoint(STATE, whole)
    content = whole.read_bytes()
    weights = data_range(whole, "data/0")
    inside = {place for record in records_of(whole) for place in data_range(whole, record)}
    places = [*rng.choices(weights, k=100), *rng.choices(sorted(inside), k=100), *rng.sample(range(len(content)), 300)]
    for place in places:
        damaged.write_bytes(content)
        flip(damaged, place, rng.randrange(8))
        try:
            state = checkpoint.load_checkpoint(damaged)
        except ValueError as error:
            assert str(error).startswith(f"cannot read the checkpoint {damaged} (") and "--load-epoch" in str(error)
            continue
        assert place not in inside
        assert {key: state[key] for key in ("epoch", "settings")} == {"epoch": 3, "settings": {"A": "b"}}
        assert torch.equal(state["state_dict"]["tokens"], STATE["state_dict"]["tokens"])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e5m2, torch.complex64])
def test_numbers_that_are_not_finite_are_refused_and_named(tmp_path, number, dtype):
    tensor = torch.tensor([1, number]).to(dtype)
    checkpoint.save_checkpoint({**STATE, "state_dict": {"good": torch.ones(2), "tokens": tensor}}, tmp_path / "file")
    with pytest.raises(ValueError, match=r"file holds numbers that are not finite: state_dict.tokens\. "):
        checkpoint.load_checkpoint(tmp_path / "file")


@pytest.mark.parametrize(
    "entry",
    [
        {"optimizer": {"state": {0: {"momentum_buffer": torch.tensor([float("nan")])}}}},
        {"training_state": {"weighted": {"tokens": torch.tensor(float("inf"))}}},
        {"method_state": {"beta": float("nan")}},
        {"scheduler": {"base_lrs": [0.1, float("inf")]}},
    ],
)
def test_so_are_those_that_training_would_go_on_from(tmp_path, entry):
    checkpoint.save_checkpoint({**STATE, **entry}, tmp_path / "file")
    with pytest.raises(ValueError, match=f"not finite: {next(iter(entry))}"):
        checkpoint.load_checkpoint(tmp_path / "file")


def test_a_result_that_was_not_reached_yet_may_be_infinite(tmp_path):
    checkpoint.save_checkpoint({**STATE, "best_result": -float("inf"), "val_result": None}, tmp_path / "file")
    assert checkpoint.load_checkpoint(tmp_path / "file")["best_result"] == -float("inf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), "expected a dict with 'state_dict', found a Tensor"),
        ({}, "found a dict with nothing in it"),
        ({"weights": {}}, "found a dict with 'weights'"),
        ({"state_dict": [torch.ones(1)]}, "found a dict with 'state_dict'"),
        ({"state_dict": {"tokens": 3}}, r"expected tensors by name in its 'state_dict', found another \['tokens'\]"),
        ({"state_dict": {3: torch.ones(1)}}, r"found another \[3\]"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "file")
    with pytest.raises(ValueError, match=f"file.*{message}"):
        checkpoint.load_checkpoint(tmp_path / "file")


def test_what_is_no_file_is_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a named pipe"), (tmp_path, "a folder"), ("/dev/zero", "a device")):
        with pytest.raises(ValueError, match=f"the checkpoint .* is {kind}, expected a file"):
            checkpoint.load_checkpoint(path)


# ------------------------------------------------------------------ entries of another kind

CHANGES = {
    "no data": ({"trained_on": None}, "expected 'trained_on': dict, found nothing"),
    "data as text": ({"trained_on": "Shapes"}, "expected 'trained_on': dict, found a str"),
    "no classes": ({"trained_on": {"dataset": "Shapes", "classnames": []}}, "tell the dataset and its classnames"),
    "classes as numbers": ({"trained_on": {"dataset": "Shapes", "classnames": [1]}}, "tell the dataset"),
    "no epoch": ({"epoch": None}, "expected 'epoch': int, found nothing"),
    "an epoch as text": ({"epoch": "2"}, "expected 'epoch': int, found a str"),
    "an epoch that is true": ({"epoch": True}, "expected 'epoch': int, found a bool"),
    "an epoch as tensor": ({"epoch": torch.tensor(2)}, "expected 'epoch': int, found a Tensor"),
    "epoch 0": ({"epoch": 0}, "expected epoch 2, found 0"),
    "a negative epoch": ({"epoch": -2}, "expected epoch 2, found -2"),
    "the epoch of another file": ({"epoch": 1}, "expected epoch 2, found 1"),
    "no digest": ({"backbone_digest": None}, "expected 'backbone_digest': str"),
    "a digest as bytes": ({"backbone_digest": [1]}, "expected 'backbone_digest': str, found a list"),
    "no settings": ({"settings": None}, "has no 'settings'"),
    "settings as list": ({"settings": []}, "expected 'settings': dict, found a list"),
    "a setting as tensor": ({"settings": {"A": torch.ones(2)}}, "settings.A is not plain data"),
    "a setting without a name": ({"settings": {3: 4}}, "settings.3 is not plain data"),
    "no method state": ({"method_state": None}, "expected 'method_state': dict"),
    "an empty method state": ({"method_state": {}}, "its 'method_state' does not fit .*beta"),
    "a training as text": ({"training": "base"}, "expected 'training': dict, found a str"),
    "a training that tells nothing": ({"training": {"classes": "base"}}, "expected 'training' to tell shots, subset"),
    "lists as list": ({"data": []}, "expected 'data': dict, found a list"),
    "a list as number": ({"data": {"train": 3}}, "expected 'data' to tell the digests of lists"),
    "a list as tensor": ({"data": {"train": torch.ones(2)}}, "data.train is not plain data"),
    "sentences as number": ({"sentences": 3}, "expected 'sentences': str or NoneType, found a int"),
    "workers as text": ({"workers": "2"}, "expected 'workers': int or NoneType, found a str"),
    "a length as text": ({"max_epoch": "2"}, "expected 'max_epoch': int, found a str"),
    "a length of nothing": ({"max_epoch": 0}, "expected 'max_epoch' of at least 1"),
    "schedules as dict": ({"earlier_schedules": {}}, "expected 'earlier_schedules': list, found a dict"),
    "a schedule as number": ({"earlier_schedules": [2]}, "expected 'earlier_schedules' to tell max_epoch and epochs"),
    "a schedule without epochs": ({"earlier_schedules": [{"max_epoch": 2}]}, "to tell max_epoch and epochs of each"),
    "a schedule of texts": ({"earlier_schedules": [{"max_epoch": "2", "epochs": "1"}]}, "to tell max_epoch and epochs"),
    "seconds as text": ({"train_seconds": "long"}, "expected 'train_seconds': float or int, found a str"),
}
TRAINING_CHANGES = {
    "no generators": ({"rng": None}, "expected 'rng': dict, found nothing"),
    "empty generators": ({"rng": {}}, "no random generator takes its 'rng'"),
    "other generators": ({"generators": {"noise": torch.ones(3)}}, "takes its 'rng' or 'generators'"),
    "generators of text": ({"generators": {"noise": "x"}}, "takes its 'rng' or 'generators'"),
    "no optimiser": ({"optimizer": None}, "expected 'optimizer': dict, found nothing"),
    "an empty optimiser": ({"optimizer": {}}, "its 'optimizer' does not fit"),
    "no schedule": ({"scheduler": None}, "expected 'scheduler': dict"),
    "an empty schedule": ({"scheduler": {}}, "its 'scheduler' does not fit"),
    "a schedule of text": ({"scheduler": {"last_epoch": "2"}}, "scheduler.last_epoch is a str, expected a int"),
    "a scaler as list": ({"scaler": []}, "expected 'scaler': dict, found a list"),
    "no best result": ({"best_result": None}, "expected 'best_result': float or int, found nothing"),
    "a seed as text": ({"seed": "1"}, "expected 'seed': int, found a str"),
    "rolling as text": ({"rolling": "no"}, "expected 'rolling': bool, found a str"),
    "a training state as list": ({"training_state": [1]}, "expected 'training_state': dict, found a list"),
}  # fmt: skip


@pytest.fixture(scope="module")
def fresh(trained, data_root, tmp_path_factory):
    """A trainer that has loaded nothing."""
    from tests.helpers.runs import run_cfg

    folder = tmp_path_factory.mktemp("fresh")
    return start(run_cfg(data_root, folder, ["OPTIM.MAX_EPOCH", "3"], trainer="ANPrompt", classes="base", seed=1))


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_checkpoint_is_not_tested(run, fresh, kind):
    entries, message = CHANGES[kind]
    change(newest(run), **entries)
    before = newest(run).read_bytes()
    with pytest.raises(ValueError, match=f"model.pth.tar-2.*{message}") as error:
        fresh.load_model(str(run), epoch=EPOCHS)
    assert "\n" not in str(error.value)
    assert newest(run).read_bytes() == before


@pytest.mark.parametrize("kind", CHANGES | TRAINING_CHANGES)
def test_a_changed_checkpoint_is_not_resumed(run, fresh, kind):
    entries, message = (CHANGES | TRAINING_CHANGES)[kind]
    change(newest(run), **entries)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=f"model.pth.tar-2.*{message}"):
        fresh.resume_model_if_exist(str(run))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", TRAINING_CHANGES)
def test_what_a_test_does_not_read_does_not_hinder_it(run, fresh, kind):
    entries, _ = TRAINING_CHANGES[kind]
    if "training_state" in entries:  # read for its type
        return
    change(newest(run), **entries)
    fresh.load_model(str(run), epoch=EPOCHS)


def test_the_checkpoint_that_was_not_changed_is_tested_and_resumed(run, fresh):
    change(newest(run))
    fresh.load_model(str(run), epoch=EPOCHS)
    assert fresh.resume_model_if_exist(str(run)) == EPOCHS


def test_a_momentum_of_another_shape_is_not_resumed(run, fresh):
    optimizer = torch.load(newest(run), weights_only=True)["optimizer"]
    first = next(iter(optimizer["state"].values()))
    first["momentum_buffer"] = torch.zeros(3, 3)
    change(newest(run), optimizer=optimizer)
    with pytest.raises(ValueError, match="momentum_buffer in its 'optimizer' has another shape than the learnables"):
        fresh.resume_model_if_exist(str(run))


def test_a_rate_of_another_type_is_not_resumed(run, fresh):
    optimizer = torch.load(newest(run), weights_only=True)["optimizer"]
    optimizer["param_groups"][0]["lr"] = "fast"
    change(newest(run), optimizer=optimizer)
    with pytest.raises(ValueError, match=r"optimizer.param_groups.0.lr is a str, expected a float"):
        fresh.resume_model_if_exist(str(run))


def test_a_nan_in_the_newest_checkpoint_is_neither_tested_nor_trained_on(run, fresh):
    state = torch.load(newest(run), weights_only=True)["state_dict"]
    name = next(iter(state))
    state[name].view(-1)[0] = float("nan")
    change(newest(run), state_dict=state)
    for load in (lambda: fresh.load_model(str(run), epoch=EPOCHS), lambda: fresh.resume_model_if_exist(str(run))):
        with pytest.raises(ValueError, match=f"model.pth.tar-2 holds numbers that are not finite: state_dict.{name}"):
            load()


# ------------------------------------------------------------------ on the command line

DAMAGES = {
    "an entry is missing": (lambda path: change(path, trained_on=None), "expected 'trained_on': dict, found nothing"),
    "an entry is of another type": (lambda path: change(path, settings=[]), "expected 'settings': dict, found a list"),
    "a name is no text": (lambda path: change(path, state_dict={3: torch.ones(1)}), "expected tensors by name"),
    "a bit is flipped": (lambda path: flip(path, data_range(path, "data/0")[3], 6), "the record data/0 is damaged"),
    "the end is missing": (lambda path: os.truncate(path, 5000), "cut short or damaged"),
    "the file is missing": (lambda path: path.unlink(), "no checkpoint at "),
    "the folder is missing": (lambda path: shutil.rmtree(path.parent.parent), "no checkpoint at "),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_test_of_a_damaged_checkpoint_says_one_line_and_leaves_nothing(run, data_root, tmp_path, capsys, kind):
    damage, message = DAMAGES[kind]
    damage(newest(run))
    config = REPOSITORY / "configs"
    words = ["--root", str(data_root), "--seed", "1", "--trainer", "ANPrompt", "--output-dir", str(tmp_path / "test")]
    words += ["--dataset-config-file", str(config / "datasets/shapes.yaml")]
    words += ["--config-file", str(config / "trainers/ANPrompt/tiny.yaml")]
    words += ["--eval-only", "--model-dir", str(run), "--load-epoch", str(EPOCHS)]
    assert train.main([*words, "DATASET.NUM_SHOTS", "1", "DATASET.SUBSAMPLE_CLASSES", "base"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "model.pth.tar" in line]
    assert len(said) == 1 and said[0].startswith("error: ") and message in said[0] and str(newest(run)) in said[0]
    assert os.listdir(tmp_path / "test") == []


# ------------------------------------------------------------------ learnables


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_learnables_of_another_sort_are_refused(dtype):
    model = nn.Linear(2, 1, bias=False)
    with pytest.raises(ValueError, match=f"file does not fit this model: weight: {dtype} in the file, torch.float32"):
        checkpoint.load_strictly(model, {"weight": torch.ones(1, 2).to(dtype)}, "file")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_learnables_of_another_precision_are_taken(dtype):
    model = nn.Linear(2, 1, bias=False)
    checkpoint.load_strictly(model, {"weight": torch.ones(1, 2).to(dtype)}, "file")
    assert model.weight.tolist() == [[1, 1]] and model.weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["../model.pth.tar-1", "model/../../secret", "models", ""])
def test_a_pointer_leads_nowhere_else(tmp_path, name):
    (tmp_path / "secret").write_text("")
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / checkpoint.POINTER).write_text(name)
    with pytest.raises(ValueError, match="names .*, which is no checkpoint there"):
        checkpoint.read_pointer(tmp_path / "run")
