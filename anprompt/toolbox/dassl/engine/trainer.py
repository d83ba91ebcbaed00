"""Trainers on image data: one labelled source (TrainerX), or a labelled and an unlabelled one (TrainerXU)."""

from __future__ import annotations

import datetime
import math
import os
import time
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.data import DataManager
from dassl.data.data_manager import SPLITS
from dassl.engine.base import Names, TrainerBase
from dassl.engine.simple_net import SimpleNet
from dassl.evaluation import build_evaluator
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import (
    AverageMeter,
    MetricMeter,
    count_num_param,
    load_checkpoint,
    load_pretrained_weights,
    mkdir_if_missing,
)
from dassl.utils.checkpoints import BEST

__all__ = ["SimpleNet", "SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU"]

Batch = Mapping[str, Any]


def _clock(seconds: float) -> str:
    """``H:MM:SS`` of whole seconds."""
    return str(datetime.timedelta(seconds=int(seconds)))


FROM_THE_MANAGER = (*(split.loader for split in SPLITS), "num_classes", "num_source_domains", "lab2cname")


class SimpleTrainer(TrainerBase):
    """Builds everything from the config, saves and resumes, evaluates on classification.

    A subclass gives ``build_model`` and ``forward_backward``; the order of the steps in ``__init__`` fixes what is
    drawn from the random generators, and what a ``build_model`` can use.
    """

    model: Any  # set by build_model, as are the next two
    optim: Any
    sched: Any

    # until an epoch or an evaluation changes them
    start_epoch = 0
    epoch = 0
    best_result = -math.inf

    dm: DataManager
    train_loader_x: Any
    train_loader_u: Any
    val_loader: Any
    test_loader: Any
    num_classes: int
    num_source_domains: int
    lab2cname: dict[int, str]

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.check_cfg(cfg)  # mistakes in the settings come first, whatever else the config lacks
        self.cfg, self.output_dir, self.max_epoch = cfg, cfg.OUTPUT_DIR, cfg.OPTIM.MAX_EPOCH
        on_gpu = cfg.USE_CUDA and torch.cuda.is_available()
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)

    def check_cfg(self, cfg: CfgNode) -> None:
        """Raise on settings that the method cannot work with."""

    def build_data_loader(self) -> None:
        """The data manager, and what it has under the trainer's own names."""
        self.dm = DataManager(self.cfg)
        for name in FROM_THE_MANAGER:
            setattr(self, name, getattr(self.dm, name))

    def build_model(self) -> None:
        """A registered backbone with a linear classifier."""
        self.model = self._backbone_and_classifier().to(self.device)
        print(f"# params: {count_num_param(self.model):,}")
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model(model=self.model, optim=self.optim, sched=self.sched)

    def _backbone_and_classifier(self) -> SimpleNet:
        """New, or with the weights of ``MODEL.INIT_WEIGHTS``."""
        print("Building model")
        settings = self.cfg.MODEL
        net = SimpleNet(self.cfg, settings, self.num_classes)
        if settings.INIT_WEIGHTS:
            load_pretrained_weights(net, settings.INIT_WEIGHTS)
        return net

    # ------------------------------------------------------------------ life cycle

    def train(self) -> None:  # type: ignore[override]
        super().train(self.start_epoch, self.max_epoch)

    def selects_on_val(self) -> bool:
        """Whether the model to keep is chosen by its accuracy on the validation set."""
        return not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val"

    def before_train(self) -> None:
        """Resume if there is something to resume; start the event files and the clock.

        Raises:
            RuntimeError: nothing can be trained.
            ValueError: the model is to be chosen on a validation set that does not exist.
        """
        if not self.get_model_names():
            raise RuntimeError(f"{type(self).__name__} has nothing to train: build_model() registered no model")
        if self.selects_on_val() and self.val_loader is None:
            raise ValueError(
                f"TEST.FINAL_MODEL best_val needs a validation set, which {self.cfg.DATASET.NAME} has not "
                "(choosing on the test set would be cheating): use TEST.FINAL_MODEL last_step"
            )
        directory = self.cfg.RESUME or self.output_dir
        self.start_epoch = self.resume_model_if_exist(directory)
        if self.start_epoch and self.selects_on_val() and directory == self.output_dir:
            self.best_result = self._best_so_far()
        log_dir = os.path.join(self.output_dir, "tensorboard")
        mkdir_if_missing(log_dir)
        self.init_writer(log_dir)
        self.time_start = time.time()

    def _best_so_far(self) -> float:
        """Validation result of the best model in the output folder, so that a resumed run does not replace a better."""
        path = os.path.join(self.output_dir, self.get_model_names()[0], BEST)
        result = load_checkpoint(path).get("val_result") if os.path.isfile(path) else None
        return -math.inf if result is None else result

    def after_epoch(self) -> None:
        finished = self.epoch + 1
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        if self.selects_on_val():
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST)
        if finished == self.max_epoch or (frequency > 0 and finished % frequency == 0):
            self.save_model(self.epoch, self.output_dir)

    def after_train(self) -> None:
        print("Finish training\nFinished training")  # each on its own line: two generations of log parsers
        tests = not self.cfg.TEST.NO_TEST
        if self.selects_on_val():
            print("Deploy the model with the best val performance")
            self.load_model(self.output_dir)
        elif tests:
            print("Deploy the last-epoch model")
        if tests:
            self.test()
        print(f"Elapsed: {_clock(time.time() - self.time_start)}")
        self.close_writer()

    # ------------------------------------------------------------------ evaluation

    @torch.no_grad()
    def test(self, split: str | None = None, is_final: bool = False) -> float:
        """Accuracy in per cent on a split.

        Args:
            split: ``val``, if there is a validation set; anything else is the test set. Default ``TEST.SPLIT``.
            is_final: accepted because some training scripts pass it; without effect.
        """
        on_val = (split or self.cfg.TEST.SPLIT) == "val" and self.val_loader is not None
        name, loader = ("val", self.val_loader) if on_val else ("test", self.test_loader)
        if split is None and self.cfg.TEST.SPLIT == "val" and not on_val:
            print("Note: TEST.SPLIT is val, but there are no validation images: the result is that of the test images")
        print(f"Evaluate on the *{name}* set")
        self.set_model_mode("eval")
        self.evaluator.reset()
        for batch in tqdm(loader):
            images, labels = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(images), labels)
        results = self.evaluator.evaluate()
        for metric, value in results.items():
            self.write_scalar(f"{name}/{metric}", value, self.epoch)
        return next(iter(results.values()))

    def model_inference(self, input: Tensor) -> Tensor:
        return self.model(input)

    def parse_batch_test(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and labels, on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def get_current_lr(self, names: Names = None) -> float:
        """The rate of the first group of the first model."""
        return self._optims[self.get_model_names(names)[0]].param_groups[0]["lr"]


class _Progress:
    """Averages of one epoch; prints the progress line and writes the curves.

    Numbers that come as tensors are fetched only where a line is printed and at the epoch's end: each fetch makes the
    host wait for the device.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.losses = MetricMeter()
        self.batch_time = AverageMeter()
        self.data_time = AverageMeter()
        self.last = time.time()
        self.waiting: list[tuple[int, float, Mapping[str, Any] | None]] = []  # step, rate, numbers

    def loaded(self) -> None:
        """The batch has arrived."""
        self.data_time.update(time.time() - self.last)

    def stepped(self, summary: Mapping[str, float] | None) -> None:
        """The batch is done, with these numbers to report."""
        trainer = self.trainer
        self.batch_time.update(time.time() - self.last)
        step = trainer.epoch * trainer.num_batches + trainer.batch_idx
        self.waiting.append((step, trainer.get_current_lr(), _detached(summary)))
        frequency = trainer.cfg.TRAIN.PRINT_FREQ
        if frequency > 0 and ((trainer.batch_idx + 1) % frequency == 0 or trainer.num_batches < frequency):
            self.fetch()
            print(self.line())
        self.last = time.time()

    def fetch(self) -> None:
        """Average and write what has been waiting: before a line, and at the epoch's end."""
        for (step, rate, _), summary in zip(self.waiting, _numbers([entry[2] for entry in self.waiting]), strict=True):
            self.losses.update(summary)
            for name, meter in self.losses.meters.items():
                self.trainer.write_scalar(f"train/{name}", meter.avg, step)
            self.trainer.write_scalar("train/lr", rate, step)
        self.waiting.clear()

    def line(self) -> str:
        trainer = self.trainer
        done = trainer.batch_idx + 1
        left = trainer.num_batches - done + (trainer.max_epoch - trainer.epoch - 1) * trainer.num_batches
        fields = (
            f"epoch [{trainer.epoch + 1}/{trainer.max_epoch}]",
            f"batch [{done}/{trainer.num_batches}]",
            f"time {self.batch_time.val:.3f} ({self.batch_time.avg:.3f})",
            f"data {self.data_time.val:.3f} ({self.data_time.avg:.3f})",
            str(self.losses),
            f"lr {trainer.get_current_lr():.4e}",
            f"eta {_clock(self.batch_time.avg * left)}",
        )
        return " ".join(fields)


def _detached(summary: Any) -> Any:
    """The same without what a backward pass would need, which must not wait with the numbers."""
    if not isinstance(summary, Mapping):
        return summary
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in summary.items()}


def _numbers(summaries: list[Any]) -> list[Any]:
    """The same with numbers instead of one-element tensors, which come from the device in one transfer."""
    dicts = [summary for summary in summaries if isinstance(summary, Mapping)]
    tensors = [value.reshape(()) for entry in dicts for value in entry.values() if isinstance(value, Tensor)]
    values = iter(
        torch.stack([tensor.to(tensors[0].device, torch.float64) for tensor in tensors]).tolist() if tensors else []
    )

    def fetched(summary: Any) -> Any:
        if not isinstance(summary, Mapping):
            return summary
        return {name: next(values) if isinstance(value, Tensor) else value for name, value in summary.items()}

    return [fetched(summary) for summary in summaries]


class TrainerX(SimpleTrainer):
    """Trains on labelled data."""

    def run_epoch(self) -> None:
        self.set_model_mode("train")
        self.num_batches = len(self.train_loader_x)
        progress = _Progress(self)
        for batch_idx, batch in enumerate(self.train_loader_x):
            self.batch_idx = batch_idx
            progress.loaded()
            progress.stepped(self.forward_backward(batch))
        progress.fetch()

    def parse_batch_train(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and domains, on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device), batch["domain"].to(self.device)


def _endless(loader: Any) -> Iterator[Any]:
    """The batches over and over. The first round starts at once: starting it draws a random number."""
    return chain(iter(loader), chain.from_iterable(repeat(loader)))


class TrainerXU(SimpleTrainer):
    """Trains on labelled and unlabelled data side by side."""

    def run_epoch(self) -> None:
        self.set_model_mode("train")
        self.num_batches = self._count_batches()
        batches_x, batches_u = _endless(self.train_loader_x), _endless(self.train_loader_u)
        progress = _Progress(self)
        for batch_idx in range(self.num_batches):
            self.batch_idx = batch_idx
            batch_x, batch_u = next(batches_x), next(batches_u)
            progress.loaded()
            progress.stepped(self.forward_backward(batch_x, batch_u))
        progress.fetch()

    def _count_batches(self) -> int:
        counts = {"train_x": len(self.train_loader_x), "train_u": len(self.train_loader_u)}
        counts["smaller_one"] = min(counts.values())
        choice = self.cfg.TRAIN.COUNT_ITER
        if choice not in counts:
            raise ValueError(f"TRAIN.COUNT_ITER: expected one of {', '.join(counts)}, got {choice!r}")
        return counts[choice]

    def forward_backward(self, batch_x: Batch, batch_u: Batch) -> Any:  # type: ignore[override]
        raise NotImplementedError

    def parse_batch_train(self, batch_x: Batch, batch_u: Batch) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Labelled images, their labels, and unlabelled images, on the device."""
        return batch_x["img"].to(self.device), batch_x["label"].to(self.device), batch_u["img"].to(self.device)
