"""The clips of Moves: always the same frames, which differ in what is a nuisance, and files of them."""

import hashlib
import io
import random

import av
import numpy as np
import pytest
import torch

from anprompt.data import shapes_world
from anprompt.video import moves_world as world

HALVES = world.CLASSNAMES[: world.HALF], world.CLASSNAMES[world.HALF :]


def digest(*films):
    found = hashlib.sha256()
    for film in films:
        found.update(film.tobytes())
    return found.hexdigest()


def decoded(content):
    with av.open(io.BytesIO(content)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_frames_are_the_published_ones():
    clips = [world.clip("train", "yellow square", 0), world.clip("test", "pink star", 3), world.anchor(7)]
    assert digest(*clips) == "46b217eaf984c8e3c37e51856718dc37b6ce538658dd829f34a6370cd1a11989"


def test_clips_of_other_numbers_classes_and_splits_are_others():
    of = [("train", "black ring", 0), ("train", "black ring", 1), ("test", "black ring", 0), ("test", "black heart", 0)]
    assert len({digest(world.clip(*arguments)) for arguments in of}) == 4
    assert digest(world.anchor(0)) != digest(world.anchor(1))


def test_drawing_draws_from_no_global_generator():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    world.encoded(world.clip("test", "green heart", 0))
    assert states() == before


def test_base_and_new_classes_share_all_shapes_and_colours_but_no_class():
    assert len(HALVES[0]) == len(HALVES[1]) == 12
    assert not set(HALVES[0]) & set(HALVES[1])
    for word in (0, 1):
        both = [sorted(name.split()[word] for name in half) for half in HALVES]
        assert both[0] == both[1]


def test_no_class_is_one_of_shapes():
    assert not set(world.CLASSNAMES) & set(shapes_world.CLASSNAMES)


@pytest.mark.parametrize("half", HALVES, ids=["base", "new"])
def test_the_object_is_away_for_a_while_and_another_of_the_same_half_is_there_for_less(half, monkeypatch):
    films = []
    monkeypatch.setattr(world, "_film", lambda things, rng: films.append(things))
    for index in range(20):
        world.clip("train", half[index % 12], index)
    for index, (other, own) in enumerate(films):
        colour, shape = half[index % 12].split()
        assert own.shape == shape
        assert 0 < len(other.seen) < len(own.seen) < world.FRAMES
        assert own.seen | other.seen <= set(range(world.FRAMES))
    assert len({thing.motion for things in films for thing in things}) == len(world.MOTIONS)
    away = set().union(*(set(range(world.FRAMES)) - own.seen for _, own in films))
    assert away == set(range(world.FRAMES))  # no frame is a safe choice


def test_the_object_is_in_the_frames_in_which_it_is_seen(monkeypatch):
    """Against the clip of the same draws without it."""
    film = world._film
    seen = []

    def without(things, rng):
        seen.append(things[-1].seen)
        return film(things[:-1], rng)

    whole = world.clip("test", "black star", 2)
    monkeypatch.setattr(world, "_film", without)
    differs = (whole != world.clip("test", "black star", 2)).any(axis=(1, 2, 3))
    assert set(np.flatnonzero(differs).tolist()) == seen[0]


def test_things_move_but_an_empty_table_does_not():
    for index in range(3):
        assert len({frame.tobytes() for frame in world.anchor(index)}) == 1
    assert len({frame.tobytes() for frame in world.clip("test", "pink heart", 0)}) > 10


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_paths_begin_and_end_where_they_should(t):
    start, end = (-0.2, 0.1), (0.25, 0.05)
    slide, swing, curve, rest = (motion(start, end, t) for motion in world.MOTIONS)
    assert slide == pytest.approx((-0.2 + 0.45 * t, 0.1 - 0.05 * t))
    assert swing == pytest.approx(end if t == 0.25 else start)
    assert rest == start
    if t in (0, 1):
        assert curve == pytest.approx(end if t else start)
    for point in (slide, swing, curve):
        assert max(map(abs, point)) <= 2 * world.REACH


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_file_shows_what_was_drawn(codec, monkeypatch):
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    film = world.clip("test", "green crescent", 1)
    content = world.encoded(film)
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ({"libx264": "h264"}.get(codec, codec), world.RATE)
    frames = decoded(content)
    assert frames.shape == film.shape
    assert np.abs(frames.astype(int) - film).mean() < 8
    assert len(content) < 25_000


def test_the_same_frames_make_the_same_file():
    film = world.clip("test", "green crescent", 1)
    assert world.encoded(film) == world.encoded(film)
