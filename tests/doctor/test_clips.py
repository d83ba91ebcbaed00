"""The doctor looks at data sets of clips: each planted fault is found, and a healthy one is left alone."""

import json
import os

import pytest

import datasets
from anprompt.cli import main
from anprompt.doctor.known_counts import KNOWN_LISTS
from tests.helpers.clips import pictures, write_clip, write_sound
from tests.helpers.video_data import BASE, NAMES, NEW, clip, lines, make, write_lines

datasets.register_all()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A healthy data set, whose clips are all one file of four frames; its lists are as long as the published ones."""
    monkeypatch.setitem(KNOWN_LISTS, "HMDB51Video", {"val1": 10, "base_val": 6})
    place = make(tmp_path)
    whole = write_clip(tmp_path / "whole.avi", pictures(4))
    for path in place.rglob("*.avi"):
        path.unlink()
        os.link(whole, path)
    return place


@pytest.fixture
def doctor(tmp_path, capsys):
    """Run the command; its status, and the findings as (severity, kind, what, files)."""

    def run(*arguments, names=("hmdb51_video",)):
        status = main(["doctor", "--root", str(tmp_path), "--json", "--datasets", *names, *arguments])
        report = json.loads(capsys.readouterr().out)["datasets"][0]
        return status, [
            tuple(each[key] for key in ("severity", "kind", "what", "files")) for each in report["problems"]
        ]

    return run


def in_place_of(path, write):
    """Write another file, and not into the one that others are links to."""
    path.unlink()
    write(path)
    return path


def test_a_healthy_data_set_has_no_findings_and_its_numbers(place, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert main(["doctor", "--root", str(tmp_path), "--datasets", "HMDB51Video"]) == 0
    assert ["HMDB51Video", "ok", "5", "20", "-", "10", "0", "0"] in map(str.split, capsys.readouterr().out.splitlines())
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_missing_clips(place, doctor):
    path = place / "videos" / clip("clap", "test", 0)
    path.unlink()
    assert doctor("--quick") == (1, [("error", "missing clips", "1 of 30 clips are missing", [str(path)])])


def test_clips_that_cannot_be_decoded(place, doctor):
    videos = place / "videos"
    empty = in_place_of(videos / clip("chew", "test", 0), lambda path: path.touch())
    content = (videos / clip("catch", "test", 0)).read_bytes()
    cut = in_place_of(videos / clip("chew", "test", 1), lambda path: path.write_bytes(content[:400]))
    text = in_place_of(videos / clip("clap", "test", 0), lambda path: path.write_text("no video"))
    sound = in_place_of(
        videos / clip("clap", "test", 1), lambda path: write_sound(path.with_suffix(".mp4")).rename(path)
    )
    status, [(severity, kind, what, files)] = doctor()
    assert (status, severity, kind, what) == (1, "error", "unreadable clips", "4 of 30 clips cannot be decoded")
    assert sorted(files) == files
    for path, line in zip((empty, cut, text, sound), files, strict=True):
        assert str(path) in line
    assert doctor("--quick") == (0, [])


def test_a_folder_of_frames_without_frames(place, doctor, tmp_path):
    (place / "videos" / "nothing").mkdir()
    write_lines(place / "lists" / "novel_val.txt", [*lines(NEW, "test", 2), "nothing 0"])
    status, [(_, kind, _, [line])] = doctor()
    assert (status, kind) == (1, "unreadable clips") and str(place / "videos" / "nothing") in line


def test_labels_outside_the_label_file(place, doctor):
    labels = place / "lists" / "labels"
    (labels / "novel.csv").replace(labels / "base.csv")
    status, found = doctor("--quick")
    assert status == 1
    assert [(kind, what) for _, kind, what, _ in found] == [
        ("labels", "base_train.txt does not fit its label file"),
        ("labels", "base_val.txt does not fit its label file"),
        ("label file", found[2][2]),
    ]
    assert "misses novel.csv" in found[2][2]
    assert all("has the label 2, but its label file names 2 classes" in line for line in found[1][3])


def test_a_damaged_list_is_named_and_the_others_are_looked_at(place, doctor):
    write_lines(place / "lists" / "base_val.txt", ["a line of something else"])
    write_lines(place / "lists" / "few_shot_2.txt", [])
    (place / "videos" / clip("clap", "test", 0)).unlink()
    status, found = doctor("--quick")
    assert status == 1
    assert [kind for _, kind, _, _ in found] == ["damaged list"] * 2 + ["missing lists", "missing clips"]
    assert "base_val.txt, line 1" in found[0][2] and "few_shot_2.txt is empty" in found[1][2]


def test_clips_to_train_with_that_are_tested(place, doctor):
    write_lines(place / "lists" / "fs_base_s1.txt", [*lines(BASE, "train", 1), f"{clip('catch', 'test', 0)} 2"])
    tested = f"{place / 'videos' / clip('catch', 'test', 0)} (val1.txt)"
    assert doctor("--quick") == (1, [("error", "overlap", "1 clips of fs_base_s1.txt are tested, too", [tested])])
    # the other official splits test what the first trains with
    (place / "lists" / "fs_base_s1.txt").unlink()
    write_lines(place / "lists" / "val2.txt", lines(NAMES, "train", 2))
    assert doctor("--quick") == (0, [])


def test_classes_without_clips_and_clips_that_are_listed_twice(place, doctor):
    write_lines(place / "lists" / "novel_val.txt", lines(NEW[:1], "test", 2) * 2)
    status, found = doctor("--quick")
    assert status == 0
    assert found == [
        ("warning", "empty classes", "novel_val.txt has no clips of 1 of 2 classes", ["clap"]),
        (
            "warning",
            "duplicates",
            "novel_val.txt lists 2 clips more than once, where each counts once",
            [str(place / "videos" / clip("chew", "test", number)) for number in range(2)],
        ),
    ]


def test_lists_of_other_lengths_than_the_published_ones(place, doctor):
    write_lines(place / "lists" / "val1.txt", lines(NAMES, "test", 1))
    status, found = doctor("--quick")
    assert (status, found[0][1], found[0][3]) == (0, "counts", ["val1.txt has 5 clips, the published one 10"])


def test_missing_lists(place, doctor):
    for name in ("base_val", "train"):
        (place / "lists" / f"{name}.txt").unlink()
    status, found = doctor("--quick")
    assert status == 0
    assert [what for _, kind, what, _ in found if kind == "missing lists"] == [
        "DATASET.SUBSAMPLE_CLASSES all has no clips to train with: there is no train.txt",
        "DATASET.SUBSAMPLE_CLASSES base has no clips to test with: there is no base_val.txt",
    ]
    for name in ("novel_val", "val1"):
        (place / "lists" / f"{name}.txt").unlink()
    status, found = doctor("--quick")
    assert status == 1 and ("error", "missing lists") in [each[:2] for each in found]


def test_anchors_of_tested_videos(place, doctor, tmp_path):
    """As many as the authors' list has: 56 of base classes and 83 of new ones."""
    yaml = tmp_path / "hmdb.yaml"
    yaml.write_text("DATASET:\n  NAME: HMDB51Video\n  ANCHOR:\n    LIST: gaa_splits.txt\n    VIDEO_DIR: k600\n")
    ids = [f"{number:03d}-Qz25rX_" for number in range(200)]
    for name, names, of in (("base_val", BASE, ids[:56]), ("novel_val", NEW, ids[56:139])):
        tested = [f"val/{each}_000014_000024.mp4 1" for each in of]
        write_lines(place / "lists" / f"{name}.txt", [*lines(names, "test", 2), *tested])
    write_lines(place / "lists" / "gaa_splits.txt", [f"vol_00/{each}.mkv 0" for each in ids])
    _, found = doctor("--quick", names=[str(yaml)])
    leaked = [(severity, what, len(files)) for severity, kind, what, files in found if kind == "leak"]
    assert leaked == [
        ("warning", "56 anchors are of the same videos as clips of base_val.txt", 56),
        ("warning", "83 anchors are of the same videos as clips of novel_val.txt", 83),
    ]
    assert ("error", "missing clips", "339 of 369 clips are missing") in [each[:3] for each in found]


def test_anchors_that_are_not_there(place, doctor, tmp_path):
    yaml = tmp_path / "hmdb.yaml"
    yaml.write_text("DATASET:\n  NAME: HMDB51Video\n  ANCHOR:\n    LIST: none.txt\n")
    status, [(severity, kind, what, _)] = doctor("--quick", names=[str(yaml)])
    assert (status, severity, kind) == (1, "error", "anchors") and "none.txt" in what


@pytest.mark.parametrize(("gone", "kind"), [("videos", "incomplete"), ("lists", "incomplete"), (".", "missing")])
def test_missing_folders(gone, kind, place, doctor, tmp_path):
    (place / gone).rename(tmp_path / "elsewhere")
    status, [(severity, found, what, _)] = doctor()
    assert (status, severity, found) == (1, "error", kind) and "there is no folder" in what


def test_own_clips_are_found_by_their_yaml_file(tmp_path, doctor):
    make(tmp_path, "mine")
    (tmp_path / "dogs.yaml").write_text("DATASET:\n  NAME: VideoList\n  FOLDER: mine\n")
    assert doctor("--quick", names=[str(tmp_path / "dogs.yaml")]) == (0, [])


def test_classes_that_read_the_same(place, doctor):
    """One of them is never predicted, whether or not it has clips."""
    rows = ["id,name", f"0,{BASE[0]}", f"1,{BASE[1].upper()}", f"2,{BASE[1]}"]
    write_lines(place / "lists" / "labels" / "base.csv", rows)
    what = "base.csv: 1 texts are shared by several classes, which then have the same prompt"
    pair = [f"'{BASE[1].upper()}' (label 1) and '{BASE[1]}' (label 2)"]
    assert doctor("--quick") == (0, [("warning", "same text", what, pair)])
