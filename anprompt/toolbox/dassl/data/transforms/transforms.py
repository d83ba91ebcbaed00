"""Image transforms by name. Their order is fixed here, whatever the order in the config."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image

from dassl.data.transforms.randaugment import RandAugment, RandAugment2, RandAugmentFixMatch

INTERPOLATION_MODES = {
    "bilinear": T.InterpolationMode.BILINEAR,
    "bicubic": T.InterpolationMode.BICUBIC,
    "nearest": T.InterpolationMode.NEAREST,
}


class Random2DTranslation:
    """With probability ``p`` resize to 9/8 of the size and crop at a random place, otherwise just resize.

    Args:
        height, width: output size in pixels.
        p: probability of translating.
    """

    def __init__(self, height: int, width: int, p: float = 0.5) -> None:
        self.height = height
        self.width = width
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.uniform(0, 1) > self.p:
            return image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        larger = (int(round(self.width * 1.125)), int(round(self.height * 1.125)))
        left = int(round(random.uniform(0, larger[0] - self.width)))
        top = int(round(random.uniform(0, larger[1] - self.height)))
        image = image.resize(larger, Image.Resampling.BILINEAR)
        return image.crop((left, top, left + self.width, top + self.height))


class Cutout:
    """Set ``n_holes`` squares of side ``length`` pixels in a [C,H,W] tensor to zero, clipped at the border."""

    def __init__(self, n_holes: int = 1, length: int = 16) -> None:
        self.n_holes = n_holes
        self.length = length

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[1:]
        image = image.clone()
        for _ in range(self.n_holes):
            y = np.random.randint(height)  # noqa: NPY002 (the global generator, by contract)
            x = np.random.randint(width)  # noqa: NPY002
            half = self.length // 2
            image[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        return image


class GaussianNoise:
    """With probability ``p`` add normal noise to a tensor."""

    def __init__(self, mean: float = 0.0, std: float = 0.15, p: float = 0.5) -> None:
        self.mean = mean
        self.std = std
        self.p = p

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if random.uniform(0, 1) > self.p:
            return image
        return image + torch.randn(image.size()) * self.std + self.mean


class InstanceNormalization:
    """Give each channel of a [C,H,W] tensor zero mean and unit (unbiased) deviation."""

    def __init__(self, eps: float = 1e-8) -> None:
        self.eps = eps

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        mean = image.mean(dim=(1, 2), keepdim=True)
        std = image.std(dim=(1, 2), keepdim=True)
        return (image - mean) / (std + self.eps)


# ---------------------------------------------------------------------------------------------- steps by name

Step = tuple[str, Any]  # line to print, transform


def _random_resized_crop(opts: Any) -> Step:
    size, scale = tuple(opts.SIZE), tuple(opts.RRCROP_SCALE)
    transform = T.RandomResizedCrop(size, scale=scale, interpolation=INTERPOLATION_MODES[opts.INTERPOLATION])
    return f"random resized crop (size={size}, scale={scale})", transform


def _policy(name: str) -> Callable[[Any], Step]:
    return lambda opts: (f"{name} policy", T.AutoAugment(T.AutoAugmentPolicy(name)))


def _color_jitter(opts: Any) -> Step:
    strengths = {
        "brightness": opts.COLORJITTER_B,
        "contrast": opts.COLORJITTER_C,
        "saturation": opts.COLORJITTER_S,
        "hue": opts.COLORJITTER_H,
    }
    return f"color jitter ({_listed(strengths)})", T.ColorJitter(**strengths)


def _normalize(opts: Any) -> Step:
    statistics = {"mean": list(opts.PIXEL_MEAN), "std": list(opts.PIXEL_STD)}
    return f"normalization ({_listed(statistics)})", T.Normalize(**statistics)


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


# What `INPUT.TRANSFORMS` may name. A step is applied where it stands here: first to the PIL image, ...
TO_IMAGES: dict[str, Callable[[Any], Step]] = {
    "random_translation": lambda opts: ("random translation", Random2DTranslation(*opts.SIZE)),
    "random_crop": lambda opts: (
        f"random crop (padding = {opts.CROP_PADDING})",
        T.RandomCrop(tuple(opts.SIZE), padding=opts.CROP_PADDING),
    ),
    "random_resized_crop": _random_resized_crop,
    "random_flip": lambda opts: ("random flip", T.RandomHorizontalFlip()),
    "imagenet_policy": _policy("imagenet"),
    "cifar10_policy": _policy("cifar10"),
    "svhn_policy": _policy("svhn"),
    "randaugment": lambda opts: (
        f"randaugment (n={opts.RANDAUGMENT_N}, m={opts.RANDAUGMENT_M})",
        RandAugment(opts.RANDAUGMENT_N, opts.RANDAUGMENT_M),
    ),
    "randaugment_fixmatch": lambda opts: (
        f"randaugment_fixmatch (n={opts.RANDAUGMENT_N})",
        RandAugmentFixMatch(opts.RANDAUGMENT_N),
    ),
    "randaugment2": lambda opts: (f"randaugment2 (n={opts.RANDAUGMENT_N})", RandAugment2(opts.RANDAUGMENT_N)),
    "colorjitter": _color_jitter,
    "randomgrayscale": lambda opts: ("random gray scale", T.RandomGrayscale(opts.RGS_P)),
    "gaussian_blur": lambda opts: (
        f"gaussian blur (kernel={opts.GB_K})",
        T.RandomApply([T.GaussianBlur(opts.GB_K)], p=opts.GB_P),
    ),
}
# ... then to the tensor.
TO_TENSORS: dict[str, Callable[[Any], Step]] = {
    "cutout": lambda opts: (
        f"cutout (n_holes={opts.CUTOUT_N}, length={opts.CUTOUT_LEN})",
        Cutout(opts.CUTOUT_N, opts.CUTOUT_LEN),
    ),
    "normalize": _normalize,
    "gaussian_noise": lambda opts: (
        f"gaussian noise (mean={opts.GN_MEAN}, std={opts.GN_STD})",
        GaussianNoise(opts.GN_MEAN, opts.GN_STD),
    ),
    "instance_norm": lambda opts: ("instance normalization", InstanceNormalization()),
}
IN_TESTS = ("normalize", "instance_norm")  # the others are for training only
WITHOUT_EFFECT = ("center_crop",)  # accepted: the test transform always crops, the training transform never does
AVAILABLE_CHOICES = [*TO_IMAGES, *TO_TENSORS, *WITHOUT_EFFECT]


# ---------------------------------------------------------------------------------------------- whole transforms


def build_transform(cfg: Any, is_train: bool = True, choices: Collection[str] | None = None) -> T.Compose | None:
    """Build the training or the test transform of a config, printing one line per step.

    Args:
        cfg: the config; its ``INPUT`` node is read.
        is_train: training transform, with augmentation; otherwise resize, centre crop and normalisation only.
        choices: names that replace ``INPUT.TRANSFORMS``.

    Returns:
        A callable from a PIL image to a float tensor [3,H,W], or None with ``INPUT.NO_TRANSFORM``.

    Raises:
        AssertionError: an unknown name is chosen.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    choices = cfg.INPUT.TRANSFORMS if choices is None else choices
    unknown = [name for name in choices if name not in AVAILABLE_CHOICES]
    if unknown:
        raise AssertionError(f"Unknown INPUT.TRANSFORMS {unknown}: choose from {', '.join(AVAILABLE_CHOICES)}")

    print(f"Building transform_{'train' if is_train else 'test'}")
    steps = []
    for line, step in (_train_steps if is_train else _test_steps)(cfg.INPUT, choices):
        print(f"+ {line}")
        steps.append(step)
    return T.Compose(steps)


def _train_steps(opts: Any, chosen: Collection[str]) -> Iterator[Step]:
    """The chosen steps in their fixed order, and what is always done."""
    if "random_crop" not in chosen and "random_resized_crop" not in chosen:
        height, width = size = tuple(opts.SIZE)
        yield f"resize to {height}x{width}", T.Resize(size, INTERPOLATION_MODES[opts.INTERPOLATION])
    yield from (make(opts) for name, make in TO_IMAGES.items() if name in chosen)
    yield _to_tensor()
    yield from (make(opts) for name, make in TO_TENSORS.items() if name in chosen)


def _test_steps(opts: Any, chosen: Collection[str]) -> Iterator[Step]:
    """The shorter edge becomes the larger side of ``SIZE``, then a centre crop."""
    height, width = size = tuple(opts.SIZE)
    edge = max(size)
    yield f"resize the smaller edge to {edge}", T.Resize(edge, INTERPOLATION_MODES[opts.INTERPOLATION])
    yield f"{height}x{width} center crop", T.CenterCrop(size)
    yield _to_tensor()
    yield from (TO_TENSORS[name](opts) for name in IN_TESTS if name in chosen)


def _to_tensor() -> Step:
    return "to torch tensor of range [0, 1]", T.ToTensor()
