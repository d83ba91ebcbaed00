"""Which runs a protocol consists of, and how mistakes are answered, before anything starts."""

import pytest

from anprompt.cli import main
from anprompt.protocols.plan import ELEVEN, VARIANTS
from tests.helpers import REPOSITORY
from tests.helpers.stand_in import overrides, value_after


@pytest.fixture
def dry(environment, tmp_path, capsys):
    """Call ``run --dry-run``: status, the lines of commands, and what went to the error output."""

    def dry(*arguments, root=tmp_path):
        flags = ["--root", str(root), "--output", str(tmp_path / "out")]
        status = main(["run", "--dry-run", *flags, *arguments])
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err

    return dry


def test_lists_agree_with_the_files():
    known = {path.stem for path in (REPOSITORY / "configs" / "datasets").glob("*.yaml")}
    assert len(ELEVEN) == 11 and {*ELEVEN, *VARIANTS} <= known


def test_base_and_new_classes_of_a_seed_share_a_process(dry, tmp_path):
    status, (line,), _ = dry(
        "--protocol", "base2new", "--datasets", "imagenet", "--seeds", "3", "--opts", "OPTIM.LR", "1"
    )
    assert status == 0
    base, new = line.split(" --then ")
    tail = "imagenet/shots_16/ANPrompt/vit_b16/seed3"
    trained = f"{tmp_path}/out/base2new/train_base/{tail}"
    assert value_after(base, "--output-dir") == value_after(new, "--model-dir") == trained
    assert value_after(new, "--output-dir") == f"{tmp_path}/out/base2new/test_new/{tail}"
    assert overrides(base) == {
        "DATASET.NUM_SHOTS": "16",
        "DATASET.SUBSAMPLE_CLASSES": "base",
        "DATALOADER.TRAIN_X.BATCH_SIZE": "32",
        "OPTIM.MAX_EPOCH": "5",
        "OPTIM.LR": "1",
    }
    assert overrides(new) == {"DATASET.NUM_SHOTS": "16", "DATASET.SUBSAMPLE_CLASSES": "new", "OPTIM.LR": "1"}
    assert not (tmp_path / "out").exists()


def test_the_scripts_decide_on_yaml_files(dry):
    _, lines, _ = dry("--protocol", "few_shot", "--datasets", "dtd", "--trainers", "CoOp", "--seeds", "1")
    stems = [value_after(line, "--config-file").split("/")[-1] for line in lines]
    assert stems == ["vit_b16_ep50.yaml", *["vit_b16_ep100.yaml"] * 2, *["vit_b16.yaml"] * 2]
    assert [overrides(line)["DATASET.NUM_SHOTS"] for line in lines] == ["1", "2", "4", "8", "16"]


def test_variables_of_the_scripts_do_not_steer_the_runner(dry, monkeypatch):
    for name, value in (("SHOTS", "4"), ("SOURCE", "dtd"), ("THEN_NEW", "1")):
        monkeypatch.setenv(name, value)
    _, (train, test), _ = dry("--protocol", "cross_dataset", "--datasets", "eurosat", "--seeds", "1")
    assert "/imagenet/ANPrompt/vit_b16_16shots/" in value_after(train, "--output-dir")
    assert value_after(test, "--model-dir") == value_after(train, "--output-dir")


def test_all_datasets_are_those_of_the_protocol(dry):
    def targets(*arguments):
        _, lines, _ = dry(*arguments, "--seeds", "1")
        return [value_after(line, "--dataset-config-file").split("/")[-1].removesuffix(".yaml") for line in lines]

    assert targets("--protocol", "base2new") == list(ELEVEN)
    assert targets("--protocol", "cross_dataset") == list(ELEVEN)  # the source first
    assert targets("--protocol", "cross_dataset", "--source", "sun397")[1:] == [d for d in ELEVEN if d != "sun397"]
    assert targets("--protocol", "domain_generalisation") == ["imagenet", *VARIANTS]


def test_all_trainers_but_those_that_learn_nothing(dry):
    _, lines, _ = dry(
        "--protocol", "few_shot", "--datasets", "dtd", "--trainers", "all", "--seeds", "1", "--shots", "4"
    )
    trainers = {value_after(line, "--trainer") for line in lines}
    assert {"ANPrompt", "CoOp", "MMRL"} <= trainers and not any(name.startswith("Zeroshot") for name in trainers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "base2mew"], "unknown protocol 'base2mew': did you mean base2new?"),
        (["--protocol", "base2new", "--datasets", "dtdd"], "unknown dataset 'dtdd': did you mean dtd?"),
        (["--protocol", "base2new", "--trainers", "CoOpp"], "unknown trainer 'CoOpp': did you mean CoOp"),
        (["--protocol", "base2new", "--cfg", "tinny"], "unknown YAML file of ANPrompt 'tinny': did you mean tiny"),
        (["--protocol", "cross_dataset", "--source", "imgnet"], "unknown source 'imgnet': did you mean imagenet"),
        (["--protocol", "few_shot", "--trainers", "ZeroshotCLIP"], "ZeroshotCLIP learns nothing"),
        (["--protocol", "base2new", "--shots", "1", "2"], "base2new takes one number of --shots, got 2"),
        (["--protocol", "base2new", "--executor", "slrm"], "unknown executor 'slrm': did you mean slurm?"),
        (["--protocol", "base2new", "--opts", "OPTIM.LR"], "--opts takes pairs of KEY VALUE, got 1 words: OPTIM.LR"),
        (["--protocol", "base2new", "--jobs", "0"], "--jobs: expected at least 1, got 0"),
        (["--protocol", "base2new", "--root", "/nowhere"], "no folder /nowhere: --root is the folder"),
        (["--protocol", "base2new", "--root", ""], "which folder holds the datasets"),
    ],
)
def test_mistakes_are_named(dry, arguments, message):
    status, lines, error = dry(*arguments)
    assert (status, lines) == (2, [])
    assert error.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slurm", "partition=gpu"], "--slurm goes with --executor slurm"),
        (["--executor", "slurm", "--slurm", "partition"], "--slurm takes KEY=VALUE, such as partition=gpu"),
    ],
)
def test_settings_of_the_cluster_are_checked(environment, tmp_path, capsys, arguments, message):
    flags = ["--protocol", "base2new", "--datasets", "dtd", "--root", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(["run", *flags, *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
