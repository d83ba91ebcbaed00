"""The Moves data set: what lies on disk, and that it is drawn once, whole, and again the same."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from anprompt.video import moves_world as world
from dassl.data.datasets import build_dataset
from datasets import moves
from tests.helpers import REPOSITORY
from tests.helpers.runs import left_by_killed_process
from tests.helpers.video_data import config

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def small_world(monkeypatch):
    """Three clips of two frames of each of four classes, instead of 32 of 24 frames of 24."""
    monkeypatch.setattr(world, "SPLIT_SIZES", {"train": 2, "test": 1})
    monkeypatch.setattr(world, "CLASSNAMES", ("yellow square", "black ring", "green square", "pink ring"))
    monkeypatch.setattr(world, "HALF", 2)
    monkeypatch.setattr(world, "FRAMES", 2)
    monkeypatch.setattr(world, "ANCHORS", 2)


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def listed(root, name):
    return (root / "lists" / f"{name}.txt").read_text().splitlines()


def test_it_draws_itself_and_has_base_and_new_halves(tmp_path, small_world):
    base, new, every = (
        build_dataset(config(tmp_path, "Moves", SUBSAMPLE_CLASSES=subset)) for subset in ("base", "new", "all")
    )
    assert base.classnames == ["yellow square", "black ring"]
    assert new.classnames == ["green square", "pink ring"]
    assert every.classnames == base.classnames + new.classnames
    assert (len(base.train_x), len(base.test), len(base.train_u)) == (4, 2, 2)
    assert (len(new.test), len(every.train_x), len(every.test)) == (2, 8, 4)
    for dataset in (base, new, every):
        for item in [*dataset.train_x, *dataset.test]:
            assert Path(item.impath).parent.name == item.classname.replace(" ", "_")


def test_the_whole_has_its_lists(tmp_path):
    """None of its clips is drawn for this."""
    lists = moves.lists(tmp_path)
    per_class = {name: set(Counter(entry.label for entry in entries).values()) for name, entries in lists.items()}
    assert per_class == {
        "train": {20}, "val1": {12}, "base_train": {20}, "base_val": {12}, "novel_val": {12}, "anchors": {32},
        **{f"few_shot_{shots}": {shots} for shots in (1, 2, 4, 8, 16)},
        **{f"fs_base_s{seed}": {16} for seed in (1, 2, 3)},
    }  # fmt: skip
    classes = {name: {entry.label for entry in entries} for name, entries in lists.items()}
    assert classes["base_val"] == classes["novel_val"] == classes["fs_base_s1"] == set(range(12))
    assert classes["val1"] == classes["few_shot_1"] == set(range(24))
    paths = {name: {entry.path for entry in entries} for name, entries in lists.items()}
    assert paths["base_val"] | paths["novel_val"] == paths["val1"]
    assert not paths["train"] & paths["val1"] and not paths["base_val"] & paths["novel_val"]
    assert len({frozenset(paths[f"fs_base_s{seed}"]) for seed in (1, 2, 3)}) == 3
    assert all(paths[f"fs_base_s{seed}"] <= paths["base_train"] for seed in (1, 2, 3))


def test_the_yaml_file_keeps_colours():
    cfg = config("data")
    cfg.merge_from_file(str(REPOSITORY / "configs" / "datasets" / "moves.yaml"))
    assert cfg.DATASET.NAME == "Moves" and cfg.VIDEO.GRAY_P == 0  # colour is half of every class
    assert cfg.VIDEO.NUM_FRAMES <= world.FRAMES


def test_drawing_twice_gives_the_same_files(tmp_path, small_world):
    moves.draw(tmp_path / "a")
    moves.draw(tmp_path / "b")
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")
    assert len([name for name in files_below(tmp_path / "a") if name.endswith(".mp4")]) == 4 * 3 + 2
    assert listed(tmp_path / "a", "novel_val") == [
        "green_square/green_square_test_0000.mp4 0",
        "pink_ring/pink_ring_test_0000.mp4 1",
    ]


def test_a_complete_folder_is_not_drawn_again(tmp_path, small_world, monkeypatch):
    moves.draw(tmp_path)
    monkeypatch.setattr(world, "encoded", lambda film: pytest.fail("drawn again"))
    moves.draw(tmp_path)


def test_a_damaged_folder_is_repaired_and_the_rest_left_alone(tmp_path, small_world):
    moves.draw(tmp_path)
    whole = files_below(tmp_path)
    kept = tmp_path / "videos" / "pink_ring" / "pink_ring_test_0000.mp4"
    before = kept.stat().st_mtime_ns
    (tmp_path / "videos" / "pink_ring" / "pink_ring_train_0001.mp4").unlink()
    (tmp_path / "videos" / "anchors" / "empty_table_0001.mp4").write_bytes(b"")
    (tmp_path / "lists" / "base_val.txt").unlink()
    (tmp_path / "lists" / "labels" / "full.csv").unlink()
    left_by_killed_process(tmp_path / "videos" / "pink_ring" / "pink_ring_train_0001.mp4")
    moves.draw(tmp_path)
    assert files_below(tmp_path) == whole
    assert kept.stat().st_mtime_ns == before


def test_a_killed_drawing_is_continued(tmp_path, small_world):
    moves.draw(tmp_path / "whole")
    process = FORK.Process(target=moves.draw, args=(tmp_path / "killed",))
    process.start()
    while not any((tmp_path / "killed").rglob("*.mp4")):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "killed" / "lists" / "val1.txt").exists()  # it was indeed cut short
    moves.draw(tmp_path / "killed")
    finished, whole = files_below(tmp_path / "killed"), files_below(tmp_path / "whole")
    assert finished == whole


def _draw_at_the_signal(root: Path, barrier) -> None:
    barrier.wait()
    moves.draw(root)


def test_two_processes_may_draw_at_once(tmp_path, small_world):
    barrier = FORK.Barrier(2)
    processes = [FORK.Process(target=_draw_at_the_signal, args=(tmp_path / "shared", barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    moves.draw(tmp_path / "alone")
    assert files_below(tmp_path / "shared") == files_below(tmp_path / "alone")


def test_a_root_that_cannot_be_written_is_one_clear_error(tmp_path, small_world):
    (tmp_path / "moves").write_text("in the way")
    with pytest.raises(OSError, match="cannot write the clips of Moves to .*moves.*--root"):
        build_dataset(config(tmp_path, "Moves"))
