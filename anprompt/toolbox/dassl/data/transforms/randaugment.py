"""Three variants of RandAugment on PIL images.

All draws come from Python's ``random`` (operations, signs, magnitudes) and, for the cut-out position, from numpy's
global generator. Their order, and the order of the lists below, decide what a seed produces.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

CUTOUT_COLOR = (125, 123, 114)  # about the mean colour of ImageNet

# (operation, magnitude at 0, magnitude at 1)
OpRange = tuple[str, float, float]

RANDAUGMENT_LIST: list[OpRange] = [
    ("AutoContrast", 0, 1),
    ("Equalize", 0, 1),
    ("Invert", 0, 1),
    ("Rotate", 0, 30),
    ("Posterize", 4, 8),
    ("Solarize", 0, 256),
    ("SolarizeAdd", 0, 110),
    ("Color", 0.1, 1.9),
    ("Contrast", 0.1, 1.9),
    ("Brightness", 0.1, 1.9),
    ("Sharpness", 0.1, 1.9),
    ("ShearX", 0.0, 0.3),
    ("ShearY", 0.0, 0.3),
    ("CutoutAbs", 0, 40),
    ("TranslateXabs", 0.0, 100),
    ("TranslateYabs", 0.0, 100),
]

RANDAUGMENT_LIST2: list[OpRange] = [
    ("AutoContrast", 0, 1),
    ("Brightness", 0.1, 1.9),
    ("Color", 0.1, 1.9),
    ("Contrast", 0.1, 1.9),
    ("Equalize", 0, 1),
    ("Identity", 0, 1),
    ("Invert", 0, 1),
    ("Posterize", 4, 8),
    ("Rotate", -30, 30),
    ("Sharpness", 0.1, 1.9),
    ("ShearX", -0.3, 0.3),
    ("ShearY", -0.3, 0.3),
    ("Solarize", 0, 256),
    ("TranslateX", -0.3, 0.3),
    ("TranslateY", -0.3, 0.3),
]

# FixMatch's: the same without Invert, and what enhances never goes beyond the image as it is
FIXMATCH_LIST: list[OpRange] = [
    (name, 0.05, 0.95) if (low, high) == (0.1, 1.9) else (name, low, high)
    for name, low, high in RANDAUGMENT_LIST2
    if name != "Invert"
]


def _random_sign(value: float) -> float:
    return -value if random.random() > 0.5 else value


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(_random_sign(degrees))


def _shear_x(image: Image.Image, slope: float) -> Image.Image:
    return _affine(image, (1, _random_sign(slope), 0, 0, 1, 0))


def _shear_y(image: Image.Image, slope: float) -> Image.Image:
    return _affine(image, (1, 0, 0, _random_sign(slope), 1, 0))


def _translate_x_abs(image: Image.Image, pixels: float) -> Image.Image:
    return _affine(image, (1, 0, _random_sign(pixels), 0, 1, 0))


def _translate_y_abs(image: Image.Image, pixels: float) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, _random_sign(pixels)))


def _translate_x(image: Image.Image, fraction: float) -> Image.Image:
    return _translate_x_abs(image, fraction * image.width)


def _translate_y(image: Image.Image, fraction: float) -> Image.Image:
    return _translate_y_abs(image, fraction * image.height)


def _solarize_add(image: Image.Image, addition: float) -> Image.Image:
    brighter = np.asarray(image).astype(np.float64) + addition
    return ImageOps.solarize(Image.fromarray(brighter.clip(0, 255).astype(np.uint8)), 128)


def _cutout_abs(image: Image.Image, side: float) -> Image.Image:
    """Fill a square of about ``side`` pixels, clipped at the border."""
    if side < 0:
        return image
    width, height = image.size
    # A lone argument of `uniform` is its low bound (the high one is 1), hence centres in (1, width]: kept, as every
    # recorded run has it. The same holds for the global generator.
    center_x = np.random.uniform(width)  # noqa: NPY002
    center_y = np.random.uniform(height)  # noqa: NPY002
    left = int(max(0, center_x - side / 2.0))
    top = int(max(0, center_y - side / 2.0))
    image = image.copy()
    box = (left, top, min(width, left + side), min(height, top + side))
    ImageDraw.Draw(image).rectangle(box, CUTOUT_COLOR)
    return image


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "Color": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "Contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "CutoutAbs": _cutout_abs,
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Identity": lambda image, _: image,
    "Invert": lambda image, _: ImageOps.invert(image),
    "Posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "Rotate": _rotate,
    "Sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    # a fractional threshold counts: Pillow compares pixel values with it
    "Solarize": lambda image, threshold: ImageOps.solarize(image, threshold),  # type: ignore[arg-type]
    "SolarizeAdd": _solarize_add,
    "TranslateX": _translate_x,
    "TranslateXabs": _translate_x_abs,
    "TranslateY": _translate_y,
    "TranslateYabs": _translate_y_abs,
}


def _apply(image: Image.Image, op: OpRange, strength: float) -> Image.Image:
    """Apply ``op`` with ``strength`` in [0, 1] mapped to the magnitude range of the operation."""
    name, low, high = op
    return OPERATIONS[name](image, strength * (high - low) + low)


class RandAugment:
    """``n`` random operations, all at magnitude ``m`` of 30.

    Raises:
        ValueError: ``m`` lies outside [0, 30].
    """

    def __init__(self, n: int = 2, m: float = 10) -> None:
        if not 0 <= m <= 30:
            raise ValueError(f"RANDAUGMENT_M must lie between 0 and 30, found {m}")
        self.n = n
        self.m = m

    def __call__(self, image: Image.Image) -> Image.Image:
        for op in random.choices(RANDAUGMENT_LIST, k=self.n):
            image = _apply(image, op, self.m / 30)
        return image


class RandAugment2:
    """``n`` random operations, each applied with probability ``p`` at a random magnitude."""

    operations = RANDAUGMENT_LIST2

    def __init__(self, n: int = 2, p: float = 0.6) -> None:
        self.n = n
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        for op in random.choices(self.operations, k=self.n):
            if self._applies():
                image = _apply(image, op, random.random())
        return image

    def _applies(self) -> bool:
        return random.random() <= self.p


class RandAugmentFixMatch(RandAugment2):
    """``n`` random operations of FixMatch's list at random magnitudes, every one applied: nothing is drawn for that."""

    operations = FIXMATCH_LIST

    def __init__(self, n: int = 2) -> None:
        super().__init__(n, p=1.0)

    def _applies(self) -> bool:
        return True
