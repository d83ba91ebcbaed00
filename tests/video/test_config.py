"""Keys of clips are read where the data are clips, and refused where they are images; and the other way round."""

import re

import pytest
from yacs.config import CfgNode

from anprompt.engine.keys import check_read, check_values
from anprompt.utils.config import SHARED_KEYS, leaves
from anprompt.video.clips import VideoDatasetWrapper
from anprompt.video.config import UNREAD_OF_CLIPS, UNREAD_OF_IMAGES, VIDEO_VALUES
from anprompt.video.dataset import VideoDataset, is_video_data
from anprompt.video.items import VideoDatum
from anprompt.video.transforms import clip_transform
from dassl.data.datasets import DATASET_REGISTRY
from tests.helpers.clips import pictures, write_clip
from tests.video.test_transforms import config

OF_CLIPS = [f"{section}.{key}" for section in ("VIDEO", "DATASET.ANCHOR") for key in SHARED_KEYS[section]]
OF_CLIPS += [f"DATASET.{key}" for key in ("LIST_DIR", "VIDEO_DIR", "SPLIT_SEED", "CLASSNAME_STYLE")]


@pytest.fixture
def clips(make_cfg):
    """A config of a data set of clips."""
    if "SomeClips" not in DATASET_REGISTRY.registered_names():
        DATASET_REGISTRY.register()(type("SomeClips", (VideoDataset,), {}))
    cfg = make_cfg()
    cfg.defrost()
    cfg.DATASET.NAME = "SomeClips"
    return cfg


def changed(cfg, key):
    *parents, last = key.split(".")
    node = cfg
    for parent in parents:
        node = node[parent]
    value = node[last]
    others = {bool: lambda: not value, str: lambda: f"{value}x", tuple: lambda: (*value, 9), list: lambda: [*value, 9]}
    node[last] = others.get(type(value), lambda: value + 1)()
    return cfg


def test_a_data_set_of_clips_is_known_by_its_class(clips):
    assert is_video_data("SomeClips") and not is_video_data("Shapes") and not is_video_data("Nothing")


@pytest.mark.parametrize("key", OF_CLIPS)
def test_a_key_of_clips_is_refused_where_the_data_are_images(key, make_cfg, clips):
    check_read(changed(clips, key))
    cfg = make_cfg()
    cfg.defrost()
    with pytest.raises(ValueError, match=rf"^{re.escape(key)} .*Shapes does not read it, since its data are images"):
        check_read(changed(cfg, key))


@pytest.mark.parametrize("key", [*UNREAD_OF_CLIPS])
def test_a_key_of_images_is_refused_where_the_data_are_clips(key, clips):
    names = [name for name, _ in leaves(clips) if name == key or (key.endswith("_") and name.startswith(key))]
    assert names
    check_read(clips)
    for name in names:
        with pytest.raises(
            ValueError, match=rf"^{re.escape(name)} .*SomeClips does not read it, since its data are clips"
        ):
            check_read(changed(clips.clone(), name))


def test_the_tables_name_all_keys_of_clips_and_no_others():
    assert all(any(key.startswith(start) for start in UNREAD_OF_IMAGES) for key in OF_CLIPS)
    assert all(any(key.startswith(start) for key in OF_CLIPS) for start in UNREAD_OF_IMAGES)
    paths = ("DATASET.LIST_DIR", "DATASET.VIDEO_DIR", "DATASET.ANCHOR.LIST", "DATASET.ANCHOR.VIDEO_DIR")
    assert set(VIDEO_VALUES) == set(OF_CLIPS) - set(paths)


def test_every_key_of_clips_but_the_fusion_of_views_is_read_by_what_makes_items(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.mp4", pictures(3))
    seen, look_up = set(), CfgNode.__getitem__
    cfg = config("VIDEO.NUM_FRAMES", 2)

    def noted(node, name):
        if node is cfg.__dict__.get("VIDEO") or node is dict.__getitem__(cfg, "VIDEO"):
            seen.add(name)
        return look_up(node, name)

    monkeypatch.setattr(CfgNode, "__getitem__", noted)
    for is_train in (True, False):
        items = [VideoDatum(str(tmp_path / "a.mp4"))]
        VideoDatasetWrapper(cfg, items, clip_transform(cfg, is_train), is_train)[0]
    assert seen == set(SHARED_KEYS["VIDEO"]) - {"VIEW_FUSION"}


ODD = {
    "VIDEO.NUM_FRAMES": [0, 1.5, True],
    "VIDEO.TRAIN_SAMPLING": ["center"],
    "VIDEO.TEST_SAMPLING": ["segment"],
    "VIDEO.TEST_CLIPS": [0],
    "VIDEO.TEST_CROPS": [2, True],
    "VIDEO.VIEW_FUSION": ["max"],
    "VIDEO.BACKEND": ["decord", "torchvision", "other"],
    "VIDEO.SHORT_SIDE": [0, 10**9],
    "VIDEO.RESIZE": [(240,), (240, 0), (240.0, 320.0), 240],
    "VIDEO.CROP": ["center"],
    "VIDEO.RRC_SCALE": [(0.5,), (0.9, 0.1), (0.0, 1.0), (0.5, 1.5)],
    "VIDEO.FLIP_P": [1.5],
    "VIDEO.GRAY_P": [-0.1],
    "VIDEO.MAX_RETRIES": [-1],
    "DATASET.SPLIT_SEED": [-1],
    "DATASET.CLASSNAME_STYLE": ["upper"],
    "DATASET.ANCHOR.CHECK_LEAK": ["yes"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ODD.items() for value in values])
def test_a_value_that_cannot_work_is_named(key, value):
    cfg = config()
    check_values(cfg, VIDEO_VALUES)
    *parents, last = key.split(".")
    node = cfg
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(ValueError, match=rf"^{re.escape(key)}\b") as error:
        check_values(cfg, VIDEO_VALUES)
    assert "\n" not in str(error.value)


def test_decord_is_said_not_to_be_used():
    with pytest.raises(ValueError, match="decord and torchvision are not used here"):
        check_values(config("VIDEO.BACKEND", "decord"), ["VIDEO.BACKEND"])
