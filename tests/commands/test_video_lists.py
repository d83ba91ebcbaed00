"""``python -m anprompt video-lists``: few-shot lists that a data set of clips then takes."""

from collections import Counter

import pytest

import datasets
from anprompt.cli import main
from dassl.data.datasets import build_dataset
from tests.helpers.video_data import BASE, NAMES, config, lines, make, write_lines

datasets.register_all()


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path) / "lists"


def read(folder, name):
    return (folder / f"{name}.txt").read_text().splitlines()


def test_so_many_clips_of_each_class_for_each_seed(folder):
    assert main(["video-lists", str(folder), "--shots", "2"]) == 0
    drawn = {name: read(folder, name) for name in ("fs_base_s1", "fs_base_s2", "fs_base_s3", "few_shot_2")}
    for name, chosen in drawn.items():
        names = NAMES if name == "few_shot_2" else BASE
        assert len(set(chosen)) == 2 * len(names) and set(chosen) <= set(lines(names, "train", 4))
        assert set(Counter(line.split()[-1] for line in chosen).values()) == {2}
    assert len(set(map(tuple, drawn.values()))) == 4


def test_a_run_takes_the_lists_and_would_have_drawn_the_same(folder, tmp_path):
    cfg = config(tmp_path, SUBSAMPLE_CLASSES="base", NUM_SHOTS=2, SPLIT_SEED=2)
    without = [item.impath for item in build_dataset(cfg).train_x]
    assert main(["video-lists", str(folder), "--shots", "2", "--seeds", "2"]) == 0
    (folder / "base_train.txt").unlink()
    assert [item.impath for item in build_dataset(cfg).train_x] == without


def test_lists_that_are_there_stay(folder, capsys):
    write_lines(folder / "fs_base_s2.txt", ["mine.avi 0"])
    assert main(["video-lists", str(folder), "--shots", "2"]) == 0
    assert read(folder, "fs_base_s2") == ["mine.avi 0"]
    assert f"{folder / 'fs_base_s2.txt'} is there, and left as it is" in capsys.readouterr().out


def test_lines_are_kept_as_they_were_written(folder):
    """Folders of frames, commas, paths that lead elsewhere; a clip that is listed twice is not drawn twice."""
    written = ["a/x 120 0", "id.mp4, 1", "/data/#1 [b].avi 2", "../c.avi 3"]
    (folder / "train.txt").write_bytes("\r\n".join([*written, written[0], ""]).encode())
    assert main(["video-lists", str(folder)]) == 0
    assert read(folder, "few_shot_16") == written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no train.txt and no base_train.txt in nowhere"),
        (["LISTS", "--shots", "0"], "--shots 0 --seeds 1 2 3: expected numbers from 1 on"),
        (["LISTS", "--seeds", "0"], "--seeds 0: expected"),
    ],
)
def test_mistakes_are_one_line(arguments, message, folder, capsys):
    assert main(["video-lists", *(str(folder) if word == "LISTS" else word for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(folder.glob("fs_*"))


def test_a_damaged_list_is_named_and_nothing_is_written(folder, capsys):
    write_lines(folder / "base_train.txt", ["a.avi 0", "nothing of a list"])
    assert main(["video-lists", str(folder)]) == 2
    assert "base_train.txt, line 2" in capsys.readouterr().err
    assert not list(folder.glob("fs_*"))
