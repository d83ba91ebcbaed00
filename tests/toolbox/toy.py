"""The toy data and config on which the golden vectors were recorded with the reference Dassl 0.6.3.

5 classes with 20 PNG images each, 48x36 RGB, computed from a formula; 10 train, 4 validation, 6 test images per class.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import anprompt  # noqa: F401 (makes `dassl` importable)
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX, build_trainer
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint, set_random_seed, setup_logger

GOLDEN_DIR = Path(__file__).parent / "golden"
GOLDEN = json.loads((GOLDEN_DIR / "dassl_golden.json").read_text(encoding="utf-8"))

CLASSNAMES = ["red_fox", "blue_jay", "green_frog", "gold_fish", "black_bear"]
N_IMAGES = 20
WIDTH, HEIGHT = 48, 36


def image_path(root: Path, label: int, number: int) -> Path:
    return Path(root) / "toy" / "images" / f"class_{label}" / f"img_{number:02d}.png"


def make_toy_data(root: Path) -> None:
    """Write the 100 images below ``root``."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    for label in range(len(CLASSNAMES)):
        for number in range(N_IMAGES):
            red = 40 * label + 3 * x + 2 * number
            green = 20 * number + 5 * y + 9 * label
            blue = x * y + 7 * label + 11 * number
            pixels = (np.stack([red, green, blue], axis=-1) % 256).astype(np.uint8)
            path = image_path(root, label, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def toy_items(root: Path, start: int, stop: int) -> list[Datum]:
    """Images ``start`` to ``stop - 1`` of every class, class by class."""
    return [
        Datum(impath=str(image_path(root, label, number)), label=label, classname=classname)
        for label, classname in enumerate(CLASSNAMES)
        for number in range(start, stop)
    ]


def item_id(item: Datum) -> str:
    """``"c/i"``: class c, image i, as the golden file names items."""
    return f"{item.label}/{int(Path(item.impath).stem.removeprefix('img_'))}"


@DATASET_REGISTRY.register()
class Toy(DatasetBase):
    def __init__(self, cfg: Any) -> None:
        root = Path(cfg.DATASET.ROOT)
        train, val, test = toy_items(root, 0, 10), toy_items(root, 10, 14), toy_items(root, 14, 20)
        shots = cfg.DATASET.NUM_SHOTS
        if shots >= 1:
            train = self.generate_fewshot_dataset(train, num_shots=shots)
            val = self.generate_fewshot_dataset(val, num_shots=min(shots, 4))
        super().__init__(train_x=train, val=val, test=test)


def toy_cfg(root: Path, *overrides: Any) -> Any:
    """The config of the golden runs; ``overrides`` are alternating keys and values."""
    cfg = get_cfg_default()
    cfg.merge_from_list(
        [
            *("DATASET.NAME", "Toy", "DATASET.ROOT", str(root), "DATASET.NUM_SHOTS", 4, "SEED", 1),
            *("DATALOADER.NUM_WORKERS", 0, "DATALOADER.TRAIN_X.BATCH_SIZE", 4, "DATALOADER.TEST.BATCH_SIZE", 7),
            *("INPUT.SIZE", (32, 32), "INPUT.INTERPOLATION", "bicubic"),
            *("INPUT.TRANSFORMS", ("random_resized_crop", "random_flip", "normalize")),
            *("INPUT.PIXEL_MEAN", [0.48145466, 0.4578275, 0.40821073]),
            *("INPUT.PIXEL_STD", [0.26862954, 0.26130258, 0.27577711]),
            *("OPTIM.NAME", "sgd", "OPTIM.LR", 0.0025, "OPTIM.LR_SCHEDULER", "cosine", "OPTIM.MAX_EPOCH", 3),
            *("OPTIM.WARMUP_EPOCH", 1, "OPTIM.WARMUP_TYPE", "constant", "OPTIM.WARMUP_CONS_LR", 1e-5),
            *("TRAIN.PRINT_FREQ", 2),
            *overrides,
        ]
    )
    return cfg


class ToyNet(nn.Module):
    """Pooled pixels -> a linear classifier, whose building draws no random number."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt_learner = nn.Module()
        self.prompt_learner.fc = nn.utils.skip_init(nn.Linear, 48, 5)
        weight = [[((31 * i + 17 * j) % 13 - 6) / 100 for j in range(48)] for i in range(5)]
        with torch.no_grad():
            self.prompt_learner.fc.weight.copy_(torch.tensor(weight))
            self.prompt_learner.fc.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.prompt_learner.fc(functional.adaptive_avg_pool2d(images, 4).flatten(1))


@TRAINER_REGISTRY.register()
class ToyTrainer(TrainerX):
    """The trainer of the golden runs; notes what the base class calls (``events``) and what it trains on (``seen``)."""

    def check_cfg(self, cfg: Any) -> None:
        self.events, self.seen = ["check_cfg"], []

    def build_data_loader(self) -> None:
        self.events.append("build_data_loader")
        super().build_data_loader()

    def build_model(self) -> None:
        self.events.append("build_model")
        self.model = ToyNet().to(self.device)
        self.optim = build_optimizer(self.model.prompt_learner, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)

    def train(self) -> None:
        self.events.append("train")
        super().train()

    def before_train(self) -> None:
        self.events.append("before_train:enter")
        super().before_train()
        self.events.append("before_train:exit")

    def before_epoch(self) -> None:
        self.events.append(f"before_epoch[{self.epoch}]")

    def run_epoch(self) -> None:
        self.events.append(f"run_epoch[{self.epoch}]")
        super().run_epoch()

    def after_epoch(self) -> None:
        self.events.append(f"after_epoch[{self.epoch}]")
        super().after_epoch()

    def after_train(self) -> None:
        self.events.append("after_train")
        super().after_train()

    def test(self, split: str | None = None) -> float:
        self.events.append(f"test(split={split!r})")
        return super().test(split=split)

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name="") -> None:
        named = {"model_name": model_name} if model_name else {}
        self.events.append(f"save_model(epoch={epoch},{named})")
        super().save_model(epoch, directory, is_best, val_result, model_name)

    def forward_backward(self, batch: Any) -> dict[str, float]:
        index = batch["index"].tolist()
        self.seen.append(
            {
                "epoch": self.epoch,
                "batch_idx": self.batch_idx,
                "index": index,
                "label": batch["label"].tolist(),
                "lr_at_entry": self.get_current_lr(),
            }
        )
        images, labels = self.parse_batch_train(batch)
        logits = self.model(images)
        loss = functional.cross_entropy(logits, labels)
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(logits, labels)[0].item()}

    def parse_batch_train(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch["img"].to(self.device), batch["label"].to(self.device)


@TRAINER_REGISTRY.register()
class ToyCoOpStyle(ToyTrainer):
    """Overrides ``load_model`` in the way of the CoOp family."""

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            file = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
            path = f"{directory}/{name}/{file}"
            checkpoint = load_checkpoint(path)
            print(f'Loading weights to {name} from "{path}" (epoch = {checkpoint["epoch"]})')
            self._models[name].load_state_dict(checkpoint["state_dict"], strict=False)


def start(root: Path, output: Path, *overrides: Any, trainer: str = "ToyTrainer") -> Any:
    """A trainer on the toy data, built as a ``train.py`` of the family does it."""
    cfg = toy_cfg(root, "OUTPUT_DIR", str(output), "TRAINER.NAME", trainer, *overrides)
    cfg.freeze()
    set_random_seed(cfg.SEED)
    setup_logger(cfg.OUTPUT_DIR)
    return build_trainer(cfg)
