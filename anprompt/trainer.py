"""PromptTrainer: what every prompt-tuning trainer of this project shares, on Dassl's public names only.

A method supplies a prompted model, the terms of its loss and the logits of its heads. Here live the rest: precision,
one optimiser step, checkpoints of learnables that resume bit for bit, and the evaluation of all heads in one pass.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm
from yacs.config import CfgNode

from anprompt import checkpoint
from anprompt.backbone import Backbone, find_weights, load_clip
from anprompt.cfg import as_plain
from anprompt.nearest import require_known
from dassl.data.transforms import INTERPOLATION_MODES
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer

PRECISIONS = ("fp32", "amp", "bf16")
AUTOCAST_DTYPES = {"amp": torch.float16, "bf16": torch.bfloat16}
LEARNER = "prompt_learner"  # the registered model, and so the folder of its checkpoints
BEST = "model-best.pth.tar"
RESULTS = "results.json"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Mixed precision of the forward pass: fp16 for ``amp``, bf16 for ``bf16``, nothing for ``fp32``."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST_DTYPES[precision])


def require(condition: bool, message: str) -> None:
    """Raise a ValueError for a configuration mistake."""
    if not condition:
        raise ValueError(message)


def describe(data: Mapping[str, Any]) -> str:
    """Data set and class list in a few words."""
    names = data["classnames"]
    return f"{data['dataset']} ({len(names)} classes, {names[0]} to {names[-1]})"


class PromptTrainer(TrainerX):
    """Base of the trainers in ``trainers/``.

    A subclass implements :meth:`build_prompted_model`, :meth:`loss_terms` and :meth:`head_logits`; it may override
    :meth:`required_settings` and :meth:`evaluation`. The prompted model must hold its learnables in ``.learner``.
    """

    model: Any  # the prompted model, with .learner
    best_result: float

    # ------------------------------------------------------------------ what a method supplies

    def build_prompted_model(self, backbone: Backbone) -> nn.Module:
        """The frozen CLIP with the method's learnables in ``.learner`` (an empty module where there are none)."""
        raise NotImplementedError

    def loss_terms(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted scalar terms, whose sum is minimised, and the logits ``[B, C]`` to report accuracy on."""
        raise NotImplementedError

    def head_logits(self, images: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, C]`` of every head, by name."""
        raise NotImplementedError

    def headline(self) -> str:
        """Name of the head whose accuracy is the result."""
        return "class"

    def required_settings(self) -> dict[str, Any]:
        """Settings, by yacs key, that a checkpoint must share with this run."""
        return {"TRAINER.NAME": self.cfg.TRAINER.NAME, "MODEL.BACKBONE.NAME": self.backbone.name}

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Entered around one pass over a test set, where weights and classes stay the same."""
        yield

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
            precision in PRECISIONS,
            f"TRAINER.{cfg.TRAINER.NAME.upper()}.PREC: expected one of {', '.join(PRECISIONS)}, got {precision!r}",
        )

    @staticmethod
    def node(cfg: CfgNode) -> CfgNode:
        """The method's own config node, ``TRAINER.<NAME IN CAPITALS>``."""
        return cfg.TRAINER[cfg.TRAINER.NAME.upper()]

    def build_model(self) -> None:
        cfg = self.cfg
        self.backbone = load_clip(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH)
        self.check_images()
        self.model = self.build_prompted_model(self.backbone).to(self.device)
        self.trained_on: dict[str, Any] | None = None  # data of a loaded checkpoint; None: the data at hand
        self.disposable: Path | None = None  # the rolling checkpoint that the next one supersedes
        self._rng_to_restore: Mapping[str, Any] | None = None
        learnable = [parameter for parameter in self.model.learner.parameters() if parameter.requires_grad]
        print(f"# learnable parameters: {sum(parameter.numel() for parameter in learnable):,}")
        if not learnable:
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
        return self.node(self.cfg).PREC

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

    def method_state(self) -> dict[str, Any]:
        """Plain numbers and strings that the method wants back from its checkpoint."""
        return {}

    def restore_method_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`method_state` returned when the checkpoint was written."""

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
        checkpoint.load_strictly(self.model.learner, state["state_dict"], path)
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
        correct, total = self.count_correct(loader)
        self.print_heads(correct, total)
        results = self.evaluator.evaluate()
        for key, value in results.items():
            self.write_scalar(f"{name}/{key}", value, self.epoch)
        if split is None:
            self.write_results(name, dict(results), correct, total)
        return next(iter(results.values()))

    def count_correct(self, loader: Any) -> tuple[dict[str, int], int]:
        """Feed the headline head to Dassl's evaluator and count every head's hits."""
        headline, total = self.headline(), 0
        correct: dict[str, int] = {}
        with self.evaluation():
            for batch in tqdm(loader, desc="evaluating"):
                images, labels = self.parse_batch_test(batch)
                with self.autocast():
                    heads = self.head_logits(images)
                self.evaluator.process(heads[headline], labels)
                total += len(labels)
                for head, logits in heads.items():
                    correct[head] = correct.get(head, 0) + int((logits.argmax(dim=1) == labels).sum())
        return correct, total

    def print_heads(self, correct: Mapping[str, int], total: int) -> None:
        # Written so that the family's log parsers, which look for "* accuracy: x%", do not take it for the result.
        shares = ", ".join(f"{head} {100 * hits / max(total, 1):.2f}" for head, hits in correct.items())
        print(f"Heads in per cent: {shares} (headline: {self.headline()})")

    def write_results(self, split: str, metrics: dict[str, float], correct: Mapping[str, int], total: int) -> None:
        """Leave ``results.json`` in the output folder: the run is finished."""
        headline = self.headline()
        record = {
            "dataset": self.cfg.DATASET.NAME,
            "classes": self.cfg.DATASET.SUBSAMPLE_CLASSES,
            "seed": self.cfg.SEED,
            "trainer": self.cfg.TRAINER.NAME,
            "split": split,
            "headline": headline,
            **metrics,
            "total": total,
            "correct": correct[headline],
            "heads": {head: {"accuracy": 100 * n / total, "correct": n} for head, n in correct.items()},
            "method_state": as_plain(self.method_state()),
            "config": as_plain(self.cfg),
        }
        with checkpoint.atomic_path(os.path.join(self.output_dir, RESULTS)) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
