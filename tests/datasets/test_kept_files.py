"""Few-shot subsets and ImageNet's list that no longer fit the data: a run and the doctor say why."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

import datasets
from anprompt.data.split_dataset import make_datum
from anprompt.doctor.checks import examine
from anprompt.utils.config import add_shared_cfg
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from dassl.utils import set_random_seed
from tests.helpers import fakes

datasets.register_all()
CACHE = Path("mine", "split_fewshot", "shot_2-seed_1.pkl")


def cfg_of(root, name="ImageFolder", shots=2, classes="all"):
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    cfg.merge_from_list(["DATASET.NAME", name, "DATASET.ROOT", str(root), "DATASET.NUM_SHOTS", shots, "SEED", 1])
    cfg.DATASET.FOLDER, cfg.DATASET.SUBSAMPLE_CLASSES = "mine", classes
    return cfg


def build(root, **options):
    cfg = cfg_of(root, **options)
    set_random_seed(1)
    return build_dataset(cfg)


def findings(root, name="ImageFolder"):
    cfg = cfg_of(root, name)
    return examine(DATASET_REGISTRY.get(name).located(cfg), "it").problems


def refused(root, message, **options):
    """A run refuses, and the doctor gives the same reason as an error that ``--repair`` mends."""
    with pytest.raises(ValueError, match=message) as error:
        build(root, **options)
    (stale,) = [
        finding for finding in findings(root, options.get("name", "ImageFolder")) if finding.kind == "stale cache"
    ]
    assert stale.severity == "error" and stale.what == str(error.value) and stale.stale


@pytest.fixture
def mine(tmp_path):
    """Own images of three classes, with a kept subset of two shots."""
    fakes.make_folders(tmp_path)
    build(tmp_path)
    return tmp_path


def edit(root, change):
    """``change`` the pickle; the JSON is removed."""
    parts = pickle.loads((root / CACHE).read_bytes())
    change(parts)
    (root / CACHE).write_bytes(pickle.dumps(parts))
    (root / CACHE).with_suffix(".json").unlink()


def test_a_subset_that_fits_is_used_as_it_is(mine):
    edit(mine, lambda parts: parts["train"].reverse())
    kept = pickle.loads((mine / CACHE).read_bytes())["train"]
    assert [item.impath for item in build(mine).train_x] == [item.impath for item in kept]
    assert findings(mine) == []


@pytest.mark.parametrize("classes", ["all", "base", "new"])
def test_a_class_that_came_later_is_not_left_out(mine, classes):
    fakes.make_folders(mine, classes=("zebra",))
    refused(mine, "holds 0 train images of 'zebra' .label 3., expected 2: it belongs to other data", classes=classes)


def test_a_class_that_was_small_has_grown(tmp_path):
    fakes.make_folders(tmp_path)
    build(tmp_path, shots=16)
    for number in range(20, 40):
        fakes.write_image(tmp_path / "mine/train/ant" / f"{number}.jpg")
    refused(tmp_path, "holds 6 train images of 'ant' .label 0., expected 16", shots=16)


def test_more_images_than_are_drawn_change_nothing(mine):
    before = [item.impath for item in build(mine).train_x]
    fakes.write_image(mine / "mine/train/ant/99.jpg")
    assert [item.impath for item in build(mine).train_x] == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts["train"].pop(), "holds 1 train images of 'red fox'"),
        (lambda parts: parts["val"].clear(), "holds 0 val images of 'ant'"),
        (lambda parts: parts.pop("train"), "holds 0 train images of 'ant'"),
        (lambda parts: parts["train"].append(parts["train"][0]), "holds .*/ant/.* more than once in its train images"),
        (lambda parts: parts["train"].__setitem__(0, parts["train"][1]), "more than once"),
        (lambda parts: parts["train"].extend(parts["val"]), "is not in the train part of the split"),
        (lambda parts: vars(parts["train"][0]).update(_label=2), "with label 2, which is not in the train part"),
    ],
)
def test_a_subset_that_is_none_is_refused(mine, change, message):
    edit(mine, change)
    refused(mine, message)


def test_more_shots_than_the_name_says_are_refused(mine):
    build(mine, shots=4)
    shutil.copy((mine / CACHE).with_name("shot_4-seed_1.pkl"), mine / CACHE)
    refused(mine, r"shot_2-seed_1\.pkl holds 4 train images of 'ant' .label 0., expected 2")


def test_more_validation_images_than_coops_four_do_no_harm(tmp_path):
    fakes.make_folders(tmp_path)
    dataset = build(tmp_path, shots=6)
    path = tmp_path / CACHE.with_name("shot_6-seed_1.pkl")
    parts = pickle.loads(path.read_bytes())
    parts["val"] = [
        make_datum(str(tmp_path / f"mine/val/{name.replace(' ', '_')}/img_{index:02d}.jpg"), label, name)
        for label, name in enumerate(dataset.classnames)
        for index in fakes.PARTS["val"]
    ]
    path.write_bytes(pickle.dumps(parts))
    assert len(build(tmp_path, shots=6).val) == 15


def test_the_file_that_is_read_is_the_one_that_is_named(mine):
    twin = (mine / CACHE).with_suffix(".json")
    content = json.loads(twin.read_text())
    content["train"].pop()
    twin.write_text(json.dumps(content))
    (mine / CACHE).unlink()
    refused(mine, r"shot_2-seed_1\.json holds 1 train images.*Delete it to have")
    twin.write_text('{"train": [], "val": [], "train": []}')
    with pytest.raises(ValueError, match=r"shot_2-seed_1\.json .*'train' is there twice, in line 1, column 2 and"):
        build(mine)


def test_the_twin_is_named_where_it_would_be_read_next(mine):
    fakes.make_folders(mine, classes=("zebra",))
    with pytest.raises(ValueError, match=r"pkl holds .* Delete it and shot_2-seed_1\.json beside it to have"):
        build(mine)
    for file in (mine / CACHE).parent.iterdir():
        file.unlink()
    assert len(build(mine).train_x) == 8


def test_numpys_numbers_are_told_as_such(mine):
    import numpy as np

    edit(mine, lambda parts: vars(parts["train"][0]).update(_label=np.int64(0)))
    with pytest.raises(ValueError, match=r"it names numpy\..*Its labels or paths are NumPy's.*int\(label\)"):
        build(mine)


# ---------------------------------------------------------------------------------------------- ImageNet's list


@pytest.fixture
def imagenet(tmp_path):
    fakes.make_imagenet(tmp_path)
    build(tmp_path, name="ImageNet", shots=1)
    shutil.rmtree(tmp_path / "imagenet/split_fewshot")
    return tmp_path


def test_a_corrected_class_name_counts(imagenet, caplog):
    names = imagenet / "imagenet/classnames.txt"
    names.write_text(names.read_text().replace("tench", "tench fish"))
    assert build(imagenet, name="ImageNet").classnames == ["tench fish", "goldfish", "great white shark"]
    assert "calls 1 classes otherwise than classnames.txt, which counts, such as n01440764 'tench' ->" in caplog.text
    kinds = [(finding.severity, finding.kind) for finding in findings(imagenet, "ImageNet")]
    assert ("warning", "renamed classes") in kinds and ("error", "stale cache") not in kinds


@pytest.mark.parametrize("place", ["train/n01440764/new.JPEG", "val/n01440764/new.JPEG", "train/n02000000/new.JPEG"])
def test_images_that_came_later_are_not_left_out(imagenet, place):
    fakes.write_image(imagenet / "imagenet/images" / place)
    with (imagenet / "imagenet/classnames.txt").open("a") as file:
        file.write("n02000000 new thing\n")
    if "n02" in place:
        fakes.write_image(imagenet / "imagenet/images/val/n02000000/new.JPEG")
    refused(imagenet, r"preprocessed\.pkl lacks 1 images that are in .*new\.JPEG", name="ImageNet")


def test_labels_in_another_order_are_refused(imagenet):
    path = imagenet / "imagenet/preprocessed.pkl"
    parts = pickle.loads(path.read_bytes())
    for item in (*parts["train"], *parts["test"]):
        vars(item)["_label"] = 2 - item.label
    path.write_bytes(pickle.dumps(parts))
    refused(imagenet, "the label 2: expected 0, its place in order", name="ImageNet")


def test_a_list_of_more_images_than_are_kept_is_used(imagenet):
    """Who keeps only the images of a subset, and CoOp's list of all, has all that is needed."""
    listed = build(imagenet, name="ImageNet", shots=1).train_x
    for path in (imagenet / "imagenet/images/train").glob("*/*"):
        if str(path) not in {item.impath for item in listed}:
            path.unlink()
    (imagenet / "imagenet/classnames.txt").unlink()  # as CoOp: the list has the names
    assert [vars(item) for item in build(imagenet, name="ImageNet", shots=1).train_x] == [vars(item) for item in listed]


def test_what_is_no_image_is_neither_listed_nor_missed(imagenet):
    for part in ("train", "val"):
        (imagenet / f"imagenet/images/{part}/n01440764/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    assert len(build(imagenet, name="ImageNet").test) == 3
    (imagenet / "imagenet/preprocessed.pkl").unlink()
    assert all(not item.impath.endswith(".db") for item in build(imagenet, name="ImageNet", shots=-1).train_x)
