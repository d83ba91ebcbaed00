"""Real runs for tests: Shapes and the bundled tiny CLIP, a few classes and shots, seconds each."""

import subprocess
import sys
from pathlib import Path

import torch

import trainers
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from datasets import shapes  # noqa: F401  registers Shapes
from tests.helpers import REPOSITORY

QUICK = ["DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "3", "TRAIN.PRINT_FREQ", "1"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def run_cfg(data_root, output_dir, options, *, trainer, classes, seed):
    """The frozen config of a quick run with the trainer's ``tiny.yaml``."""
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    cfg.merge_from_file(str(REPOSITORY / "configs/datasets/shapes.yaml"))
    cfg.merge_from_file(str(REPOSITORY / f"configs/trainers/{trainer}/tiny.yaml"))
    cfg.DATASET.ROOT, cfg.OUTPUT_DIR, cfg.SEED = str(data_root), str(output_dir), seed
    cfg.DATASET.SUBSAMPLE_CLASSES, cfg.TRAINER.NAME = classes, trainer
    cfg.merge_from_list([*QUICK, *options])
    cfg.freeze()
    return cfg


def start(cfg):
    set_random_seed(cfg.SEED)
    return build_trainer(cfg)


def finish(cfg):
    trainer = start(cfg)
    trainer.train()
    return trainer


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.learner.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def left_by_killed_process(path):
    """A half-written file beside ``path``, as ``atomic_path`` leaves it in a process that is killed; its path."""
    code = (
        "import os, signal, sys; from anprompt.utils.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half'); print(temporary, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=REPOSITORY, capture_output=True, text=True)
    return Path(done.stdout.strip())


def fewer_test_images(trainer, batches=1):
    """Keep tests fast: evaluation on the first batches only."""
    trainer.test_loader = [batch for batch, _ in zip(trainer.test_loader, range(batches), strict=False)]
    return trainer
