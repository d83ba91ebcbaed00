"""The Shapes dataset: what is rendered, and that it is rendered once, whole, and without touching global state."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from anprompt.data import shapes_world as world
from dassl.config import get_cfg_default
from dassl.data.datasets import build_dataset
from datasets import shapes
from tests.helpers.runs import left_by_killed_process

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def small_world(monkeypatch):
    """Six images per class instead of ninety."""
    monkeypatch.setattr(world, "SPLIT_SIZES", {"train": 3, "val": 1, "test": 2})


def render_below(root: Path) -> None:
    shapes.render(root / "images", root / "split_zhou_Shapes.json")


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def shapes_cfg(root: Path, subset: str = "all", shots: int = -1):
    cfg = get_cfg_default()
    cfg.DATASET.NAME = "Shapes"
    cfg.DATASET.ROOT = str(root)
    cfg.DATASET.NUM_SHOTS = shots
    cfg.DATASET.SUBSAMPLE_CLASSES = subset
    cfg.SEED = 1
    return cfg


# --- the world ---------------------------------------------------------------------------------------------------


def test_pixels_are_the_published_ones():
    digest = hashlib.sha256()
    for split, classname, index in (("train", "red circle", 0), ("val", "orange heart", 3), ("test", "blue star", 39)):
        digest.update(world.dataset_photo(split, classname, index).tobytes())
    assert digest.hexdigest() == "c1d2e8faaf8e2b35cdd1ddb925647bcb85fa428f9d5d8e27606110068aa052d4"


def test_drawings_are_the_published_ones():
    digest = hashlib.sha256()
    for shape in world.SHAPES:
        digest.update(world.drawing("green", shape, "grey", 0.6, Random(shape)).tobytes())
    assert digest.hexdigest() == "85b37870fa56027e3fd021dac1ee2e48cb521e0a73080046d602db112e30031c"


def test_a_jpeg_shows_what_was_rendered():
    pixels = world.dataset_photo("test", "purple cross", 1)
    decoded = np.array(Image.open(BytesIO(world.jpeg(pixels)))).astype(int)
    assert decoded.shape == (world.SIZE, world.SIZE, 3)
    assert np.abs(decoded - pixels).mean() < 6


def test_base_and_new_classes_share_all_shapes_and_colours_but_no_class():
    half = len(world.CLASSNAMES) // 2
    base, new = world.CLASSNAMES[:half], world.CLASSNAMES[half:]
    assert len(base) == len(new) == 12
    assert not set(base) & set(new)
    for word in (0, 1):
        assert Counter(name.split()[word] for name in base) == Counter(name.split()[word] for name in new)


# --- the split ---------------------------------------------------------------------------------------------------


def test_split_is_balanced_and_its_parts_do_not_overlap():
    split = shapes.split_content()
    assert list(split) == ["train", "val", "test"]
    for part, per_class in (("train", 40), ("val", 10), ("test", 40)):
        assert Counter(label for _, label, _ in split[part]) == dict.fromkeys(range(24), per_class)
    paths = [path for part in split.values() for path, _, _ in part]
    assert len(paths) == len(set(paths))
    assert {(label, name) for part in split.values() for _, label, name in part} == set(enumerate(world.CLASSNAMES))


def test_no_picture_appears_in_two_splits():
    digests = [
        hashlib.sha256(world.dataset_photo(split, "red star", index).tobytes()).hexdigest()
        for split, count in world.SPLIT_SIZES.items()
        for index in range(count)
    ]
    assert len(set(digests)) == 90


# --- on disk -----------------------------------------------------------------------------------------------------


def test_dataset_renders_itself_and_has_the_family_halves(tmp_path, small_world):
    base = build_dataset(shapes_cfg(tmp_path, "base"))
    new = build_dataset(shapes_cfg(tmp_path, "new"))
    assert base.classnames == list(world.CLASSNAMES[:12])
    assert new.classnames == list(world.CLASSNAMES[12:])
    assert (len(base.train_x), len(base.val), len(base.test)) == (36, 12, 24)
    assert Image.open(new.test[0].impath).size == (64, 64)
    split = json.loads((tmp_path / "shapes" / "split_zhou_Shapes.json").read_text())
    assert split["train"][0] == ["red_circle/red_circle_train_0000.jpg", 0, "red circle"]


def test_rendering_twice_gives_the_same_files(tmp_path, small_world):
    render_below(tmp_path / "a")
    render_below(tmp_path / "b")
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")
    assert len(files_below(tmp_path / "a")) == 24 * 6 + 1


def test_a_complete_folder_is_not_rendered_again(tmp_path, small_world, monkeypatch):
    render_below(tmp_path)
    monkeypatch.setattr(world, "photo", lambda *_: pytest.fail("rendered again"))
    render_below(tmp_path)


def test_a_damaged_folder_is_repaired_and_the_rest_left_alone(tmp_path, small_world):
    render_below(tmp_path)
    whole = files_below(tmp_path)
    kept = tmp_path / "images" / "red_circle" / "red_circle_val_0000.jpg"
    before = kept.stat().st_mtime_ns
    (tmp_path / "images" / "red_circle" / "red_circle_train_0001.jpg").unlink()
    (tmp_path / "images" / "blue_heart" / "blue_heart_test_0000.jpg").write_bytes(b"")
    (tmp_path / "split_zhou_Shapes.json").unlink()
    render_below(tmp_path)
    assert files_below(tmp_path) == whole
    assert kept.stat().st_mtime_ns == before


def test_a_killed_rendering_is_continued(tmp_path, small_world):
    render_below(tmp_path / "whole")
    process = FORK.Process(target=render_below, args=(tmp_path / "killed",))
    process.start()
    while not any((tmp_path / "killed").rglob("*.jpg")):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    started = files_below(tmp_path / "killed")
    assert "split_zhou_Shapes.json" not in started  # it was indeed cut short
    render_below(tmp_path / "killed")
    finished = files_below(tmp_path / "killed")
    whole = files_below(tmp_path / "whole")
    assert {name: finished[name] for name in whole} == whole


def _render_at_the_signal(root: Path, barrier) -> None:
    barrier.wait()
    render_below(root)


def test_two_processes_may_render_at_once(tmp_path, small_world):
    barrier = FORK.Barrier(2)
    processes = [FORK.Process(target=_render_at_the_signal, args=(tmp_path / "shared", barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    render_below(tmp_path / "alone")
    assert files_below(tmp_path / "shared") == files_below(tmp_path / "alone")


def test_rendering_draws_from_no_global_generator(tmp_path, small_world):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    render_below(tmp_path)
    assert states() == before


def test_few_shot_subset_is_the_same_on_fresh_and_on_existing_data(tmp_path, small_world):
    """CoOp shuffles when the split file is missing, so its first run draws other shots than its second."""
    drawn = []
    for folder in ("shapes", "again"):
        random.seed(1)
        drawn.append([item.impath for item in build_dataset(shapes_cfg(tmp_path, shots=2)).train_x])
        (tmp_path / "shapes" / "split_fewshot").rename(tmp_path / f"{folder}_cache")
    assert drawn[0] == drawn[1]


def test_a_root_that_cannot_be_written_is_one_clear_error(tmp_path, small_world):
    (tmp_path / "shapes").write_text("in the way")
    with pytest.raises(OSError, match="cannot write the Shapes images to .*shapes.*--root"):
        build_dataset(shapes_cfg(tmp_path))


def test_images_that_a_killed_process_left_half_drawn_are_removed(tmp_path, small_world):
    render_below(tmp_path)
    whole = files_below(tmp_path)
    picture = tmp_path / "images" / "red_circle" / "red_circle_train_0001.jpg"
    picture.unlink()
    left_by_killed_process(picture)
    (tmp_path / "images" / "red_circle" / ".red_circle.of-the-user").write_bytes(b"")
    render_below(tmp_path)
    assert files_below(tmp_path) == whole | {"images/red_circle/.red_circle.of-the-user": b""}


def test_lists_that_a_killed_process_left_half_written_are_removed(tmp_path, small_world):
    build_dataset(shapes_cfg(tmp_path, shots=1))
    folder = tmp_path / "shapes"
    left = [
        left_by_killed_process(folder / name) for name in ("split_zhou_Shapes.json", "split_fewshot/shot_1-seed_1.pkl")
    ]
    build_dataset(shapes_cfg(tmp_path, shots=1))
    assert not any(path.exists() for path in left)
