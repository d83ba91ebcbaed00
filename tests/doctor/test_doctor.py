"""The doctor finds each planted fault, says what to do, and changes nothing unless it is asked to."""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import datasets
from anprompt.cli import main
from anprompt.doctor.known_counts import KNOWN_COUNTS, KNOWN_LISTS, Counts
from anprompt.utils import drop_in as drop_in
from anprompt.utils.config import add_shared_cfg
from dassl.config import get_cfg_default
from dassl.data.datasets import build_dataset
from tests.helpers import REPOSITORY, fakes

datasets.register_all()
IMAGES = Path("caltech-101", "101_ObjectCategories")
SPLIT = Path("caltech-101", "split_zhou_Caltech101.json")
CACHE = Path("caltech-101", "split_fewshot", "shot_4-seed_1.pkl")
LISTING = Path("imagenet", "preprocessed.pkl")

COMPLETE = dict(KNOWN_COUNTS)  # before small_is_complete


@pytest.fixture(autouse=True)
def small_is_complete(monkeypatch):
    """The numbers of the fakes, as if they were those of the real data."""
    monkeypatch.setitem(KNOWN_COUNTS, "Caltech101", Counts(5, 30, 25, 15))
    monkeypatch.setitem(KNOWN_COUNTS, "ImageNet", Counts(3, 9, None, 3))


@pytest.fixture
def root(tmp_path):
    """A healthy Caltech101 and ImageNet, with the caches of a run."""
    root = tmp_path / "data"
    fakes.make_split_dataset(root, "Caltech101")
    fakes.make_imagenet(root)
    for name in ("Caltech101", "ImageNet"):
        build(root, name)
    return root


def build(root, name):
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    cfg.merge_from_list(["DATASET.NAME", name, "DATASET.ROOT", str(root), "DATASET.NUM_SHOTS", 4, "SEED", 1])
    random.seed(1)
    return build_dataset(cfg)


@pytest.fixture
def doctor(root, capsys):
    """Run the command on ``root``; its status and the JSON document, the only thing on stdout."""

    def run(*arguments, names=("caltech101", "imagenet"), place=root):
        capsys.readouterr()  # what building the datasets printed
        status = main(["doctor", "--root", str(place), "--json", "--datasets", *names, *arguments])
        return status, json.loads(capsys.readouterr().out)

    return run


def snapshot(folder):
    """Content and time of every file."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def found(document):
    return [(entry["severity"], entry["kind"]) for dataset in document["datasets"] for entry in dataset["problems"]]


# ---------------------------------------------------------------------------------------------- healthy


def test_healthy_data_has_no_problems(doctor, root):
    before = snapshot(root)
    status, document = doctor()
    assert (status, found(document), document["errors"], document["warnings"]) == (0, [], 0, 0)
    assert [dataset["status"] for dataset in document["datasets"]] == ["ok", "ok"]
    assert document["datasets"][0]["images"] == {"train": 30, "val": 25, "test": 15}
    assert document["datasets"][0]["classes"] == 5
    assert snapshot(root) == before


def test_every_layout_is_known_and_left_alone(tmp_path, capsys):
    for name in fakes.SPLIT_LAYOUTS:
        fakes.make_split_dataset(tmp_path, name)
    fakes.make_aircraft(tmp_path)
    fakes.make_imagenet(tmp_path)
    for name in fakes.VARIANT_LAYOUTS:
        fakes.make_variant(tmp_path, name)
    before = snapshot(tmp_path)
    assert main(["doctor", "--root", str(tmp_path), "--json"]) == 1
    reports = {report["name"]: report for report in json.loads(capsys.readouterr().out)["datasets"]}
    assert reports.keys() == KNOWN_COUNTS.keys() | KNOWN_LISTS.keys() | {"Moves"}
    for name in ("Shapes", "Moves", *KNOWN_LISTS):
        assert reports.pop(name)["status"] == "not found"
    correct = {"Caltech101", "ImageNet"}
    for name, report in reports.items():
        kinds = [problem["kind"] for problem in report["problems"]]
        assert kinds == ([] if name in correct else ["counts"]), name
    assert snapshot(tmp_path) == before  # nor has ImageNet's list been kept


def test_documentation_gives_the_numbers():
    text = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
    for name, counts in COMPLETE.items():
        cells = ["-" if count is None else f"{count:,}" for count in counts]
        assert f"| {name} | {' | '.join(cells)} |" in text


def test_text_is_a_table_and_the_fixes(root, capsys):
    (root / IMAGES / "kind_2" / "img_03.jpg").unlink()
    assert main(["doctor", "--root", str(root)]) == 1
    out = capsys.readouterr().out
    assert "Caltech101           problems           5       30     25      15         1           0" in out
    assert "OxfordPets           not found          -        -      -       -         0           0" in out
    assert "  error: missing images: 1 of 70 images are missing\n" in out
    assert str(IMAGES / "kind_2" / "img_03.jpg") in out and "    fix: unpack the archive again" in out


# ---------------------------------------------------------------------------------------------- planted faults


def edit_split(change):
    def plant(root):
        split = json.loads((root / SPLIT).read_text())
        change(split)
        (root / SPLIT).write_text(json.dumps(split))
        shutil.rmtree((root / CACHE).parent)

    return plant


def edit_pickle(path, change):
    def plant(root):
        parts = pickle.loads((root / path).read_bytes())
        change(parts)
        (root / path).write_bytes(pickle.dumps(parts))

    return plant


def cut(path, size=-40):
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:size])


def add_gap(split):
    for items in split.values():
        for item in items:
            item[1] += item[1] > 2


def make_flat(root):
    """ImageNet's validation images as the archive holds them."""
    for file in list((root / "imagenet/images/val").glob("*/*")):
        file.rename(root / "imagenet/images/val" / file.name)
        file.parent.rmdir()


ERRORS = {
    "no split file": (lambda root: (root / SPLIT).unlink(), "incomplete", "split_zhou_Caltech101.json is missing"),
    "cut split file": (cut(SPLIT), "damaged", "split_zhou_Caltech101.json is damaged"),
    "no image folder": (lambda root: shutil.rmtree(root / IMAGES), "incomplete", "there is no folder"),
    "label gap": (edit_split(add_gap), "labels", "no training image has the label 3"),
    "two names": (edit_split(lambda split: split["test"][0].__setitem__(2, "x")), "labels", "'kind 0' and 'x'"),
    "count": (edit_split(lambda split: split["val"].pop()), "counts", "24 val images, expected 25"),
    "image gone": (lambda root: (root / IMAGES / "kind_1/img_12.jpg").unlink(), "missing images", "kind_1/img_12.jpg"),
    "cut image": (cut(IMAGES / "kind_1/img_12.jpg"), "unreadable images", "kind_1/img_12.jpg (OSError: "),
    "empty image": (cut(IMAGES / "kind_0/img_00.jpg", 0), "unreadable images", "kind_0/img_00.jpg (Unidentified"),
    "cut cache": (cut(CACHE), "stale cache", "cannot read"),
    "other cache": (
        edit_pickle(CACHE, lambda parts: vars(parts["val"][0]).update(_label=4)),
        "stale cache",
        "which is not in the val part",
    ),
    "small cache": (
        edit_pickle(CACHE, lambda parts: parts["train"].pop()),
        "stale cache",
        "holds 3 train images of 'kind 2' (label 2), expected 4",
    ),
    "no class folder": (
        lambda root: (shutil.rmtree(root / "imagenet/images/train/n01443537"), (root / LISTING).unlink()),
        "labels",
        "the label 1 has two names, 'great white shark' and 'goldfish'",
    ),
    "flat validation": (make_flat, "damaged", "images/val has no folders: its images belong into one folder per class"),
    "old listing": (
        edit_pickle(LISTING, lambda parts: vars(parts["train"][0]).update(_impath="/x/train/n01440764/gone.JPEG")),
        "stale cache",
        "preprocessed.pkl lacks 1 images that are in",
    ),
    "cut listing": (cut(LISTING), "stale cache", "cannot read"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_fault_is_found(doctor, root, fault):
    plant, kind, text = ERRORS[fault]
    plant(root)
    before = snapshot(root)
    status, document = doctor()
    problems = [problem for dataset in document["datasets"] for problem in dataset["problems"]]
    named = [problem for problem in problems if problem["kind"] == kind]
    assert status == 1 and document["errors"] >= 1
    assert len(named) == 1 and text in json.dumps(named, ensure_ascii=False).replace("\\\\", "/"), problems
    assert named[0]["severity"] == "error" and named[0]["fix"]
    assert snapshot(root) == before


def list_twice(split):
    split["test"][0] = split["train"][0]


def copy_image(root):
    shutil.copy(root / IMAGES / "kind_3/img_00.jpg", root / IMAGES / "kind_3/img_11.jpg")


def edit_twin(root):
    twin = (root / CACHE).with_suffix(".json")
    parts = json.loads(twin.read_text())
    parts["train"].reverse()
    twin.write_text(json.dumps(parts))


def move_root(root):
    shutil.move(root, root.with_name("elsewhere"))


WARNINGS = {
    "listed twice": (edit_split(list_twice), ("warning", "duplicates"), "kind_0/img_00.jpg (test, train)"),
    "same bytes": (copy_image, ("warning", "duplicates"), "kind_3/img_11.jpg (test)"),
    "other twin": (edit_twin, ("warning", "stale cache"), "shot_4-seed_1.json differs"),
    "moved": (move_root, ("note", "moved cache"), "was written for another place"),
}


@pytest.mark.parametrize("fault", WARNINGS)
def test_oddity_is_no_error(doctor, root, fault):
    plant, expected, text = WARNINGS[fault]
    plant(root)
    status, document = doctor(place=root if root.is_dir() else root.with_name("elsewhere"))
    assert status == 0 and document["errors"] == 0
    assert found(document) == [expected] * (3 if fault == "moved" else 1)  # two subsets and the listing have moved
    assert text in json.dumps(document)


def test_all_gaps_and_all_files_are_in_the_document(doctor, root):
    for index in range(6):
        (root / IMAGES / "kind_1" / f"img_{index:02d}.jpg").unlink()
    problem = doctor()[1]["datasets"][0]["problems"][0]
    assert [Path(file).name for file in problem["files"]] == [f"img_{index:02d}.jpg" for index in range(6)]


def test_quick_does_not_open_images(doctor, root):
    cut(IMAGES / "kind_1/img_12.jpg")(root)
    assert doctor("--quick")[0] == 0
    (root / IMAGES / "kind_1/img_12.jpg").unlink()
    assert found(doctor("--quick")[1]) == [("error", "missing images")]


@pytest.mark.parametrize(
    ("name", "add", "file"),
    [
        ("OxfordFlowers", fakes.add_flower_labels, "oxford_flowers/imagelabels.mat"),
        ("StanfordCars", fakes.add_car_annotations, "stanford_cars/devkit/cars_train_annos.mat"),
    ],
)
def test_renumbered_images_are_found_by_their_annotations(tmp_path, doctor, name, add, file):
    results = []
    for place, shift in ((tmp_path / "same", 0), (tmp_path / "shifted", 1)):
        fakes.make_split_dataset(place, name)
        add(place, shift)
        results.append(doctor(names=[name], place=place)[1])
    assert found(results[0]) == [("error", "counts")]
    assert found(results[1]) == [("error", "counts"), ("error", "annotations")]
    assert len(results[1]["datasets"][0]["problems"][1]["files"]) >= 10  # where one class meets the next, in each part
    cut(file)(tmp_path / "same")
    assert found(doctor(names=[name], place=tmp_path / "same")[1]) == [("error", "counts"), ("warning", "annotations")]


# ---------------------------------------------------------------------------------------------- repair


def test_repair_moves_stale_caches_aside(doctor, root):
    healthy = [vars(item) for item in build(root, "Caltech101").train_x]
    for path in (CACHE, LISTING):
        cut(path)(root)
    damaged, before = (root / CACHE).read_bytes(), snapshot(root)
    (root / CACHE).with_name(f"{CACHE.name}.bak").write_text("an older one")
    status, document = doctor("--repair")
    assert status == 0 and document["errors"] == 0
    assert [p["repaired"] for dataset in document["datasets"] for p in dataset["problems"]] == [True, True]
    assert not any((root / path).exists() for path in (CACHE, CACHE.with_suffix(".json"), LISTING))
    assert (root / CACHE).with_name(f"{CACHE.name}.bak").read_text() == "an older one"
    assert (root / CACHE).with_name(f"{CACHE.name}.bak2").read_bytes() == damaged
    caches = {root / CACHE, (root / CACHE).with_suffix(".json"), root / LISTING}
    after = snapshot(root)
    assert all(after[path] == content for path, content in before.items() if path not in caches)
    assert [vars(item) for item in build(root, "Caltech101").train_x] == healthy  # drawn again
    assert doctor()[0] == 0


def test_repair_leaves_everything_else_alone(doctor, root):
    for plant, _, _ in (ERRORS["cut image"], ERRORS["count"]):
        plant(root)
    before = snapshot(root)
    assert doctor("--repair")[0] == 1
    assert snapshot(root) == before


def test_repair_that_fails_says_so(doctor, root, monkeypatch):
    def refuse(self, target):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "rename", refuse)
    cut(CACHE)(root)
    status, document = doctor("--repair")
    assert status == 1
    assert document["datasets"][0]["problems"][0]["fix"].startswith("it could not be moved aside (read-only)")


# ---------------------------------------------------------------------------------------------- command line


def test_absence_is_an_error_only_where_a_dataset_is_named(doctor, root, capsys):
    assert main(["doctor", "--root", str(root)]) == 0
    capsys.readouterr()
    status, document = doctor(names=["oxford_pets"])
    assert (status, found(document)) == (1, [("error", "missing")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "nowhere"], "there is no folder nowhere"),
        (["--root", "empty"], "none of the 21 known datasets is in empty"),
        (["--root", "data", "--datasets", "caltech"], "unknown dataset 'caltech': did you mean caltech101"),
        (["--root", "data", "--datasets", "no.yaml"], "no config file no.yaml"),
        (["--root", "data", "--datasets", "ImageFolder"], "DATASET.FOLDER is empty"),
    ],
)
def test_wrong_command_lines_are_one_line(root, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(root.parent)
    (root.parent / "empty").mkdir()
    assert main(["doctor", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and message in output.err
    assert output.err.count("\n") == 1


def test_own_images_are_named_by_their_yaml(doctor, root):
    fakes.make_folders(root)
    own = root.parent / "own.yaml"
    own.write_text("DATASET:\n  NAME: ImageFolder\n  FOLDER: mine\n")
    status, document = doctor(names=[str(own)])
    assert (status, document["datasets"][0]["images"]) == (0, {"train": 18, "val": 15, "test": 9})
    cut(Path("mine/test/ant/img_11.jpg"))(root)
    assert found(doctor(names=[str(own)])[1]) == [("error", "unreadable images")]


# ---------------------------------------------------------------------------------------------- another `datasets`


def command(place, root, **environment):
    return subprocess.run(
        [sys.executable, "-m", "anprompt", "doctor", "--root", str(root), "--quick", "--datasets", "caltech101"],
        cwd=place,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_hugging_faces_datasets_is_not_taken_for_ours(root, tmp_path):
    (tmp_path / "site" / "datasets").mkdir(parents=True)
    (tmp_path / "site" / "datasets" / "__init__.py").write_text("def load_dataset(): ...\n")
    done = command(tmp_path, root, PYTHONPATH=f"{tmp_path / 'site'}{os.pathsep}{REPOSITORY}")
    assert done.returncode == 1 and "5 classes, expected 100" in done.stdout, done.stderr


def test_an_imported_stranger_and_a_missing_checkout_are_named(monkeypatch, tmp_path):
    stranger = tmp_path / "other"
    monkeypatch.setattr(drop_in.importlib, "import_module", lambda name: type("Module", (), {"__path__": [stranger]}))
    with pytest.raises(ValueError, match="expected the package datasets of .*was imported before it"):
        drop_in.checkout_package("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drop_in, "__file__", str(tmp_path / "site" / "anprompt" / "drop_in.py"))
    with pytest.raises(ValueError, match="needs the folder datasets/ of a checkout"):
        drop_in.checkout_package("datasets")
