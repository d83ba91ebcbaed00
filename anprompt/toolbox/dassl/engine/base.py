"""TrainerBase: named models with their optimisers and schedulers, their checkpoints, and the loop over epochs."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dassl.utils import load_checkpoint, resume_from_checkpoint, save_checkpoint, tolist_if_not
from dassl.utils.checkpoints import BEST, newest_checkpoint

Names = str | list[str] | None  # one model, several, or (None) all


class TrainerBase:
    """What every trainer has, whatever its data."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: Any = None

    # ------------------------------------------------------------------ models

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Put a model under the care of the trainer: its mode, its updates and its checkpoints.

        Raises:
            AttributeError: the subclass has not called ``super().__init__()``.
            AssertionError: the name is taken.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("call super().__init__() before register_model()")
        assert name not in self._models, f"a model called {name!r} is registered already"
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: Names = None) -> list[str]:
        """All names in the order of registration, or those asked for.

        Raises:
            AssertionError: no such model.
        """
        known = list(self._models)
        if names is None:
            return known
        wanted = tolist_if_not(names)
        for name in wanted:
            assert name in known, f"no model is called {name!r}; there are: {known}"
        return wanted

    def set_model_mode(self, mode: str = "train", names: Names = None) -> None:
        """Switch registered models to ``train``, or to ``test`` or ``eval``; any other mode is a KeyError."""
        if mode not in ("train", "test", "eval"):
            raise KeyError(f"mode: expected train, test or eval, got {mode!r}")
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    # ------------------------------------------------------------------ updates

    def update_lr(self, names: Names = None) -> None:
        """Step the schedulers. A trainer calls this on the last batch of each epoch."""
        for sched in self._present(self._scheds, names):
            sched.step()

    def model_zero_grad(self, names: Names = None) -> None:
        for optim in self._present(self._optims, names):
            optim.zero_grad()

    def model_update(self, names: Names = None) -> None:
        for optim in self._present(self._optims, names):
            optim.step()

    def _present(self, parts: OrderedDict[str, Any], names: Names) -> Iterator[Any]:
        return (parts[name] for name in self.get_model_names(names) if parts[name] is not None)

    def detect_anomaly(self, loss: Tensor) -> None:
        """Raise a FloatingPointError unless the loss is finite."""
        if not torch.isfinite(loss).all():
            raise FloatingPointError(f"the loss is {loss.detach().tolist()}: it must be finite. Lower OPTIM.LR?")

    def model_backward(self, loss: Tensor) -> None:
        self.detect_anomaly(loss)
        loss.backward()

    def model_backward_and_update(self, loss: Tensor, names: Names = None) -> None:
        """One whole step: clear the gradients, go backward, update."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    # ------------------------------------------------------------------ checkpoints

    def save_model(
        self, epoch: int, directory: str, is_best: bool = False, val_result: float | None = None, model_name: str = ""
    ) -> None:
        """Save each registered model in its own folder under ``directory``.

        Args:
            epoch: the epoch just finished, from 0; the file counts finished epochs.
            val_result: accuracy in per cent on the validation set.
            model_name: file name; default ``model.pth.tar-<finished epochs>``.
        """
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": self._models[name].state_dict(),
                "epoch": epoch + 1,
                "optimizer": None if optim is None else optim.state_dict(),
                "scheduler": None if sched is None else sched.state_dict(),
                "val_result": None if val_result is None else float(val_result),
            }
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def resume_model_if_exist(self, directory: str) -> int:
        """Continue from the newest checkpoints under ``directory``, if every registered model has one.

        Returns:
            The number of epochs already done.

        Raises:
            ValueError: the models' checkpoints are of different epochs: the run was killed between two of them.
        """
        folders = {name: os.path.join(directory, name) for name in self.get_model_names()}
        if not folders or any(newest_checkpoint(folder) is None for folder in folders.values()):
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        epochs = {
            name: resume_from_checkpoint(folder, self._models[name], self._optims[name], self._scheds[name])
            for name, folder in folders.items()
        }
        if len(set(epochs.values())) > 1:
            raise ValueError(
                f"the newest checkpoints under {directory} are of different epochs ({epochs}): write the name of one "
                "that all models have into each folder's file 'checkpoint', or remove the folders to start over"
            )
        return epochs.popitem()[1]

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load every registered model for evaluation: the given epoch's, else the best one.

        Raises:
            FileNotFoundError: a file is missing; the message lists those that are there.
        """
        if not directory:
            print("Note that load_model() is skipped: no folder of trained models was given")
            return
        model_file = BEST if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            folder = os.path.join(directory, name)
            path = os.path.join(folder, model_file)
            if not os.path.exists(path):
                raise FileNotFoundError(f'no model at "{path}". {_hint(folder)}')
            checkpoint = load_checkpoint(path)
            self._models[name].load_state_dict(checkpoint["state_dict"])
            result = checkpoint.get("val_result")
            shown = "None" if result is None else f"{result:.1f}"
            print(f"Load {path} to {name} (epoch={checkpoint['epoch']}, val_result={shown})")

    # ------------------------------------------------------------------ tensorboard

    def init_writer(self, log_dir: str) -> None:
        """Start writing event files, once; without tensorboard installed say so and write nothing."""
        if self._writer is not None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("No event files are written: tensorboard is not installed (pip install tensorboard)")
            return
        print(f"Initialize tensorboard (log_dir={log_dir})")
        self._writer = SummaryWriter(log_dir=log_dir)

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Add a point to a curve; nothing without a writer."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    def close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()

    # ------------------------------------------------------------------ the loop

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Run the epochs ``start_epoch`` to ``max_epoch - 1``; ``before_train`` may move the start to resume."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

    def before_train(self) -> None: ...

    def after_train(self) -> None: ...

    def before_epoch(self) -> None: ...

    def after_epoch(self) -> None: ...

    def run_epoch(self) -> None:
        raise NotImplementedError

    def test(self, split: str | None = None) -> float:
        raise NotImplementedError

    def parse_batch_train(self, batch: Any) -> Any:
        raise NotImplementedError

    def parse_batch_test(self, batch: Any) -> Any:
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> Any:
        raise NotImplementedError

    def model_inference(self, input: Any) -> Any:
        raise NotImplementedError


def _hint(folder: str) -> str:
    """What to load instead."""
    found = sorted(file for file in os.listdir(folder) if file.startswith("model")) if os.path.isdir(folder) else []
    if not found:
        return f'There is no model in "{folder}": is this the OUTPUT_DIR of the training run?'
    return f"There are: {', '.join(found)}. Name the epoch of one of them (--load-epoch)."
