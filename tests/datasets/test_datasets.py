"""Datasets: CoOp's folders, splits, few-shot subsets and class halves; and what missing or damaged files get."""

import json
import math
import os
import pickle
import pickletools
import random
import shutil

import pytest

import datasets
from anprompt.data import split_dataset, split_files
from anprompt.data.split_dataset import SplitDataset, make_datum
from anprompt.utils.config import add_shared_cfg
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, Datum, build_dataset
from tests.helpers import REPOSITORY, fakes

datasets.register_all()


def build(root, stem, shots=-1, seed=1, classes="all"):
    cfg = get_cfg_default()
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    cfg.merge_from_file(str(REPOSITORY / "configs" / "datasets" / f"{stem}.yaml"))
    cfg.merge_from_list(["DATASET.ROOT", str(root), "DATASET.NUM_SHOTS", shots, "SEED", seed])
    cfg.DATASET.SUBSAMPLE_CLASSES = classes
    random.seed(seed)
    return build_dataset(cfg)


def entries(items, image_dir):
    return [[os.path.relpath(item.impath, image_dir), item.label, item.classname] for item in items]


@pytest.fixture
def caltech(tmp_path):
    """``(root, split)`` of a small Caltech101."""
    return tmp_path, fakes.make_split_dataset(tmp_path, "Caltech101")


def cache_of(root, shots=4, seed=1):
    return root / "caltech-101" / "split_fewshot" / f"shot_{shots}-seed_{seed}.pkl"


# ---------------------------------------------------------------------------------------------- layouts


def test_every_dataset_config_names_a_registered_dataset():
    for path in (REPOSITORY / "configs" / "datasets").glob("*.yaml"):
        cfg = get_cfg_default()
        add_shared_cfg(cfg)
        cfg.merge_from_file(str(path))
        assert cfg.DATASET.NAME in DATASET_REGISTRY.registered_names(), path.name


@pytest.mark.parametrize("name", fakes.SPLIT_LAYOUTS)
def test_split_file_is_read_in_its_order(name, tmp_path):
    stem, folder, images, _ = fakes.SPLIT_LAYOUTS[name]
    split = fakes.make_split_dataset(tmp_path, name)
    dataset = build(tmp_path, stem)
    assert type(dataset).__name__ == name
    for part, items in (("train", dataset.train_x), ("val", dataset.val), ("test", dataset.test)):
        assert entries(items, tmp_path / folder / images) == split[part]
    assert dataset.classnames == [f"kind {label}" for label in range(5)]


def test_aircraft_labels_follow_the_list_of_variants(tmp_path):
    fakes.make_aircraft(tmp_path)
    dataset = build(tmp_path, "fgvc_aircraft")
    assert dataset.classnames == ["Boeing 707", "A300", "Cessna 172"]
    assert entries(dataset.test, tmp_path / "fgvc_aircraft" / "images") == [
        ["0008.jpg", 2, "Cessna 172"],
        ["0009.jpg", 0, "Boeing 707"],
        ["0010.jpg", 1, "A300"],
    ]
    assert len(dataset.train_x) == 4


def test_imagenet_lists_sorted_folders_and_tests_on_its_validation_images(tmp_path):
    fakes.make_imagenet(tmp_path)
    dataset = build(tmp_path, "imagenet")
    expected = [
        [f"train/{synset}/{synset}_{index}.JPEG", label, text]
        for label, (synset, text) in enumerate(fakes.WORDNET.items())
        for index in range(3)
    ]
    assert entries(dataset.train_x, tmp_path / "imagenet" / "images") == expected
    assert entries(dataset.val, tmp_path) == entries(dataset.test, tmp_path)
    assert [item.classname for item in dataset.test] == list(fakes.WORDNET.values())


def test_imagenet_samples_train_only(tmp_path):
    fakes.make_imagenet(tmp_path)
    dataset = build(tmp_path, "imagenet", shots=1)
    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (3, 3, 3)
    assert list(pickle.loads((tmp_path / "imagenet/split_fewshot/shot_1-seed_1.pkl").read_bytes())) == ["train"]


def test_imagenet_listing_of_a_moved_root_keeps_its_order(tmp_path):
    fakes.make_imagenet(tmp_path / "old")
    first = build(tmp_path / "old", "imagenet").train_x
    cache = tmp_path / "old" / "imagenet" / "preprocessed.pkl"
    listing = pickle.loads(cache.read_bytes())
    assert sorted(listing) == ["test", "train"]
    listing["train"].reverse()  # as another file system would have listed it to CoOp
    cache.write_bytes(pickle.dumps(listing))
    shutil.move(tmp_path / "old", tmp_path / "new")
    moved = build(tmp_path / "new", "imagenet").train_x
    assert (tmp_path / "new" / "imagenet" / "preprocessed.pkl").read_bytes() == pickle.dumps(listing)  # left as it was
    assert [item.impath for item in moved] == [item.impath.replace("/old/", "/new/") for item in reversed(first)]


def test_imagenet_listing_of_removed_images_says_what_to_delete(tmp_path):
    fakes.make_imagenet(tmp_path)
    build(tmp_path, "imagenet")
    shutil.rmtree(tmp_path / "imagenet/images/val/n01443537")
    with pytest.raises(FileNotFoundError, match=r"1 of 12 images are missing.*delete .*preprocessed\.pkl"):
        build(tmp_path, "imagenet")


def test_imagenet_listing_is_kept_only_when_it_is_sound(tmp_path):
    fakes.make_imagenet(tmp_path)
    shutil.rmtree(tmp_path / "imagenet/images/train/n01443537")
    with pytest.raises(ValueError, match="the label 1 has two names"):
        build(tmp_path, "imagenet")
    assert not (tmp_path / "imagenet" / "preprocessed.pkl").exists()


@pytest.mark.parametrize("content", [{"train": []}, {"train": [], 3: []}, []])
def test_imagenet_listing_of_another_form_is_refused(tmp_path, content):
    fakes.make_imagenet(tmp_path)
    (tmp_path / "imagenet" / "preprocessed.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"preprocessed\.pkl.*Delete it"):
        build(tmp_path, "imagenet")


def test_imagenet_lists_that_ask_for_class_folders(tmp_path):
    fakes.make_imagenet(tmp_path)
    for file in list((tmp_path / "imagenet/images/val").glob("*/*")):  # as the archive holds them
        file.rename(tmp_path / "imagenet/images/val" / file.name)
        file.parent.rmdir()
    with pytest.raises(ValueError, match="images/val has no folders: its images belong into one folder per class"):
        build(tmp_path, "imagenet")


def test_imagenetv2_follows_the_order_of_the_class_names(tmp_path):
    fakes.make_variant(tmp_path, "ImageNetV2")
    names = tmp_path / "imagenetv2" / "classnames.txt"
    names.write_text("\n".join(reversed(names.read_text().splitlines())))
    assert build(tmp_path, "imagenetv2").lab2cname == {0: "great white shark", 1: "goldfish", 2: "tench"}
    names.write_text("\n".join(names.read_text().splitlines()[:2]))
    with pytest.raises(ValueError, match="there is a folder .*2, but classnames.txt ends after 2 classes"):
        build(tmp_path, "imagenetv2")


def test_class_without_a_name_is_named(tmp_path):
    fakes.make_variant(tmp_path, "ImageNetR")
    (tmp_path / "imagenet-rendition" / "classnames.txt").write_text("n01440764 tench\nn01443537\n")
    with pytest.raises(ValueError, match="'n01443537' has no class name"):
        build(tmp_path, "imagenet_r")


@pytest.mark.parametrize("name", fakes.VARIANT_LAYOUTS)
def test_imagenet_variants_are_test_sets_that_ignore_shots(name, tmp_path):
    fakes.make_variant(tmp_path, name)
    dataset = build(tmp_path, fakes.VARIANT_LAYOUTS[name][0], shots=16)
    assert dataset.classnames == list(fakes.WORDNET.values())
    assert [item.label for item in dataset.test] == [0, 1, 2]
    assert [item.impath for item in dataset.train_x] == [item.impath for item in dataset.test]
    assert not dataset.val


def test_imagenet_a_counts_its_own_classes_from_zero(tmp_path):
    fakes.make_variant(tmp_path, "ImageNetA", leave_out="n01443537")
    assert build(tmp_path, "imagenet_a").lab2cname == {0: "tench", 1: "great white shark"}


# ---------------------------------------------------------------------------------------------- few-shot subsets


def expected_subset(split, shots, seed):
    """CoOp's draw, derived anew: classes in order of first appearance, train first, then at most 4 for val."""
    random.seed(seed)
    subset = {}
    for part, count in (("train", shots), ("val", min(shots, 4))):
        groups = {}
        for item in split[part]:
            groups.setdefault(item[1], []).append(item)
        subset[part] = [
            item
            for group in groups.values()
            for item in (random.sample(group, count) if len(group) >= count else group)
        ]
    return subset


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("shots", [1, 2, 5, 16])
def test_subset_is_coops(caltech, shots, seed):
    root, split = caltech
    images = root / "caltech-101" / "101_ObjectCategories"
    expected = expected_subset(split, shots, seed)
    for _ in ("drawn", "cached"):
        dataset = build(root, "caltech101", shots, seed)
        assert entries(dataset.train_x, images) == expected["train"]
        assert entries(dataset.val, images) == expected["val"]
        assert len(dataset.test) == 15


class Toy(SplitDataset):
    """The dataset of the cache in fixtures/, which Dassl 0.6.3 and CoOp's code wrote on another machine."""

    folder = "toy"
    image_folder = "images"
    split_file = "split.json"


@pytest.fixture
def toy(tmp_path):
    names = ["red_fox", "blue_jay", "green_frog", "gold_fish", "black_bear"]
    parts = {"train": range(10), "val": range(10, 14), "test": range(14, 20)}
    split = {
        part: [[f"class_{c}/img_{i:02d}.png", c, name] for c, name in enumerate(names) for i in indices]
        for part, indices in parts.items()
    }
    for path, _, _ in sum(split.values(), []):
        fakes.write_image(tmp_path / "toy" / "images" / path)
    (tmp_path / "toy" / "split.json").write_text(json.dumps(split))
    return tmp_path


# Class/image numbers that CoOp's code drew for seed 1 and 4 shots.
TOY_TRAIN = "0/2 0/1 0/4 0/0 1/7 1/9 1/8 1/5 2/6 2/3 2/1 2/8 3/0 3/6 3/8 3/4 4/0 4/7 4/4 4/5"
TOY_VAL = "0/11 0/12 0/10 0/13 1/10 1/13 1/12 1/11 2/13 2/12 2/10 2/11 3/10 3/12 3/13 3/11 4/13 4/12 4/10 4/11"


@pytest.mark.parametrize(("cached", "large"), [(True, 2**24), (True, 0), (False, 0)])
def test_coops_own_cache_and_our_draw_agree(toy, monkeypatch, cached, large):
    monkeypatch.setattr(split_files, "LARGE", large)
    if cached:
        (toy / "toy" / "split_fewshot").mkdir()
        shutil.copy(
            REPOSITORY / "tests" / "toolbox" / "golden" / "legacy_shot_4-seed_1.pkl",
            toy / "toy/split_fewshot/shot_4-seed_1.pkl",
        )
    cfg = get_cfg_default()
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    cfg.merge_from_list(["DATASET.ROOT", str(toy), "DATASET.NUM_SHOTS", 4, "SEED", 1])
    random.seed(1)
    dataset = Toy(cfg)
    for items, numbers in ((dataset.train_x, TOY_TRAIN), (dataset.val, TOY_VAL)):
        expected = [number.split("/") for number in numbers.split()]
        assert [item.impath for item in items] == [
            str(toy / "toy" / "images" / f"class_{c}" / f"img_{int(i):02d}.png") for c, i in expected
        ]


def test_cache_is_written_as_coop_reads_it(caltech):
    root, _ = caltech
    dataset = build(root, "caltech101", 4)
    content = cache_of(root).read_bytes()
    strings = {argument for op, argument, _ in pickletools.genops(content) if op.name == "SHORT_BINUNICODE"}
    assert {"dassl.data.datasets.base_dataset", "Datum", "_impath", "_label", "_domain", "_classname"} <= strings
    loaded = pickle.loads(content)
    assert list(loaded) == ["train", "val"]
    assert [vars(item) for item in loaded["train"]] == [vars(item) for item in dataset.train_x]
    assert isinstance(loaded["train"][0], Datum)


def test_json_twin_stands_in_for_a_missing_pickle(caltech):
    root, _ = caltech
    first = build(root, "caltech101", 4, seed=1)
    twin = cache_of(root).with_suffix(".json")
    assert json.loads(twin.read_text())["train"][0][0].startswith("kind_")  # portable: no absolute path
    cache_of(root).unlink()
    twin.rename(twin.with_name("shot_4-seed_2.json"))
    assert vars_of(build(root, "caltech101", 4, seed=2)) == vars_of(first)


def vars_of(dataset):
    return [vars(item) for item in (*dataset.train_x, *dataset.val)]


def test_cache_of_a_moved_root_is_repaired(caltech, tmp_path):
    root, _ = caltech
    before = build(root, "caltech101", 4)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(root / "caltech-101", moved / "caltech-101")
    after = build(moved, "caltech101", 4)
    assert [item.impath for item in after.train_x] == [
        item.impath.replace(str(root), str(moved)) for item in before.train_x
    ]


def test_building_leaves_pythons_random_alone(caltech):
    root, _ = caltech
    random.seed(1)
    untouched = random.getstate()
    for _ in ("drawn", "cached"):
        build(root, "caltech101", 4, seed=1)
        assert random.getstate() == untouched


def test_subset_is_drawn_before_classes_are_halved(caltech):
    root, _ = caltech
    everything = build(root, "caltech101", 2).train_x
    shutil.rmtree(cache_of(root).parent)
    new = build(root, "caltech101", 2, classes="new").train_x
    assert [item.impath for item in new] == [item.impath for item in everything if item.label >= 3]


def test_subset_is_used_where_it_cannot_be_kept(caltech, monkeypatch, caplog):
    root, split = caltech

    def refuse(parts, path):
        raise PermissionError(f"read-only: {path}")

    monkeypatch.setattr(split_dataset, "write_pickle", refuse)
    dataset = build(root, "caltech101", 2)
    assert entries(dataset.train_x, dataset.image_dir) == expected_subset(split, 2, 1)["train"]
    assert "not kept in" in caplog.text and "shot_2-seed_1.pkl: read-only" in caplog.text


# ---------------------------------------------------------------------------------------------- damaged files


class Hostile:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("large", [0, 2**24])  # bytes from which on the fast unpickler takes over
def test_pickle_with_code_is_refused_unexecuted(caltech, monkeypatch, large):
    monkeypatch.setattr(split_files, "LARGE", large)
    root, _ = caltech
    cache = cache_of(root)
    cache.parent.mkdir()
    cache.write_bytes(pickle.dumps({"train": [Hostile(os.mkdir, str(root / "executed"))], "val": []}))
    with pytest.raises(ValueError, match=r"shot_4-seed_1\.pkl.*mkdir.*only Dassl's Datum.*Delete it"):
        build(root, "caltech101", 4)
    assert not (root / "executed").exists()


def test_pickle_that_writes_to_datum_changes_nothing(caltech):
    root, _ = caltech
    cache = cache_of(root)
    cache.parent.mkdir()
    before = dict(vars(Datum))
    # BUILD on the class itself, with a slot state that would set Datum.label
    cache.write_bytes(b"\x80\x02cdassl.data.datasets.base_dataset\nDatum\nN}X\x05\x00\x00\x00labelK\x07s\x86b.")
    with pytest.raises(ValueError, match="Delete it"):
        build(root, "caltech101", 4)
    assert dict(vars(Datum)) == before


def test_truncated_cache_is_named_and_left_alone(caltech):
    root, _ = caltech
    build(root, "caltech101", 4)
    cache = cache_of(root)
    cache.write_bytes(cache.read_bytes()[:-40])
    damaged = cache.read_bytes()
    with pytest.raises(ValueError, match=r"cannot read .*shot_4-seed_1\.pkl.*Delete it"):
        build(root, "caltech101", 4)
    assert cache.read_bytes() == damaged


def test_cache_of_other_data_is_refused(caltech):
    root, _ = caltech
    build(root, "caltech101", 4)
    parts = pickle.loads(cache_of(root).read_bytes())
    vars(parts["train"][3])["_label"] += 1
    cache_of(root).write_bytes(pickle.dumps(parts))
    with pytest.raises(ValueError, match="not in the train part of the split.*Delete it"):
        build(root, "caltech101", 4)


@pytest.mark.parametrize("damage", [lambda text: text[:-30], lambda text: "[]", lambda text: '{"train": []}'])
def test_damaged_split_is_named_and_left_alone(caltech, damage):
    root, _ = caltech
    path = root / "caltech-101" / "split_zhou_Caltech101.json"
    path.write_text(damage(path.read_text()))
    damaged = path.read_text()
    with pytest.raises(ValueError, match=r"split_zhou_Caltech101\.json is damaged.*expected .*fetch it again"):
        build(root, "caltech101")
    assert path.read_text() == damaged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda item: [item[0], item[1] + (item[1] > 2), item[2]], "no training image has the label 3"),
        (lambda item: [*item[:2], item[2] + "s" * (item[0] == "kind_1/img_12.jpg")], "label 1 has two names"),
        (lambda item: [item[0], 9 if item[0] == "kind_1/img_07.jpg" else item[1], item[2]], "label 9 without training"),
    ],
)
def test_labels_that_do_not_fit_are_refused(caltech, change, message):
    root, split = caltech
    split = {part: [change(item) for item in items] for part, items in split.items()}
    (root / "caltech-101" / "split_zhou_Caltech101.json").write_text(json.dumps(split))
    with pytest.raises(ValueError, match=message):
        build(root, "caltech101")


# ---------------------------------------------------------------------------------------------- missing files


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("", "no folder .*--root"),
        ("caltech-101", "Caltech101 expects its images in .*101_ObjectCategories.*docs/datasets.md"),
        ("caltech-101/101_ObjectCategories", "no folder .*101_ObjectCategories"),
        ("caltech-101/split_zhou_Caltech101.json", r"split_zhou_Caltech101\.json is missing.*docs/datasets.md"),
        ("caltech-101/101_ObjectCategories/kind_2", "14 of 70 images are missing.*kind_2"),
    ],
)
def test_what_is_missing_is_named(tmp_path, missing, message):
    root = tmp_path / "data"
    fakes.make_split_dataset(root, "Caltech101")
    path = root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=message):
        build(root, "caltech101")


def test_missing_lists_are_named(tmp_path):
    fakes.make_aircraft(tmp_path)
    fakes.make_imagenet(tmp_path)
    (tmp_path / "fgvc_aircraft" / "images_variant_val.txt").unlink()
    (tmp_path / "imagenet" / "classnames.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"images_variant_val\.txt is missing"):
        build(tmp_path, "fgvc_aircraft")
    with pytest.raises(FileNotFoundError, match=r"classnames\.txt is missing"):
        build(tmp_path, "imagenet")


def test_imagenet_without_a_validation_folder_is_refused(tmp_path):
    fakes.make_imagenet(tmp_path)
    shutil.rmtree(tmp_path / "imagenet/images/val/n01443537")  # later labels would shift by one
    with pytest.raises(ValueError, match="label 1 has two names, 'goldfish' and 'great white shark'"):
        build(tmp_path, "imagenet")


def test_wrong_settings_are_named(caltech):
    root, _ = caltech
    with pytest.raises(ValueError, match="DATASET.ROOT is empty"):
        build("", "caltech101")
    with pytest.raises(ValueError, match="SUBSAMPLE_CLASSES 'bases': did you mean base"):
        build(root, "caltech101", classes="bases")


# ---------------------------------------------------------------------------------------------- base and new classes


@pytest.mark.parametrize(
    ("classes", "base_classes"),
    [(1000, 500), (100, 50), (37, 19), (196, 98), (102, 51), (101, 51), (397, 199), (47, 24), (10, 5), (1, 1)],
)
def test_halves_of_the_familys_datasets(classes, base_classes):
    items = [make_datum(f"{label}.jpg", label, f"c{label}") for label in reversed(range(classes))]
    (kept,), (rest,) = (SplitDataset.subsample_classes(items, subsample=half) for half in ("base", "new"))
    assert base_classes == math.ceil(classes / 2)
    assert sorted(item.classname for item in kept) == sorted(f"c{label}" for label in range(base_classes))
    assert {item.classname: item.label for item in rest} == {
        f"c{label}": label - base_classes for label in range(base_classes, classes)
    }


def test_halves_apply_to_all_parts(caltech):
    root, _ = caltech
    for half, names in (("base", ["kind 0", "kind 1", "kind 2"]), ("new", ["kind 3", "kind 4"])):
        dataset = build(root, "caltech101", classes=half)
        assert dataset.classnames == names
        for items in (dataset.train_x, dataset.val, dataset.test):
            assert {(item.label, item.classname) for item in items} == set(enumerate(names))
