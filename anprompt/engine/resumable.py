"""ResumableTrainer: checkpoints of learnables only, from which a killed run goes on bit for bit.

Every epoch is saved, with the optimiser, the schedule and all random generators; on disk stays what Dassl would keep.
A checkpoint is taken only by a run with the same settings, and for training also the same data, classes and seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import torch
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone
from anprompt.data.loaders import drawing_workers
from anprompt.engine import checkpoint
from anprompt.prompts.prompted_clip import PromptedCLIP
from anprompt.runs.inputs import data_digests, other_lists, short, trained_lists
from anprompt.runs.results import subset_digest
from anprompt.utils import distributed
from anprompt.utils.config import as_plain, dataset_id, leaves, require
from anprompt.utils.files import BEST
from anprompt.utils.rng import NamedGenerators, rng_state, set_rng_state
from anprompt.utils.text import printable
from dassl.engine import TrainerX

LEARNER = "prompt_learner"  # the registered model, and so the folder of its checkpoints
INIT_WEIGHTS = "MODEL.INIT_WEIGHTS"


def describe(data: Mapping[str, Any]) -> str:
    """Data set and class list in a few words."""
    names = data["classnames"]
    return printable(f"{data['dataset']} ({len(names)} classes, {names[0]} to {names[-1]})")


def _count(workers: int | None) -> str:
    return "of any number" if workers is None else str(workers)


Model = TypeVar("Model", bound=PromptedCLIP)


class ResumableTrainer(TrainerX, Generic[Model]):
    """Saves, resumes and loads a model whose learnables are in ``.learner``.

    ``build_model`` of a subclass calls :meth:`start_from_scratch`, and sets ``backbone``, ``model``, ``optim``,
    ``sched`` and ``scaler``.
    """

    backbone: Backbone
    model: Model
    optim: Any
    sched: Any
    scaler: Any
    best_result: float

    def start_from_scratch(self) -> None:
        """Where a run stands that has loaded nothing."""
        self.trained_on: dict[str, Any] | None = None  # data of a loaded checkpoint; None: the data at hand
        self.training: dict[str, Any] | None = None  # training_facts() of what was learned; None: nothing was
        self.train_seconds = 0.0  # of the whole run, resumed or not
        self.sentences: str | None = None  # digest of what take_sentences() got
        self.workers: int | None = None  # drawing_workers() of the training
        self.earlier_schedules: list[dict[str, int]] = []  # MAX_EPOCH, and epochs done by then, of its shorter parts
        self.target_settings: dict[str, dict[str, Any]] = {}  # those that a test does not share with its training
        self.disposable: Path | None = None  # the rolling checkpoint that the next one supersedes
        self._rng_to_restore: Mapping[str, Any] | None = None
        self.generators = NamedGenerators(self.cfg.SEED)

    # ------------------------------------------------------------------ what a method may add

    def required_settings(self) -> dict[str, Any]:
        """Settings, by yacs key, that a checkpoint must share with this run."""
        return {"TRAINER.NAME": self.cfg.TRAINER.NAME, "MODEL.BACKBONE.NAME": self.backbone.name}

    def own_settings(self, *keys: str) -> dict[str, Any]:
        """``TRAINER.<NAME>.<key>`` and its value, for :meth:`required_settings`."""
        values = dict(leaves(as_plain(self.node(self.cfg))))
        return {f"{self.key(self.cfg)}.{key}": values[key] for key in keys}

    def settings_before(self) -> dict[str, Any]:
        """Values of settings, by yacs key, in checkpoints that are older than the settings and do not name them."""
        return {}

    def adapt_to(self, settings: Mapping[str, Any]) -> None:
        """Take from a checkpoint's :meth:`required_settings` what the config leaves open."""

    def check_classes(self, trained_on: Mapping[str, Any]) -> None:
        """Raise a ValueError if a checkpoint trained on those data and classes cannot serve the ones at hand."""

    def method_state(self) -> dict[str, Any]:
        """Plain numbers and strings that the method wants back from its checkpoint."""
        return {}

    def restore_method_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`method_state` returned when the checkpoint was written."""

    def start_digest(self) -> str | None:
        """Digest of what another run had learned, if this training has started from it."""
        return None

    @classmethod
    def start_digest_today(cls, cfg: CfgNode) -> str:
        """The same of a training that would start now; asked for only where :meth:`start_digest` told one.

        Raises:
            OSError, ValueError: it is not there any more, or cannot be read.
        """
        raise NotImplementedError

    def training_state(self) -> dict[str, Any]:
        """What else training goes on from: tensors and plain data."""
        return {}

    def restore_training_state(self, state: Mapping[str, Any], epoch: int) -> None:
        """Take back what :meth:`training_state` returned; ``epoch`` epochs are done."""

    def generator(self, name: str) -> torch.Generator:
        """A random generator of the method's own, on the CPU: seeded from the run's seed, kept in checkpoints.

        What it draws neither depends on the global generators nor moves them: batches stay those of other methods.
        """
        return self.generators[name]

    def take_sentences(self, digest: str) -> None:
        """A method says which descriptions its training reads, before it uses them.

        Raises:
            ValueError: the earlier part of this run had others.
        """
        require(
            self.sentences in (None, digest),
            f"the description sentences of this run were {short(self.sentences or '')}, now they are {short(digest)}: "
            "resume with the files of its start, or start anew in another OUTPUT_DIR",
        )
        self.sentences = digest

    def setting_of_test(self, key: str, trained: Any, here: Any) -> Any:
        """What a test uses: the training run's value, another one only where ``TEST.TARGET_SETTINGS`` is set.

        Raises:
            ValueError: ``here`` differs, and that was not asked for.
        """
        if here == trained:
            return trained
        require(
            self.cfg.TEST.TARGET_SETTINGS,
            f"{key} was {trained!r} in training and is {here!r} here. Settings chosen for the tested data flatter the "
            "result: use the training's, or set TEST.TARGET_SETTINGS True, which the result then says",
        )
        self.target_settings[key] = {"trained": trained, "tested": here}
        print(f"Chosen for this test: {key} {here} (trained with {trained})")
        return here

    @staticmethod
    def key(cfg: CfgNode) -> str:
        """Of the method's own config node: ``TRAINER.<NAME IN CAPITALS>``."""
        return f"TRAINER.{cfg.TRAINER.NAME.upper()}"

    @staticmethod
    def node(cfg: CfgNode) -> CfgNode:
        """The method's own config node."""
        return cfg.TRAINER[cfg.TRAINER.NAME.upper()]

    def data_identity(self) -> dict[str, Any]:
        """Data set and class list, in order."""
        return {"dataset": dataset_id(self.cfg), "classnames": list(self.dm.dataset.classnames)}

    def training_facts(self) -> dict[str, Any]:
        """What else a test of this training tells of it: which classes, images per class, digest of their list."""
        data = self.cfg.DATASET
        subset = subset_digest(self.dm.dataset.train_x, data.ROOT) if data.NUM_SHOTS >= 1 else None
        return {"classes": data.SUBSAMPLE_CLASSES, "shots": data.NUM_SHOTS, "subset": subset}

    @cached_property
    def data_digests(self) -> dict[str, str]:
        """Of the lists of images at hand."""
        return data_digests(self.dm.dataset, self.cfg.DATASET.ROOT)

    def drawing_workers(self) -> int | None:
        """``DATALOADER.NUM_WORKERS`` where the draws of training depend on it, else None."""
        loaders = (self.train_loader_x, *getattr(self, "beside", {}).values())
        counts = [count for count in map(drawing_workers, loaders) if count is not None]
        return max(counts, default=None)

    # ------------------------------------------------------------------ saving

    def after_epoch(self) -> None:
        """Save every epoch, so that a killed run resumes; keep on disk what Dassl would keep."""
        self.check_learnables()
        self.training, self.workers = self.training_facts(), self.drawing_workers()
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

    def check_learnables(self) -> None:
        """Never let a checkpoint with a number that is not finite take the place of a good one."""
        state = self.model.learner.state_dict()
        broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
        if broken:
            self.fail_on_numbers("learnables are", broken, self.batch_idx)

    def fail_on_numbers(self, subject: str, names: list[str], batch: int) -> NoReturn:
        last = checkpoint.read_pointer(Path(self.output_dir) / LEARNER)
        raise FloatingPointError(
            f"{subject} not finite in epoch {self.epoch + 1}, batch {batch + 1}: {', '.join(names)}. "
            f"The last good checkpoint is kept: {last or 'none yet'}. Lower OPTIM.LR, or use PREC fp32 or bf16."
        )

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
        if not distributed.is_main():
            return
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
            "rng": rng_state(),
            "generators": self.generators.state(),
            "rolling": rolling,
            "settings": self.required_settings(),
            "method_state": self.method_state(),
            "training_state": self.training_state(),
            "train_seconds": self.train_seconds,
            "trained_on": self.data_identity(),
            "training": self.training or self.training_facts(),
            "seed": self.cfg.SEED,
            "backbone_digest": self.backbone.digest,
            "data": self.data_digests,
            "sentences": self.sentences,
            "workers": self.workers,
            "max_epoch": self.max_epoch,
            "earlier_schedules": self.earlier_schedules,
        }
        checkpoint.save_checkpoint(state, folder / name)
        if name != BEST:  # a resume continues from the last epoch, not from the best one
            checkpoint.write_pointer(folder, name)
            self.disposable = folder / name if rolling else None
        if not rolling:
            print(f"Checkpoint saved to {folder / name}")

    # ------------------------------------------------------------------ resuming and loading

    def before_train(self) -> None:
        self.check_selection()
        super().before_train()  # resumes
        if self._rng_to_restore is not None:
            set_rng_state(self._rng_to_restore)
            self._rng_to_restore = None

    def init_writer(self, log_dir: str) -> None:
        if distributed.is_main():
            super().init_writer(log_dir)

    def check_selection(self) -> None:
        """Raise a ValueError if ``best_val`` would choose the model on images that the result is measured on."""
        test, data = self.cfg.TEST, self.dm.dataset
        if test.NO_TEST or test.FINAL_MODEL != "best_val":
            return
        choosing = data.val or data.test  # what Dassl falls back to
        measured = choosing if test.SPLIT == "val" else data.test
        shared = {item.impath for item in choosing} & {item.impath for item in measured}
        require(
            not shared,
            f"TEST.FINAL_MODEL best_val would choose the model on {len(shared):,} images of {self.cfg.DATASET.NAME} "
            f"that its result is measured on (TEST.SPLIT {test.SPLIT}): use TEST.FINAL_MODEL last_step",
        )

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
        checkpoint.check_resumable(state, path)
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
        self.check_inputs(state, path)
        self.training = self.training_facts()
        if distributed.is_main():
            checkpoint.remove_leftovers(folder, keep=name)
        checkpoint.load_part("optimizer", state, self.optim, path)
        checkpoint.load_part("scheduler", state, self.sched, path)
        if state["scaler"]:  # empty where the earlier part of the run had no loss scaling
            checkpoint.load_part("scaler", state, self.scaler, path)
        self.best_result = state["best_result"]
        checkpoint.take_back(
            self.restore_training_state, "training_state", path, state.get("training_state", {}), state["epoch"]
        )
        self._rng_to_restore = state["rng"]
        self.generators.restore(state.get("generators", {}))
        self.disposable = path if state["rolling"] and directory == self.output_dir else None
        print(f"Loaded {path} (epoch = {state['epoch']})")
        self.note_schedule(state.get("max_epoch"), state["epoch"])
        return state["epoch"]

    def check_inputs(self, state: Mapping[str, Any], path: Path) -> None:
        """Raise a ValueError if this run would go on from a checkpoint with other weights, images or draws."""
        advice = "give the same again, or choose another OUTPUT_DIR"
        require(
            state["backbone_digest"] == self.backbone.digest,
            f"{path} was trained on another weights file of {self.backbone.name}: {short(state['backbone_digest'])}, "
            f"now {short(self.backbone.digest)} (MODEL.BACKBONE.PATH): {advice}",
        )
        others = other_lists(state.get("data", {}), self.data_digests, trained_lists(self.cfg))
        require(
            not others,
            f"{path} was trained on another list of images of {self.cfg.DATASET.NAME} ({', '.join(others)}): {advice}",
        )
        if "workers" in state and state["epoch"] < self.max_epoch:
            stored, here = state["workers"], self.drawing_workers()
            require(
                stored == here,
                f"{path} was trained with DATALOADER.NUM_WORKERS {_count(stored)}, and {_count(here)} would draw other "
                f"augmentations: {advice}",
            )

    def note_schedule(self, max_epoch: int | None, done: int) -> None:
        """Say and keep it where the first ``done`` epochs were those of a run of another length."""
        if max_epoch in (None, self.max_epoch):  # None: written by an earlier version
            return
        self.earlier_schedules = [*self.earlier_schedules, {"max_epoch": max_epoch, "epochs": done}]
        print(
            f"Note: OPTIM.MAX_EPOCH was {max_epoch}, now it is {self.max_epoch}. The first {done} epochs followed the "
            f"schedule of a run of {max_epoch}, so this is not the same as {self.max_epoch} epochs from the start "
            "(earlier_schedules in results.json)"
        )

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load learnables for evaluation: the given epoch, else the best model, else the newest one."""
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        if not self.get_model_names():
            return
        distributed.wait_for_main()  # which may be about to write it
        folder = Path(directory) / LEARNER
        name = f"model.pth.tar-{epoch}" if epoch is not None else BEST
        if epoch is None and not (folder / BEST).is_file():
            name = checkpoint.read_pointer(folder) or BEST
        path = folder / name
        state = self.restore(path)
        if state["backbone_digest"] != self.backbone.digest:
            print(f"Warning: {path} was trained on another weights file of {self.backbone.name}: is it the same model?")
        self.trained_on = state["trained_on"]
        print(f'Loading weights to {LEARNER} from "{path}" (epoch = {state["epoch"]})')

    def start_from_weights(self, path: str) -> None:
        """Give the learnables the values of a checkpoint; the training itself starts anew.

        Raises:
            OSError, ValueError: names MODEL.INIT_WEIGHTS; the checkpoint is not there or does not fit.
        """
        learns = self.learnable_count > 0
        require(learns, f"{INIT_WEIGHTS} {path}: {self.cfg.TRAINER.NAME} learns nothing, leave it out")
        try:
            state = self.take_learnables(Path(path))
        except ValueError as error:
            raise ValueError(f"{INIT_WEIGHTS}: {error}") from error
        print(f"Start from {path} (epoch = {state['epoch']}, trained on {describe(state['trained_on'])})")

    @property
    def learnable_count(self) -> int:
        """Of the learner at hand: a checkpoint may have brought one of another size (MMRL)."""
        return sum(weight.numel() for weight in self.model.learner.parameters() if weight.requires_grad)

    def restore(self, path: Path) -> dict[str, Any]:
        """Take the learnables of a checkpoint, and what it tells of their training."""
        state = self.take_learnables(path)
        self.training = state["training"]
        self.train_seconds = state.get("train_seconds", 0.0)
        self.sentences, self.workers = state.get("sentences"), state.get("workers")
        self.earlier_schedules = state.get("earlier_schedules", [])
        checkpoint.take_back(self.restore_method_state, "method_state", path, state["method_state"])
        return state

    def take_learnables(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint, compare its settings with this run's, load the learnables."""
        state = checkpoint.load_checkpoint(path)
        require(
            "settings" in state,
            f"{path} was not written by this trainer (it has no 'settings'): train {self.cfg.TRAINER.NAME} first",
        )
        checkpoint.check_entries(state, path)
        if "training" not in state:  # of an earlier version, which called data by their registered name
            state["training"] = {"classes": None, "shots": None, "subset": None}
            if state["trained_on"]["dataset"] == self.cfg.DATASET.NAME:
                state["trained_on"] = state["trained_on"] | {"dataset": dataset_id(self.cfg)}
        there = self.settings_before() | state["settings"]
        checkpoint.take_back(self.adapt_to, "settings", path, there)
        differences = [
            f"{key} {there.get(key)!r} there, {value!r} here"
            for key, value in self.required_settings().items()
            if there.get(key) != value
        ]
        require(
            not differences,
            f"{path} was trained with other settings: {'; '.join(differences)}. Use the settings of the training run.",
        )
        self.check_classes(state["trained_on"])
        checkpoint.load_strictly(self.model.learner, state["state_dict"], path)
        return state
