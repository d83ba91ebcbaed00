"""YAML and JSON that say two things are refused with both places; nothing that says one thing is."""

import json

import pytest
import yaml

from anprompt.utils import strict_json, strict_yaml
from anprompt.utils.config import add_shared_cfg, merge_file, merge_overrides, require_text
from dassl.config import get_cfg_default
from tests.helpers import REPOSITORY

# Ten times ten times ten ...: few bytes, many values.
LAUGHS = "a: &a [1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcde", "bcdef", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OPTIM:\n  LR: 1.0\nSEED: 1\nOPTIM:\n  NAME: sgd\n", "^OPTIM is there twice, in lines 1 and 4"),
        ("OPTIM:\n  LR: 1.0\n  LR: 2.0\n", r"^OPTIM\.LR is there twice, in lines 2 and 3"),
        ("OPTIM: {LR: 1.0, 'LR': 2.0}", r"^OPTIM\.LR is there twice, in lines 1 and 1"),
        ("A: [{B: 1, B: 2}]", r"^A\.B is there twice"),
        ("SEED: 010", "^line 1: SEED 010 is an octal number in YAML: write 10, "),
        ("A:\n- -0_7", "^line 2: A -0_7 is an octal number in YAML: write -7, "),
        ("A: !!int 010", "octal"),
        ("A: 1:30", "^line 1: A 1:30 is a number to the base 60"),
        ("A: 1:30.5", "base 60"),
        ("FOLDER: 2020-01-01", "is a date in YAML"),
        ("OPTIM:\n\tLR: 1.0", "^line 2 has a tab"),
        ("SEED:\t1", "^line 1 has a tab"),
        ("1: 2", "^line 1: expected the name of a key, found '1'"),
        ("A:\n  on: 2", "^line 2: expected the name of a key, found 'on'"),
        ("? [1, 2]\n: 3", "found a list or a section"),
        ("A: &a\n  B: *a", r"^line 1: A\.B contains itself"),
        ("A: &a [*a]", "contains itself"),
        ("[" * 100_000, "^line 1: more than 30 levels"),
        ("{A: " * 50, "^line 1: more than 30 levels"),
        (LAUGHS, "^more than 10,000 values"),
        ("A: !!python/object/apply:os.getcwd []", "^line 1: could not determine a constructor"),
        ("A: !!bool 7", "is not of the type that its tag"),
        ("A: [1, 2", "^line 1: "),
        ("A: 1\n---\nB: 2", "another document"),
        ("A: *b", "undefined alias"),
        ("A: \0", "special characters"),
    ],
)
def test_yaml_that_says_two_things_is_one_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        strict_yaml.load(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "# nothing", "A: 0", "A: 0x10", "A: 1_000", "A: '010'", "A: -1", "A: 1e3", "A: 089"]
)
def test_other_yaml_is_read_as_ever(text):
    assert strict_yaml.load(text) == yaml.safe_load(text)


def test_anchors_and_merged_sections_stay():
    text = "A: &a {B: 1, C: 2}\nD:\n  <<: *a\n  C: 3\nE: *a"
    assert strict_yaml.load(text) == {"A": {"B": 1, "C": 2}, "D": {"B": 1, "C": 3}, "E": {"B": 1, "C": 2}}


def test_the_projects_own_files_are_read_as_by_pyyaml():
    paths = list((REPOSITORY / "configs").rglob("*.yaml"))
    assert len(paths) > 20
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert strict_yaml.load(text) == yaml.safe_load(text), path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"test": [],\n "val": [],\n "test": [1]}', "'test' is there twice, in line 1, column 2 and line 3, column 2"),
        ('{"a": {"b": 1, "b": 2}}', "'b' is there twice, in line 1, column 8 and line 1, column 16"),
        ('{"\\u0061": 1, "a": 2}', "'a' is there twice: only"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_says_two_things_is_one_line(text, message):
    with pytest.raises(ValueError, match=message):
        strict_json.loads(text)


def test_other_json_is_read_as_ever():
    text = json.dumps({"test": [1, {"test": 2}], "val": {"test": None}})
    assert strict_json.loads(text) == json.loads(text)


# ---------------------------------------------------------------------------------------------- configs


@pytest.fixture
def cfg():
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    return cfg


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OPTIM: 3", "OPTIM is a section: expected keys below it, found 3"),
        ("OPTIM:", "OPTIM is a section: expected keys below it, found None"),
        ("DATALOADER:\n  TRAIN_X: [1]", r"DATALOADER\.TRAIN_X is a section"),
        ("SEED:\n  A: 1", "SEED takes a int, such as -1, found a section"),
        ("OPTIM:\n  LR:", r"OPTIM\.LR has no value: it takes a float, such as 0\.0003"),
        ("INPUT:\n  SIZE: [224]", r"INPUT\.SIZE takes 2 numbers, such as \(224, 224\), got \[224\]"),
        ("INPUT:\n  PIXEL_MEAN: [a, b, c]", r"INPUT\.PIXEL_MEAN takes 3 numbers"),
        ("OPTIM:\n  LR: 0.1\n  LR: 0.2", r"OPTIM\.LR is there twice, in lines 2 and 3"),
        ("- 1", "expected YAML keys such as OPTIM:"),
        ("3", "expected YAML keys such as OPTIM:"),
    ],
)
def test_a_config_file_that_does_not_fit_is_one_line_with_its_name(cfg, tmp_path, text, message):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        merge_file(cfg, str(path))
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["OPTIM.LR", "SEED", "INPUT.SIZE", "DATALOADER.TRAIN_X.BATCH_SIZE", "TRAINER.NAME"])
def test_none_is_no_value(cfg, key):
    with pytest.raises(ValueError, match=f"^{key} has no value: it takes a "):
        merge_overrides(cfg, [key, "None"])


@pytest.mark.parametrize("value", ["{[]: 1}", "(" * 300 + ")" * 300, "+" * 100_000 + "1"])
def test_overrides_that_python_cannot_read_are_one_line(cfg, value):
    with pytest.raises(ValueError, match="^OPTIM.LR takes a float") as error:
        merge_overrides(cfg, ["OPTIM.LR", value])
    assert len(str(error.value)) < 200


def test_bytes_that_are_not_utf8_are_named_with_their_key(cfg):
    require_text(cfg)
    cfg.DATASET.ROOT = b"/d\xe9j\xe0".decode("utf-8", "surrogateescape")
    with pytest.raises(ValueError, match=r"^DATASET\.ROOT '/d\\udce9j\\udce0' is not UTF-8"):
        require_text(cfg)
