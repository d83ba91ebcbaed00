"""The bash scripts: what they call, with a stand-in for Python; and, marked slow, whole runs."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import REPOSITORY
from tests.helpers.stand_in import overrides, value_after

SCRIPTS = REPOSITORY / "scripts" / "anprompt"


def test_base2new_defaults_to_shapes_and_goes_on_with_the_new_classes(call, tmp_path):
    done, (train, test, table) = call("anprompt/base2new_train.sh")
    assert done.returncode == 0, done.stderr
    tail = "shapes/shots_16/ANPrompt/tiny/seed1"
    base, new = f"{tmp_path}/out/base2new/train_base/{tail}", f"{tmp_path}/out/base2new/test_new/{tail}"
    assert value_after(train, "--output-dir") == base
    assert value_after(train, "--root") == str(REPOSITORY / "data")
    assert value_after(train, "--trainer") == "ANPrompt"
    assert value_after(train, "--config-file") == str(REPOSITORY / "configs/trainers/ANPrompt/tiny.yaml")
    assert value_after(train, "--dataset-config-file") == str(REPOSITORY / "configs/datasets/shapes.yaml")
    assert "--skip-finished" in train
    assert overrides(train) == {"DATASET.NUM_SHOTS": "16", "DATASET.SUBSAMPLE_CLASSES": "base"}
    assert value_after(test, "--output-dir") == new
    assert f"--eval-only --model-dir {base} " in test
    assert overrides(test) == {"DATASET.NUM_SHOTS": "16", "DATASET.SUBSAMPLE_CLASSES": "new"}
    assert table == f"{REPOSITORY}/parse_test_res.py --exact {base} {new}"


def test_base2new_of_other_data_trains_only(call, tmp_path):
    done, (train, _) = call("anprompt/base2new_train.sh", "caltech101", "3", DATA="/d", CFG="vit_b32", SHOTS="4")
    assert done.returncode == 0, done.stderr
    assert value_after(train, "--root") == "/d"
    assert value_after(train, "--seed") == "3"
    assert value_after(train, "--output-dir").endswith("/train_base/caltech101/shots_4/ANPrompt/vit_b32/seed3")


def test_several_processes_share_a_run(call):
    done, (train, table) = call("anprompt/base2new_train.sh", "caltech101", "1", DATA="/d", NPROC="4")
    assert done.returncode == 0, done.stderr
    launcher = "-m torch.distributed.run --standalone --nproc_per_node 4"
    assert train.startswith(f"{launcher} {REPOSITORY}/train.py --root /d ")
    assert table.startswith(f"{REPOSITORY}/parse_test_res.py ")
    _, (train, _) = call("anprompt/base2new_train.sh", "caltech101", "1", DATA="/d", NPROC="1")
    assert train.startswith(f"{REPOSITORY}/train.py ")


def test_imagenet_has_its_own_batch_and_epochs(call):
    _, (train, _) = call("anprompt/base2new_train.sh", "imagenet", "1", DATA="/d")
    assert overrides(train)["DATALOADER.TRAIN_X.BATCH_SIZE"] == "32"
    assert overrides(train)["OPTIM.MAX_EPOCH"] == "5"


@pytest.mark.parametrize(
    "script", ["base2new_train.sh", "base2new_test.sh", "few_shot.sh", "xd_train.sh", "xd_test.sh"]
)
def test_overrides_of_the_user_come_last(call, script):
    call("anprompt/base2new_train.sh", "imagenet", "1", DATA="/d")
    call("anprompt/xd_train.sh", "imagenet", "1", DATA="/d")
    done, lines = call(f"anprompt/{script}", "imagenet", "1", "OPTIM.MAX_EPOCH", "7", DATA="/d", SHOTS="16")
    assert done.returncode == 0, done.stderr
    assert lines[0].endswith(" OPTIM.MAX_EPOCH 7")


def test_few_shot_runs_five_subsets(call, tmp_path):
    _, lines = call("anprompt/few_shot.sh", "eurosat", "2", DATA="/d")
    trainings = [line for line in lines if "train.py" in line]
    assert [value_after(line, "--output-dir") for line in trainings] == [
        f"{tmp_path}/out/few_shot/eurosat/shots_{shots}/ANPrompt/vit_b16/seed2" for shots in (1, 2, 4, 8, 16)
    ]
    assert overrides(trainings[1]) == {
        "DATASET.NUM_SHOTS": "2",
        "DATALOADER.TRAIN_X.BATCH_SIZE": "32",
        "OPTIM.MAX_EPOCH": "50",
    }


def test_cross_dataset_tests_the_source_model(call, tmp_path):
    _, (train, _) = call("anprompt/xd_train.sh", "imagenet", "1", DATA="/d")
    source = f"{tmp_path}/out/imagenet/ANPrompt/vit_b16_16shots/seed1"
    assert value_after(train, "--output-dir") == source
    assert overrides(train) == {
        "DATASET.NUM_SHOTS": "16",
        "DATALOADER.TRAIN_X.BATCH_SIZE": "32",
        "OPTIM.MAX_EPOCH": "1",
        "OPTIM.WARMUP_EPOCH": "0",
        "TRAINER.ANPROMPT.LOSS.SIM_W": "0.2",
    }
    done, (test, _) = call("anprompt/xd_test.sh", "eurosat", "1", DATA="/d")
    assert done.returncode == 0, done.stderr
    assert value_after(test, "--output-dir") == f"{tmp_path}/out/evaluation/ANPrompt/vit_b16_16shots/eurosat/seed1"
    assert f"--eval-only --model-dir {source} --load-epoch 10" in test


def test_cross_dataset_test_takes_the_config_of_its_source(call):
    call("anprompt/xd_train.sh", "shapes", "1")
    _, (test, _) = call("anprompt/xd_test.sh", "eurosat", "1", DATA="/d", SOURCE="shapes")
    assert value_after(test, "--config-file") == str(REPOSITORY / "configs/trainers/ANPrompt/tiny.yaml")


def test_the_test_of_another_source_has_a_folder_of_its_own(call, tmp_path):
    """ImageNet's has the family's."""
    folders = {}
    for source in ("imagenet", "shapes", "dtd"):
        call("anprompt/xd_train.sh", source, "1", DATA="/d", CFG="tiny")
        _, (test, _) = call("anprompt/xd_test.sh", "eurosat", "1", DATA="/d", SOURCE=source, CFG="tiny")
        folders[source] = value_after(test, "--output-dir").removeprefix(f"{tmp_path}/out/evaluation/ANPrompt/")
    assert folders == {
        "imagenet": "tiny_16shots/eurosat/seed1",
        "shapes": "tiny_16shots_shapes/eurosat/seed1",
        "dtd": "tiny_16shots_dtd/eurosat/seed1",
    }


def test_a_model_chosen_on_validation_data_is_the_one_tested(call, tmp_path):
    call("anprompt/xd_train.sh", "imagenet", "1", DATA="/d")
    (tmp_path / "out/imagenet/ANPrompt/vit_b16_16shots/seed1/prompt_learner/model-best.pth.tar").write_text("")
    _, (test, _) = call("anprompt/xd_test.sh", "eurosat", "1", DATA="/d")
    assert "--load-epoch" not in test


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("base2new_train.sh", ["caltech101", "1"], "DATA is not set: .*DATA=/path/to/datasets bash .* caltech101"),
        ("base2new_train.sh", ["shapes", "OPTIM.MAX_EPOCH", "1"], "the seed must be a number, got 'OPTIM.MAX_EPOCH'"),
        ("base2new_test.sh", ["shapes", "5"], "no finished training run in .*seed5"),
        ("xd_test.sh", [], "which dataset"),
        ("xd_test.sh", ["eurosat", "1"], "no finished training run in .*imagenet/ANPrompt/vit_b16_16shots/seed1"),
    ],
)
def test_mistakes_are_named(call, script, arguments, message):
    done, lines = call(f"anprompt/{script}", *arguments)
    assert done.returncode == 2
    assert re.fullmatch(f"error: .*{message}.*\n", done.stderr)
    assert not lines


def test_folders_may_have_any_name(call, tmp_path):
    odd = str(tmp_path / "out [2] *")
    call("anprompt/xd_train.sh", "imagenet", "1", DATA="/d", OUTPUT=odd)
    done, (test, _) = call("anprompt/xd_test.sh", "eurosat", "1", DATA="/d", OUTPUT=odd)
    assert done.returncode == 0, done.stderr
    assert "--load-epoch 10" in test


def test_zero_shot_tests_base_and_new(call, tmp_path):
    done, (base, new, table) = call("zsclip/zeroshot.sh", "eurosat", DATA="/d")
    assert done.returncode == 0, done.stderr
    assert "--eval-only" in base and "--eval-only" in new
    assert [overrides(line)["DATASET.SUBSAMPLE_CLASSES"] for line in (base, new)] == ["base", "new"]
    folders = [value_after(line, "--output-dir") for line in (base, new)]
    assert table == f"{REPOSITORY}/parse_test_res.py --exact {' '.join(folders)}"


def test_a_result_without_checkpoint_is_named(call, tmp_path):
    call("anprompt/xd_train.sh", "imagenet", "1", DATA="/d")
    (tmp_path / "out/imagenet/ANPrompt/vit_b16_16shots/seed1/prompt_learner/checkpoint").unlink()
    assert "has a result but no checkpoint" in call("anprompt/xd_test.sh", "eurosat", "1", DATA="/d")[0].stderr


# ---------------------------------------------------------------------------------------------- whole runs

SHORT = ("OPTIM.MAX_EPOCH", "3", "OPTIM.WARMUP_EPOCH", "0")
TAIL = "shapes/shots_16/ANPrompt/tiny/seed1"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Data folder of the Shapes dataset, rendered by the first run and shared by the others."""
    return tmp_path_factory.mktemp("data")


def command(script, *arguments):
    return ["bash", str(SCRIPTS / script), *arguments]


def environment(shapes, output):
    return os.environ | {"PYTHON": sys.executable, "DATA": str(shapes), "OUTPUT": str(output), "OMP_NUM_THREADS": "1"}


def run(shapes, output, script, *arguments, **extra):
    return subprocess.run(
        command(script, *arguments), env=environment(shapes, output) | extra, capture_output=True, text=True, cwd=output
    )


def launch(shapes, output):
    """Start a training that is going to be killed, with all its children."""
    return subprocess.Popen(
        command("base2new_train.sh", "shapes", "1", *SHORT),
        env=environment(shapes, output),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def weights(directory):
    (path,) = (directory / "prompt_learner").glob("model.pth.tar-3")
    return torch.load(path)["state_dict"]


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    """Output folder of an uninterrupted base-to-new run, and what it printed."""
    output = tmp_path_factory.mktemp("finished")
    done = run(shapes, output, "base2new_train.sh", "shapes", "1", *SHORT)
    assert done.returncode == 0, done.stderr
    return output, done.stdout


@pytest.mark.slow
def test_base2new_ends_with_base_new_and_harmonic_mean(finished):
    output, printed = finished
    base, new = (
        json.loads((output / "base2new" / part / TAIL / "results.json").read_text())
        for part in ("train_base", "test_new")
    )
    assert (base["classes"], new["classes"]) == ("base", "new")
    b, n = base["accuracy"], new["accuracy"]
    assert printed.splitlines()[-3].split() == ["base", "new", "HM"]
    assert printed.splitlines()[-1].split() == [f"{b:.2f}", f"{n:.2f}", f"{2 * b * n / (b + n):.2f}"]


@pytest.mark.slow
def test_new_classes_give_the_same_result_in_a_process_of_its_own(finished, shapes, tmp_path):
    """The first half and the second shared a process."""
    output, _ = finished
    shutil.copytree(output / "base2new" / "train_base", tmp_path / "base2new" / "train_base")
    done = run(shapes, tmp_path, "base2new_test.sh", "shapes", "1", *SHORT)
    assert done.returncode == 0, done.stderr
    shared, alone = (
        json.loads((folder / "base2new" / "test_new" / TAIL / "results.json").read_text())
        for folder in (output, tmp_path)
    )
    for result in (shared, alone):
        del result["cost"], result["config"]["OUTPUT_DIR"]
    assert shared == alone
    logs = [(folder / "base2new" / "test_new" / TAIL / "log.txt").read_text() for folder in (output, tmp_path)]
    first, second = (results_in(log) for log in logs)
    assert first == second and "=> result" in first


def results_in(log):
    """What a run prints from the evaluation on, but for what it says of the cache of test images."""
    lines = log[log.index("Evaluate on the *test* set") :].splitlines()
    return [line for line in lines if not line.startswith("Test images: ")]


@pytest.mark.slow
def test_logs_of_a_run_are_read_by_the_aggregator(finished):
    output, _ = finished
    tail = Path(TAIL).parent
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "parse_test_res.py"),
            output / "base2new/train_base" / tail,
            output / "base2new/test_new" / tail,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    exact = json.loads((output / "base2new/train_base" / TAIL / "results.json").read_text())["accuracy"]
    assert abs(float(done.stdout.splitlines()[-1].split()[0]) - exact) <= 0.05 + 1e-9


@pytest.mark.slow
def test_finished_runs_are_skipped(finished, shapes):
    output, printed = finished
    log = output / "base2new" / "train_base" / TAIL / "log.txt"
    before = log.read_text()
    done = run(shapes, output, "base2new_train.sh", "shapes", "1", *SHORT, "TRAIN.PRINT_FREQ", "7")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("already finished") == 2
    assert done.stdout.splitlines()[-1] == printed.splitlines()[-1]
    assert log.read_text() == before


@pytest.mark.slow
def test_another_config_in_the_same_folder_is_refused(finished, shapes):
    output, _ = finished
    done = run(shapes, output, "base2new_train.sh", "shapes", "1", *SHORT, "OPTIM.LR", "0.01")
    assert done.returncode == 2
    assert re.fullmatch(r"error: .* finished run with another config: OPTIM.LR 0.001 -> 0.01 .*\n", done.stderr)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(finished, shapes, tmp_path):
    output, _ = finished
    process = launch(shapes, tmp_path)
    directory = tmp_path / "base2new" / "train_base" / TAIL
    deadline = time.monotonic() + 300
    while not (directory / "prompt_learner" / "checkpoint").is_file():  # the first epoch has been saved
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (directory / "results.json").exists()

    changed = run(shapes, tmp_path, "base2new_train.sh", "shapes", "1", *SHORT, "OPTIM.LR", "0.01")
    assert "an unfinished run with another config: OPTIM.LR 0.001 -> 0.01" in changed.stderr

    done = run(shapes, tmp_path, "base2new_train.sh", "shapes", "1", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "will resume training" in done.stdout
    assert len(list(directory.glob("log.txt-*"))) == 1
    assert "Finish training" in (directory / "log.txt").read_text()
    resumed, straight = weights(directory), weights(output / "base2new" / "train_base" / TAIL)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_weights(finished, shapes, tmp_path):
    """SIGKILL at random moments of all parts: while importing, building, training, saving or testing."""
    output, _ = finished
    directory = tmp_path / "base2new" / "train_base" / TAIL
    rng = random.Random(0)
    for second in range(3, 13, 2):
        process = launch(shapes, tmp_path)
        try:
            process.wait(timeout=rng.uniform(second, second + 2))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    done = run(shapes, tmp_path, "base2new_train.sh", "shapes", "1", *SHORT)
    assert done.returncode == 0, done.stderr
    again, straight = weights(directory), weights(output / "base2new" / "train_base" / TAIL)
    assert all(torch.equal(again[name], straight[name]) for name in straight)
    expected = {path.name for path in (output / "base2new" / "train_base" / TAIL / "prompt_learner").iterdir()}
    assert {path.name for path in (directory / "prompt_learner").iterdir()} == expected


@pytest.mark.slow
def test_few_shot_run(shapes, tmp_path):
    done = run(shapes, tmp_path, "few_shot.sh", "shapes", "1", *SHORT, SHOTS="1 2")
    assert done.returncode == 0, done.stderr
    results = sorted(tmp_path.glob("few_shot/shapes/shots_*/ANPrompt/tiny/seed1/results.json"))
    assert [path.parents[3].name for path in results] == ["shots_1", "shots_2"]
    accuracy = json.loads(results[-1].read_text())["accuracy"]
    assert done.stdout.splitlines()[-1] == f"* accuracy: {accuracy:.2f}% +- 0.00%"


@pytest.mark.slow
def test_cross_dataset_run(shapes, tmp_path):
    assert run(shapes, tmp_path, "xd_train.sh", "shapes", "1").returncode == 0
    done = run(shapes, tmp_path, "xd_test.sh", "shapes", "1", SOURCE="shapes")
    assert done.returncode == 0, done.stderr
    source = tmp_path / "shapes/ANPrompt/tiny_16shots/seed1/results.json"
    target = tmp_path / "evaluation/ANPrompt/tiny_16shots_shapes/shapes/seed1/results.json"
    source, target = (json.loads(path.read_text()) for path in (source, target))
    assert source["heads"] == target["heads"]  # here they are one
    assert (source["protocol"], target["protocol"]) == ("source", "target")
    same = ("source", "training", "shots", "subset", "configuration")
    assert [source[key] for key in same] == [target[key] for key in same]
    assert (target["source"], target["shots"], target["configuration"]) == ("Shapes", 16, "tiny")
