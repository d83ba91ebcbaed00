"""The clips behind the embedded video default: coloured objects that move over a table, under the lamp of Shapes.

A class is a colour and a shape, in pairs that the Shapes dataset does not use. How the object moves says nothing about
its class, nor does the order of the frames: models here average the features of frames, so that no class of *Moves*
may be told by motion alone. What does matter is which frames are looked at, and that there are several. The object is
away in part of each clip, and for a while another one, of another class, is on the table: it stays for a shorter time.
An anchor clip shows an empty table. Of what the bundled CLIP can read, "grey background" is nearest to it.

As in :mod:`shapes_world`, frames are functions of their arguments alone, and the same on every platform. The bytes of
the files, and the last bits of what is decoded from them, depend on the version of FFmpeg.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from random import Random

import numpy as np

from anprompt.data import shapes_world as world

FRAMES = 24  # per clip
RATE = 12  # frames per second
SPLIT_SIZES = {"train": 20, "test": 12}  # clips per class
ANCHORS = 32  # clips of an empty table
SEEN = (14, 19)  # frames in which the object is there, at least and at most
DISTRACTED = (5, 9)  # frames in which another one is
REACH = 0.25  # how far the paths lead from the middle, as a fraction of half the picture

Array = np.ndarray
Point = tuple[float, float]


CLASSNAMES = world.classes_in_turns(
    ("square", "triangle", "star", "heart", "ring", "crescent"), (("yellow", "black"), ("green", "pink"))
)
HALF = len(CLASSNAMES) // 2  # the first so many are the base classes


# --- things that move ----------------------------------------------------------------------------------------------


def _between(first: float, last: float, t: float) -> float:
    return first + (last - first) * t


def _slide(start: Point, end: Point, t: float) -> Point:
    return _between(start[0], end[0], t), _between(start[1], end[1], t)


def _swing(start: Point, end: Point, t: float) -> Point:
    """There and back, twice."""
    return _slide(start, end, 1 - abs(4 * t % 2 - 1))


def _curve(start: Point, end: Point, t: float) -> Point:
    """A parabola that leaves towards the middle of the table's far side."""
    middle = (0.0, -start[1] - end[1])
    return _slide(_slide(start, middle, t), _slide(middle, end, t), t)


def _rest(start: Point, end: Point, t: float) -> Point:
    return start


MOTIONS = (_slide, _swing, _curve, _rest)


@dataclass
class _Thing:
    """An object and what it does. ``seen`` are the numbers of the frames in which it is there."""

    shape: str
    paint: Array
    seen: set[int]
    squash: float
    sizes: tuple[float, float]  # at the first and the last frame, as are the angles
    angles: tuple[float, float]
    start: Point
    end: Point
    motion: int

    def coverage(self, frame: int) -> Array:
        """Float64 [SIZE, SIZE] in [0, 1]."""
        t = frame / (FRAMES - 1)
        centre = MOTIONS[self.motion](self.start, self.end, t)
        scale, degrees = _between(*self.sizes, t), _between(*self.angles, t)
        return world.coverage(self.shape, centre, scale, degrees, self.squash)


def _thing(classname: str, frames: tuple[int, int], sizes: tuple[float, float], rng: Random) -> _Thing:
    colour, shape = classname.split()
    first, count = rng.randrange(FRAMES), rng.randint(*frames)
    spots = [(rng.uniform(-REACH, REACH), rng.uniform(-REACH, REACH)) for _ in range(2)]
    turn = rng.uniform(-25, 25)
    return _Thing(
        shape=shape,
        paint=world.material(colour, rng),
        seen={(first + frame) % FRAMES for frame in range(count)},  # the end of a clip goes on at its beginning
        squash=rng.uniform(0.75, 1.0),
        sizes=(rng.uniform(*sizes), rng.uniform(*sizes)),
        angles=(turn, turn + rng.uniform(-30, 30)),
        start=spots[0],
        end=spots[1],
        motion=rng.randrange(len(MOTIONS)),
    )


def _shadow(covered: Array) -> Array:
    """The same shape, a few pixels lower and to the right."""
    down, right = 4, 3
    shadow = np.zeros_like(covered)
    shadow[down:, right:] = covered[:-down, :-right]
    return shadow


def _film(things: list[_Thing], rng: Random) -> Array:
    """The table with these things on it, later ones in front: uint8 [FRAMES, SIZE, SIZE, 3]."""
    light = np.array(world.LAMP) * rng.uniform(0.75, 1.1)
    grain = rng.uniform(3, 12) * world.noise(rng)
    table = world.blur(world.tabletop(rng))
    film = np.empty((FRAMES, *table.shape), np.uint8)
    for frame in range(FRAMES):
        canvas = table
        for thing in things:
            if frame in thing.seen:
                covered = thing.coverage(frame)
                canvas = world.over(_shadow(covered) * 0.6, canvas * 0.35, canvas)
                canvas = world.over(covered, thing.paint, canvas)
        film[frame] = world.to_pixels(canvas * light + grain)
    return film


# --- clips ---------------------------------------------------------------------------------------------------------


def clip(split: str, classname: str, index: int) -> Array:
    """Clip number ``index`` of a class in a split: uint8 [FRAMES, SIZE, SIZE, 3], always the same.

    Args:
        split: a key of SPLIT_SIZES; clips of several splits differ.
        classname: one of CLASSNAMES.
        index: from 0.
    """
    rng = Random(f"moves/{split}/{classname}/{index}")
    half = CLASSNAMES[:HALF] if classname in CLASSNAMES[:HALF] else CLASSNAMES[HALF:]
    other = rng.choice([name for name in half if name != classname])
    things = [_thing(other, DISTRACTED, (0.35, 0.55), rng), _thing(classname, SEEN, (0.55, 0.75), rng)]
    return _film(things, rng)


def anchor(index: int) -> Array:
    """Clip number ``index`` of an empty table: uint8 [FRAMES, SIZE, SIZE, 3], always the same."""
    return _film([], Random(f"moves/anchor/{index}"))


def encoded(film: Array) -> bytes:
    """Frames, uint8 [n, SIZE, SIZE, 3], as an .mp4 file: H.264, or MPEG-4 where FFmpeg came without x264."""
    import av

    buffer = io.BytesIO()
    h264 = "libx264" in av.codecs_available
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264" if h264 else "mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = film.shape[2], film.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1  # the file's bytes are to depend on the frames alone
        stream.codec_context.time_base = Fraction(1, RATE)
        stream.options = {"crf": "20", "preset": "veryfast"} if h264 else {"q": "3"}
        for pixels in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
