"""Datum, DatasetBase and few-shot sampling against the golden vectors, and the errors of bad data."""

import pickle
import random
import re
import shutil
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from dassl.data.datasets import DatasetBase, Datum, build_dataset
from dassl.utils import set_random_seed
from tests.toolbox.toy import CLASSNAMES, GOLDEN, GOLDEN_DIR, image_path, item_id, toy_cfg, toy_items


def ids(items):
    return [item_id(item) for item in items]


def dataset(items):
    return DatasetBase(train_x=items)


@pytest.mark.parametrize("case", GOLDEN["fewshot"])
def test_fewshot_subsets_and_draws(case, toy_root, capsys):
    seed, shots = map(int, re.fullmatch(r"seed(\d+)_shots(\d+)", case).groups())
    golden = GOLDEN["fewshot"][case]
    set_random_seed(seed)
    toy = build_dataset(toy_cfg(toy_root, "DATASET.NUM_SHOTS", shots))
    assert ids(toy.train_x) == golden["train"]
    assert ids(toy.val) == golden["val"]
    assert len(toy.test) == golden["n_test"]
    assert capsys.readouterr().out == golden["printed"]
    assert random.random() == golden["next_random"]


def test_fewshot_with_repeat_fills_small_classes(toy_root, capsys):
    golden = GOLDEN["fewshot_repeat_true_seed1_shots16"]
    train = toy_items(toy_root, 0, 10)
    set_random_seed(1)
    assert ids(dataset(train).generate_fewshot_dataset(train, num_shots=16, repeat=True)) == golden["train"]
    assert capsys.readouterr().out == golden["printed"]


def test_fewshot_goes_by_first_appearance(toy_root):
    golden = GOLDEN["fewshot_unsorted_input_seed1_shots2"]
    by_id = {item_id(item): item for item in toy_items(toy_root, 0, 10)}
    items = [by_id[key] for key in golden["input"]]
    toy = dataset(items)
    set_random_seed(1)
    assert ids(toy.generate_fewshot_dataset(items, num_shots=2)) == golden["output"]
    assert list(toy.split_dataset_by_label(items)) == golden["label_order"]


def test_fewshot_of_two_sources_is_a_list_of_lists(toy_root, capsys):
    golden = GOLDEN["fewshot_two_sources"]
    items = toy_items(toy_root, 0, 3)
    result = dataset(items).generate_fewshot_dataset(items, items, num_shots=1)
    assert type(result).__name__ == golden["type"]
    assert [len(part) for part in result] == [5, 5]
    assert capsys.readouterr().out == golden["printed"]


def test_without_shots_the_sources_come_back(toy_root, capsys):
    items = toy_items(toy_root, 0, 3)
    toy = dataset(items)
    random.seed(1)
    state = random.getstate()
    assert toy.generate_fewshot_dataset(items, num_shots=0) is items
    both = toy.generate_fewshot_dataset(items, items)
    assert type(both).__name__ == GOLDEN["fewshot_num_shots_below_1"]["two_sources_returns"]
    assert random.getstate() == state
    assert capsys.readouterr().out == ""


def test_classes_come_from_train_x(toy_root):
    toy = DatasetBase(train_x=toy_items(toy_root, 0, 1)[:3], test=toy_items(toy_root, 0, 1))
    assert toy.num_classes == 3
    assert toy.classnames == CLASSNAMES[:3]
    assert toy.lab2cname == dict(enumerate(CLASSNAMES[:3]))
    assert toy.val is None
    assert toy.train_u is None


def test_dataset_dir_set_before_the_constructor_survives(toy_root):
    class Sub(DatasetBase):
        dataset_dir = "folder"

        def __init__(self):
            self.dataset_dir = f"{toy_root}/{self.dataset_dir}"
            super().__init__(train_x=toy_items(toy_root, 0, 1))

    assert Sub().dataset_dir == f"{toy_root}/folder"
    assert Sub.dataset_dir == "folder"


def test_static_helpers_with_a_gap(toy_root):
    path = str(image_path(toy_root, 0, 0))
    items = [Datum(path, 2, classname="b"), Datum(path, 0, classname="a")]
    expected, names = GOLDEN["utils"]["lab2cname"]
    assert DatasetBase.get_lab2cname(items) == ({int(label): name for label, name in expected.items()}, names)
    assert DatasetBase.get_num_classes([Datum(path, 4)]) == GOLDEN["utils"]["num_classes_gap"]


def test_label_gaps_are_refused_by_name(toy_root):
    items = [item for item in toy_items(toy_root, 0, 2) if item.label not in (1, 3)]
    with pytest.raises(ValueError, match=r"missing: 1, 3\."):
        DatasetBase(train_x=items)


def test_negative_labels_are_refused(toy_root):
    path = str(image_path(toy_root, 0, 0))
    with pytest.raises(ValueError, match="negative"):
        DatasetBase(train_x=[Datum(path, -1), Datum(path, 0)])


@pytest.mark.parametrize("nothing", [None, []])
def test_no_training_items_are_refused(nothing):
    with pytest.raises(ValueError, match="train_x has no items"):
        DatasetBase(train_x=nothing)


def test_domains_are_checked(toy_root):
    class Sub(DatasetBase):
        domains = ["photo", "sketch"]

    toy = Sub(train_x=toy_items(toy_root, 0, 1))
    toy.check_input_domains(["photo"], ["sketch", "photo"])
    with pytest.raises(ValueError, match="art"):
        toy.check_input_domains(["photo"], ["art"])


def test_items_are_grouped_by_domain(toy_root):
    path = str(image_path(toy_root, 0, 0))
    items = [Datum(path, 0, domain) for domain in (2, 0, 2)]
    assert dataset(items).split_dataset_by_domain(items) == {2: [items[0], items[2]], 0: [items[1]]}


def archived(folder, kind):
    """An archive that holds ``images/a.txt``."""
    (folder / "source" / "images").mkdir(parents=True)
    (folder / "source" / "images" / "a.txt").write_text("a")
    return Path(shutil.make_archive(str(folder / "made"), kind, folder / "source"))


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_data_are_fetched_and_unpacked_beside_the_archive(kind, toy_root, tmp_path, capsys):
    archive = archived(tmp_path, kind)
    target = tmp_path / "data" / "toy" / archive.name
    toy = dataset(toy_items(toy_root, 0, 1))
    toy.download_data(archive.as_uri(), str(target), from_gdrive=False)
    assert (target.parent / "images" / "a.txt").read_text() == "a"
    assert capsys.readouterr().out == f"Extracting file ...\nFile extracted to {target.parent}\n"


def test_data_on_google_drive_come_by_gdown(toy_root, tmp_path, monkeypatch):
    archive, calls = archived(tmp_path, "zip"), []

    def download(url, output, quiet):
        calls.append((url, quiet))
        return shutil.copy(archive, output)

    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))
    dataset(toy_items(toy_root, 0, 1)).download_data("https://drive/x", str(tmp_path / "data" / "x.zip"))
    assert calls == [("https://drive/x", False)]
    assert (tmp_path / "data" / "images" / "a.txt").is_file()


@pytest.mark.parametrize(
    "gdown, error, message",
    [
        (None, ImportError, "fetching https://drive/x .* needs the package gdown"),
        (SimpleNamespace(download=lambda *_, **__: None), OSError, "does not hand out https://drive/x: fetch it"),
        (
            SimpleNamespace(download=lambda url, output, quiet: Path(output).write_text("<html>")),
            ValueError,
            "x.zip.* is neither a zip nor a tar",
        ),
    ],
)
def test_data_that_do_not_come_are_explained(gdown, error, message, toy_root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", gdown)
    with pytest.raises(error, match=message):
        dataset(toy_items(toy_root, 0, 1)).download_data("https://drive/x", str(tmp_path / "x.zip"))


def test_an_archive_cannot_write_outside_its_folder(toy_root, tmp_path):
    (tmp_path / "evil.txt").write_text("evil")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.add(tmp_path / "evil.txt", arcname="../outside.txt")
    target = tmp_path / "data" / "evil.tar"
    with pytest.raises(tarfile.OutsideDestinationError):
        dataset(toy_items(toy_root, 0, 1)).download_data((tmp_path / "evil.tar").as_uri(), str(target), False)
    assert not (tmp_path / "outside.txt").exists()


def test_splits_and_classes_are_read_only(toy_root):
    toy = dataset(toy_items(toy_root, 0, 1))
    for name in ("train_x", "train_u", "val", "test", "num_classes", "lab2cname", "classnames"):
        with pytest.raises(AttributeError, match=f"DatasetBase.{name} is read-only"):
            setattr(toy, name, None)


def test_unknown_dataset_names_the_known_ones(toy_root):
    with pytest.raises(ValueError, match="Toy"):
        build_dataset(toy_cfg(toy_root, "DATASET.NAME", "Tooy"))


def test_datum_of_a_missing_file_names_the_path(tmp_path):
    path = str(tmp_path / "absent.png")
    with pytest.raises(AssertionError, match="absent.png"):
        Datum(path)


@pytest.mark.parametrize("path", [None, 3, ["x.png"]])
def test_datum_of_something_else_than_a_path(path):
    with pytest.raises(AssertionError, match="str"):
        Datum(path)


def test_datum_is_read_only(toy_root):
    item = Datum(str(image_path(toy_root, 0, 0)), 3, 1, "x")
    assert (item.label, item.domain, item.classname) == (3, 1, "x")
    with pytest.raises(AttributeError):
        item.label = 4


def test_pickled_datum_has_the_reference_layout(toy_root):
    golden = GOLDEN["pickle_of_Datum"]
    item = Datum(str(image_path(toy_root, 0, 0)), 3, 0, "x")
    assert type(item).__module__ == golden["module"]
    assert type(item).__qualname__ == golden["qualname"]
    assert list(vars(item)) == golden["instance_dict_keys"]
    assert vars(pickle.loads(pickle.dumps(item, pickle.HIGHEST_PROTOCOL))) == vars(item)


def test_few_shot_cache_of_the_reference_loads():
    """Its images do not exist here: loading must not look for them."""
    with (GOLDEN_DIR / "legacy_shot_4-seed_1.pkl").open("rb") as file:
        cache = pickle.load(file)
    golden = GOLDEN["fewshot"]["seed1_shots4"]
    assert ids(cache["train"]) == golden["train"]
    assert ids(cache["val"]) == golden["val"]
    assert {item.classname for item in cache["train"]} == set(CLASSNAMES)
