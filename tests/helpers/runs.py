"""Real runs for tests: Shapes and the bundled tiny CLIP, a few classes and shots, seconds each."""

import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.data import default_collate

import trainers
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from datasets import shapes  # noqa: F401  registers Shapes
from tests.helpers import REPOSITORY

QUICK = ["DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "3", "TRAIN.PRINT_FREQ", "1"]
TEST_BATCH = 20


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


def finish(cfg, all_test_images=False):
    """A finished run; its result is from few test images, which is most of the time of a quick run."""
    trainer = start(cfg) if all_test_images else fewer_test_images(start(cfg))
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
    """Keep tests fast: evaluation on a few images of different classes. Draws no random number."""
    images = trainer.dm.test_loader.dataset
    items = [images[index] for index in range(0, len(images), -(-len(images) // (TEST_BATCH * batches)))]
    trainer.test_loader = [default_collate(items[first::batches]) for first in range(batches)]
    return trainer
