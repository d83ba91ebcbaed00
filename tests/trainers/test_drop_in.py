"""In somebody's CoOp checkout: two added lines, their own Dassl, their own dataset file."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

from tests.compat.test_installed_dassl import install
from tests.helpers import REPOSITORY

# A training script as the CoOp family has it. It imports Dassl first, as they do.
TRAIN = """
import argparse, os
from dassl.utils import setup_logger, set_random_seed
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
import datasets.blobs
from trainers.anprompt import add_anprompt_cfg   # the first added line

def extend_cfg(cfg):
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    add_anprompt_cfg(cfg)                        # the second

parser = argparse.ArgumentParser()
parser.add_argument("opts", nargs=argparse.REMAINDER)
args = parser.parse_args()
cfg = get_cfg_default()
extend_cfg(cfg)
cfg.merge_from_file("configs/trainers/ANPrompt/tiny.yaml")
cfg.TRAINER.NAME, cfg.DATASET.NAME, cfg.SEED = "ANPrompt", "Blobs", 1
cfg.merge_from_list(args.opts)
cfg.freeze()
set_random_seed(cfg.SEED)
setup_logger(cfg.OUTPUT_DIR)
trainer = build_trainer(cfg)
if os.environ.get("DIE"):
    run_epoch = trainer.run_epoch
    trainer.run_epoch = lambda: os._exit(9) if trainer.epoch == 2 else run_epoch()
trainer.train()
import dassl
print("DASSL", dassl.__file__)
"""
DATASET = """
import os
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

@DATASET_REGISTRY.register()
class Blobs(DatasetBase):
    def __init__(self, cfg):
        names = sorted(os.listdir(cfg.DATASET.ROOT))
        items = [
            Datum(os.path.join(cfg.DATASET.ROOT, name, file), label, classname=name)
            for label, name in enumerate(names)
            for file in sorted(os.listdir(os.path.join(cfg.DATASET.ROOT, name)))
        ]
        super().__init__(train_x=items, test=items)
"""


@pytest.fixture
def checkout(tmp_path):
    """A CoOp-like checkout and an old Dassl, with all that keeps it from training on current PyTorch."""
    place = tmp_path / "coop"
    (place / "trainers").mkdir(parents=True)
    (place / "datasets").mkdir()
    for package in ("trainers", "datasets"):
        (place / package / "__init__.py").touch()
    shutil.copy(REPOSITORY / "trainers" / "anprompt.py", place / "trainers")
    shutil.copytree(REPOSITORY / "configs" / "trainers", place / "configs" / "trainers")
    (place / "train.py").write_text(TRAIN)
    (place / "datasets" / "blobs.py").write_text(DATASET)
    for colour in ("red", "green", "blue", "white", "black", "orange"):
        (tmp_path / "blobs" / colour).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (64, 64), colour).save(tmp_path / "blobs" / colour / f"{index}.png")
    site = install(tmp_path / "site", "verbose", "reader", "load_model")
    shutil.copytree(REPOSITORY / "anprompt", site / "anprompt", ignore=shutil.ignore_patterns("__pycache__"))
    return place


def train(checkout, output, **environment):
    command = [sys.executable, "train.py", "DATASET.ROOT", str(checkout.parent / "blobs"), "OUTPUT_DIR", str(output)]
    path = {"PYTHONPATH": str(checkout.parent / "site"), "OMP_NUM_THREADS": "1"}
    options = ["OPTIM.MAX_EPOCH", "4", "TRAINER.ANPROMPT.N_TOKENS", "2"]
    run = {"capture_output": True, "text": True, "timeout": 300}
    return subprocess.run([*command, *options], cwd=checkout, env={**os.environ, **path, **environment}, **run)


def learned(output):
    return torch.load(output / "prompt_learner" / "model.pth.tar-4", weights_only=True)["state_dict"]


def test_two_lines_and_an_old_dassl_train_and_resume_exactly(checkout, tmp_path):
    whole = train(checkout, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert f"DASSL {tmp_path / 'site' / 'dassl'}" in whole.stdout
    assert train(checkout, tmp_path / "killed", DIE="1").returncode == 9
    resumed = train(checkout, tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert "will resume training" in resumed.stdout
    expected, found = learned(tmp_path / "whole"), learned(tmp_path / "killed")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
