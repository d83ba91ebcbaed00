"""PromptTrainer: what every prompt-tuning trainer of this project shares, on Dassl's public names only.

A method supplies a prompted model and, where they are not the usual ones, the terms of its loss and the logits of its
heads. Here live the rest: precision, one optimiser step, and the evaluation of all heads in one pass.
``anprompt/engine/resumable.py`` adds checkpoints.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from anprompt.clip.backbone import Backbone, find_weights, load_clip_once
from anprompt.data.loaders import endless, stop_workers, with_cached_images, with_device_images, with_kept_images
from anprompt.engine.accumulation import GradientMean
from anprompt.engine.batch import Batch
from anprompt.engine.checkpoint import require_checkpoint
from anprompt.engine.cuda_graphs import GraphedStep
from anprompt.engine.keys import VALUES_OF_TESTS, check_read, check_values
from anprompt.engine.resumable import INIT_WEIGHTS, LEARNER, Model, ResumableTrainer
from anprompt.engine.video_classification import VideoClassification
from anprompt.prompts.templates import prompts_for, template_for
from anprompt.runs.identity import asked_protocol, protocol_of
from anprompt.runs.results import Tally, peak_memory, versions, weights_digest
from anprompt.runs.run_folder import RESULTS
from anprompt.utils import distributed
from anprompt.utils.config import as_plain, dataset_id, require, require_number
from anprompt.utils.files import atomic_path
from anprompt.utils.memory import named_shortage
from anprompt.utils.settings import Settings
from anprompt.utils.suggest import require_known
from anprompt.video.clips import VideoDatasetWrapper, with_named_clips, with_staying_workers
from anprompt.video.dataset import is_video_data
from dassl.data import DataManager
from dassl.data.transforms import INTERPOLATION_MODES
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer

PRECISIONS = ("fp32", "amp", "bf16")
LOADERS = ("train_loader_x", "train_loader_u", "val_loader", "test_loader")
CLASSES = ("num_classes", "num_source_domains", "lab2cname")
# The family's fp16 also keeps what is learned in half precision, which makes losses NaN; it is taken as amp here.
PRECISION_NAMES = {"fp16": "amp"}
AUTOCAST_DTYPES = {"amp": torch.float16, "bf16": torch.bfloat16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Mixed precision of the forward pass: fp16 for ``amp``, bf16 for ``bf16``, nothing for ``fp32``."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST_DTYPES[precision])


class PromptTrainer(ResumableTrainer[Model]):
    """Base of the trainers in ``trainers/``.

    A subclass implements :meth:`build_prompted_model`, and may say what that makes: ``PromptTrainer[ContextCLIP]``.
    Unless it says otherwise, the loss is the cross-entropy of the model's logits, and one group of learnables follows
    Dassl's optimiser and schedule.

    Attributes:
        settings: the rows of its config node, if it has one: checked before a run, compared with checkpoints.
        reads: keys of Dassl's that this method reads, and others here do not (``DATALOADER.K_TRANSFORMS``).
        schedule_unit: after what the schedule moves: an ``epoch`` (Dassl's way), or an ``update`` of the learnables.
    """

    settings: Settings | None = None
    reads: Collection[str] = ()
    schedule_unit: Literal["epoch", "update"] = "epoch"
    train_loader_x: Any
    val_loader: Any
    test_loader: Any
    config_file: str | None = None  # the trainer's YAML file, where train.py tells it

    # ------------------------------------------------------------------ what a method supplies

    @classmethod
    def build_prompted_model(cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]) -> Model:
        """The frozen CLIP, which is on the device already, with the method's learnables in ``.learner``.

        It has no classes yet: what the learnables do not depend on, its ``prepare_classes`` does.
        """
        raise NotImplementedError

    def loss_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted scalar terms, whose sum is minimised, and the logits ``[B, C]`` to report accuracy on."""
        logits = self.model(batch["images"])
        return {"ce": F.cross_entropy(logits, batch["labels"])}, logits

    def parse_batch_train(self, batch: Mapping[str, Any]) -> Batch:
        """What :meth:`loss_terms` gets. A method adds here what a step draws at random, from :meth:`generator`.

        Args:
            batch: Dassl's, and under its name the next one of each loader of :meth:`make_loaders`.
        """
        return {"images": self.on_device(batch["img"]), "labels": self.on_device(batch["label"])}

    def make_loaders(self) -> dict[str, Any]:
        """Loaders that a step draws from beside ``train_loader_x``, by name, such as ``train_loader_u``.

        They begin anew with every epoch, and wherever they end before it does.
        """
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser, in which each learnable stands once.

        A group has ``params``, and where they differ ``lr_factor`` (on ``OPTIM.LR``) or other options of its class in
        ``torch.optim``. ``OPTIM.STAGED_LR`` replaces them; a constant warm-up has one rate for all.
        """
        return [{"params": self.model.learner.parameters()}]

    def build_schedule(self) -> Any:
        """What moves the rates of ``self.optim`` when its ``step()`` is called once per :attr:`schedule_unit`.

        It has ``state_dict`` and ``load_state_dict``, as those of ``torch.optim.lr_scheduler`` do. Here it is Dassl's,
        whose epochs are counted in updates where that is the unit.
        """
        settings = self.cfg.OPTIM if self.schedule_unit == "epoch" else self.counted_in_updates(self.cfg.OPTIM)
        return build_lr_scheduler(self.optim, settings)

    @classmethod
    def headline_heads(cls, cfg: CfgNode) -> tuple[str, str]:
        """Heads whose accuracy is the result: on data and classes that were trained on, and on any other."""
        return "class", "class"

    # ------------------------------------------------------------------ what a method may call

    @cached_property
    def values(self) -> CfgNode:
        """The method's own config node, with the dataset's values where the config leaves them open."""
        assert self.settings is not None
        return self.settings.values(self.cfg)

    def required_settings(self) -> dict[str, Any]:
        return super().required_settings() | self.own_settings(*(self.settings.fixed if self.settings else ()))

    def settings_before(self) -> dict[str, Any]:
        """A setting that is added later has what was done before as its default."""
        rows = self.settings.rows if self.settings else ()
        return {f"{self.key(self.cfg)}.{row.key}": row.default for row in rows if row.fixed}

    def hand_written_prompts(self) -> list[str]:
        """The prompt of each class from the dataset's template, or from ``DATASET.TEMPLATE``."""
        return prompts_for(self.cfg.DATASET.NAME, self.model.classnames, self.cfg.DATASET.TEMPLATE)

    def updates_per_epoch(self) -> int:
        return -(-len(self.train_loader_x) // self.cfg.TRAIN.ACCUMULATE)

    # ------------------------------------------------------------------ without a data set

    @classmethod
    def model_for(cls, cfg: CfgNode, backbone: Backbone, classnames: Sequence[str]) -> Model:
        """The method's untrained model of ``classnames``, on the device of the backbone.

        It needs no data set, only the name of one (``DATASET.NAME``) for template and settings that depend on it. What
        starts at random comes from the global generators.
        """
        model = cls.build_prompted_model(cfg, backbone, classnames).to(backbone.device)
        model.set_classes(classnames, template_for(cfg.DATASET.NAME, cfg.DATASET.TEMPLATE))
        return model

    # ------------------------------------------------------------------ set-up

    def check_cfg(self, cfg: CfgNode) -> None:
        """Find mistakes before data and weights are read."""
        self.check_test_cfg(cfg)
        check_values(cfg)
        require_known("TEST.FINAL_MODEL", cfg.TEST.FINAL_MODEL, ("last_step", "best_val"))
        precision = self.node(cfg).PREC
        require(
            precision in (*PRECISIONS, *PRECISION_NAMES),
            f"{self.key(cfg)}.PREC: expected one of {', '.join(PRECISIONS)}, got {precision!r}",
        )
        if precision in PRECISION_NAMES:
            print(f"{self.key(cfg)}.PREC {precision} is taken as {PRECISION_NAMES[precision]}: learnables stay in fp32")
        if self.settings is not None:
            self.settings.check(cfg)

    @classmethod
    def check_test_cfg(cls, cfg: CfgNode) -> None:
        """Those in what a test needs, training or not."""
        check_read(cfg, cls.reads)
        check_values(cfg, VALUES_OF_TESTS)
        require(
            cfg.MODEL.BACKBONE.NAME,
            "MODEL.BACKBONE.NAME is empty: give the trainer's YAML file (--config-file configs/trainers/...)",
        )
        if cfg.MODEL.INIT_WEIGHTS:
            require_checkpoint(cfg.MODEL.INIT_WEIGHTS, INIT_WEIGHTS)
        find_weights(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH)
        require_known("INPUT.INTERPOLATION", cfg.INPUT.INTERPOLATION, INTERPOLATION_MODES)
        template_for(cfg.DATASET.NAME, cfg.DATASET.TEMPLATE)
        require_known("TEST.SPLIT", cfg.TEST.SPLIT, ("val", "test"))
        asked_protocol()
        require_number("DATALOADER.KEEP_TRAIN_GB", cfg.DATALOADER.KEEP_TRAIN_GB, 0)

    def __init__(self, cfg: CfgNode):
        started = time.perf_counter()
        with named_shortage("while the model was built", "choose a smaller MODEL.BACKBONE, or fewer classes"):
            super().__init__(cfg)
        if self.sees_clips and cfg.TEST.EVALUATOR == "Classification":  # Dassl's default
            self.evaluator = VideoClassification(cfg, lab2cname=self.lab2cname)
        self.build_seconds = time.perf_counter() - started  # data set, weights, text

    @property
    def sees_clips(self) -> bool:
        """Whether ``batch["img"]`` is ``[B, T, 3, H, W]``, and with views ``[B, V, T, 3, H, W]``."""
        return is_video_data(self.cfg.DATASET.NAME)

    def build_data_loader(self) -> None:
        """Dassl's loaders, and the method's, with images that are decoded once and workers that stay."""
        distributed.main_first(self.load_clips if self.sees_clips else super().build_data_loader)
        require(
            self.val_loader is not None or self.cfg.TEST.SPLIT != "val",
            f"TEST.SPLIT is val, but {dataset_id(self.cfg)} has no validation images: use TEST.SPLIT test",
        )
        self.beside = {name: self.for_training(loader) for name, loader in self.make_loaders().items()}
        for name, loader in self.beside.items():
            require(len(loader) > 0, f"the loader {name!r} of {type(self).__name__} has no batch")
        self.train_loader_x = self.for_training(self.train_loader_x)
        for_test = with_named_clips if self.sees_clips else with_cached_images
        self.test_loader, self.val_loader = for_test(self.test_loader), for_test(self.val_loader)

    def load_clips(self) -> None:
        """What Dassl does for images, with items and transforms of clips."""
        from anprompt.video.transforms import clip_transform  # torchvision's second version: images need the first

        transforms = {
            "custom_tfm_train": clip_transform(self.cfg, is_train=True),
            "custom_tfm_test": clip_transform(self.cfg, is_train=False),
        }
        self.dm = DataManager(self.cfg, dataset_wrapper=VideoDatasetWrapper, **transforms)
        for name in (*LOADERS, *CLASSES):
            setattr(self, name, getattr(self.dm, name))

    def for_training(self, loader: Any) -> Any:
        if self.sees_clips:
            return with_staying_workers(loader)
        if self.cfg.DATALOADER.AUGMENT_ON_GPU:
            return with_device_images(loader, self.device)
        return with_kept_images(loader)

    def build_model(self) -> None:
        cfg = self.cfg
        self.backbone = load_clip_once(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH, self.device)
        self.check_images()
        self.model = self.model_for(cfg, self.backbone, self.dm.dataset.classnames)
        self.start_from_scratch()
        if cfg.MODEL.INIT_WEIGHTS:
            self.start_from_weights(cfg.MODEL.INIT_WEIGHTS)
        self.streams: dict[str, Iterator[Any]] = {}  # what is loaded beside train_loader_x in this epoch
        self.watched: dict[str, Tensor] = {}  # numbers that loss_terms() leaves to be reported beside the terms
        self.objective = self.loss_terms  # averaged over the processes, where there are several
        print(f"# learnable parameters: {self.learnable_count:,}")
        if not self.learnable_count:
            return
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision() == "amp")
        self.optim = build_optimizer(self.optimised(), cfg.OPTIM)
        self.sched = self.build_schedule()
        self.register_model(LEARNER, self.model.learner, self.optim, self.sched)
        self.unchecked: dict[int, Tensor] = {}  # batch -> its loss terms, not yet known to be finite
        self.collected = GradientMean(self.model.learner.parameters())
        self.gradients: Callable[[Batch], Tensor] = self.compute_gradients
        if self.cfg.TRAIN.CUDA_GRAPH and self.device.type == "cuda" and distributed.size() == 1:
            self.gradients = GraphedStep(self.compute_gradients, self.model.learner.parameters())

    def optimised(self) -> Any:
        """What ``build_optimizer`` takes: the groups, with rates; the learner where Dassl is to stage it."""
        if self.cfg.OPTIM.STAGED_LR:
            return self.model.learner
        groups = [{**group, "params": list(group["params"])} for group in self.parameter_groups()]
        grouped = {id(parameter) for group in groups for parameter in group["params"]}
        left_out = [name for name, entry in self.model.learner.named_parameters() if id(entry) not in grouped]
        require(not left_out, f"parameter_groups() of {type(self).__name__} leaves out {', '.join(left_out)}")
        for group in groups:
            group["lr"] = group.pop("lr_factor", 1.0) * self.cfg.OPTIM.LR
        return groups

    def counted_in_updates(self, optim: CfgNode) -> CfgNode:
        """``OPTIM`` with epochs replaced by the updates in them."""
        counted, count = optim.clone(), self.updates_per_epoch()
        counted.defrost()
        counted.MAX_EPOCH *= count
        counted.WARMUP_EPOCH *= count
        steps = optim.STEPSIZE
        counted.STEPSIZE = steps * count if isinstance(steps, int) else [step * count for step in steps]
        return counted

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

    def check_training_clips(self) -> None:
        """Raise a ValueError where the clips to train with are those of the test: new classes have no others."""
        dataset, data = self.dm.dataset, self.cfg.DATASET
        require(
            not self.sees_clips or dataset.train_x is not dataset.test,
            f"DATASET.SUBSAMPLE_CLASSES {data.SUBSAMPLE_CLASSES} of {data.NAME} has no clips but those of the test: "
            "train with base or all, and test new classes with --eval-only --model-dir OUTPUT_DIR",
        )

    def before_train(self) -> None:
        super().before_train()  # resumes: from here on, the learnables stay the same objects
        self.objective = distributed.averaged(self.loss_terms, self.model.learner)

    def parse_batch_test(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        return self.on_device(batch["img"]), self.on_device(batch["label"])

    def on_device(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)  # only a copy from pinned memory does not block

    def forward_backward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """One step: loss terms, backward through the learnables and, where it is due, update and schedule.

        The numbers to report stay on the device: fetching them would make the host wait for it in every step.
        """
        parsed = self.parse_batch_train({**batch, **{name: next(batches) for name, batches in self.streams.items()}})
        numbers = self.gradients(parsed)
        self.unchecked[self.batch_idx] = numbers[1 : 1 + len(self.term_names)]
        done, frequency = self.batch_idx + 1, self.cfg.TRAIN.PRINT_FREQ
        self.update(len(parsed["labels"]), epoch_ends=done == self.num_batches)
        if frequency > 0 and done % frequency == 0:
            self.check_terms()
        return dict(zip(("loss", *self.term_names, *self.watched, "acc"), numbers, strict=True))

    def update(self, images: int, epoch_ends: bool) -> None:
        """Step with the gradients of this batch, or with those of the last ``TRAIN.ACCUMULATE`` together."""
        if self.cfg.TRAIN.ACCUMULATE > 1:
            self.collected.add(images)
            if self.collected.batches < self.cfg.TRAIN.ACCUMULATE and not epoch_ends:
                return
            self.collected.hand_over()
        self.scaler.step(self.optim)
        self.scaler.update()
        if self.schedule_unit == "update" or epoch_ends:
            self.update_lr()

    def compute_gradients(self, batch: Batch) -> Tensor:
        """Leave the gradients in the learnables; the loss, its terms and what else is reported, as one tensor.

        Last comes the accuracy in per cent.
        """
        with self.autocast():
            terms, logits = self.objective(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.optim.zero_grad()
        self.scaler.scale(loss).backward()
        self.term_names = tuple(terms)
        accuracy = compute_accuracy(logits, batch["labels"])[0].squeeze()
        return torch.stack([loss, *terms.values(), *self.watched.values(), accuracy]).detach()

    def run_epoch(self) -> None:
        started = time.perf_counter()
        if isinstance(self.gradients, GraphedStep):
            self.gradients.forget()  # between epochs, a method may replace what a step reads
        self.unchecked.clear()  # of an epoch that was left half-way
        self.collected.clear()
        self.streams = {name: endless(loader) for name, loader in self.beside.items()}
        super().run_epoch()
        self.check_terms()
        self.train_seconds += time.perf_counter() - started

    def check_terms(self) -> None:
        """Look at all loss terms since the last time: where a progress line is due, and at the epoch's end.

        Raises:
            FloatingPointError: names those of the first batch that has any that are not finite. No checkpoint has seen
                that batch.
        """
        if not self.unchecked:
            return
        rows = torch.stack(list(self.unchecked.values())).tolist()
        for batch, row in zip(self.unchecked, rows, strict=True):
            terms = zip(self.term_names, row, strict=True)
            broken = [f"{name} = {value}" for name, value in terms if not math.isfinite(value)]
            if broken:
                self.fail_on_numbers("the loss is", broken, batch)
        self.unchecked.clear()

    def train(self) -> None:
        self.check_training_clips()
        try:
            with named_shortage(
                "in training",
                "lower DATALOADER.TRAIN_X.BATCH_SIZE (TRAIN.ACCUMULATE makes up for it) or DATALOADER.TEST.BATCH_SIZE; "
                "the same command goes on after the last finished epoch",
            ):
                super().train()
        finally:
            self.stop_training_workers()  # now: left to the garbage collector, some may live on

    def after_train(self) -> None:
        self.stop_training_workers()  # before the evaluation starts its own
        super().after_train()

    def stop_training_workers(self) -> None:
        self.streams.clear()
        for loader in (self.train_loader_x, *self.beside.values()):
            stop_workers(loader)

    # ------------------------------------------------------------------ evaluation

    def model_inference(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of the headline head."""
        return self.head_logits(images)[self.headline()]

    def head_logits(self, images: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, C]`` of every head, by name, for what a test loads.

        Views ``[B, V, T, 3, H, W]`` of a clip are averaged with its frames, or with ``VIDEO.VIEW_FUSION prob`` each is
        classified: then a logit is the logarithm of the mean probability.
        """
        fuses = images.dim() == 6 and self.cfg.VIDEO.VIEW_FUSION == "prob"
        with self.autocast():
            heads = self.model.head_logits(images.flatten(0, 1) if fuses else images)
        if not fuses:
            return heads
        views = images.shape[1]
        apart = {name: logits.unflatten(0, (-1, views)).log_softmax(dim=-1) for name, logits in heads.items()}
        return {name: logs.logsumexp(dim=1) - math.log(views) for name, logs in apart.items()}

    def headline(self) -> str:
        """Name of the head whose accuracy is the result. Which one, is fixed before any test number."""
        seen, unseen = self.headline_heads(self.cfg)
        return seen if self.trained_on in (None, self.data_identity()) else unseen

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
        results = distributed.from_main(self.evaluator.evaluate)
        if split is None and distributed.is_main():
            self.write_results(name, dict(results), tally, seconds)
        for key, value in results.items():
            self.write_scalar(f"{name}/{key}", value, self.epoch)
        return next(iter(results.values()))

    def count_correct(self, loader: Any) -> Tally:
        """Feed the headline head to Dassl's evaluator and count every head's hits."""
        tally = Tally(self.headline(), self.num_classes, self.device)
        with named_shortage("in a test", "lower DATALOADER.TEST.BATCH_SIZE"), self.evaluation():
            for batch in tqdm(loader, desc="evaluating", disable=not distributed.is_main()):
                images, labels = self.parse_batch_test(batch)
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
        classes = f"{self.cfg.DATASET.SUBSAMPLE_CLASSES} classes of {dataset_id(self.cfg)}"
        print(f"Heads in per cent: {', '.join(shares)} (headline: {tally.headline}; {classes})")

    def write_results(self, split: str, metrics: dict[str, float], tally: Tally, test_seconds: float) -> None:
        """Leave ``results.json`` in the output folder: the run is finished."""
        cfg, correct, total = self.cfg, tally.correct(), tally.total
        here = self.data_identity()
        trained_on, training = self.trained_on or here, self.training or self.training_facts()
        content = {
            "protocol": protocol_of(cfg.DATASET.SUBSAMPLE_CLASSES, here, trained_on),
            "dataset": here["dataset"],
            "classes": cfg.DATASET.SUBSAMPLE_CLASSES,
            "shots": training["shots"],
            "seed": cfg.SEED,
            "trainer": cfg.TRAINER.NAME,
            "configuration": Path(self.config_file).stem if self.config_file else None,
            "source": trained_on["dataset"] if self.training else None,
            "source_classes": training["classes"] if self.training else None,
            "training": weights_digest(self.model.learner.state_dict()) if self.training else None,
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
                "build_seconds": self.build_seconds,
                "train_seconds": self.train_seconds,
                "test_seconds": test_seconds,
                "processes": distributed.size(),
                **peak_memory(self.device),
            },
            "trained_on": trained_on,
            "subset": training["subset"],
            "earlier_schedules": self.earlier_schedules,
            "inputs": {
                "backbone": {"sha256": self.backbone.digest, **self.backbone.file},
                "data": self.data_digests,
                "sentences": self.sentences,
                "start": self.start_digest(),
                "workers": self.workers,
            },
            "target_settings": self.target_settings,
            "method_state": as_plain(self.method_state()),
            "versions": versions(),
            "config": as_plain(cfg),
        }
        with atomic_path(Path(self.output_dir, RESULTS)) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
