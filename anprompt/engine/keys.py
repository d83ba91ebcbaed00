"""Keys of the config that nobody would read, and values that cannot work: refused before data and weights are read.

The trainers here take part of what Dassl's defaults offer. A key outside that part, set to another value than its
default, would be accepted in silence; a trainer that is not based on ``PromptTrainer`` reads what it likes.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from yacs.config import CfgNode

from anprompt.data.split_dataset import SplitDataset
from anprompt.utils.config import add_shared_cfg, leaves, require, require_number
from anprompt.utils.settings import Check, number, one_of, whole
from anprompt.utils.suggest import require_known
from anprompt.video.config import UNREAD_OF_CLIPS, UNREAD_OF_IMAGES, VIDEO_VALUES
from anprompt.video.dataset import VideoDataset, is_video_data
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.evaluation import EVALUATOR_REGISTRY

# By what they begin with, and what does their work here.
UNREAD = {
    "VERSION": "the version of a run is in its results.json",
    "DATALOADER.K_TRANSFORMS": "an image has one view",
    "DATALOADER.RETURN_IMG0": "an image has one view",
    "DATALOADER.TRAIN_U.": "they learn from labelled images only",
    "MODEL.BACKBONE.PRETRAINED": "CLIP always has its weights (MODEL.BACKBONE.PATH names others)",
    "MODEL.HEAD.": "CLIP classifies by texts and has no such head",
    "TRAIN.COUNT_ITER": "an epoch is once through DATALOADER.TRAIN_X",
}
UNREAD_DATA = {  # with the datasets here; one of the user's reads what it likes
    "DATASET.SOURCE_DOMAINS": "its images have no domains",
    "DATASET.TARGET_DOMAINS": "its images have no domains",
    "DATASET.NUM_LABELED": "all of its training images have labels (DATASET.NUM_SHOTS takes fewer)",
    "DATASET.VAL_PERCENT": "its validation images are those of its list",
    "DATASET.STL10_FOLD": "it has no folds",
    "DATASET.CIFAR_C_": "it has no corruptions",
    "DATASET.ALL_AS_UNLABELED": "all of its training images have labels",
}
LARGEST = 10**9  # of what is counted: beyond it, floats and memory end


def check_read(cfg: CfgNode, also: Collection[str] = ()) -> None:
    """Raise a ValueError for the first key that differs from its default, and that nothing reads.

    Args:
        also: keys that the trainer at hand reads besides.
    """
    default_cfg = get_cfg_default()
    add_shared_cfg(default_cfg)
    defaults = dict(leaves(default_cfg))
    for key, value in leaves(cfg):
        reason = None if key in also else unread(key, cfg)
        if reason is not None and key in defaults and not _same(value, defaults[key]):
            who = cfg.TRAINER.NAME if key.startswith(tuple(UNREAD)) else cfg.DATASET.NAME
            raise ValueError(f"{key} {value!r} has no effect: {who} does not read it, since {reason}. Leave it out")


def unread(key: str, cfg: CfgNode) -> str | None:
    """Why nothing reads a key, or None where something does."""
    if key.startswith("DATASET.") and not _is_ours(cfg.DATASET.NAME):
        return None
    table = UNREAD | UNREAD_DATA | (UNREAD_OF_CLIPS if is_video_data(cfg.DATASET.NAME) else UNREAD_OF_IMAGES)
    return next((reason for start, reason in table.items() if key == start or _below(key, start)), None)


def _below(key: str, start: str) -> bool:
    return start.endswith((".", "_")) and key.startswith(start)


def _is_ours(dataset: str) -> bool:
    known = dataset in DATASET_REGISTRY.registered_names()
    found = DATASET_REGISTRY.get(dataset) if known else None  # a function may be registered, too
    return isinstance(found, type) and issubclass(found, SplitDataset | VideoDataset)


def _same(one: Any, other: Any) -> bool:
    """Lists and tuples are exchanged on the way."""
    several = isinstance(one, list | tuple) and isinstance(other, list | tuple)
    return list(one) == list(other) if several else one == other


# ---------------------------------------------------------------------------------------------- values


def check_values(cfg: CfgNode, keys: Collection[str] | None = None) -> None:
    """Raise a ValueError, which names the key, for the first value that cannot work with any trainer here.

    Args:
        keys: those to look at; None: all in :data:`VALUES`.
    """
    values = dict(leaves(cfg))
    for key, default in leaves(get_cfg_default()):
        missing = key in values and values[key] is None and default is not None
        require(not missing, f"{key} has no value: it takes a {type(default).__name__}, such as {default!r}")
    for key in VALUES if keys is None else keys:
        if key in values:
            VALUES[key](key, values[key], cfg)


def count(low: int) -> Check:
    """A whole number from ``low`` to :data:`LARGEST`."""

    def check(key: str, value: Any, cfg: CfgNode) -> None:
        require_number(key, value, low, LARGEST)
        whole(low)(key, value, cfg)

    return check


def numbers(length: int, low: float, high: float = math.inf) -> Check:
    """So many numbers in ``low..high``."""

    def check(key: str, value: Any, cfg: CfgNode) -> None:
        fits = isinstance(value, list | tuple) and len(value) == length
        require(fits, f"{key}: expected {length} numbers, got {value!r}")
        for each in value:
            require_number(key, each, low, high)

    return check


def _size(key: str, value: Any, cfg: CfgNode) -> None:
    numbers(2, 1, LARGEST)(key, value, cfg)
    require(all(isinstance(side, int) for side in value), f"{key}: expected two whole numbers, got {value!r}")


def _scale(key: str, value: Any, cfg: CfgNode) -> None:
    numbers(2, 0, LARGEST)(key, value, cfg)
    require(0 < value[0] <= value[1], f"{key}: expected the smallest and the largest share of an image, got {value!r}")


def _words(key: str, value: Any, cfg: CfgNode) -> None:
    fits = isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
    require(fits, f"{key}: expected a list of words, got {value!r}")


def _kernel(key: str, value: Any, cfg: CfgNode) -> None:
    require_number(key, value, 1, LARGEST)
    require(value % 2 == 1, f"{key}: expected an odd number of pixels, got {value}")


def _steps(key: str, value: Any, cfg: CfgNode) -> None:
    schedule = cfg.OPTIM.LR_SCHEDULER
    if schedule == "cosine":
        return
    many = isinstance(value, list | tuple)
    steps = value if many else [value]
    fits = (many or schedule == "single_step") and all(type(step) is int for step in steps) and len(steps) > 0
    require(fits, f"{key}: {schedule} takes a list of whole epochs, such as (5,), got {value!r}")


def _nesterov(key: str, value: Any, cfg: CfgNode) -> None:
    fits = not value or (cfg.OPTIM.MOMENTUM > 0 and cfg.OPTIM.SGD_DAMPNING == 0)
    require(fits, f"{key} needs OPTIM.MOMENTUM above 0 and OPTIM.SGD_DAMPNING 0")


def _transformed(key: str, value: Any, cfg: CfgNode) -> None:
    require(not value, f"{key} True leaves images that CLIP does not take: leave it out")


LIMITED = number(0, LARGEST)
SHARE = number(0, 1)
BELOW_ONE = number(0, math.nextafter(1, 0))
SAMPLERS = ("RandomSampler", "SequentialSampler", "RandomDomainSampler", "SeqDomainSampler", "RandomClassSampler")
VALUES: dict[str, Check] = {
    "INPUT.SIZE": _size,
    "INPUT.TRANSFORMS": _words,
    "INPUT.NO_TRANSFORM": _transformed,
    "INPUT.PIXEL_MEAN": numbers(3, 0),
    "INPUT.PIXEL_STD": numbers(3, 0),
    "INPUT.CROP_PADDING": count(0),
    "INPUT.RRCROP_SCALE": _scale,
    "INPUT.CUTOUT_N": count(0),
    "INPUT.CUTOUT_LEN": count(0),
    "INPUT.GN_MEAN": number(-LARGEST, LARGEST),
    "INPUT.GN_STD": LIMITED,
    "INPUT.RANDAUGMENT_N": count(0),
    "INPUT.RANDAUGMENT_M": number(0, 30),
    "INPUT.COLORJITTER_B": LIMITED,
    "INPUT.COLORJITTER_C": LIMITED,
    "INPUT.COLORJITTER_S": LIMITED,
    "INPUT.COLORJITTER_H": number(0, 0.5),
    "INPUT.RGS_P": SHARE,
    "INPUT.GB_P": SHARE,
    "INPUT.GB_K": _kernel,
    "DATALOADER.NUM_WORKERS": number(0, 1000),
    "DATALOADER.TRAIN_X.SAMPLER": one_of(*SAMPLERS),
    "DATALOADER.TRAIN_X.BATCH_SIZE": count(1),
    "DATALOADER.TRAIN_X.N_DOMAIN": count(0),
    "DATALOADER.TRAIN_X.N_INS": count(1),
    "DATALOADER.TEST.SAMPLER": one_of(*SAMPLERS),
    "DATALOADER.TEST.BATCH_SIZE": count(1),
    "OPTIM.NAME": one_of("adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"),
    "OPTIM.LR": LIMITED,
    "OPTIM.WEIGHT_DECAY": LIMITED,
    "OPTIM.MOMENTUM": LIMITED,
    "OPTIM.SGD_DAMPNING": number(-LARGEST, LARGEST),
    "OPTIM.SGD_NESTEROV": _nesterov,
    "OPTIM.RMSPROP_ALPHA": LIMITED,
    "OPTIM.ADAM_BETA1": BELOW_ONE,
    "OPTIM.ADAM_BETA2": BELOW_ONE,
    "OPTIM.NEW_LAYERS": lambda key, value, cfg: None if isinstance(value, str) else _words(key, value, cfg),
    "OPTIM.BASE_LR_MULT": LIMITED,
    "OPTIM.LR_SCHEDULER": one_of("single_step", "multi_step", "cosine"),
    "OPTIM.STEPSIZE": _steps,
    "OPTIM.GAMMA": number(0, 1000),
    "OPTIM.MAX_EPOCH": count(1),
    "OPTIM.WARMUP_EPOCH": number(-LARGEST, LARGEST),
    "OPTIM.WARMUP_TYPE": one_of("constant", "linear"),
    "OPTIM.WARMUP_CONS_LR": LIMITED,
    "OPTIM.WARMUP_MIN_LR": LIMITED,
    "TRAIN.ACCUMULATE": count(1),
    "TEST.EVALUATOR": lambda key, value, cfg: require_known(key, value, EVALUATOR_REGISTRY.registered_names()),
    **VIDEO_VALUES,
}
VALUES_OF_TESTS = [key for key in VALUES if not key.startswith(("OPTIM.", "TRAIN.", "DATALOADER.TRAIN_X."))]
