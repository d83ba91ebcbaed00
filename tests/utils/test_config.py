"""Config files: YAML only, and only files. Values that decide the same numbers."""

import os

import pytest

from anprompt.utils.config import merge_file, same_value
from dassl.config import get_cfg_default


@pytest.mark.parametrize("name", ["x.py", "x.PY", "x.yaml.py", "x.json", "x.yaml.txt", "x.pyc"])
def test_no_other_file_than_yaml_is_read_and_no_python_run(tmp_path, name):
    (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ncfg = {{'SEED': 5}}\n")
    with pytest.raises(ValueError, match=r"has another ending than \.yaml or \.yml: only YAML is read, and no Python"):
        merge_file(get_cfg_default(), str(tmp_path / name))
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["x.yaml", "x.yml", "x", "x.py.yaml"])
def test_yaml_is_read_under_the_names_that_it_has(tmp_path, name):
    (tmp_path / name).write_text("SEED: 5\n")
    cfg = get_cfg_default()
    merge_file(cfg, str(tmp_path / name))
    assert cfg.SEED == 5


def test_what_is_no_file_is_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.yaml")
    (tmp_path / "y.yaml").mkdir()
    for name, kind in (("x", "a named pipe"), ("y", "a folder")):
        with pytest.raises(ValueError, match=f"the config file .*{name}.yaml is {kind}, expected a file"):
            merge_file(get_cfg_default(), str(tmp_path / f"{name}.yaml"))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("/elsewhere/stage0/shapes/GA2CLIP/tiny_stage0/seed7", True),
        ("/out/stage0/shapes/CoOp/tiny_stage0/seed1", False),
        ("/out/stage0/dtd/GA2CLIP/tiny_stage0/seed1", False),
        ("/out/stage0/shapes/GA2CLIP/mine/seed1", False),
        ("/out/stage0/shapes/GA2CLIP/tiny_stage0", False),
        ("template", False),
        ("", False),
    ],
)
def test_runs_that_others_start_from_may_move_and_differ_in_their_seed(other, same):
    source = "/out/stage0/shapes/GA2CLIP/tiny_stage0/seed1"
    assert same_value("TRAINER.GA2CLIP.HARD.SOURCE", source, source)
    assert same_value("TRAINER.GA2CLIP.HARD.SOURCE", source, other) is same
    assert same_value("TRAINER.GA2CLIP.HARD.SOURCE", "template", "template")
