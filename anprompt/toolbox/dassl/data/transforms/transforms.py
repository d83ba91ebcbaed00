"""Image transforms by name. Their order is fixed here, whatever the order in the config."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image

from dassl.data.transforms.randaugment import RandAugment, RandAugment2, RandAugmentFixMatch

AVAILABLE_CHOICES = [
    "random_flip",
    "random_resized_crop",
    "normalize",
    "instance_norm",
    "random_crop",
    "random_translation",
    "center_crop",  # accepted, has no effect: the test transform always crops, the training transform never does
    "cutout",
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "randaugment_fixmatch",
    "randaugment2",
    "gaussian_noise",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
]

INTERPOLATION_MODES = {
    "bilinear": T.InterpolationMode.BILINEAR,
    "bicubic": T.InterpolationMode.BICUBIC,
    "nearest": T.InterpolationMode.NEAREST,
}

AUTOAUGMENT_POLICIES = {
    "imagenet": T.AutoAugmentPolicy.IMAGENET,
    "cifar10": T.AutoAugmentPolicy.CIFAR10,
    "svhn": T.AutoAugmentPolicy.SVHN,
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


def _train_steps(opts: Any, chosen: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Pairs (line to print, transform) in their fixed order."""
    height, width = size = tuple(opts.SIZE)
    interpolation = INTERPOLATION_MODES[opts.INTERPOLATION]
    # PIL image to PIL image.
    if "random_crop" not in chosen and "random_resized_crop" not in chosen:
        yield f"resize to {height}x{width}", T.Resize(size, interpolation=interpolation)
    if "random_translation" in chosen:
        yield "random translation", Random2DTranslation(height, width)
    if "random_crop" in chosen:
        yield f"random crop (padding = {opts.CROP_PADDING})", T.RandomCrop(size, padding=opts.CROP_PADDING)
    if "random_resized_crop" in chosen:
        scale = tuple(opts.RRCROP_SCALE)
        yield (
            f"random resized crop (size={size}, scale={scale})",
            T.RandomResizedCrop(size, scale=scale, interpolation=interpolation),
        )
    if "random_flip" in chosen:
        yield "random flip", T.RandomHorizontalFlip()
    for name, policy in AUTOAUGMENT_POLICIES.items():
        if f"{name}_policy" in chosen:
            yield f"{name} policy", T.AutoAugment(policy)
    n, m = opts.RANDAUGMENT_N, opts.RANDAUGMENT_M
    if "randaugment" in chosen:
        yield f"randaugment (n={n}, m={m})", RandAugment(n, m)
    if "randaugment_fixmatch" in chosen:
        yield f"randaugment_fixmatch (n={n})", RandAugmentFixMatch(n)
    if "randaugment2" in chosen:
        yield f"randaugment2 (n={n})", RandAugment2(n)
    if "colorjitter" in chosen:
        b, c, s, h = opts.COLORJITTER_B, opts.COLORJITTER_C, opts.COLORJITTER_S, opts.COLORJITTER_H
        yield f"color jitter (brightness={b}, contrast={c}, saturation={s}, hue={h})", T.ColorJitter(b, c, s, h)
    if "randomgrayscale" in chosen:
        yield "random gray scale", T.RandomGrayscale(p=opts.RGS_P)
    if "gaussian_blur" in chosen:
        yield f"gaussian blur (kernel={opts.GB_K})", T.RandomApply([T.GaussianBlur(opts.GB_K)], p=opts.GB_P)
    # Tensor to tensor.
    yield "to torch tensor of range [0, 1]", T.ToTensor()
    if "cutout" in chosen:
        holes, length = opts.CUTOUT_N, opts.CUTOUT_LEN
        yield f"cutout (n_holes={holes}, length={length})", Cutout(holes, length)
    if "normalize" in chosen:
        yield _normalization(opts)
    if "gaussian_noise" in chosen:
        mean, std = opts.GN_MEAN, opts.GN_STD
        yield f"gaussian noise (mean={mean}, std={std})", GaussianNoise(mean, std)
    if "instance_norm" in chosen:
        yield "instance normalization", InstanceNormalization()


def _test_steps(opts: Any, chosen: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Pairs (line to print, transform): the shorter edge becomes the larger side of ``SIZE``, then a centre crop."""
    height, width = size = tuple(opts.SIZE)
    edge = max(size)
    yield (
        f"resize the smaller edge to {edge}",
        T.Resize(edge, interpolation=INTERPOLATION_MODES[opts.INTERPOLATION]),
    )
    yield f"{height}x{width} center crop", T.CenterCrop(size)
    yield "to torch tensor of range [0, 1]", T.ToTensor()
    if "normalize" in chosen:
        yield _normalization(opts)
    if "instance_norm" in chosen:
        yield "instance normalization", InstanceNormalization()


def _normalization(opts: Any) -> tuple[str, T.Normalize]:
    mean, std = list(opts.PIXEL_MEAN), list(opts.PIXEL_STD)
    return f"normalization (mean={mean}, std={std})", T.Normalize(mean=mean, std=std)
