"""From the frames of a clip to what CLIP takes: one draw per clip, which is applied to all of its frames.

Frames are scaled as tensors, antialiased, which is Pillow's result to one level in 255. What is drawn comes from
PyTorch's global generator, in this order: crop, flip, gray.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as F
from yacs.config import CfgNode

from anprompt.utils.config import require
from dassl.data.transforms import INTERPOLATION_MODES

Box = tuple[int, int, int, int]  # top, left, height, width

RATIO = (3 / 4, 4 / 3)  # of a random resized crop, width / height
SCALES = (1, 0.875, 0.75, 0.66)  # of the sides of a multi-scale crop, as shares of the shorter side of a frame
MOST_APART = 1  # places in SCALES by which height and width of one crop may differ
QUARTERS = (  # of the room that a multi-scale crop leaves: corners, edges, centre, and between them
    (0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (0, 2), (4, 2), (1, 1), (1, 3), (3, 1), (3, 3),
)  # fmt: skip


def clip_transform(cfg: CfgNode, is_train: bool) -> Callable[[np.ndarray], Tensor]:
    """The transform of a config for training or for tests.

    Returns:
        A callable from uint8 ``[T, H, W, 3]`` to float ``[T, 3, h, w]``; with three crops to ``[3, T, 3, h, w]``.

    Raises:
        ValueError: frames would be scaled to less than the crop.
    """
    video, (height, width) = cfg.VIDEO, cfg.INPUT.SIZE
    key, scaled = ("VIDEO.RESIZE", video.RESIZE) if video.RESIZE else ("VIDEO.SHORT_SIDE", [video.SHORT_SIDE] * 2)
    fits = scaled[0] >= height and scaled[1] >= width
    require(fits, f"{key} {tuple(scaled)} is smaller than the crop: expected at least INPUT.SIZE {(height, width)}")
    return (TrainTransform if is_train else TestTransform)(cfg)


class ClipTransform:
    """What both have in common: scaling before the crop, normalisation after it."""

    def __init__(self, cfg: CfgNode):
        self.size = list(cfg.INPUT.SIZE)
        self.resize, self.short_side = list(cfg.VIDEO.RESIZE), cfg.VIDEO.SHORT_SIDE
        self.interpolation = INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]
        self.mean, self.std = list(cfg.INPUT.PIXEL_MEAN), list(cfg.INPUT.PIXEL_STD)

    def scaled(self, clip: np.ndarray) -> Tensor:
        """uint8 ``[T, 3, H', W']``."""
        frames = torch.from_numpy(clip).permute(0, 3, 1, 2)
        return F.resize(frames, self.resize or [self.short_side], self.interpolation, antialias=True)

    def normalised(self, frames: Tensor) -> Tensor:
        return F.normalize(F.to_dtype(frames, torch.float32, scale=True), self.mean, self.std).contiguous()


class TrainTransform(ClipTransform):
    """Scale, random crop, flip, gray."""

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self.crop = {"rrc": self.random_resized, "multiscale": multiscale}[cfg.VIDEO.CROP]
        self.area = list(cfg.VIDEO.RRC_SCALE)
        self.flip, self.gray = cfg.VIDEO.FLIP_P, cfg.VIDEO.GRAY_P

    def __call__(self, clip: np.ndarray) -> Tensor:
        frames = self.scaled(clip)
        frames = F.resized_crop(frames, *self.crop(frames), self.size, InterpolationMode.BILINEAR, antialias=True)
        if torch.rand(()) < self.flip:
            frames = F.horizontal_flip(frames)
        if torch.rand(()) < self.gray:
            frames = F.rgb_to_grayscale(frames, num_output_channels=3)
        return self.normalised(frames)

    def random_resized(self, frames: Tensor) -> Box:
        """So much of the area, of a shape in ``RATIO``; in the middle, where ten draws do not fit."""
        return RandomResizedCrop.get_params(frames, self.area, list(RATIO))


def multiscale(frames: Tensor) -> Box:
    """A crop of TSN's, which keeps more of a frame: sides of ``SCALES``, nearly square, at one of thirteen places."""
    height, width = frames.shape[-2:]
    sides = [int(min(height, width) * scale) for scale in SCALES]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= MOST_APART]
    h, w = pairs[int(torch.randint(len(pairs), ()))]
    down, across = QUARTERS[int(torch.randint(len(QUARTERS), ()))]
    return down * ((height - h) // 4), across * ((width - w) // 4), h, w


class TestTransform(ClipTransform):
    """Scale, and crop in the middle, or at three places along the longer side."""

    __test__ = False  # no test, for all its name

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self.crops = cfg.VIDEO.TEST_CROPS

    def __call__(self, clip: np.ndarray) -> Tensor:
        frames = self.scaled(clip)
        if self.crops == 1:
            return self.normalised(F.center_crop(frames, self.size))
        height, width = (side - crop for side, crop in zip(frames.shape[-2:], self.size, strict=True))
        places = [
            (height // 2, width * third // 2) if width >= height else (height * third // 2, width // 2)
            for third in range(3)
        ]
        return torch.stack([self.normalised(F.crop(frames, *place, *self.size)) for place in places])
