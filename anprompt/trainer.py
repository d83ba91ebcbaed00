"""PromptTrainer: what every prompt-tuning trainer of this project shares, on Dassl's public names only.

A method supplies a prompted model, the terms of its loss and the logits of its heads. Here live the rest: precision,
one optimiser step, checkpoints of learnables that resume bit for bit, and the evaluation of all heads in one pass.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from anprompt import checkpoint
from anprompt.backbone import Backbone, find_weights, load_clip
from anprompt.cfg import as_plain, leaves, require
from anprompt.nearest import require_known
from anprompt.prompted import PromptedCLIP
from anprompt.results import Tally, peak_memory, subset_digest, versions
from dassl.data.transforms import INTERPOLATION_MODES
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer

PRECISIONS = ("fp32", "amp", "bf16")
# The family's fp16 also keeps what is learned in half precision, which makes losses NaN; it is taken as amp here.
PRECISION_NAMES = {"fp16": "amp"}
AUTOCAST_DTYPES = {"amp": torch.float16, "bf16": torch.bfloat16}
LEARNER = "prompt_learner"  # the registered model, and so the folder of its checkpoints
BEST = "model-best.pth.tar"
RESULTS = "results.json"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Mixed precision of the forward pass: fp16 for ``amp``, bf16 for ``bf16``, nothing for ``fp32``."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST_DTYPES[precision])


def describe(data: Mapping[str, Any]) -> str:
    """Data set and class list in a few words."""
    names = data["classnames"]
    return f"{data['dataset']} ({len(names)} classes, {names[0]} to {names[-1]})"


class PromptTrainer(TrainerX):
    """Base of the trainers in ``trainers/``.

    A subclass implements :meth:`build_prompted_model`. Unless it says otherwise, the loss is the cross-entropy of the
    model's logits, and these are its only head.
    """

    model: Any  # a PromptedCLIP
    best_result: float

    # ------------------------------------------------------------------ what a method supplies

    def build_prompted_model(self, backbone: Backbone) -> PromptedCLIP:
        """The frozen CLIP, which is on the device already, with the method's learnables in ``.learner``."""
        raise NotImplementedError

    def loss_terms(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted scalar terms, whose sum is minimised, and the logits ``[B, C]`` to report accuracy on."""
        logits = self.model(images)
        return {"ce": F.cross_entropy(logits, labels)}, logits

    def head_logits(self, images: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, C]`` of every head, by name."""
        return {"class": self.model(images)}

    def headline(self) -> str:
        """Name of the head whose accuracy is the result."""
        return "class"

    def required_settings(self) -> dict[str, Any]:
        """Settings, by yacs key, that a checkpoint must share with this run."""
        return {"TRAINER.NAME": self.cfg.TRAINER.NAME, "MODEL.BACKBONE.NAME": self.backbone.name}

    def own_settings(self, *keys: str) -> dict[str, Any]:
        """``TRAINER.<NAME>.<key>`` and its value, for :meth:`required_settings`."""
        values = dict(leaves(as_plain(self.node(self.cfg))))
        return {f"{self.key(self.cfg)}.{key}": values[key] for key in keys}

    def check_classes(self, trained_on: Mapping[str, Any]) -> None:
        """Raise a ValueError if a checkpoint trained on those data and classes cannot serve the ones at hand."""

    def method_state(self) -> dict[str, Any]:
        """Plain numbers and strings that the method wants back from its checkpoint."""
        return {}

    def restore_method_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`method_state` returned when the checkpoint was written."""

    def training_state(self) -> dict[str, Any]:
        """What else training goes on from: tensors and plain data."""
        return {}

    def restore_training_state(self, state: Mapping[str, Any], epoch: int) -> None:
        """Take back what :meth:`training_state` returned; ``epoch`` epochs are done."""

    # ------------------------------------------------------------------ set-up

    def check_cfg(self, cfg: CfgNode) -> None:
        """Find mistakes before data and weights are read."""
        find_weights(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH)
        require_known("INPUT.INTERPOLATION", cfg.INPUT.INTERPOLATION, INTERPOLATION_MODES)
        require_known("TEST.SPLIT", cfg.TEST.SPLIT, ("val", "test"))
        require_known("TEST.FINAL_MODEL", cfg.TEST.FINAL_MODEL, ("last_step", "best_val"))
        require(cfg.OPTIM.MAX_EPOCH >= 1, f"OPTIM.MAX_EPOCH: expected at least 1, got {cfg.OPTIM.MAX_EPOCH}")
        precision = self.node(cfg).PREC
        require(
            precision in (*PRECISIONS, *PRECISION_NAMES),
            f"{self.key(cfg)}.PREC: expected one of {', '.join(PRECISIONS)}, got {precision!r}",
        )
        if precision in PRECISION_NAMES:
            print(f"{self.key(cfg)}.PREC {precision} is taken as {PRECISION_NAMES[precision]}: learnables stay in fp32")

    @staticmethod
    def key(cfg: CfgNode) -> str:
        """Of the method's own config node: ``TRAINER.<NAME IN CAPITALS>``."""
        return f"TRAINER.{cfg.TRAINER.NAME.upper()}"

    @staticmethod
    def node(cfg: CfgNode) -> CfgNode:
        """The method's own config node."""
        return cfg.TRAINER[cfg.TRAINER.NAME.upper()]

    def build_model(self) -> None:
        cfg = self.cfg
        self.backbone = load_clip(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH)
        self.check_images()
        self.backbone.model.to(self.device)
        self.model = self.build_prompted_model(self.backbone).to(self.device)
        self.train_seconds = 0.0  # of the whole run, resumed or not
        self.trained_on: dict[str, Any] | None = None  # data of a loaded checkpoint; None: the data at hand
        self.disposable: Path | None = None  # the rolling checkpoint that the next one supersedes
        self._rng_to_restore: Mapping[str, Any] | None = None
        self.learnable_count = sum(weight.numel() for weight in self.model.learner.parameters() if weight.requires_grad)
        print(f"# learnable parameters: {self.learnable_count:,}")
        if not self.learnable_count:
            return
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision() == "amp")
        self.optim = build_optimizer(self.model.learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model(LEARNER, self.model.learner, self.optim, self.sched)

    def check_images(self) -> None:
        """Images must have the size and the normalisation that the backbone was trained with."""
        given, backbone = self.cfg.INPUT, self.backbone
        size = (backbone.image_size, backbone.image_size)
        require(tuple(given.SIZE) == size, f"INPUT.SIZE: {backbone.name} takes {size} images, got {tuple(given.SIZE)}")
        require("normalize" in given.TRANSFORMS, f"INPUT.TRANSFORMS: 'normalize' is missing from {given.TRANSFORMS}")
        for key, expected in (("PIXEL_MEAN", backbone.mean), ("PIXEL_STD", backbone.std)):
            close = all(abs(a - b) < 1e-3 for a, b in zip(given[key], expected, strict=True))
            require(close, f"INPUT.{key}: {backbone.name} was trained with {list(expected)}, got {given[key]}")

    def precision(self) -> str:
        name = self.node(self.cfg).PREC
        return PRECISION_NAMES.get(name, name)

    def autocast(self) -> AbstractContextManager:
        return autocast(self.precision(), self.device)

    # ------------------------------------------------------------------ training

    def parse_batch_train(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def forward_backward(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """One step: loss terms, backward through the learnables, update; the schedule moves at the epoch's end."""
        images, labels = self.parse_batch_train(batch)
        with self.autocast():
            terms, logits = self.loss_terms(images, labels)
        values = self.finite_values(terms)
        self.optim.zero_grad()
        self.scaler.scale(torch.stack(list(terms.values())).sum()).backward()
        self.scaler.step(self.optim)
        self.scaler.update()
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": sum(values.values()), **values, "acc": compute_accuracy(logits, labels)[0].item()}

    def run_epoch(self) -> None:
        started = time.perf_counter()
        super().run_epoch()
        self.train_seconds += time.perf_counter() - started

    def finite_values(self, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """The terms as numbers.

        Raises:
            FloatingPointError: names the terms that are not finite. Nothing is saved: the last checkpoint stays.
        """
        numbers = torch.stack([term.detach().float() for term in terms.values()]).tolist()
        values = dict(zip(terms, numbers, strict=True))
        broken = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if broken:
            self.fail_on_numbers("the loss is", broken)
        return values

    def check_learnables(self) -> None:
        """Never let a checkpoint with a number that is not finite take the place of a good one."""
        state = self.model.learner.state_dict()
        broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
        if broken:
            self.fail_on_numbers("learnables are", broken)

    def fail_on_numbers(self, subject: str, names: list[str]) -> NoReturn:
        last = checkpoint.read_pointer(Path(self.output_dir) / LEARNER)
        raise FloatingPointError(
            f"{subject} not finite in epoch {self.epoch + 1}, batch {self.batch_idx + 1}: {', '.join(names)}. "
            f"The last good checkpoint is kept: {last or 'none yet'}. Lower OPTIM.LR, or use PREC fp32 or bf16."
        )

    def before_train(self) -> None:
        super().before_train()  # resumes
        if self._rng_to_restore is not None:
            checkpoint.set_rng_state(self._rng_to_restore)
            self._rng_to_restore = None

    def after_epoch(self) -> None:
        """Save every epoch, so that a killed run resumes; keep on disk what Dassl would keep."""
        self.check_learnables()
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val":
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST)
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        last = self.epoch + 1 == self.max_epoch
        kept = last or (frequency > 0 and (self.epoch + 1) % frequency == 0)
        superseded = self.disposable
        self.save_model(self.epoch, self.output_dir, rolling=not kept)
        if superseded is not None and superseded != self.disposable:
            superseded.unlink(missing_ok=True)

    # ------------------------------------------------------------------ checkpoints

    def save_model(
        self,
        epoch: int,
        directory: str,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
        rolling: bool = False,
    ) -> None:
        """Write the learnables and the state to resume from.

        Args:
            rolling: superseded by the next epoch's file. Only the last of these files stays.
        """
        folder = Path(directory) / LEARNER
        name = model_name or (BEST if is_best else f"model.pth.tar-{epoch + 1}")
        state = {
            "state_dict": self.model.learner.state_dict(),
            "epoch": epoch + 1,
            "optimizer": self.optim.state_dict(),
            "scheduler": self.sched.state_dict(),
            "val_result": val_result,
            "scaler": self.scaler.state_dict(),
            "best_result": self.best_result,
            "rng": checkpoint.rng_state(),
            "rolling": rolling,
            "settings": self.required_settings(),
            "method_state": self.method_state(),
            "training_state": self.training_state(),
            "train_seconds": self.train_seconds,
            "trained_on": self.data_identity(),
            "seed": self.cfg.SEED,
            "backbone_digest": self.backbone.digest,
        }
        checkpoint.save_checkpoint(state, folder / name)
        if name != BEST:  # a resume continues from the last epoch, not from the best one
            checkpoint.write_pointer(folder, name)
            self.disposable = folder / name if rolling else None
        if not rolling:
            print(f"Checkpoint saved to {folder / name}")

    def data_identity(self) -> dict[str, Any]:
        """Data set and class list, in order."""
        return {"dataset": self.cfg.DATASET.NAME, "classnames": list(self.dm.dataset.classnames)}

    def resume_model_if_exist(self, directory: str) -> int:
        """Continue from the newest checkpoint under ``directory``; the number of epochs already done, or 0."""
        folder = Path(directory) / LEARNER
        name = checkpoint.read_pointer(folder) if self.get_model_names() else None
        if name is None and self.cfg.RESUME:
            raise FileNotFoundError(f"nothing to resume in {folder}: --resume takes the OUTPUT_DIR of a run")
        if name is None:
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        path = folder / name
        state = self.restore(path)
        require(
            state["trained_on"] == self.data_identity(),
            f"{path} belongs to a run on {describe(state['trained_on'])}, and this run is on "
            f"{describe(self.data_identity())}: choose another OUTPUT_DIR, or evaluate with --eval-only --model-dir",
        )
        require(
            state["seed"] == self.cfg.SEED,
            f"{path} belongs to a run with seed {state['seed']}, and this run has seed {self.cfg.SEED}: choose another "
            "OUTPUT_DIR",
        )
        checkpoint.remove_leftovers(folder, keep=name)
        self.optim.load_state_dict(state["optimizer"])
        self.sched.load_state_dict(state["scheduler"])
        if state["scaler"]:  # empty where the earlier part of the run had no loss scaling
            self.scaler.load_state_dict(state["scaler"])
        self.best_result = state["best_result"]
        self.restore_training_state(state["training_state"], state["epoch"])
        self._rng_to_restore = state["rng"]
        self.disposable = path if state["rolling"] and directory == self.output_dir else None
        print(f"Loaded {path} (epoch = {state['epoch']})")
        return state["epoch"]

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load learnables for evaluation: the given epoch, else the best model, else the newest one."""
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        if not self.get_model_names():
            return
        folder = Path(directory) / LEARNER
        name = f"model.pth.tar-{epoch}" if epoch is not None else BEST
        if epoch is None and not (folder / BEST).is_file():
            name = checkpoint.read_pointer(folder) or BEST
        state = self.restore(folder / name)
        self.trained_on = state["trained_on"]
        print(f'Loading weights to {LEARNER} from "{folder / name}" (epoch = {state["epoch"]})')

    def restore(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint, compare its settings with this run's, load the learnables."""
        state = checkpoint.load_checkpoint(path)
        require(
            "settings" in state,
            f"{path} was not written by this trainer (it has no 'settings'): train {self.cfg.TRAINER.NAME} first",
        )
        there = state["settings"]
        differences = [
            f"{key} {there.get(key)!r} there, {value!r} here"
            for key, value in self.required_settings().items()
            if there.get(key) != value
        ]
        require(
            not differences,
            f"{path} was trained with other settings: {'; '.join(differences)}. Use the settings of the training run.",
        )
        if state["backbone_digest"] != self.backbone.digest:
            print(f"Warning: {path} was trained on another weights file of {self.backbone.name}: is it the same model?")
        self.check_classes(state["trained_on"])
        checkpoint.load_strictly(self.model.learner, state["state_dict"], path)
        self.train_seconds = state["train_seconds"]
        self.restore_method_state(state["method_state"])
        return state

    # ------------------------------------------------------------------ evaluation

    def model_inference(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of the headline head."""
        with self.autocast():
            return self.head_logits(images)[self.headline()]

    @torch.no_grad()
    def test(self, split: str | None = None, is_final: bool = False) -> float:
        """Evaluate all heads in one pass over ``split`` (default ``TEST.SPLIT``); accuracy of the headline head.

        A run's last evaluation (``split`` not given) also writes ``results.json`` with unrounded numbers.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        name = split or self.cfg.TEST.SPLIT
        name, loader = (name, self.val_loader) if name == "val" and self.val_loader else ("test", self.test_loader)
        print(f"Evaluate on the *{name}* set")
        started = time.perf_counter()
        tally = self.count_correct(loader)
        seconds = time.perf_counter() - started
        self.print_heads(tally)
        results = self.evaluator.evaluate()
        for key, value in results.items():
            self.write_scalar(f"{name}/{key}", value, self.epoch)
        if split is None:
            self.write_results(name, dict(results), tally, seconds)
        return next(iter(results.values()))

    def count_correct(self, loader: Any) -> Tally:
        """Feed the headline head to Dassl's evaluator and count every head's hits."""
        tally = Tally(self.headline(), self.num_classes, self.device)
        with self.evaluation():
            for batch in tqdm(loader, desc="evaluating"):
                images, labels = self.parse_batch_test(batch)
                with self.autocast():
                    heads = self.head_logits(images)
                self.evaluator.process(heads[tally.headline], labels)
                tally.add(heads, labels)
        return tally

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Entered around one pass over a test set, where weights and classes stay the same."""
        with ExitStack() as stack:
            with self.autocast():
                stack.enter_context(self.model.fixed_text())
            yield

    def print_heads(self, tally: Tally) -> None:
        # Written so that the family's log parsers, which look for "* accuracy: x%", do not take it for the result.
        shares = (f"{head} {100 * hits / max(tally.total, 1):.2f}" for head, hits in tally.correct().items())
        print(f"Heads in per cent: {', '.join(shares)} (headline: {tally.headline})")

    def write_results(self, split: str, metrics: dict[str, float], tally: Tally, test_seconds: float) -> None:
        """Leave ``results.json`` in the output folder: the run is finished."""
        cfg, correct, total = self.cfg, tally.correct(), tally.total
        record = {
            "dataset": cfg.DATASET.NAME,
            "classes": cfg.DATASET.SUBSAMPLE_CLASSES,
            "shots": cfg.DATASET.NUM_SHOTS,
            "seed": cfg.SEED,
            "trainer": cfg.TRAINER.NAME,
            "split": split,
            "headline": tally.headline,
            **metrics,
            "calibration_error": tally.calibration_error(),
            "total": total,
            "correct": correct[tally.headline],
            "heads": {head: {"accuracy": 100 * hits / total, "correct": hits} for head, hits in correct.items()},
            "per_class": tally.per_class(self.dm.dataset.classnames),
            "parameters": self.learnable_count,
            "cost": {
                "train_seconds": self.train_seconds,
                "test_seconds": test_seconds,
                **peak_memory(self.device),
            },
            "trained_on": self.trained_on or self.data_identity(),
            "subset": subset_digest(self.dm.dataset.train_x, cfg.DATASET.ROOT) if cfg.DATASET.NUM_SHOTS >= 1 else None,
            "method_state": as_plain(self.method_state()),
            "versions": versions(),
            "config": as_plain(cfg),
        }
        with checkpoint.atomic_path(os.path.join(self.output_dir, RESULTS)) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
