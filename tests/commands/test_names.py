"""Names from files and folders are printed so that they cannot act on the terminal."""

import argparse
import json
import logging
import sys

import pytest

import train
from anprompt.cli import main
from anprompt.commands import train as command
from anprompt.doctor.report import Problem, Report
from anprompt.engine.resumable import describe
from dassl.config import get_cfg_default
from dassl.evaluation import build_evaluator

EVIL = "\x1b[2J\x1b]0;owned\x07"
SHOWN = r"\x1b[2J\x1b]0;owned\x07"


@pytest.fixture
def printed(capsys):
    """What stands on the terminal, without one character that would act on it."""

    def text():
        captured = capsys.readouterr()
        both = captured.out + captured.err
        assert not set(both) & {"\x1b", "\x07", "\r"}
        return both

    return text


def test_an_error_that_names_a_key_of_a_file(tmp_path, printed):
    (tmp_path / "x.yaml").write_text('"\\e[2J\\e]0;owned\\a": 1\n')
    assert train.main(["--dataset-config-file", str(tmp_path / "x.yaml")]) == 2
    assert SHOWN in printed()


def test_an_error_that_names_a_folder(tmp_path, printed):
    assert main(["table", str(tmp_path / EVIL)]) == 2
    assert SHOWN in printed()


def test_lines_of_the_log(printed, monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    logger = logging.getLogger("anprompt")
    before = logger.handlers
    command.show_messages()
    logger.info("few-shot subset from %s\nnext line", EVIL)
    logger.handlers = before
    assert printed() == f"few-shot subset from {SHOWN}\nnext line\n"


def test_the_config_of_a_run(printed):
    cfg = get_cfg_default()
    cfg.DATASET.NAME = EVIL
    command.print_args(argparse.Namespace(root=EVIL), cfg)
    assert printed().count(SHOWN) == 2


def test_classes_of_a_checkpoint():
    assert describe({"dataset": EVIL, "classnames": ["cat", EVIL]}).count(SHOWN) == 2


def test_classes_in_a_result_by_class(printed):
    import torch

    cfg = get_cfg_default()
    cfg.TEST.PER_CLASS_RESULT = True
    evaluator = build_evaluator(cfg, lab2cname={0: EVIL})
    evaluator.process(torch.ones(1, 1), torch.zeros(1, dtype=torch.long))
    evaluator.evaluate()
    assert SHOWN in printed()


def test_rows_of_a_table_and_what_is_wrong_with_them(tmp_path, printed):
    run = {"classes": "all", "seed": 1, "shots": 16, "config": {}, "accuracy": 50.0}
    for folder, content in (("a", {**run, "trainer": EVIL, "dataset": EVIL}), (EVIL, {})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "results.json").write_text(json.dumps(content))
    for style in ("md", "csv", "latex"):
        assert main(["table", str(tmp_path), "--format", style]) == 0
        text = printed()
        assert SHOWN in text and "is damaged" in text


def test_findings_of_the_doctor():
    from anprompt.commands.doctor import as_text

    report = Report(EVIL, EVIL, problems=[Problem("error", EVIL, EVIL, EVIL, files=[EVIL])])
    text = as_text([report])
    assert text.count(SHOWN) == 7 and "\x1b" not in text
