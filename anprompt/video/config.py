"""Values of the keys of clips, and the keys of images that clips have no use for."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from anprompt.utils.config import require, require_number
from anprompt.utils.settings import Check, number, one_of, whole
from anprompt.video.items import BACKENDS

TRAIN_SAMPLINGS = ("segment", "segment_vifi")
TEST_SAMPLINGS = ("center", "start")
FUSIONS = ("embedding", "prob")
CROPS = ("rrc", "multiscale")
LARGEST = 10**6  # of pixels and frames: beyond it, memory ends


def _between(low: int, high: int) -> Check:
    def check(key: str, value: Any, cfg: CfgNode) -> None:
        whole(low)(key, value, cfg)
        require(value <= high, f"{key}: expected a whole number in {low}..{high}, got {value}")

    return check


def _of(*options: int) -> Check:
    def check(key: str, value: Any, cfg: CfgNode) -> None:
        fits = value in options and not isinstance(value, bool)
        require(fits, f"{key}: expected one of {', '.join(map(str, options))}, got {value!r}")

    return check


def _backend(key: str, value: Any, cfg: CfgNode) -> None:
    others = "decord and torchvision" if value in ("decord", "torchvision") else "others"
    require(
        value in BACKENDS, f"{key}: expected one of {', '.join(BACKENDS)}, got {value!r}: {others} are not used here"
    )


def _resize(key: str, value: Any, cfg: CfgNode) -> None:
    fits = isinstance(value, list | tuple) and len(value) in (0, 2) and all(type(side) is int for side in value)
    require(fits, f"{key}: expected height and width in pixels, such as (240, 320), or (), got {value!r}")
    for side in value:
        require_number(key, side, 1, LARGEST)


def _scale(key: str, value: Any, cfg: CfgNode) -> None:
    fits = isinstance(value, list | tuple) and len(value) == 2
    require(fits, f"{key}: expected the smallest and the largest share of a frame, got {value!r}")
    for share in value:
        require_number(key, share, 0, 1)
    require(0 < value[0] <= value[1], f"{key}: expected the smallest and the largest share of a frame, got {value!r}")


# By what they begin with, and why nothing reads them where the data are images, ...
UNREAD_OF_IMAGES = dict.fromkeys(
    ("VIDEO.", "DATASET.LIST_DIR", "DATASET.VIDEO_DIR", "DATASET.SPLIT_SEED", "DATASET.CLASSNAME_STYLE",
     "DATASET.ANCHOR."),
    "its data are images",
)  # fmt: skip
# ... or clips. INPUT.TRANSFORMS and RRCROP_SCALE are left alone: the files of the trainers give those of images.
UNREAD_OF_CLIPS = dict.fromkeys(
    ("INPUT.CROP_PADDING", "INPUT.CUTOUT_", "INPUT.GN_", "INPUT.RANDAUGMENT_",
     "INPUT.COLORJITTER_", "INPUT.RGS_P", "INPUT.GB_"),
    "its data are clips, which VIDEO.* augments",
) | {
    "DATALOADER.AUGMENT_ON_GPU": "its data are clips, which the workers augment",
    "DATALOADER.KEEP_TRAIN_GB": "its data are clips, of which other frames are drawn every time",
    "DATALOADER.CACHE_TEST": "its data are clips, of which nothing is kept",
}  # fmt: skip
VIDEO_VALUES: dict[str, Check] = {
    "VIDEO.NUM_FRAMES": _between(1, LARGEST),
    "VIDEO.TRAIN_SAMPLING": one_of(*TRAIN_SAMPLINGS),
    "VIDEO.TEST_SAMPLING": one_of(*TEST_SAMPLINGS),
    "VIDEO.TEST_CLIPS": _between(1, 1000),
    "VIDEO.TEST_CROPS": _of(1, 3),
    "VIDEO.VIEW_FUSION": one_of(*FUSIONS),
    "VIDEO.BACKEND": _backend,
    "VIDEO.SHORT_SIDE": _between(1, LARGEST),
    "VIDEO.RESIZE": _resize,
    "VIDEO.CROP": one_of(*CROPS),
    "VIDEO.RRC_SCALE": _scale,
    "VIDEO.FLIP_P": number(0, 1),
    "VIDEO.GRAY_P": number(0, 1),
    "VIDEO.MAX_RETRIES": _between(0, LARGEST),
    "DATASET.SPLIT_SEED": _between(0, LARGEST),
    "DATASET.CLASSNAME_STYLE": one_of("raw", "split"),
    "DATASET.ANCHOR.CHECK_LEAK": one_of("warn", "error", "off"),
}
