"""Which Dassl answers, and the repairs of an installed one.

Dassl 0.6.3 is on no package index. An installed copy is played by the bundled toolbox under a temporary folder, with
Dassl's defects put back. Everything runs in fresh interpreters, since imports happen once in a process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

TOOLBOX = REPOSITORY / "anprompt" / "toolbox"

SCHEDULER = """
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

class Warmup(LRScheduler):
    def __init__(self, optimizer, successor, epochs, rate):
        self.successor, self.epochs, self.rate = successor, epochs, rate
        super().__init__(optimizer{removed_argument})

    def get_lr(self):
        warm = self.last_epoch < self.epochs
        return [self.rate for _ in self.base_lrs] if warm else self.successor.get_last_lr()

    def step(self, epoch=None):
        if self.last_epoch >= self.epochs:
            self.successor.step()
            self._last_lr = self.successor.get_last_lr()
        else:
            super().step()

ConstantWarmupScheduler = Warmup

def build_lr_scheduler(optimizer, optim_cfg):
    cosine = CosineAnnealingLR(optimizer, optim_cfg.MAX_EPOCH)
    if optim_cfg.WARMUP_EPOCH <= 0:
        return cosine
    return Warmup(optimizer, cosine, optim_cfg.WARMUP_EPOCH, optim_cfg.WARMUP_CONS_LR)
"""

# Code appended to modules of the copy: each entry puts one defect back.
DEFECTS = {
    "verbose": {"optim/lr_scheduler.py": SCHEDULER.format(removed_argument=", -1, False, False")},
    "frozen": {"optim/lr_scheduler.py": SCHEDULER.format(removed_argument="")},
    "reader": {
        "utils/checkpoints.py": """
def load_checkpoint(fpath):
    return torch.load(fpath, map_location="cpu", weights_only=True)
"""
    },
    "load_model": {
        "engine/base.py": """
def load_model(self, directory, epoch=None):
    for name, model in self._models.items():
        state = load_checkpoint(os.path.join(directory, name, f"model.pth.tar-{epoch}"))
        model.load_state_dict(state["state_dict"])
        print(f"loaded {name} ({state['val_result']:.1f})")

TrainerBase.load_model = load_model
"""
    },
    "end": {
        "engine/trainer.py": """
def after_train(self):
    print("Finish training")
    if not self.cfg.TEST.NO_TEST:
        self.test()
    self.close_writer()

SimpleTrainer.after_train = after_train
"""
    },
    "read_image": {
        "utils/tools.py": """
def read_image(path):
    return Image.open(path).convert("RGB")
""",
    },
    "randaugment": {
        "data/transforms/randaugment.py": """
def SolarizeAdd(image, addition=0, threshold=128):
    values = np.array(image).astype(np.int) + addition
    return ImageOps.solarize(Image.fromarray(values.clip(0, 255).astype(np.uint8)), threshold)
"""
    },
    "autoaugment": {
        "data/transforms/autoaugment.py": """
import numpy as np

class ImageNetPolicy:
    def __init__(self):
        self.bits = np.round(np.linspace(8, 4, 10), 0).astype(np.int)
""",
        "data/transforms/__init__.py": "import dassl.data.transforms.autoaugment\n",
    },
    "wilds": {
        "data/datasets/dg/wilds/wilds_base.py": """
import logging
logging.disable(logging.WARNING)
import pandas as pd
from wilds import get_dataset
from wilds.datasets.wilds_dataset import WILDSDataset
class Subclass(WILDSDataset): ...
""",
        "data/datasets/dg/wilds/__init__.py": "import dassl.data.datasets.dg.wilds.wilds_base\n",
        "data/datasets/dg/__init__.py": "import dassl.data.datasets.dg.wilds\n",
        "data/datasets/__init__.py": "import gdown\nimport dassl.data.datasets.dg\n",
    },
    "tensorboard": {
        "engine/base.py": """
from torch.utils.tensorboard import SummaryWriter

def init_writer(self, log_dir):
    self._writer = SummaryWriter(log_dir=log_dir)

TrainerBase.init_writer = init_writer
"""
    },
}


def install(folder: Path, *defects: str) -> Path:
    """Put a Dassl with these defects into ``folder``."""
    shutil.copytree(TOOLBOX / "dassl", folder / "dassl", ignore=shutil.ignore_patterns("__pycache__"))
    for defect in defects:
        for file, code in DEFECTS[defect].items():
            path = folder / "dassl" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as handle:
                handle.write(f"\n{code}")
    return folder


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter that finds this repository and the folders of ``path``."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, (*path, REPOSITORY))), OMP_NUM_THREADS="1")
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)


def succeed(code: str, *path: Path) -> str:
    """Standard output of ``code``, which must not fail."""
    result = run(code, *path)
    assert result.returncode == 0, result.stderr
    return result.stdout


# ---------------------------------------------------------------------------------------------- which one answers


def test_without_an_installed_dassl_the_toolbox_answers():
    code = "import anprompt, dassl.engine; print(dassl.__file__)"
    assert Path(succeed(code).strip()) == TOOLBOX / "dassl" / "__init__.py"


def test_providing_is_cheap_and_may_be_repeated():
    succeed("""
import sys, anprompt
from anprompt.compat.installed_dassl import TOOLBOX, provide_dassl
provide_dassl()
assert sys.path.count(str(TOOLBOX)) == 1 and str(TOOLBOX) in sys.path[-2:]  # beside the adapter for clip
assert "torch" not in sys.modules and "dassl" not in sys.modules
""")


def test_a_folder_named_dassl_is_not_an_installed_dassl(tmp_path):
    (tmp_path / "dassl" / "notes").mkdir(parents=True)
    code = "import anprompt, dassl; print(dassl.__file__)"
    assert Path(succeed(code, tmp_path).strip()) == TOOLBOX / "dassl" / "__init__.py"


def test_a_healthy_installed_dassl_wins_and_stays_as_it_is(tmp_path):
    output = succeed(
        """
import json, random, sys
import dassl.config, dassl.data, dassl.engine, dassl.optim, dassl.utils

def contents():
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "dassl"}
    values = {name: {key: id(value) for key, value in vars(module).items()} for name, module in modules.items()}
    return values, {key: id(value) for key, value in vars(dassl.engine.TrainerBase).items()}

import torch
before, path, drawn = contents(), list(sys.path), (random.getstate(), torch.get_rng_state())
import anprompt
from anprompt.compat.installed_dassl import TOOLBOX, repair_installed_dassl
assert contents() == before
assert sys.path[: len(path)] == path and str(TOOLBOX) not in sys.path
assert random.getstate() == drawn[0] and torch.equal(torch.get_rng_state(), drawn[1])
print(json.dumps([dassl.__file__, repair_installed_dassl()]))
""",
        install(tmp_path),
    )
    file, repairs = json.loads(output)
    assert Path(file).is_relative_to(tmp_path)
    assert repairs == []


def test_an_installed_dassl_that_cannot_be_imported_is_named(tmp_path):
    with (install(tmp_path) / "dassl" / "engine" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("import a_package_that_nobody_has\n")
    result = run("import anprompt", tmp_path)
    assert result.returncode != 0
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: A Dassl is installed, but importing it failed")
    assert "a_package_that_nobody_has" in message
    assert "uninstall it" in message


# ---------------------------------------------------------------------------------------------- repairs

SCHEDULE = """
import copy, json, sys, torch
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler as imported_before
import anprompt
from anprompt.compat.installed_dassl import repair_installed_dassl
from dassl.optim.lr_scheduler import build_lr_scheduler

assert imported_before is build_lr_scheduler
optim_cfg = get_cfg_default().OPTIM
optim_cfg.merge_from_list(["LR_SCHEDULER", "cosine", "LR", 0.0025, "MAX_EPOCH", 6, "WARMUP_EPOCH", WARMUP])
optim_cfg.WARMUP_TYPE = "constant"

def start():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0025)
    return optimizer, build_lr_scheduler(optimizer, optim_cfg)

optimizer, scheduler = start()
rates = []
for epoch in range(6):
    if epoch == 3:
        state = copy.deepcopy([optimizer.state_dict(), scheduler.state_dict()])
        optimizer, scheduler = start()
        optimizer.load_state_dict(state[0])
        scheduler.load_state_dict(state[1])
    rates.append(optimizer.param_groups[0]["lr"])
    optimizer.step()
    scheduler.step()
print(json.dumps({"repairs": repair_installed_dassl(), "rates": rates, "class": type(scheduler).__name__}))
"""
GOLDEN_DIR = REPOSITORY / "tests" / "toolbox" / "golden"
GOLDEN = json.loads((GOLDEN_DIR / "dassl_golden.json").read_text(encoding="utf-8"))["resume"]


@pytest.mark.parametrize("defect", ["verbose", "frozen"])
def test_warmup_runs_and_resumes(defect, tmp_path):
    result = json.loads(succeed(SCHEDULE.replace("WARMUP]", "1]"), install(tmp_path, defect)))
    assert result["repairs"] == ["learning-rate warm-up"]
    assert result["rates"] == pytest.approx(list(GOLDEN["constant_warmup1_uninterrupted"].values()), abs=1e-12)


@pytest.mark.parametrize("defect", ["verbose", "frozen"])
def test_a_warmup_made_by_hand_runs_and_resumes(defect, tmp_path):
    output = succeed(
        """
import dassl.optim.lr_scheduler, json, sys, torch, anprompt

def start():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0025)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    return optimizer, dassl.optim.lr_scheduler.ConstantWarmupScheduler(optimizer, cosine, 1, 1e-5)

optimizer, scheduler = start()
rates = []
for epoch in range(6):
    if epoch == 3:
        state = [optimizer.state_dict(), scheduler.state_dict()]
        optimizer, scheduler = start()
        optimizer.load_state_dict(state[0])
        scheduler.load_state_dict(state[1])
    rates.append(optimizer.param_groups[0]["lr"])
    optimizer.step()
    scheduler.step()
print(json.dumps(rates))
""",
        install(tmp_path, defect),
    )
    expected = list(GOLDEN["constant_warmup1_uninterrupted"].values())
    assert json.loads(output) == pytest.approx(expected, abs=1e-12)


def test_without_warmup_the_installed_scheduler_stays(tmp_path):
    result = json.loads(succeed(SCHEDULE.replace("WARMUP]", "0]"), install(tmp_path, "verbose")))
    assert result["class"] == "CosineAnnealingLR"
    assert result["rates"] == pytest.approx(list(GOLDEN["no_warmup_uninterrupted"].values()), abs=1e-12)


def test_checkpoints_of_warmup_runs_load(tmp_path):
    """Also through names that were imported before the repair, and through Dassl's own functions."""
    output = succeed(
        """
import json, torch
from dassl.utils import load_checkpoint, load_pretrained_weights
import anprompt
from anprompt.compat.installed_dassl import repair_installed_dassl

module = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
weights = {"weight": torch.full((1, 2), 5.0), "bias": torch.zeros(1)}
torch.save({"state_dict": weights, "epoch": 1, "scheduler": {"successor": scheduler}}, "FILE")
load_pretrained_weights(module, "FILE")
content = load_checkpoint("FILE")
print(json.dumps([repair_installed_dassl(), content["scheduler"]["successor"]["T_max"], module.weight.tolist()]))
""".replace("FILE", str(tmp_path / "model.pth.tar-1")),
        install(tmp_path, "reader"),
    )
    assert json.loads(output.splitlines()[-1]) == [["checkpoint reader"], 3, [[5.0, 5.0]]]


def test_load_model_takes_the_last_epoch(tmp_path):
    (tmp_path / "net").mkdir()
    output = succeed(
        """
import torch, anprompt
from anprompt.compat.installed_dassl import repair_installed_dassl
from dassl.engine import TrainerBase, TrainerX

net = torch.nn.Linear(1, 1, bias=False)
state = {"weight": torch.full((1, 1), 7.0)}
torch.save({"state_dict": state, "epoch": 3, "val_result": None}, "FOLDER/net/model.pth.tar-3")
trainer = TrainerBase()
trainer.register_model("net", net)
trainer.load_model("FOLDER", epoch=3)
assert net.weight.item() == 7
assert TrainerX.load_model is TrainerBase.load_model
assert repair_installed_dassl() == ("load_model",)
""".replace("FOLDER", str(tmp_path)),
        install(tmp_path, "load_model"),
    )
    assert "val_result=None" in output


def test_the_end_of_the_training_is_printed_for_both_generations_of_parsers(tmp_path):
    """Before the result, also where a trainer has its own ``after_train`` around Dassl's."""
    output = succeed(
        """
import types, anprompt
from anprompt.compat.installed_dassl import repair_installed_dassl
from dassl.engine import TrainerX

class Trainer(TrainerX):
    def __init__(self):
        self.cfg = types.SimpleNamespace(TEST=types.SimpleNamespace(NO_TEST=False))
        self._writer = None

    def after_train(self):
        super().after_train()
        print("done")

    def test(self):
        print("* accuracy: 50.0%")

assert repair_installed_dassl() == ("end-of-training line",)
Trainer().after_train()
""",
        install(tmp_path, "end"),
    )
    assert output.splitlines() == ["Finished training", "Finish training", "* accuracy: 50.0%", "done"]


def test_randaugment_needs_no_numpy_int(tmp_path):
    succeed(
        """
import anprompt, numpy
from PIL import Image
from anprompt.compat.installed_dassl import repair_installed_dassl
from dassl.data.transforms.randaugment import SolarizeAdd

# 100 + 20 stays below the threshold of 128; 120 + 20 is inverted
assert SolarizeAdd(Image.new("L", (1, 1), 100), 20).getpixel((0, 0)) == 120
assert SolarizeAdd(Image.new("L", (1, 1), 120), 20).getpixel((0, 0)) == 255 - 140
assert not hasattr(numpy, "int"), "numpy itself must stay as it is"
assert repair_installed_dassl() == ("RandAugment",)
""",
        install(tmp_path, "randaugment"),
    )


def test_images_of_16_bits_are_no_longer_white(tmp_path):
    output = succeed(
        """
import json, numpy, sys
import dassl.data.data_manager as importer
import anprompt
from anprompt.compat.installed_dassl import repair_installed_dassl
from dassl.utils import read_image
from PIL import Image

Image.fromarray(numpy.full((2, 2), 100 * 257, numpy.uint16)).save("PATH")
pixels = [reader("PATH").getpixel((0, 0)) for reader in (read_image, importer.read_image)]
print(json.dumps([pixels, repair_installed_dassl()]))
""".replace("PATH", str(tmp_path / "a.png")),
        install(tmp_path, "read_image"),
    )
    assert json.loads(output.splitlines()[-1]) == [[[100, 100, 100]] * 2, ["images of 16 bits"]]


def test_autoaugment_needs_no_numpy_int(tmp_path):
    succeed(
        """
import anprompt
from anprompt.compat.installed_dassl import repair_installed_dassl
from dassl.data.transforms.autoaugment import ImageNetPolicy
assert ImageNetPolicy().bits.tolist() == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
assert repair_installed_dassl() == ("AutoAugment",)
""",
        install(tmp_path, "autoaugment"),
    )


HIDE = "import sys\nfor name in ('wilds', 'pandas', 'gdown', 'tensorboard'): sys.modules[name] = None\n"


def test_unneeded_packages_may_be_missing(tmp_path):
    """They answer while Dassl is imported only: afterwards everybody sees again that they are missing."""
    succeed(
        HIDE
        + """
import anprompt
import dassl.engine
from dassl.data.datasets.dg.wilds import wilds_base

for name in ("wilds", "wilds.datasets", "pandas", "gdown", "torch.utils.tensorboard"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(f"{name} is pretended to be installed")
try:
    wilds_base.get_dataset("iwildcam")
except ImportError as error:
    assert "needs the package wilds, which is not installed" in str(error)
else:
    raise AssertionError("a missing function was called")
""",
        install(tmp_path, "wilds", "tensorboard"),
    )


def test_missing_tensorboard_is_said_once_and_writes_nothing(tmp_path):
    result = run(
        HIDE
        + """
import anprompt
from dassl.engine import TrainerBase
trainer = TrainerBase()
trainer.init_writer("anywhere")
trainer.write_scalar("loss", 1.0, 0)
trainer.close_writer()
""",
        install(tmp_path, "tensorboard"),
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("tensorboard is not installed: no event files are written") == 1


@pytest.mark.parametrize("first", ["import anprompt", "import dassl.engine, anprompt"])
def test_logging_stays_switched_on(first, tmp_path):
    """Whether Dassl is imported by us or was before, and with all that it wants installed."""
    for name, content in {
        "pandas": "",
        "gdown": "",
        "wilds": "get_dataset = None",
        "wilds/datasets": "",
        "wilds/datasets/wilds_dataset": "WILDSDataset = object",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(content, encoding="utf-8")
    code = f"{first}\nimport logging, sys\nprint('dassl.engine' in sys.modules, logging.root.manager.disable)"
    assert succeed(code, install(tmp_path, "wilds")).split() == ["True", "0"]


def test_a_logging_level_chosen_by_the_user_stays(tmp_path):
    code = "import logging; logging.disable(logging.INFO); import anprompt; print(logging.root.manager.disable)"
    assert int(succeed(HIDE + code, install(tmp_path, "wilds"))) == 20


def test_all_repairs_together_resume_a_checkpoint_of_the_reference(tmp_path):
    """Written by the unmodified Dassl after 3 epochs, the first of them warm-up; continued to 6 epochs."""
    (tmp_path / "run").mkdir()
    shutil.copy(GOLDEN_DIR / "legacy_torch2.4.1_runA_model.pth.tar-3", tmp_path / "run" / "model.pth.tar-3")
    (tmp_path / "run" / "checkpoint").write_text("model.pth.tar-3\n", encoding="utf-8")
    output = succeed(
        HIDE
        + """
import json, torch, anprompt
from anprompt.compat.installed_dassl import repair_installed_dassl
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import resume_from_checkpoint

optim_cfg = get_cfg_default().OPTIM
optim_cfg.merge_from_list(["NAME", "sgd", "LR", 0.0025, "LR_SCHEDULER", "cosine", "MAX_EPOCH", 6])
optim_cfg.merge_from_list(["WARMUP_EPOCH", 1, "WARMUP_TYPE", "constant"])
model = torch.nn.Module()
model.fc = torch.nn.Linear(48, 5)
optimizer = build_optimizer(model, optim_cfg)
scheduler = build_lr_scheduler(optimizer, optim_cfg)
epoch = resume_from_checkpoint("RUN", model, optimizer, scheduler)
print(json.dumps([epoch, optimizer.param_groups[0]["lr"], repair_installed_dassl()]))
""".replace("RUN", str(tmp_path / "run")),
        install(tmp_path, "verbose", "reader", "load_model", "randaugment", "autoaugment", "wilds", "tensorboard"),
    )
    epoch, rate, repairs = json.loads(output.splitlines()[-1])
    assert epoch == 3
    assert rate == pytest.approx(GOLDEN["constant_warmup1_uninterrupted"]["3"], abs=1e-12)
    assert repairs == ["learning-rate warm-up", "checkpoint reader", "load_model", "RandAugment", "AutoAugment"]
