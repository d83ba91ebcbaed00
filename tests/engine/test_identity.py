"""What ``results.json`` says a result belongs to: real runs on Shapes, and data that a YAML file describes."""

import json
from pathlib import Path

import pytest
import torch

import train
from anprompt.engine.checkpoint import load_checkpoint
from anprompt.engine.trainer import LEARNER
from anprompt.runs.read_results import read_result
from anprompt.runs.results import weights_digest
from anprompt.utils.config import dataset_id
from tests.helpers.runs import fewer_test_images, start

QUICK = ("OPTIM.MAX_EPOCH", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "DATALOADER.TEST.BATCH_SIZE", "20")
TOLD = ("protocol", "source", "source_classes", "shots", "subset", "training")


@pytest.fixture
def cfg_of(make_cfg, monkeypatch):
    monkeypatch.delenv("ANPROMPT_PROTOCOL", raising=False)

    def make(*options, **more):
        return make_cfg(*QUICK, *options, trainer="KgCoOp", **more)

    return make


def results_of(cfg):
    return json.loads(Path(cfg.OUTPUT_DIR, "results.json").read_text(encoding="utf-8"))


def trained(cfg):
    fewer_test_images(start(cfg)).train()
    return results_of(cfg)


def evaluated(cfg, directory):
    trainer = fewer_test_images(start(cfg))
    trainer.load_model(directory)
    trainer.test()
    return results_of(cfg)


def test_a_test_says_what_its_training_says(cfg_of):
    """The new half sets no shots of its own, as the test of a transfer does."""
    cfg = cfg_of(classes="base")
    base = trained(cfg)
    new = evaluated(cfg_of("DATASET.NUM_SHOTS", "-1", classes="new", output="new"), cfg.OUTPUT_DIR)
    assert {key: new[key] for key in TOLD} == {key: base[key] for key in TOLD}
    state = load_checkpoint(f"{cfg.OUTPUT_DIR}/{LEARNER}/model.pth.tar-1")["state_dict"]
    assert base["training"] == weights_digest(state)
    assert [base[key] for key in TOLD[:4]] == ["base2new", "Shapes", "base", 1] and len(base["subset"]) == 64


def test_two_trainings_are_told_apart(cfg_of):
    one, other = trained(cfg_of(seed=1)), trained(cfg_of(seed=2, output="other"))
    assert one["training"] != other["training"] and one["protocol"] == other["protocol"]


def test_learnables_that_nobody_trained_belong_to_no_training(cfg_of, tmp_path):
    cfg = cfg_of(classes="all")
    trainer = fewer_test_images(start(cfg))
    trainer.load_model("")
    trainer.test()
    told = results_of(cfg)
    assert (told["training"], told["source"], told["source_classes"]) == (None, None, None)
    assert read_result(tmp_path / "run" / "results.json").untrained


def test_checkpoints_of_earlier_versions_load(cfg_of):
    cfg = cfg_of(classes="base")
    base = trained(cfg)
    path = f"{cfg.OUTPUT_DIR}/{LEARNER}/model.pth.tar-1"
    state = torch.load(path, weights_only=True)
    assert state.pop("training") == {"classes": "base", "shots": 1, "subset": base["subset"]}
    torch.save(state, path)
    new = evaluated(cfg_of(classes="new", output="new"), cfg.OUTPUT_DIR)
    assert (new["training"], new["source"]) == (base["training"], "Shapes")
    assert (new["shots"], new["subset"], new["source_classes"]) == (None, None, None)
    fewer_test_images(start(cfg)).train()  # resumes after the last epoch
    assert results_of(cfg)["training"] == base["training"] and results_of(cfg)["shots"] == 1


def test_the_environment_names_the_protocol(cfg_of, monkeypatch):
    monkeypatch.setenv("ANPROMPT_PROTOCOL", "source")
    assert trained(cfg_of(classes="all"))["protocol"] == "source"
    monkeypatch.setenv("ANPROMPT_PROTOCOL", "sauce")
    with pytest.raises(ValueError, match="ANPROMPT_PROTOCOL 'sauce': did you mean source"):
        start(cfg_of(output="other"))


# ------------------------------------------------------------------ the name of data


def data_of(tmp_path, text, *options, stem="mine"):
    path = tmp_path / f"{stem}.yaml"
    path.write_text(text)
    args = ["--dataset-config-file", str(path), "--trainer", "CoOp", *options]
    return dataset_id(train.setup_cfg(train.build_parser().parse_args(args)))


@pytest.mark.parametrize("name", ["ImageFolder", "VideoList"])
def test_yaml_data_are_called_by_their_file(name, tmp_path):
    yaml = f"DATASET:\n  NAME: {name}\n  FOLDER: pictures\n"
    assert data_of(tmp_path, yaml) == "mine"
    assert data_of(tmp_path, yaml, stem="yours") == "yours"
    assert data_of(tmp_path, f"{yaml}  ID: pets\n") == "pets"
    assert data_of(tmp_path, "DATASET:\n  NAME: Shapes\n") == "Shapes"


def test_without_a_file_the_folder_names_the_data(tmp_path):
    options = ["--trainer", "CoOp", "DATASET.NAME", "ImageFolder", "DATASET.FOLDER", "pictures"]
    assert dataset_id(train.setup_cfg(train.build_parser().parse_args(options))) == "pictures"
