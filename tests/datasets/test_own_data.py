"""Own images without writing Python: folders per class, CSV and JSON lists, class names and prompts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import datasets
from anprompt.clip.backbone import Backbone
from anprompt.utils.config import add_shared_cfg
from dassl.config import get_cfg_default
from dassl.data.datasets import build_dataset
from dassl.engine import build_trainer
from tests.helpers import REPOSITORY, fakes
from trainers import zsclip  # noqa: F401  registers ZeroshotCLIP
from trainers.anprompt import add_anprompt_cfg

datasets.register_all()
NAMES = ["ant", "blue jay", "red fox"]


def build(root, split="", shots=-1, folder="mine"):
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    cfg.merge_from_list(["DATASET.NAME", "ImageFolder", "DATASET.ROOT", str(root), "DATASET.NUM_SHOTS", shots])
    cfg.DATASET.FOLDER, cfg.DATASET.SPLIT = folder, split
    return build_dataset(cfg)


def records(items, root):
    return [[str(Path(item.impath).relative_to(root / "mine")), item.label, item.classname] for item in items]


def test_folders_become_classes_in_sorted_order(tmp_path):
    fakes.make_folders(tmp_path)
    (tmp_path / "mine/train/ant/notes.txt").write_text("no image")
    (tmp_path / "mine/train/.thumbnails").mkdir()
    dataset = build(tmp_path)
    assert dataset.classnames == NAMES
    for part, items in (("train", dataset.train_x), ("val", dataset.val), ("test", dataset.test)):
        assert records(items, tmp_path) == [
            [f"{part}/{name.replace(' ', '_')}/img_{index:02d}.jpg", label, name]
            for label, name in enumerate(NAMES)
            for index in fakes.PARTS[part]
        ]


def test_validation_images_are_optional(tmp_path):
    fakes.make_folders(tmp_path, val=False)
    dataset = build(tmp_path, shots=2)
    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (6, 0, 9)
    assert records(build(tmp_path, shots=2).train_x, tmp_path) == records(dataset.train_x, tmp_path)  # cached


def test_table_and_folders_agree(tmp_path):
    fakes.make_table(tmp_path)
    dataset = build(tmp_path, "split.csv")
    assert dataset.classnames == NAMES
    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (18, 15, 9)
    assert records(dataset.test, tmp_path)[0] == ["red_fox/img_11.jpg", 2, "red fox"]  # in the order of the list


def test_table_with_numbers_takes_its_names_from_a_column(tmp_path):
    rows = fakes.make_table(tmp_path)
    numbers = {"red_fox": 0, "blue_jay": 1, "ant": 2}
    rows = [row | {"label": str(numbers[row["label"]]), "classname": row["label"].upper()} for row in rows]
    fakes.write_table(tmp_path, rows)
    assert build(tmp_path, "split.csv").classnames == ["RED_FOX", "BLUE_JAY", "ANT"]


def test_json_is_coops_split_file(tmp_path):
    rows = fakes.make_table(tmp_path)
    labels = {"red_fox": 0, "blue_jay": 1, "ant": 2}
    split = {part: [] for part in fakes.PARTS}
    for row in rows:
        split[row["split"]].append([row["path"], labels[row["label"]], f"a {row['label']}"])
    (tmp_path / "mine" / "split.json").write_text(json.dumps(split))
    dataset = build(tmp_path, "split.json")
    assert dataset.classnames == ["a red_fox", "a blue_jay", "a ant"]
    assert records(dataset.train_x, tmp_path) == split["train"]


@pytest.mark.parametrize("split", ["", "split.csv"])
def test_classnames_file_says_how_classes_are_written(tmp_path, split):
    fakes.make_table(tmp_path) if split else fakes.make_folders(tmp_path)
    (tmp_path / "mine" / "classnames.txt").write_text("red_fox Vulpes vulpes\n")
    assert build(tmp_path, split).classnames == ["ant", "blue jay", "Vulpes vulpes"]
    (tmp_path / "mine" / "classnames.txt").write_text("red_foxes Vulpes vulpes\n")
    with pytest.raises(ValueError, match="classnames.txt 'red_foxes': did you mean red_fox"):
        build(tmp_path, split)


def test_folders_that_do_not_fit_are_named(tmp_path):
    fakes.make_folders(tmp_path)
    (tmp_path / "mine/test/red_fox").rename(tmp_path / "mine/test/red_fix")
    with pytest.raises(ValueError, match="mine/test 'red_fix': did you mean red_fox"):
        build(tmp_path)
    shutil.rmtree(tmp_path / "mine/test")
    with pytest.raises(FileNotFoundError, match="no folder test/ in .*mine: sort the images.*DATASET.SPLIT"):
        build(tmp_path)
    with pytest.raises(ValueError, match="DATASET.FOLDER is empty"):
        build(tmp_path, folder="")


def test_class_without_images_is_named(tmp_path):
    fakes.make_folders(tmp_path)
    shutil.rmtree(tmp_path / "mine/train/blue_jay")
    (tmp_path / "mine/train/blue_jay").mkdir()
    with pytest.raises(ValueError, match="the folder .*mine/train/blue_jay holds no images: fill or remove it"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "../../other/img_00.jpg"}, "is no path that leads from"),
        ({"path": "/etc/passwd"}, "is no path that leads from"),
        ({"path": ""}, "image 1 has an empty path"),
        ({"split": "training"}, "split of image 1 'training': did you mean train"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, change, message):
    rows = fakes.make_table(tmp_path)
    fakes.write_table(tmp_path, [rows[0] | change, *rows[1:]])
    with pytest.raises(ValueError, match=rf"split\.csv: .*{message}"):
        build(tmp_path, "split.csv")


def test_tables_that_cannot_be_used_are_named(tmp_path):
    rows = fakes.make_table(tmp_path)
    fakes.write_table(tmp_path, [{"file": "a.jpg", "label": "ant"}])
    with pytest.raises(ValueError, match="no column path: its first line must be path,label,split"):
        build(tmp_path, "split.csv")
    fakes.write_table(tmp_path, [row | {"label": str(NAMES.index(row["label"].replace("_", " ")))} for row in rows])
    with pytest.raises(ValueError, match="label 2 has no name: add a column classname"):
        build(tmp_path, "split.csv")
    with pytest.raises(FileNotFoundError, match=r"other\.csv is missing"):
        build(tmp_path, "other.csv")
    with pytest.raises(ValueError, match=r"kind of DATASET.SPLIT '.txt': known: .csv, .json"):
        build(tmp_path, "split.txt")


@pytest.mark.parametrize("trainer", ["ANPrompt", "ZeroshotCLIP"])
def test_trainers_use_the_template(tmp_path, monkeypatch, trainer):
    read = []
    tokenize = Backbone.tokenize
    monkeypatch.setattr(Backbone, "tokenize", lambda self, texts: read.append(list(texts)) or tokenize(self, texts))
    fakes.make_folders(tmp_path)
    cfg = get_cfg_default()
    add_anprompt_cfg(cfg)
    cfg.merge_from_file(str(REPOSITORY / "configs/trainers/ANPrompt/tiny.yaml"))
    cfg.merge_from_list(["TRAINER.NAME", trainer, "DATASET.NAME", "ImageFolder", "DATASET.ROOT", str(tmp_path)])
    cfg.merge_from_list(["DATASET.FOLDER", "mine", "DATASET.TEMPLATE", "a drawing of {}."])
    build_trainer(cfg)
    assert [f"a drawing of {name}." for name in NAMES] in read


def documented_yaml():
    """The example of docs/datasets.md."""
    text = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
    return next(block for block in text.split("```yaml\n")[1:] if "ImageFolder" in block).split("```")[0]


@pytest.mark.slow
def test_documented_example_trains(tmp_path):
    """Own folders and the YAML of the documentation: one epoch with the tiny CLIP."""
    settings = yaml.safe_load(documented_yaml())["DATASET"]
    fakes.make_folders(tmp_path)
    (tmp_path / "mine").rename(tmp_path / settings["FOLDER"])
    (tmp_path / "my.yaml").write_text(documented_yaml())
    done = subprocess.run(
        [sys.executable, "train.py", "--root", str(tmp_path), "--seed", "1", "--trainer", "ANPrompt"]
        + ["--dataset-config-file", str(tmp_path / "my.yaml"), "--output-dir", str(tmp_path / "out")]
        + ["--config-file", "configs/trainers/ANPrompt/tiny.yaml", "DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "* total: 9" in done.stdout
    used = json.loads((tmp_path / "out" / "results.json").read_text())["config"]["DATASET"]
    assert {key: used[key] for key in settings} == settings
