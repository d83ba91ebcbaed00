"""What is left out of a dataset, contradicts itself or reads the same: told in the log and by the doctor."""

import json
import os
import shutil
import sys

import pytest

import datasets
from anprompt.doctor.checks import examine
from anprompt.utils.config import add_shared_cfg
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from tests.helpers import fakes

datasets.register_all()


def cfg_of(root, split="", name="ImageFolder"):
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    cfg.merge_from_list(["DATASET.NAME", name, "DATASET.ROOT", str(root)])
    cfg.DATASET.FOLDER, cfg.DATASET.SPLIT = "mine", split
    return cfg


def findings(root, split="", name="ImageFolder"):
    return examine(DATASET_REGISTRY.get(name).located(cfg_of(root, split, name)), "it").problems


def told(root, caplog, kind, words, split="", name="ImageFolder"):
    """The dataset, whose log has the one line that the doctor has as a warning."""
    caplog.clear()
    dataset = build_dataset(cfg_of(root, split, name))
    lines = [line for line in caplog.messages if line.startswith("Warning: ")]
    (finding,) = [finding for finding in findings(root, split, name) if finding.kind == kind]
    assert finding.severity == "warning" and finding.fix and finding.files
    assert words in finding.what and len(lines) == 1 and finding.what in lines[0] and "\n" not in lines[0]
    return dataset


def refused(root, message, split="", kinds=("labels", "damaged")):
    """A run refuses; the doctor reports an error."""
    with pytest.raises(ValueError, match=message):
        build_dataset(cfg_of(root, split))
    problems = findings(root, split)
    assert any(problem.kind in kinds and problem.severity == "error" for problem in problems), problems
    assert "unpack the archive" not in " ".join(problem.fix for problem in problems)  # there is none


# ---------------------------------------------------------------------------------------------- left out


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, caplog):
    fakes.make_folders(tmp_path)
    (tmp_path / "mine/train/ant/.hidden.txt").write_text("x")
    (tmp_path / "mine/split_fewshot").mkdir()
    build_dataset(cfg_of(tmp_path))
    assert not caplog.messages and not findings(tmp_path)


def test_endings_in_upper_case_and_jfif_are_read(tmp_path, caplog):
    fakes.make_folders(tmp_path)
    for number, ending in enumerate(("JPG", "jfif", "JFIF", "Jpeg")):
        (tmp_path / f"mine/train/ant/img_0{number}.jpg").rename(tmp_path / f"mine/train/ant/img_0{number}.{ending}")
    assert len(build_dataset(cfg_of(tmp_path)).train_x) == 18
    assert not caplog.messages and not findings(tmp_path)


def test_other_endings_are_counted(tmp_path, caplog):
    fakes.make_folders(tmp_path)
    for name in ("a.gif", "b.GIF", "Thumbs.db", "README"):
        (tmp_path / "mine/train/ant" / name).write_bytes(b"GIF89a")
    words = "4 files in class folders are left out, not an image by their endings (2 .gif, 1 none, 1 .db)"
    assert len(told(tmp_path, caplog, "left out", words).train_x) == 18


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems take no such names")
def test_names_that_no_terminal_takes_are_counted_with_escapes(tmp_path, caplog):
    fakes.make_folders(tmp_path)
    for name in (b"caf\xe9.txt", b"a\x1b[2J.txt"):
        (tmp_path / "mine/train/ant" / os.fsdecode(name)).write_bytes(b"")
    told(tmp_path, caplog, "left out", "2 files in class folders")
    (finding,) = findings(tmp_path)
    assert [os.path.basename(file) for file in finding.files] == ["a\\x1b[2J.txt", "caf\\udce9.txt"]


def test_deeper_folders_are_counted(tmp_path, caplog):
    fakes.make_folders(tmp_path)
    place = tmp_path / "mine/train/ant/more/deep"
    place.mkdir(parents=True)
    shutil.move(tmp_path / "mine/train/ant/img_00.jpg", place)
    shutil.move(tmp_path / "mine/train/ant/img_01.jpg", place.parent)
    assert len(told(tmp_path, caplog, "left out", "2 images are left out, in folders within a class").train_x) == 16


def test_images_beside_the_class_folders_are_counted(tmp_path, caplog):
    fakes.make_folders(tmp_path)
    fakes.write_image(tmp_path / "mine/test/loose.jpg")
    told(tmp_path, caplog, "left out", "1 images are left out, in no class folder")


@pytest.mark.parametrize("name", ["valid", "validation", "Val"])
def test_validation_images_in_a_folder_of_another_name(tmp_path, caplog, name):
    fakes.make_folders(tmp_path)
    (tmp_path / "mine/val").rename(tmp_path / "mine" / name)
    dataset = told(tmp_path, caplog, "left out", "1 folders with class folders are left out")
    assert not dataset.val
    cfg = cfg_of(tmp_path)
    cfg.TEST.SPLIT = "val"
    with pytest.raises(ValueError, match=rf"^TEST\.SPLIT is val, but .* no validation images.*mine/{name} .*to val/"):
        build_dataset(cfg)


def test_validation_of_a_half_without_images_is_refused(tmp_path):
    fakes.make_folders(tmp_path)
    shutil.rmtree(tmp_path / "mine/val/red_fox")  # the only class of the new half
    cfg = cfg_of(tmp_path)
    cfg.TEST.SPLIT, cfg.DATASET.SUBSAMPLE_CLASSES = "val", "base"
    assert len(build_dataset(cfg).val) == 10
    cfg.DATASET.SUBSAMPLE_CLASSES = "new"
    with pytest.raises(ValueError, match=r"TEST\.SPLIT is val, but"):
        build_dataset(cfg)


@pytest.mark.parametrize("name", fakes.VARIANT_LAYOUTS)
def test_stray_files_among_imagenets_are_counted(tmp_path, caplog, name):
    fakes.make_variant(tmp_path, name)
    _, folder, images = fakes.VARIANT_LAYOUTS[name]
    place = next(path for path in (tmp_path / folder / images).iterdir() if path.is_dir())
    (place / "about.txt").write_text("about")
    shutil.copy(place / "a.jpg", place / "no_ending")  # an image all the same
    dataset = told(tmp_path, caplog, "left out", "1 files in class folders", name=name)
    assert len(dataset.test) == 4


# ---------------------------------------------------------------------------------------------- contradictions


def write_rows(root, change):
    rows = fakes.make_table(root)
    fakes.write_table(root, change(rows))


def test_an_image_with_two_labels_is_refused(tmp_path):
    write_rows(tmp_path, lambda rows: [*rows, rows[-1] | {"label": "red_fox"}])
    refused(tmp_path, r"ant/img_13\.jpg \(in test\) has two labels, 0 \('ant'\) and 2 \('red fox'\)", "split.csv")


def test_an_image_with_two_labels_in_two_parts_is_refused(tmp_path):
    write_rows(tmp_path, lambda rows: [*rows, rows[-1] | {"label": "red_fox", "split": "train"}])
    refused(tmp_path, r"ant/img_13\.jpg \(in test\) has two labels, 2 \('red fox'\) and 0 \('ant'\)", "split.csv")


def test_an_image_that_is_listed_thrice_counts_once(tmp_path, caplog):
    write_rows(tmp_path, lambda rows: rows + [row for row in rows if row["split"] == "test"] * 2)
    dataset = told(tmp_path, caplog, "duplicates", "9 images are listed more than once", "split.csv")
    assert [len(items) for items in (dataset.train_x, dataset.val, dataset.test)] == [18, 15, 9]


def test_an_image_in_two_parts_stays_there(tmp_path, caplog):
    """Published splits may have some, so their numbers stay."""
    write_rows(tmp_path, lambda rows: [*rows, rows[-1] | {"split": "train"}])
    dataset = told(tmp_path, caplog, "duplicates", "images that are listed in two parts: 1", "split.csv")
    assert (len(dataset.train_x), len(dataset.test)) == (19, 9)


@pytest.mark.parametrize(
    ("label", "message"),
    [("ant ", "'ant' and 'ant ' differ in blanks only"), (" ant", "' ant' and 'ant' differ in blanks only")],
)
def test_labels_that_differ_in_blanks_are_refused(tmp_path, label, message):
    write_rows(tmp_path, lambda rows: [row | {"label": label} if row["label"] == "ant" and i % 2 else row
                                       for i, row in enumerate(rows)])  # fmt: skip
    refused(tmp_path, message, "split.csv")


def test_labels_that_differ_in_zeros_are_refused(tmp_path):
    numbers = {"ant": "0", "blue_jay": "1", "red_fox": "2"}
    rows = [row | {"label": numbers[row["label"]], "classname": row["label"]} for row in fakes.make_table(tmp_path)]
    fakes.write_table(tmp_path, [*rows[:-1], rows[-1] | {"label": "00"}])
    refused(tmp_path, "labels '0' and '00' differ in leading zeros only", "split.csv")


def test_names_that_differ_in_blanks_are_told_as_such(tmp_path):
    rows = fakes.make_table(tmp_path)
    split = {part: [] for part in fakes.PARTS}
    for i, row in enumerate(rows):
        label = ["ant", "blue_jay", "red_fox"].index(row["label"])
        split[row["split"]].append([row["path"], label, row["label"] + " " * (i % 2)])
    (tmp_path / "mine/split.json").write_text(json.dumps(split))
    refused(tmp_path, "has two names, .*: they differ in blanks only", "split.json")


@pytest.mark.parametrize("name", ["", " ", "_", "\t"])
def test_empty_class_names_are_refused(tmp_path, name):
    rows = fakes.make_table(tmp_path)
    split = {part: [] for part in fakes.PARTS}
    for row in rows:
        label = ["ant", "blue_jay", "red_fox"].index(row["label"])
        split[row["split"]].append([row["path"], label, row["label"] if label else name])
    (tmp_path / "mine/split.json").write_text(json.dumps(split))
    refused(tmp_path, "the label 0 has an empty name", "split.json")


def test_columns_that_are_there_twice_are_refused(tmp_path):
    write_rows(tmp_path, lambda rows: rows)
    path = tmp_path / "mine/split.csv"
    path.write_text(path.read_text().replace("path,label,split", "path,label,split,label", 1))
    refused(tmp_path, "names the column label twice", "split.csv")


def test_parts_that_are_there_twice_are_refused(tmp_path):
    fakes.make_table(tmp_path)
    (tmp_path / "mine/split.json").write_text('{"train": [], "val": [],\n"test": [], "test": []}')
    refused(tmp_path, "'test' is there twice, in line 2, column 1 and line 2, column 13", "split.json")


@pytest.mark.parametrize(
    ("make", "name", "file"),
    [
        (fakes.make_imagenet, "ImageNet", "imagenet/classnames.txt"),
        (lambda root: fakes.make_variant(root, "ImageNetV2"), "ImageNetV2", "imagenetv2/classnames.txt"),
        (fakes.make_aircraft, "FGVCAircraft", "fgvc_aircraft/variants.txt"),
        (fakes.make_folders, "ImageFolder", "mine/classnames.txt"),
    ],
)
def test_names_that_are_there_twice_are_refused_with_both_lines(tmp_path, make, name, file):
    make(tmp_path)
    path = tmp_path / file
    first = path.read_text().splitlines()[0] if path.is_file() else "ant formica"
    path.write_text(f"{first}\n\n" + (path.read_text() if path.is_file() else "blue_jay jay\nant pismire\n"))
    expected = 4 if name == "ImageFolder" else 3
    with pytest.raises(ValueError, match=rf"is there twice, in lines 1 and {expected}"):
        build_dataset(cfg_of(tmp_path, name=name))


# ---------------------------------------------------------------------------------------------- one text


@pytest.mark.parametrize("other", ["red fox", "Red_Fox", "red__fox"])
def test_two_classes_with_one_text_are_told(tmp_path, caplog, other):
    fakes.make_folders(tmp_path, classes=("red_fox", other, "oak"))
    dataset = told(tmp_path, caplog, "same text", "1 texts are shared by several classes")
    assert "red fox" in caplog.text and len(dataset.classnames) == 3


def test_a_name_that_fills_a_prompt_is_told(tmp_path, caplog):
    fakes.make_folders(tmp_path)
    (tmp_path / "mine/classnames.txt").write_text("ant " + "cat " * 69)
    told(tmp_path, caplog, "long names", "1 class names are long")
    assert "(69 tokens)" in caplog.text


# ---------------------------------------------------------------------------------------------- advice


def test_backslashes_are_named(tmp_path):
    write_rows(tmp_path, lambda rows: [row | {"path": row["path"].replace("/", "\\")} for row in rows])
    with pytest.raises(FileNotFoundError, match=r"42 of 42 images are missing.*written on Windows, put / for every \\"):
        build_dataset(cfg_of(tmp_path, "split.csv"))
    (finding,) = findings(tmp_path, "split.csv")
    assert finding.kind == "missing images" and "Windows" in finding.fix


@pytest.mark.parametrize("part", ["train/ant", "test"])
def test_empty_folders_are_called_folders(tmp_path, part):
    fakes.make_folders(tmp_path)
    for file in list((tmp_path / "mine" / part).rglob("*.jpg")):
        file.rename(file.with_suffix(".gif"))
    refused(tmp_path, rf"the folder .*mine/{part} holds no images: fill or remove it\. Warning: .*not an image")


def test_no_class_folders_are_told_as_such(tmp_path):
    fakes.make_folders(tmp_path)
    shutil.rmtree(tmp_path / "mine/train")
    fakes.write_image(tmp_path / "mine/train/a.jpg")
    refused(tmp_path, "mine/train holds no class folders")


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems take no such names")
@pytest.mark.parametrize("place", [b"mine/train/ant/caf\xe9.jpg", b"mine/train/caf\xe9/a.jpg"])
def test_names_that_are_not_utf8_are_one_line(tmp_path, place):
    fakes.make_folders(tmp_path)
    path = os.path.join(os.fsencode(tmp_path), place)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(os.fsencode(tmp_path / "mine/train/ant/img_00.jpg"), path)
    with pytest.raises(ValueError, match=r"mine/train/.*caf\\udce9.*': the name is not UTF-8, rename") as error:
        build_dataset(cfg_of(tmp_path))
    str(error.value).encode()  # can be printed
