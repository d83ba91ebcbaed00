"""The log aggregator: every dialect of the family's logs, averages, and what unfinished runs get."""

import json
import math
import re

import pytest

import parse_test_res
from anprompt.runs.measures import harmonic_mean

RESULT = """=> result
* total: 30
* correct: 11
* accuracy: {:.1f}%
* error: {:.1f}%
* macro_f1: 23.9%
Elapsed: 0:00:01
"""
VALIDATION = "Evaluate on the *val* set\n" + RESULT.format(99.0, 1.0)


def block(accuracy):
    return RESULT.format(accuracy, 100 - accuracy)


def write_logs(directory, texts, name="log.txt"):
    for seed, text in enumerate(texts, start=1):
        (directory / f"seed{seed}").mkdir(parents=True, exist_ok=True)
        (directory / f"seed{seed}" / name).write_text(text)
    return str(directory)


@pytest.fixture
def parse(capsys):
    def run(*arguments):
        status = parse_test_res.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("head", "flags"),
    [
        ("Finish training\n", []),  # CoOp, Dassl since 0.6.1
        ("Finished training\n", []),  # MaPLe, PromptSRC, KgCoOp, TCP
        ("  Finish training  \nFinished training\n", []),  # ours
        (VALIDATION + "Finish training\nDeploy the model with the best val performance\n", []),
        ("Loading evaluator: Classification\n", ["--test-log"]),
    ],
)
def test_dialects(parse, tmp_path, head, flags):
    directory = write_logs(tmp_path, [head + block(80.0), head + block(84.0)])
    status, out, _ = parse(directory, *flags)
    assert status == 0
    assert out.splitlines()[-1] == "* accuracy: 82.00% +- 2.00%"
    assert "seed1/log.txt: accuracy 80.00%" in out


def test_last_match_wins(parse, tmp_path):
    directory = write_logs(tmp_path, ["Finish training\n" + VALIDATION + block(70.5)])
    assert parse(directory)[1].splitlines()[-1] == "* accuracy: 70.50% +- 0.00%"


def test_keyword_and_confidence_interval(parse, tmp_path):
    directory = write_logs(tmp_path, ["Finish training\n" + block(value) for value in (80.0, 84.0, 85.0)])
    squares = sum((error - 17) ** 2 for error in (20, 16, 15))
    family = 1.96 * math.sqrt(squares / 3) / math.sqrt(3)
    assert parse(directory, "--keyword", "error", "--ci95")[1].splitlines()[-2:] == [
        f"95 % confidence interval: Student's t; the CoOp family's 1.96 sigma / sqrt(n) is +- {family:.2f}%",
        f"* error: 17.00% +- {4.302653 * math.sqrt(squares / 2) / math.sqrt(3):.2f}%",
    ]


def test_one_flag_has_one_meaning(parse, write, table, tmp_path):
    """The same runs, the same interval: 4.302653 * sqrt(13 / 3) / sqrt(3)."""
    for seed, accuracy in ((1, 60.0), (2, 61.0), (3, 64.0)):
        write(f"few_shot/dtd/shots_16/CoOp/a/seed{seed}", accuracy, seed)
    printed = parse(tmp_path / "few_shot/dtd/shots_16/CoOp/a", "--exact", "--ci95")[1]
    assert printed.splitlines()[-1] == "* accuracy: 61.67% +- 5.17%"
    assert "61.67 ± 5.17" in table("--ci95")[1]


def test_one_run_has_no_interval(parse, tmp_path):
    directory = write_logs(tmp_path, ["Finish training\n" + block(80.0)])
    assert parse(directory, "--ci95")[1].splitlines()[-2:] == [
        "one run has no confidence interval",
        "* accuracy: 80.00% +- 0.00%",
    ]


def test_experiments_are_averaged(parse, tmp_path):
    write_logs(tmp_path / "lr1", ["Finish training\n" + block(80.0), "Finish training\n" + block(82.0)])
    write_logs(tmp_path / "lr2", ["Finish training\n" + block(91.0)])
    assert parse(tmp_path, "--multi-exp")[1].splitlines()[-1] == "* accuracy: 86.00%"


def test_harmonic_mean_of_base_and_new(parse, tmp_path):
    base = write_logs(tmp_path / "base", ["Finish training\n" + block(80.0), "Finish training\n" + block(84.0)])
    new = write_logs(tmp_path / "new", [block(70.0), block(74.0)])  # logs of --eval-only runs
    lines = parse(base, new)[1].splitlines()
    assert [lines[-3].split(), lines[-1].split()] == [["base", "new", "HM"], ["82.00", "72.00", "76.68"]]


@pytest.mark.parametrize("flags", [(), ("--exact",), ("--multi-exp",)])
def test_no_harmonic_mean_over_different_seeds(parse, tmp_path, flags):
    """Base has seeds 1 and 2, new has 1 only."""
    for part, texts in (("base", ["Finish training\n" + block(80.0)] * 2), ("new", [block(70.0)])):
        folder = tmp_path / part / "lr1" if "--multi-exp" in flags else tmp_path / part
        write_logs(folder, texts)
        write_logs(folder, [json.dumps({"accuracy": 70})] * len(texts), "results.json")
    status, out, err = parse(tmp_path / "base", tmp_path / "new", *flags)
    assert status == 2 and "HM" not in out
    name = "lr1 " if "--multi-exp" in flags else ""
    assert err.startswith(f"error: no HM over different seeds: base has {name}1, {name}2, new has {name}1. Run what")
    assert err.count("\n") == 1


def test_folders_that_name_no_seed_are_taken_as_they_are(parse, tmp_path):
    write_logs(tmp_path / "base", ["Finish training\n" + block(80.0)])
    write_logs(tmp_path / "new", [block(70.0)])
    for part in ("base", "new"):
        (tmp_path / part / "seed1").rename(tmp_path / part / f"my_{part}_run")
    assert parse(tmp_path / "base", tmp_path / "new")[1].splitlines()[-1].split() == ["80.00", "70.00", "74.67"]


def test_harmonic_mean_of_nothing_is_zero():
    assert harmonic_mean(0, 0) == 0


def test_exact_reads_unrounded_results(parse, tmp_path):
    for part, value in (("base", 85.714285), ("new", 71.428571)):
        write_logs(tmp_path / part, [json.dumps({"accuracy": value})], "results.json")
    assert parse(tmp_path / "base" / "seed1", tmp_path / "new", "--exact")[1].splitlines()[-1].split() == [
        "85.71",
        "71.43",
        "77.92",
    ]


def test_hidden_and_stray_files_are_ignored(parse, tmp_path):
    directory = write_logs(tmp_path, ["Finish training\n" + block(80.0)])
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "seed1" / "log.txt-2026-01-01-00-00-00").write_text("Finish training\n" + block(10.0))
    assert parse(directory)[1].splitlines()[-1] == "* accuracy: 80.00% +- 0.00%"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no runs in"),
        (lambda path: (path / "seed1").mkdir(), "seed1/log.txt is missing: the run has not started or not finished"),
        (
            lambda path: write_logs(path, [VALIDATION]),
            "no line 'Finish training': the run has not finished .*--test-log",
        ),
        (lambda path: write_logs(path, ["Finish training\n"]), r"no '\* accuracy: ...%': the run has not finished, or"),
    ],
)
def test_what_has_not_finished_is_named(parse, tmp_path, prepare, message):
    prepare(tmp_path)
    status, _, err = parse(tmp_path)
    assert status == 2
    assert err.count("\n") == 1
    assert re.search(message, err)


def test_missing_folder_is_named(parse, tmp_path):
    assert parse(tmp_path / "nowhere")[::2] == (2, f"error: no folder {tmp_path / 'nowhere'}\n")


def test_a_damaged_record_is_named(tmp_path, capsys):
    (tmp_path / "seed1").mkdir()
    for content in ("{", "[1]", "5"):
        (tmp_path / "seed1" / "results.json").write_text(content)
        assert parse_test_res.main([str(tmp_path), "--exact"]) == 2
        assert "seed1/results.json is damaged" in capsys.readouterr().err
