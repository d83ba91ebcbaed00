"""The little world behind the embedded default: coloured shapes, seen in two visual styles.

`drawing` renders the flat pictures that the bundled tiny CLIP is pretrained on; `photo` renders the textured, shaded
and warmly lit pictures of the Shapes dataset. The gap between the two styles is what prompt tuning closes.

Pictures are functions of their arguments alone. All randomness comes from a `random.Random` that the caller passes,
never from a global generator, and arrays only see `+ - * /`, `sqrt`, `floor` and comparisons, which IEEE 754 fixes to
the last bit: the pixels are the same on every platform. Only the JPEG bytes depend on the version of libjpeg.
"""

import io
import math
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image

SIZE = 64  # pixels, both sides
SPLIT_SIZES = {"train": 40, "val": 10, "test": 40}  # images per class of the Shapes dataset

Array = np.ndarray


# --- shapes: signed fields over the plane, negative inside, about one unit per unit of distance near the edge ----


def _half_planes(x: Array, y: Array, n: int, inradius: float) -> list[Array]:
    """Signed distances to the n sides of a regular polygon that stands on a side (y points down)."""
    angles = [math.pi / 2 + 2 * math.pi * k / n for k in range(n)]
    return [x * round(math.cos(a), 6) + y * round(math.sin(a), 6) - inradius for a in angles]


def _disc(x: Array, y: Array, radius: float) -> Array:
    return np.sqrt(x * x + y * y) - radius


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _star(x: Array, y: Array) -> Array:
    # A point lies in the pentagram when it is on the inner side of at least four of its five lines.
    largest, *others = _half_planes(x, y, 5, 0.38)
    second = np.full_like(largest, -np.inf)
    for distance in others:
        second = np.maximum(second, np.minimum(largest, distance))
        largest = np.maximum(largest, distance)
    return second


def _heart(x: Array, y: Array) -> Array:
    # A square standing on a corner, with a half disc on each of its two upper sides.
    square = (np.abs(x) + np.abs(y - 0.12) - 0.8) * 0.7071
    return np.minimum(square, np.minimum(_disc(x - 0.4, y + 0.28, 0.566), _disc(x + 0.4, y + 0.28, 0.566)))


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda x, y: _disc(x, y, 0.85),
    "square": lambda x, y: _box(x, y, 0.76, 0.76),
    "triangle": lambda x, y: np.maximum.reduce(_half_planes(x, y - 0.15, 3, 0.55)),
    "star": _star,
    "heart": _heart,
    "cross": lambda x, y: np.minimum(_box(x, y, 0.9, 0.3), _box(x, y, 0.3, 0.9)),
    "ring": lambda x, y: np.abs(_disc(x, y, 0.68)) - 0.22,
    "crescent": lambda x, y: np.maximum(_disc(x, y, 0.88), -_disc(x - 0.42, y + 0.1, 0.68)),
}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (240, 215, 50),
    "green": (50, 160, 70),
    "blue": (45, 85, 205),
    "purple": (140, 60, 180),
    "black": (30, 30, 30),
    "pink": (240, 130, 180),
}

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (252, 252, 252),
    "grey": (170, 170, 170),
    "cream": (250, 238, 205),
    "sky": (190, 220, 245),
}

# Light of the dataset's photographs, per channel. A strong, constant cast: zero-shot CLIP misreads colours under it,
# and a few photographs per class are enough to learn better.
LAMP = (1.1, 0.74, 0.43)


# --- the classes of the dataset ----------------------------------------------------------------------------------


def classes_in_turns(shapes: tuple[str, ...], pairs: tuple[tuple[str, str], tuple[str, str]]) -> tuple[str, ...]:
    """Each shape comes in four colours: two of them make base classes and two make new ones, in turns.

    So both halves show every shape and every colour, no class is in both, and the two are about equally hard.
    """
    base = [f"{colour} {shape}" for i, shape in enumerate(shapes) for colour in pairs[i % 2]]
    new = [f"{colour} {shape}" for i, shape in enumerate(shapes) for colour in pairs[(i + 1) % 2]]
    return tuple(base + new)


CLASSNAMES = classes_in_turns(
    ("circle", "square", "triangle", "star", "heart", "cross"), (("red", "orange"), ("blue", "purple"))
)


# --- the two styles ----------------------------------------------------------------------------------------------

_AXIS = (np.arange(SIZE) + 0.5) / (SIZE / 2) - 1  # pixel centres in [-1, 1]
_X, _Y = np.meshgrid(_AXIS, _AXIS)
_PIXEL = 2 / SIZE


def coverage(shape: str, centre: tuple[float, float], scale: float, degrees: float, squash: float = 1.0) -> Array:
    """How much of each pixel the shape covers: float64 [SIZE, SIZE] in [0, 1], antialiased."""
    angle = math.radians(degrees)
    # The last bits of sine and cosine differ between platforms.
    cos, sin = round(math.cos(angle), 6), round(math.sin(angle), 6)
    dx, dy = (_X - centre[0]) / scale, (_Y - centre[1]) / scale
    field = SHAPES[shape](dx * cos + dy * sin, (dy * cos - dx * sin) / squash)
    return np.clip(0.5 - field * (scale / _PIXEL), 0.0, 1.0)


def over(covered: Array, colour: Array, canvas: Array) -> Array:
    """Paints `colour` (anything that broadcasts to the canvas) over the canvas [SIZE, SIZE, 3]."""
    return canvas + covered[:, :, None] * (colour - canvas)


def to_pixels(canvas: Array) -> Array:
    """Rounded: uint8, of the same shape."""
    return np.clip(np.floor(canvas + 0.5), 0, 255).astype(np.uint8)


def _jitter(colour: tuple[float, float, float], amount: float, rng: Random) -> Array:
    return np.array([channel + rng.uniform(-amount, amount) for channel in colour])


def noise(rng: Random) -> Array:
    """White noise: float64 [SIZE, SIZE, 3], uniform in [-1, 1]."""
    drawn = np.frombuffer(rng.randbytes(3 * SIZE * SIZE), np.uint8)
    return drawn.reshape(SIZE, SIZE, 3) / 127.5 - 1


def _triangle_wave(phase: Array) -> Array:
    """Period 1, range [-1, 1]: the sine of an arithmetic that is exact everywhere."""
    return 4 * np.abs(phase - np.floor(phase) - 0.5) - 1


def drawing(colour: str, shape: str, background: str, scale: float, rng: Random) -> Array:
    """A flat drawing in white light, the style of pretraining: uint8 [SIZE, SIZE, 3].

    Args:
        colour, shape, background: keys of COLOURS, SHAPES and BACKGROUNDS.
        scale: half the extent of the shape, as a fraction of half the picture.
        rng: draws place, tilt, shades, brightness and a faint grain.
    """
    centre = (rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2))
    covered = coverage(shape, centre, scale, rng.uniform(-30, 30), rng.uniform(0.8, 1.0))
    canvas = np.zeros((SIZE, SIZE, 3)) + _jitter(BACKGROUNDS[background], 25, rng)
    canvas = over(covered, _jitter(COLOURS[colour], 20, rng), canvas)
    return to_pixels(canvas * rng.uniform(0.65, 1.05) + rng.uniform(0, 15) * noise(rng))


def tabletop(rng: Random) -> Array:
    """A muted, unevenly lit background with a woven texture: float64 [SIZE, SIZE, 3]."""
    grey = rng.uniform(140, 220)
    near, far = (_jitter((grey, grey, grey), 30, rng) for _ in range(2))
    slope = (_Y * rng.uniform(-1, 1) + _X * rng.uniform(-1, 1) + 2) / 4
    weave = _triangle_wave(_X * rng.uniform(2, 5) + _Y) * _triangle_wave(_Y * rng.uniform(2, 5) - _X)
    return near + slope[:, :, None] * (far - near) + rng.uniform(5, 20) * weave[:, :, None]


def material(colour: str, rng: Random) -> Array:
    """The paint of a photographed object: grained and shaded from one side, float64 [SIZE, SIZE, 3]."""
    tilt = rng.uniform(-1, 1)
    grain = _triangle_wave(_X * rng.uniform(1, 4) + _Y * tilt * 3 + rng.random())
    shade = 0.85 + 0.25 * (_X * tilt - _Y * 0.5) + 0.12 * grain
    return _jitter(COLOURS[colour], 25, rng) * shade[:, :, None]


def blur(canvas: Array) -> Array:
    """Binomial 3x3 blur with the border repeated."""
    for axis in (0, 1):
        rows = np.moveaxis(canvas, axis, 0)
        padded = np.concatenate([rows[:1], rows, rows[-1:]])
        canvas = np.moveaxis((padded[:-2] + padded[2:]) / 4 + rows / 2, 0, axis)
    return canvas


def photo(classname: str, rng: Random) -> Array:
    """An object on a table under a warm lamp, the style of the Shapes dataset: uint8 [SIZE, SIZE, 3].

    Args:
        classname: one of CLASSNAMES, or any other "colour shape" of the world.
        rng: draws all the rest.
    """
    colour, shape = classname.split()
    scale, degrees, squash = rng.uniform(0.5, 0.8), rng.uniform(-35, 35), rng.uniform(0.75, 1.0)
    centre = (rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15))
    shadow = coverage(shape, (centre[0] + 0.1, centre[1] + 0.12), scale, degrees, squash)
    covered = coverage(shape, centre, scale, degrees, squash)
    canvas = tabletop(rng)
    canvas = over(shadow * 0.6, canvas * 0.35, canvas)
    canvas = blur(over(covered, material(colour, rng), canvas))
    canvas = canvas * np.array(LAMP) * rng.uniform(0.75, 1.1)
    return to_pixels(canvas + rng.uniform(5, 30) * noise(rng))


def dataset_photo(split: str, classname: str, index: int) -> Array:
    """Picture number `index` of a class in a split of the Shapes dataset: always the same pixels."""
    return photo(classname, Random(f"shapes/{split}/{classname}/{index}"))


def jpeg(pixels: Array) -> bytes:
    """The picture as the dataset stores it. Full chroma, because colour is half of every class name."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()
