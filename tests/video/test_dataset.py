"""Data sets of clips: which lists and classes a config means, and what is said where they do not fit."""

import logging

import pytest

import datasets
from anprompt.prompts.templates import prompts_for
from anprompt.utils.config import dataset_id
from anprompt.video.dataset import is_video_data, split_words
from anprompt.video.items import VideoDatum
from dassl.data.datasets import build_dataset
from tests.helpers import REPOSITORY
from tests.helpers.video_data import BASE, NAMES, NEW, SHOTS, clip, config, lines, make, write_lines

datasets.register_all()
NAMES_OF_CLIPS = {
    "hmdb51_video": "HMDB51Video",
    "ucf101_video": "UCF101Video",
    "ssv2_video": "SSv2Video",
    "kinetics400_video": "Kinetics400Video",
}


@pytest.fixture
def place(tmp_path):
    return make(tmp_path)


@pytest.fixture
def build(tmp_path):
    def build(**data):
        return build_dataset(config(tmp_path, **data))

    return build


def found(items, place):
    """``path label`` of each item, as lists say."""
    return [f"{item.impath[len(str(place / 'videos')) + 1 :]} {item.label}" for item in items]


def per_class(items):
    return [sum(item.label == label for item in items) for label in sorted({item.label for item in items})]


# ---------------------------------------------------------------------------------------------- classes and lists


@pytest.mark.parametrize(("subset", "names"), [("base", BASE), ("new", NEW), ("all", NAMES)])
def test_labels_of_each_half_begin_at_0_and_classes_are_the_rows_of_its_label_file(subset, names, place, build):
    dataset = build(SUBSAMPLE_CLASSES=subset)
    assert dataset.classnames == names
    assert dataset.num_classes == len(names)
    assert dataset.lab2cname == dict(enumerate(names))
    for items in (dataset.train_x, dataset.val, dataset.test):
        assert sorted({item.label for item in items}) == list(range(len(names)))
        assert all(isinstance(item, VideoDatum) and item.classname == names[item.label] for item in items)
    assert found(dataset.test, place) == found(dataset.val, place) == lines(names, "test", 2)


def test_only_the_names_and_their_number_differ_between_base_and_new(place, build):
    base, new = (vars(build(SUBSAMPLE_CLASSES=subset)) for subset in ("base", "new"))
    differ = {key for key in base if base[key] != new[key]}
    assert differ == {"names", "_classnames", "_lab2cname", "_num_classes", "_train_x", "_val", "_test"}


@pytest.mark.parametrize("classless", BASE)
def test_a_class_without_a_training_clip_keeps_its_place(classless, place, build, caplog):
    kept = [line for line in lines(BASE, "train", SHOTS) if not line.startswith(classless.replace(" ", "_"))]
    write_lines(place / "lists" / "base_train.txt", kept)
    dataset = build(SUBSAMPLE_CLASSES="base")
    assert dataset.classnames == BASE and dataset.num_classes == 3
    assert found(dataset.train_x, place) == kept
    assert f"1 classes have no clip to train with, such as '{classless}'" in caplog.text


def test_new_classes_have_no_clips_to_train_with_but_those_of_the_test(place, build):
    dataset = build(SUBSAMPLE_CLASSES="new", NUM_SHOTS=16)
    assert dataset.train_x is dataset.test
    assert dataset.train_u is None


def test_all_training_clips_without_a_number_of_shots(place, build):
    assert found(build(SUBSAMPLE_CLASSES="base").train_x, place) == lines(BASE, "train", SHOTS)
    assert found(build().train_x, place) == lines(NAMES, "train", SHOTS)


@pytest.mark.parametrize(
    ("subset", "name", "names"), [("base", "fs_base_s2", BASE), ("all", "few_shot_3", NAMES)], ids=["base", "all"]
)
def test_the_list_of_few_clips_is_taken_as_it_is(subset, name, names, place, build):
    chosen = [line for line in lines(names, "train", SHOTS) if "train_2" not in line]
    write_lines(place / "lists" / f"{name}.txt", chosen)
    assert found(build(SUBSAMPLE_CLASSES=subset, NUM_SHOTS=3, SPLIT_SEED=2).train_x, place) == chosen


def test_another_number_of_shots_is_drawn_from_all_by_the_seed_of_the_split(place, build):
    write_lines(place / "lists" / "fs_base_s1.txt", lines(BASE, "train", 3))
    drawn = {}
    for seed in (1, 2, 3):
        items = build(SUBSAMPLE_CLASSES="base", NUM_SHOTS=2, SPLIT_SEED=seed).train_x
        assert per_class(items) == [2, 2, 2]
        drawn[seed] = found(items, place)
        assert set(drawn[seed]) <= set(lines(BASE, "train", SHOTS))
        assert drawn[seed] == found(build(SUBSAMPLE_CLASSES="base", NUM_SHOTS=2, SPLIT_SEED=seed).train_x, place)
    assert len(set(map(tuple, drawn.values()))) > 1


def test_classes_with_fewer_clips_than_shots_are_told_of(place, build, caplog):
    few = [
        line for line in lines(BASE, "train", SHOTS) if not line.startswith(("cartwheel/train_2", "cartwheel/train_3"))
    ]
    write_lines(place / "lists" / "base_train.txt", few)
    assert per_class(build(SUBSAMPLE_CLASSES="base", NUM_SHOTS=2).train_x) == [2, 2, 2]
    assert "fewer clips" not in caplog.text
    assert per_class(build(SUBSAMPLE_CLASSES="base", NUM_SHOTS=3).train_x) == [3, 2, 3]
    assert "1 classes have fewer clips in it, such as 'cartwheel': all are taken" in caplog.text


def test_without_a_split_seed_the_seed_of_the_run_says_which_list(place, tmp_path, build):
    cfg = config(tmp_path, SUBSAMPLE_CLASSES="base", NUM_SHOTS=2)
    for seed in (1, 2, 3):
        cfg.SEED = seed
        of_run = found(build_dataset(cfg).train_x, place)
        assert of_run == found(build(SUBSAMPLE_CLASSES="base", NUM_SHOTS=2, SPLIT_SEED=seed).train_x, place)


def test_fewer_shots_are_drawn_from_the_list_of_few_where_there_is_no_other(place, build):
    write_lines(place / "lists" / "fs_base_s1.txt", lines(BASE, "train", 3))
    (place / "lists" / "base_train.txt").unlink()
    items = build(SUBSAMPLE_CLASSES="base", NUM_SHOTS=2).train_x
    assert per_class(items) == [2, 2, 2] and set(found(items, place)) <= set(lines(BASE, "train", 3))


def test_more_shots_than_the_only_list_has_are_refused(place, build):
    write_lines(place / "lists" / "fs_base_s1.txt", lines(BASE, "train", 3))
    (place / "lists" / "base_train.txt").unlink()
    with pytest.raises(FileNotFoundError, match="fs_base_s1.txt.*it has at most 3 clips of a class.*base_train.txt"):
        build(SUBSAMPLE_CLASSES="base", NUM_SHOTS=4)


@pytest.mark.parametrize("name", ["base_val", "novel_val", "val1", "base_train"])
def test_a_missing_list_is_named_with_the_place(name, place, build):
    (place / "lists" / f"{name}.txt").unlink()
    subset = {"novel_val": "new", "val1": "all"}.get(name, "base")
    with pytest.raises(FileNotFoundError, match=f"misses {name}.txt: looked for {place}/lists/{name}.txt.*LIST_DIR"):
        build(SUBSAMPLE_CLASSES=subset)


def test_where_few_shots_are_missing_the_command_that_draws_them_is_named(place, build):
    (place / "lists" / "base_train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=f"python -m anprompt video-lists {place}/lists --shots 8`.*base_train"):
        build(SUBSAMPLE_CLASSES="base", NUM_SHOTS=8)


def test_the_test_list_of_all_classes_may_be_called_val(place, build):
    (place / "lists" / "val1.txt").rename(place / "lists" / "val.txt")
    assert found(build().test, place) == lines(NAMES, "test", 2)


# ---------------------------------------------------------------------------------------------- label files


def test_published_label_files_keep_their_names(place, build):
    labels = place / "lists" / "labels"
    for name, published in {"full": "hmdb_51", "base": "hmdb_base", "novel": "hmdb_51_novel_labels"}.items():
        (labels / f"{name}.csv").rename(labels / f"{published}.csv")
    for subset, names in {"all": NAMES, "base": BASE, "new": NEW}.items():
        assert build(SUBSAMPLE_CLASSES=subset).classnames == names


def test_two_label_files_for_the_same_classes_are_refused(place, build):
    labels = place / "lists" / "labels"
    (labels / "base.csv").rename(labels / "hmdb_base.csv")
    (labels / "ucf_base.csv").write_text("id,name\n0,a\n")
    with pytest.raises(ValueError, match=r"hmdb_base.csv and .*ucf_base.csv may both.*labels/base.csv"):
        build(SUBSAMPLE_CLASSES="base")


def test_a_missing_label_file_is_named(place, build):
    (place / "lists" / "labels" / "novel.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"misses novel.csv: looked for .*labels/novel.csv"):
        build(SUBSAMPLE_CLASSES="new")


def test_the_labels_of_base_clips_do_not_go_with_the_names_of_new_classes(place, build):
    """The release trains UCF-101 so: 51 labels with 50 names."""
    labels = place / "lists" / "labels"
    (labels / "novel.csv").replace(labels / "base.csv")
    with pytest.raises(ValueError, match=r"base_val.txt: .*has the label 2, but its label file names 2 classes"):
        build(SUBSAMPLE_CLASSES="base")


def test_a_clip_with_two_labels_is_refused(place, build):
    write_lines(place / "lists" / "base_val.txt", [*lines(BASE, "test", 2), f"{clip('catch', 'test', 0)} 0"])
    with pytest.raises(ValueError, match=r"base_val.txt: .*catch/test_0.avi has the labels 2 and 0"):
        build(SUBSAMPLE_CLASSES="base")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BasketballDunk", "basketball dunk"),
        ("YoYo", "yo yo"),
        ("brush_hair", "brush hair"),
        ("TVShow", "tv show"),
        ("Putting [something] into", "putting [something] into"),
    ],
)
def test_split_class_names(name, words):
    assert split_words(name) == words


def test_class_names_are_written_as_the_style_says(place, build):
    write_lines(place / "lists" / "labels" / "novel.csv", ["id,name", "0,BasketballDunk", '1,"Put it down, slowly"'])
    assert build(SUBSAMPLE_CLASSES="new").classnames == ["BasketballDunk", "Put it down, slowly"]
    split = build(SUBSAMPLE_CLASSES="new", CLASSNAME_STYLE="split").classnames
    assert split == ["basketball dunk", "put it down, slowly"]


# ---------------------------------------------------------------------------------------------- clips


def test_a_missing_clip_of_the_test_is_an_error(place, build):
    path = place / "videos" / clip("clap", "test", 1)
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=f"1 of 4 clips of .*novel_val.txt are missing, such as {path}.*VIDEO_DIR"
    ):
        build(SUBSAMPLE_CLASSES="new")


def test_missing_clips_of_the_training_are_left_out_and_counted(place, build, caplog):
    for number in (1, 3):
        (place / "videos" / clip("catch", "train", number)).unlink()
    items = build(SUBSAMPLE_CLASSES="base").train_x
    assert per_class(items) == [SHOTS, SHOTS, SHOTS - 2]
    assert "2 of 12 clips of" in caplog.text and "catch/train_1.avi" in caplog.text


def test_a_training_without_a_single_clip_is_an_error(place, build):
    for path in (place / "videos").glob("*/train_*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="12 of 12 clips of .*base_train.txt"):
        build(SUBSAMPLE_CLASSES="base")


def test_clips_that_are_listed_twice_count_once(place, build, caplog):
    write_lines(place / "lists" / "base_train.txt", lines(BASE, "train", SHOTS) * 2)
    assert len(build(SUBSAMPLE_CLASSES="base").train_x) == len(BASE) * SHOTS
    assert "base_train.txt lists 12 clips again" in caplog.text


def test_clips_that_are_trained_with_and_tested_are_told_of(place, build, caplog):
    assert build(SUBSAMPLE_CLASSES="base") and not caplog.records
    write_lines(place / "lists" / "base_train.txt", [*lines(BASE, "train", 1), *lines(BASE, "test", 1)])
    build(SUBSAMPLE_CLASSES="base")
    assert "3 clips are trained with and tested" in caplog.text


def test_classes_that_read_the_same_are_told_of_without_a_clip(place, build, caplog):
    kept = [line for line in lines(BASE, "test", 2) if not line.startswith("catch")]
    write_lines(place / "lists" / "base_val.txt", kept)
    write_lines(
        place / "lists" / "labels" / "base.csv",
        ["id,name", *(f"{i},{n}" for i, n in enumerate(BASE[:2])), "2,Cartwheel"],
    )
    build(SUBSAMPLE_CLASSES="base")
    assert "such as 'cartwheel' (label 1) and 'Cartwheel' (label 2)" in caplog.text


def test_choosing_the_epoch_on_the_clips_of_the_test_is_told_of(place, tmp_path, caplog):
    cfg = config(tmp_path, SUBSAMPLE_CLASSES="base")
    cfg.TEST.FINAL_MODEL = "best_val"
    build_dataset(cfg)
    assert "chosen on the clips of the test" in caplog.text


def test_folders_may_lie_anywhere(place, build, tmp_path):
    (place / "lists").rename(tmp_path / "my lists")
    (place / "videos").rename(place / "clips")
    dataset = build(LIST_DIR=str(tmp_path / "my lists"), VIDEO_DIR="clips", SUBSAMPLE_CLASSES="new")
    assert dataset.test[0].impath == str(place / "clips" / "chew" / "test_0.avi")


def test_folders_of_frames_are_found_below_frames(place, tmp_path):
    for line in lines(NEW, "test", 2):
        (place / "frames" / line.partition(".")[0]).mkdir(parents=True)
    cfg = config(tmp_path, SUBSAMPLE_CLASSES="new")
    cfg.VIDEO.BACKEND = "frames"
    assert build_dataset(cfg).test[0].impath == str(place / "frames" / "chew" / "test_0")


@pytest.mark.parametrize(("gone", "key"), [("lists", "LIST_DIR"), ("videos", "VIDEO_DIR"), (".", "--root")])
def test_a_missing_folder_is_named_with_the_key_of_another(gone, key, place, build):
    (place / gone).rename(place.parent / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"there is no folder {place / gone}: name another with .*{key}"):
        build()


# ---------------------------------------------------------------------------------------------- anchors


def make_anchors(place, paths):
    write_lines(place / "lists" / "irrelevant.txt", [f"{path} 0" for path in paths])
    for path in paths:
        (place / "k600" / path).parent.mkdir(parents=True, exist_ok=True)
        (place / "k600" / path).touch()


def test_anchors_are_train_u(place, build):
    make_anchors(place, ["vol_01/abcdefghijk_000001_000011.mp4", "vol_02/x.mp4"])
    dataset = build(SUBSAMPLE_CLASSES="base", ANCHOR_LIST="irrelevant.txt", ANCHOR_VIDEO_DIR="k600")
    assert [item.impath for item in dataset.train_u] == [
        str(place / "k600" / "vol_01" / "abcdefghijk_000001_000011.mp4"),
        str(place / "k600" / "vol_02" / "x.mp4"),
    ]
    assert {item.label for item in dataset.train_u} == {0}
    assert dataset.num_classes == 3


def test_without_a_list_there_are_no_anchors(place, build):
    assert build(SUBSAMPLE_CLASSES="base").train_u is None


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "irrelevant.txt is empty"), ("gone.mp4 0\n", "no clip at .*gone.mp4.*ANCHOR.VIDEO_DIR")],
)
def test_anchors_that_are_not_there_are_an_error(content, message, place, build):
    (place / "lists" / "irrelevant.txt").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(SUBSAMPLE_CLASSES="base", ANCHOR_LIST="irrelevant.txt")


def leaking(place):
    """Two anchors of tested videos, one in each half, and one that is none."""
    for name, names in {"base_val": BASE, "novel_val": NEW}.items():
        path = f"val/{name[:4]}_-45678_000010_000020.mp4"
        write_lines(place / "lists" / f"{name}.txt", [*lines(names, "test", 2), f"{path} 0"])
        (place / "videos" / path).parent.mkdir(exist_ok=True)
        (place / "videos" / path).touch()
    make_anchors(place, ["vol_00/base_-45678_000001_000011.mp4", "nove_-45678.webm", "nove_-45679.webm"])
    return {"SUBSAMPLE_CLASSES": "base", "ANCHOR_LIST": "irrelevant.txt", "ANCHOR_VIDEO_DIR": "k600"}


def test_anchors_of_tested_videos_are_told_of(place, build, caplog):
    dataset = build(**leaking(place))
    assert "(1 in base_val.txt, 1 in novel_val.txt)" in caplog.text
    assert "vol_00/base_-45678_000001_000011.mp4 and" in caplog.text
    assert len(dataset.train_u) == 3


def test_anchors_of_tested_videos_may_be_an_error_or_nothing(place, build, caplog):
    with pytest.raises(ValueError, match="take them out of the anchors"):
        build(**leaking(place), ANCHOR_CHECK_LEAK="error")
    caplog.clear()
    build(**leaking(place), ANCHOR_CHECK_LEAK="off")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# ---------------------------------------------------------------------------------------------- the data sets


@pytest.mark.parametrize(("stem", "name"), NAMES_OF_CLIPS.items())
def test_each_lies_in_the_folder_that_is_called_as_its_file(stem, name, tmp_path):
    place = make(tmp_path, stem)
    cfg = config(tmp_path, SUBSAMPLE_CLASSES="new")
    cfg.merge_from_file(str(REPOSITORY / "configs" / "datasets" / f"{stem}.yaml"))
    dataset = build_dataset(cfg)
    assert type(dataset).__name__ == name and dataset.dataset_dir == str(place)
    assert prompts_for(name, dataset.classnames) == ["a video of a person chew.", "a video of a person clap."]


def test_ssv2_is_not_mirrored(tmp_path):
    cfg = config(tmp_path)
    cfg.merge_from_file(str(REPOSITORY / "configs" / "datasets" / "ssv2_video.yaml"))
    assert (cfg.VIDEO.FLIP_P, tuple(cfg.VIDEO.RESIZE), cfg.VIDEO.CROP) == (0, (240, 320), "multiscale")


def test_own_clips_need_a_yaml_file_alone(tmp_path):
    place = make(tmp_path, "mine")
    (tmp_path / "dogs.yaml").write_text("DATASET:\n  NAME: VideoList\n  FOLDER: mine\n  SUBSAMPLE_CLASSES: new\n")
    cfg = config(tmp_path)
    cfg.merge_from_file(str(tmp_path / "dogs.yaml"))
    dataset = build_dataset(cfg)
    assert found(dataset.test, place) == lines(NEW, "test", 2)
    assert dataset_id(cfg) == "mine"
    assert prompts_for("VideoList", dataset.classnames)[0] == "a video of chew."


@pytest.mark.parametrize(
    ("name", "clips"), [("Moves", True), ("VideoList", True), ("Shapes", False), ("UCF101", False), ("Nothing", False)]
)
def test_which_data_are_clips(name, clips):
    assert is_video_data(name) is clips
