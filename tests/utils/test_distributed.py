"""Runs in several processes: the same steps as in one, one writer, and what cannot be shared is refused."""

import json
import random
import shutil
import subprocess
import sys

import pytest
import torch

from anprompt.commands import train
from anprompt.engine.trainer import PromptTrainer
from anprompt.utils import distributed
from tests.helpers import REPOSITORY
from tests.helpers.runs import QUICK, finish, run_cfg, weights
from tests.helpers.several_processes import BATCHES, METHODS, PROCESSES, cocoop, everything, together

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    return together(tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def alone():
    """What one process computes: each method's steps, and zero-shot logits."""
    reduction = cocoop.REDUCTION
    yield everything()
    cocoop.REDUCTION = reduction


# ---------------------------------------------------------------------------------------------- the same step


@pytest.mark.parametrize("size", BATCHES)
@pytest.mark.parametrize("name", METHODS)
def test_terms_gradients_and_heads_equal_one_process(reports, alone, name, size):
    expected = alone[0][name][size]["numbers"]
    assert any(key.startswith("gradients") for key in expected)
    for report in reports:
        numbers = report["everything"][0][name][size]["numbers"]
        assert numbers.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.allclose(numbers[key], tensor, rtol=TOLERANCE, atol=TOLERANCE), key


@pytest.mark.parametrize("name", METHODS)
def test_every_process_encodes_its_part_of_the_images(reports, alone, name):
    passes = len(alone[0][name][1]["rows"])
    for size, part in zip(BATCHES, (2, 2, 1), strict=True):
        assert alone[0][name][size]["rows"] == [size] * passes
        assert [report["everything"][0][name][size]["rows"] for report in reports] == [[part] * passes] * PROCESSES


def test_text_that_depends_on_the_image_is_shared_out(reports):
    assert [report["contexts"] for report in reports] == [2] * PROCESSES


def test_zero_shot_logits_equal_one_process(reports, alone):
    for report in reports:
        for size in BATCHES:
            assert torch.allclose(report["everything"][1][size], alone[1][size], rtol=0, atol=TOLERANCE)


# ---------------------------------------------------------------------------------------------- one after the other


def test_the_first_process_decides_for_all(reports):
    assert [report["decided"] for report in reports] == ["process 0"] * PROCESSES


def test_where_the_first_process_fails_the_others_end_silently(reports):
    first, *others = [report["failed"] for report in reports]
    assert first == "ValueError: process 0"
    assert others == ["SystemExit: 1"] * (PROCESSES - 1)


def test_data_is_prepared_once_and_random_numbers_stay_equal(reports):
    assert [report["data"]["seen"] for report in reports] == [[False], *[[True]] * (PROCESSES - 1)]
    generator = random.Random(1)
    expected = [generator.random() for _ in range(2)][1]
    assert [report["data"]["next"] for report in reports] == [expected] * PROCESSES


def test_only_the_first_process_prints(reports):
    assert [report["silent"] for report in reports] == [False, *[True] * (PROCESSES - 1)]


def test_the_other_processes_write_nothing(monkeypatch, make_cfg, tmp_path, capfd):
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    finish(make_cfg("OPTIM.MAX_EPOCH", "2", "TRAIN.CHECKPOINT_FREQ", "1", trainer="PromptSRC"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    bars = capfd.readouterr().err
    assert "evaluating" not in bars and "encoding" not in bars


def test_the_other_processes_remove_nothing(monkeypatch, make_cfg, tmp_path):
    """The first one clears up what a killed run left; another one might be reading it."""
    finish(make_cfg("OPTIM.MAX_EPOCH", "1"))
    leftover = tmp_path / "run/prompt_learner/.model.pth.tar-2.half"
    leftover.touch()
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    finish(make_cfg("OPTIM.MAX_EPOCH", "1"))
    assert leftover.exists()


def test_an_ordinary_run_starts_no_group(monkeypatch):
    cluster = {"WORLD_SIZE": "4", "SLURM_PROCID": "0"}  # set for any process there
    alone = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for variables in ({}, cluster, alone):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        distributed.start()
        assert not torch.distributed.is_initialized()
        assert (distributed.size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
        distributed.end()


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("trainer", "seed", "message"),
    [
        ("ANPrompt", -1, r"SEED -1: without a seed, the 4 processes of torchrun would draw different"),
        ("Foreign", 1, r"Foreign cannot share a run among 4 processes"),
        ("ANPrompt", 1, r"torchrun started 4 processes on a machine that shows 2 GPUs.* --nproc_per_node 2"),
    ],
)
def test_what_cannot_be_shared_is_refused(monkeypatch, make_cfg, trainer, seed, message):
    known = {"ANPrompt": PromptTrainer, "Foreign": object}
    monkeypatch.setattr(train, "TRAINER_REGISTRY", known)
    monkeypatch.setattr(distributed, "size", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    cfg = make_cfg("TRAINER.NAME", trainer, seed=seed)
    with pytest.raises(ValueError, match=message):
        train.check_shared_run(cfg)


def test_each_process_takes_its_gpu(monkeypatch, make_cfg):
    taken = []
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    train.check_shared_run(make_cfg())
    train.check_shared_run(make_cfg("USE_CUDA", False))
    assert taken == [1]


# ---------------------------------------------------------------------------------------------- whole runs

OPTIONS = ("OPTIM.MAX_EPOCH", "2", "TRAIN.CHECKPOINT_FREQ", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "5")


def torchrun(*arguments):
    """``train.py`` in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*launcher, "train.py", *map(str, arguments)], cwd=REPOSITORY, capture_output=True, text=True, timeout=600
    )


def arguments(root, output, *flags, overrides=(), trainer="ANPrompt"):
    yaml = REPOSITORY / "configs"
    return [
        *("--root", root, "--seed", "1", "--trainer", trainer, "--output-dir", output),
        *("--dataset-config-file", yaml / "datasets/shapes.yaml"),
        *("--config-file", yaml / f"trainers/{trainer}/tiny.yaml", *flags),
        *(*QUICK, "DATASET.SUBSAMPLE_CLASSES", "base", *OPTIONS, *overrides),
    ]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def learnables(folder, epoch=2):
    return torch.load(folder / f"prompt_learner/model.pth.tar-{epoch}", weights_only=True)["state_dict"]


def assert_close(one, other):
    """Up to rounding: the sums over a batch are formed in another order. A learning rate is 1e-3."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=0, atol=2e-6), name


def half_done(folder, copy):
    """A copy of a finished run as it was when it was killed in the second epoch."""
    shutil.copytree(folder, copy)
    (copy / "results.json").unlink()
    (copy / "prompt_learner/model.pth.tar-2").unlink()
    (copy / "prompt_learner/checkpoint").write_text("model.pth.tar-1\n")
    return copy


@pytest.fixture(scope="module")
def one(data_root, tmp_path_factory):
    """Folder and learnables of the run in one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    cfg = run_cfg(data_root, folder, OPTIONS, trainer="ANPrompt", classes="base", seed=1)
    return folder, weights(finish(cfg, all_test_images=True))


@pytest.fixture(scope="module")
def two(one, data_root, tmp_path_factory):
    """Folders of the same run in two processes, and then, in the same ones, of a test of the first run's model.

    The test's last batch is one image. At last, the run is asked for once more.
    """
    folder = tmp_path_factory.mktemp("two")
    run, test = folder / "run", folder / "test"
    size = ("DATALOADER.TEST.BATCH_SIZE", "479")
    tested = arguments(data_root, test, "--eval-only", "--model-dir", one[0], overrides=size)
    again = arguments(data_root, run, "--skip-finished")
    done = torchrun(*arguments(data_root, run), "--then", *tested, "--then", *again)
    assert done.returncode == 0, done.stderr
    return run, test, done


@pytest.mark.slow
def test_training_equals_one_process(one, two):
    assert_close(one[1], learnables(two[0]))
    same = ("total", "correct", "heads", "per_class", "subset", "trained_on", "method_state", "versions", "parameters")
    for key in same:
        assert results(two[0])[key] == results(one[0])[key], key
    assert (results(one[0])["cost"]["processes"], results(two[0])["cost"]["processes"]) == (1, 2)


@pytest.mark.slow
def test_evaluation_equals_one_process(one, two):
    for key in ("total", "correct", "heads", "per_class"):
        assert results(two[1])[key] == results(one[0])[key], key


@pytest.mark.slow
def test_there_is_one_log_and_one_of_every_file(one, two):
    run, _, done = two
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    checkpoints = {f"prompt_learner/{name}" for name in ("checkpoint", "model.pth.tar-1", "model.pth.tar-2")}
    events = [name for name in files if name.startswith("tensorboard/")]
    assert len(events) <= 1
    assert files - set(events) == {"log.txt", "config.json", "results.json", *checkpoints}
    for text in (done.stdout, (run / "log.txt").read_text()):
        assert text.count("epoch [1/2] batch [1/2]") == 1
    assert done.stdout.count("* accuracy:") == 2
    assert done.stderr.count("evaluating: 100%") >= 2 and "Warning" not in done.stderr


@pytest.mark.slow
def test_two_processes_go_on_with_the_run_of_one(one, data_root, tmp_path):
    folder = half_done(one[0], tmp_path / "run")
    done = torchrun(*arguments(data_root, folder, "--skip-finished"))
    assert done.returncode == 0, done.stderr
    assert "(will resume training)" in done.stdout and "epoch [1/2]" not in done.stdout
    assert_close(one[1], learnables(folder))


@pytest.mark.slow
def test_one_process_goes_on_with_the_run_of_two(one, two, data_root, tmp_path):
    folder = half_done(two[0], tmp_path / "run")
    trainer = finish(run_cfg(data_root, folder, OPTIONS, trainer="ANPrompt", classes="base", seed=1))
    assert trainer.start_epoch == 1
    assert_close(one[1], weights(trainer))


@pytest.mark.slow
def test_a_finished_run_is_skipped_once(two):
    *_, last = two[2].stdout.splitlines()
    assert last.startswith("already finished: ANPrompt on Shapes") and two[2].stdout.count("already finished") == 1


@pytest.mark.slow
def test_best_val_is_one_choice(data_root, tmp_path):
    """The others wait for the file of the best model, and all test the same one."""
    overrides = ("TEST.FINAL_MODEL", "best_val", "DATALOADER.TRAIN_X.BATCH_SIZE", "4")
    cfg = run_cfg(data_root, tmp_path / "one", [*OPTIONS, *overrides], trainer="PromptSRC", classes="base", seed=1)
    finish(cfg, all_test_images=True)
    done = torchrun(*arguments(data_root, tmp_path / "two", overrides=overrides, trainer="PromptSRC"))
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "two")["heads"] == results(tmp_path / "one")["heads"]
    states = [
        torch.load(tmp_path / name / "prompt_learner/model-best.pth.tar", weights_only=True) for name in ("one", "two")
    ]
    assert states[0]["epoch"] == states[1]["epoch"]
    assert_close(states[0]["state_dict"], states[1]["state_dict"])


@pytest.mark.slow
def test_an_error_of_the_first_process_is_said_once_and_ends_all(tmp_path):
    """What is there is for the first process to find out; the others must not wait for it forever."""
    done = torchrun(*arguments(tmp_path, tmp_path / "run", overrides=("DATASET.NAME", "Caltech101")))
    assert done.returncode != 0
    assert done.stderr.count("ANPROMPT_TRACEBACK=1") == 1 and "process 0: error:" in done.stderr
    assert "caltech" in done.stderr.lower()
