"""Time and memory of one training step of GA2-CLIP: the textbook formulation against this project's.

Ours is measured twice: as it keeps what the backward pass needs, and as it computes the vision layers again there
(``GRAD_CHECKPOINT``), which takes one more forward pass of them and less memory. Times are taken in one process, all in
turn; memory in a process for each. On the CPU, in fp32, with random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from yacs.config import CfgNode

from anprompt.utils.config import merge_file
from benchmarks import floor, measure
from benchmarks.cases import BACKBONES, Case, class_names, random_backbone, random_batch
from benchmarks.ours import OursOnClips, TextbookGA2CLIP, build
from benchmarks.step import against_floor, matrix_products, peak_of_step
from dassl.config import get_cfg_default
from trainers.ga2clip import extend_cfg

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "trainers" / "GA2CLIP"
RECOMPUTING = "ours, GRAD_CHECKPOINT"
VARIANTS = ("textbook", "ours", RECOMPUTING)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    """A batch of clips, with HMDB-51's base classes; frames enough that vision is most of the step, as in practice."""

    case: Case = Case(classes=26, batch=2, dataset="HMDB51Video", longest=12, repeats=5)
    anchors: int = 1
    frames: int = 8


def config(shape: Shape, backbone: str, recompute: bool = False) -> CfgNode:
    """The config of a training run with an update in every step."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    merge_file(cfg, str(CONFIGS / BACKBONES[backbone]))
    cfg.DATASET.NAME, cfg.TRAINER.NAME, cfg.USE_CUDA = shape.case.dataset, "GA2CLIP", False
    cfg.TRAINER.GA2CLIP.PREC, cfg.TRAINER.GA2CLIP.GRAD_CHECKPOINT = "fp32", recompute
    cfg.TRAIN.ACCUMULATE, cfg.SEED = 1, 1
    cfg.freeze()
    return cfg


def random_clips(shape: Shape, image_size: int) -> dict[str, Any]:
    """A batch as the trainer's loaders give it."""
    clips, case = shape.case.batch + shape.anchors, shape.case
    images = random_batch(clips * shape.frames, case.classes, image_size, CPU)["img"].unflatten(0, (clips, -1))
    real, anchors = images.split([case.batch, shape.anchors])
    return {"img": real, "label": torch.arange(case.batch) % case.classes, "anchors": {"img": anchors}}


# ---------------------------------------------------------------------------------------------- in a child process


def measure_memory(variant: str, shape: Shape, backbone: str) -> dict[str, int] | None:
    measure.limit_memory()
    weights = random_backbone(backbone)
    batch = random_clips(shape, weights.image_size)
    cfg = config(shape, backbone, recompute=variant == RECOMPUTING)
    subject = build("textbook" if variant == "textbook" else "ours", cfg, weights, class_names(shape.case))
    del weights  # the textbook formulation has its own copy
    return peak_of_step(subject, batch, CPU)


def measure_time(shape: Shape, backbone: str, repeats: int) -> dict[str, Any]:
    """Steps of all variants in turn, their multiply-adds, and the floor's time at the measured rate of products."""
    measure.limit_memory()
    weights = random_backbone(backbone)
    batch = random_clips(shape, weights.image_size)
    ours = OursOnClips(config(shape, backbone), weights, class_names(shape.case))
    actions = steps_of(ours, batch)
    work = work_of(ours, shape)
    products = matrix_products(work, torch.float32, CPU)
    with tqdm(total=len(actions) + repeats * (len(actions) + len(products)), desc="steps on clips") as bar:
        operations = {}
        for name, action in actions.items():  # which also warms up
            operations[name] = measure.multiply_adds(action)
            bar.update()
        times = measure.interleaved({**actions, **products}, repeats, CPU, bar.update)
    fewest = floor.fewest_clips(work, depths_of(ours))
    counts = {"textbook": floor.textbook_clips(work), "floor": fewest}
    return {
        "longest": max(work.lengths) + work.tokens,
        "times": {name: against_textbook(times["textbook"], times[name]) for name in actions},
        "multiply_adds": operations | {name: sum(towers.values()) for name, towers in counts.items()},
        "vision_share": {name: towers["vision"] / sum(towers.values()) for name, towers in counts.items()},
        "floor": against_floor(times, fewest, work),
    }


def against_textbook(textbook: list[float], seconds: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(textbook, seconds, strict=True)]
    return {"seconds": seconds, **measure.spread(seconds), "ratio": measure.spread(ratios)}


def steps_of(ours: OursOnClips, batch: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    def step(recompute: bool) -> None:
        ours.model.recompute = recompute
        ours.train_step(batch)

    textbook = TextbookGA2CLIP(ours)
    actions = (partial(textbook.train_step, batch), partial(step, False), partial(step, True))
    return dict(zip(VARIANTS, actions, strict=True))


def work_of(ours: OursOnClips, shape: Shape) -> floor.Work:
    layout, tokens = ours.model.prompts.layout, ours.values.N_CTX_TEXT
    lengths = (layout.valid.sum(dim=1) + layout.shared - tokens).tolist()
    frames = (shape.case.batch + shape.anchors) * shape.frames
    return floor.Work.of(ours.model.clip, (1, 1), lengths, frames, tokens, layout.shared - tokens)


def depths_of(ours: OursOnClips) -> tuple[int, int]:
    return ours.values.PROMPT_DEPTH_TEXT, ours.values.PROMPT_DEPTH_VISION


# ---------------------------------------------------------------------------------------------- all of it


def measure_step(backbone: str, repeats: int, shape: Shape = Shape()) -> dict[str, Any]:
    times = measure.in_child(measure_time, shape, backbone, repeats)
    if times is None:
        raise SystemExit(f"error: the steps on {backbone} do not fit into the free memory: end what else uses it")
    memory = {variant: measure.in_child(measure_memory, variant, shape, backbone) for variant in VARIANTS}
    facts = {"clips": shape.case.batch, "anchors": shape.anchors, "frames": shape.frames, "classes": shape.case.classes}
    return {"backbone": backbone, **facts, "memory": memory, **times}
