"""Damaged and hostile files, by the dozen: one error that names the file, nothing executed, nothing changed."""

import json
import pickle
import shutil
import warnings
from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datasets
from anprompt.data.split_dataset import check_labels, make_datum
from anprompt.data.split_files import read_pickle, read_subset
from anprompt.doctor.checks import examine, open_image
from anprompt.utils.config import add_shared_cfg
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import read_image
from tests.helpers import fakes

datasets.register_all()
fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
odd_names = (
    st.sampled_from(["", "..", "../x.jpg", "/etc/passwd", "a\0b.jpg", "\ud800.jpg", "C:\\x.jpg", "kind_0"]) | st.text()
)
odd_records = st.lists(st.tuples(odd_names, values | st.integers(-1, 3), odd_names | values), max_size=4)
splits = st.fixed_dictionaries(dict.fromkeys(("train", "val", "test"), odd_records | values)) | values


@st.composite
def damaged(draw, content):
    """``content`` cut, with bytes replaced, or with bytes put in."""
    cut = content[: draw(st.integers(0, len(content)))]
    if not draw(st.booleans()):
        return cut
    place = draw(st.integers(0, len(content)))
    noise = draw(st.binary(min_size=1, max_size=6))
    return content[:place] + noise + content[place + draw(st.sampled_from([0, len(noise)])) :]


def reader(root, name, **options):
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    cfg.DATASET.ROOT = str(root)
    for key, value in options.items():
        cfg.DATASET[key] = value
    return DATASET_REGISTRY.get(name).located(cfg)


def read_or_name(dataset, path, content, quick=True):
    """Write ``content``, read the dataset: it works, or the one error names the file or what it lists."""
    path.write_bytes(content)
    try:
        check_labels(dataset.read(), str(path))
    except (ValueError, FileNotFoundError) as error:
        assert path.name in str(error) or str(path.parent) in str(error), error
        assert "Cc" not in map(category, str(error)), error  # one line, without tricks on the terminal
    report = examine(dataset, "it", quick=quick)  # never stops at a damaged file
    assert all(problem.fix for problem in report.problems)
    assert path.read_bytes() == content


@pytest.fixture
def caltech(tmp_path):
    fakes.make_split_dataset(tmp_path, "Caltech101", classes=2)
    return reader(tmp_path, "Caltech101")


@fuzz
@given(content=splits.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_split_files(caltech, content):
    read_or_name(caltech, Path(caltech.split_path), content)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"train": [["a.jpg", 1e400, "a"]], "val": [], "test": []}'])
def test_split_files_that_pythons_json_stumbles_on(caltech, content):
    Path(caltech.split_path).write_text(content)
    with pytest.raises(ValueError, match="split_zhou_Caltech101.json is damaged"):
        caltech.read()


def test_huge_label_costs_no_memory(caltech):
    items = [make_datum("a.jpg", label, "a") for label in (0, 10**15)]
    with pytest.raises(ValueError, match="no training image has the label 1"):
        check_labels({"train": items, "val": [], "test": items}, "it")


@fuzz
@given(data=st.data())
def test_damaged_split_files(caltech, data):
    path = Path(caltech.split_path)
    original = path.read_bytes()
    read_or_name(caltech, path, data.draw(damaged(original)))
    path.write_bytes(original)


@fuzz
@given(data=st.data(), name=st.sampled_from(["variants.txt", "images_variant_train.txt", "images_variant_test.txt"]))
def test_aircraft_lists(tmp_path, data, name):
    fakes.make_aircraft(tmp_path)
    path = tmp_path / "fgvc_aircraft" / name
    noise = data.draw(damaged(path.read_bytes()) | st.binary(max_size=40) | st.text(max_size=40).map(_encoded))
    read_or_name(reader(tmp_path, "FGVCAircraft"), path, noise)


def _encoded(text):
    return text.encode("utf-8", "surrogatepass")


@fuzz
@given(data=st.data(), name=st.sampled_from(["ImageNet", "ImageNetA", "ImageNetV2"]))
def test_class_name_lists(tmp_path, data, name):
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    root = tmp_path / "data"
    fakes.make_imagenet(root, per_class=1) if name == "ImageNet" else fakes.make_variant(root, name)
    dataset = reader(root, name)
    path = Path(dataset.dataset_dir, "classnames.txt")
    read_or_name(dataset, path, data.draw(damaged(path.read_bytes()) | st.text(max_size=40).map(_encoded)))


@fuzz
@given(data=st.data())
def test_tables_of_own_images(tmp_path, data):
    rows = fakes.make_table(tmp_path, classes=("ant", "bee"))
    cells = st.sampled_from([*rows[0].values(), "", "..", "/x", "1", "²", '"', "\0"]) | st.text(max_size=6)
    lines = st.lists(st.lists(cells, max_size=5).map(",".join), max_size=4)
    odd = lines.map(lambda lines: "\n".join(["path,label,split,classname", *lines]).encode("utf-8", "surrogatepass"))
    path = tmp_path / "mine" / "split.csv"
    content = data.draw(odd | damaged(path.read_bytes()))
    read_or_name(reader(tmp_path, "ImageFolder", FOLDER="mine", SPLIT="split.csv"), path, content)


# ---------------------------------------------------------------------------------------------- caches


@pytest.fixture
def cache(tmp_path):
    """A few-shot subset as CoOp writes it."""
    path = tmp_path / "shot_1-seed_1.pkl"
    path.write_bytes(
        pickle.dumps({"train": [make_datum("/x/a.jpg", 0, "a"), make_datum("/x/b.jpg", 1, "b")], "val": []})
    )
    return path


@settings(fuzz, max_examples=300)
@given(data=st.data())
def test_damaged_pickles(cache, data):
    original = cache.read_bytes()
    content = data.draw(damaged(original) | st.binary(max_size=60))
    cache.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            parts = read_pickle(cache)
        except ValueError as error:
            assert str(cache) in str(error) and "Delete it" in str(error)
        else:
            assert all(
                isinstance(record, tuple) and len(record) == 3 for records in parts.values() for record in records
            )
    assert cache.read_bytes() == content
    cache.write_bytes(original)


def test_pickles_that_reserve_memory_or_take_forever_to_print(cache):
    memo = b"\x80\x02}r\xff\xff\xff\x7f."  # puts an object in place 2,147,483,647: 32 GB of empty places before it
    cache.write_bytes(memo)
    assert read_pickle(cache) == {}
    bomb = b"\x80\x02]" + b"2\x86" * 64  # 2 ** 64 lists, all the same one
    cache.write_bytes(
        b"\x80\x02}X\x05\x00\x00\x00train]cdassl.data.datasets.base_dataset\nDatum\n)\x81}(X\x07\x00\x00\x00_impath"
        + bomb[2:]
        + b"X\x06\x00\x00\x00_labelK\x00X\x0a\x00\x00\x00_classnameX\x01\x00\x00\x00aubas."
    )
    with pytest.raises(ValueError, match="found tuple, int, str.*Delete it"):
        read_pickle(cache)


@fuzz
@given(content=(splits.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)))
def test_json_twins(tmp_path, content):
    twin = tmp_path / "shot_1-seed_1.json"
    twin.write_bytes(content)
    try:
        read_subset(twin)
    except ValueError as error:
        assert str(twin) in str(error) and "Delete it" in str(error)
    assert twin.read_bytes() == content


# ---------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "bmp", "webp", "tiff"])
@settings(fuzz, max_examples=40)
@given(data=st.data())
def test_damaged_images(tmp_path, data, kind):
    path = tmp_path / f"a.{kind}"
    fakes.write_image(tmp_path / "a.jpg")
    with fakes.Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / f"whole.{kind}")
    path.write_bytes(data.draw(damaged((tmp_path / f"whole.{kind}").read_bytes())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_image(path)


def check_image(path):
    """The doctor and the training agree on whether it can be read; the error of the latter names the file."""
    _, reason = open_image(str(path))
    try:
        assert read_image(str(path)).mode == "RGB"
        assert not reason
    except OSError as error:
        assert str(path) in str(error) and reason
