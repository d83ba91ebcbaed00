"""The log aggregator: every dialect of the family's logs, averages, and what unfinished runs get."""

import json
import math
import re

import pytest

import parse_test_res

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
    deviation = math.sqrt(sum((error - 17) ** 2 for error in (20, 16, 15)) / 3)
    assert parse(directory, "--keyword", "error", "--ci95")[1].splitlines()[-1] == (
        f"* error: 17.00% +- {1.96 * deviation / math.sqrt(3):.2f}%"
    )


def test_experiments_are_averaged(parse, tmp_path):
    write_logs(tmp_path / "lr1", ["Finish training\n" + block(80.0), "Finish training\n" + block(82.0)])
    write_logs(tmp_path / "lr2", ["Finish training\n" + block(91.0)])
    assert parse(tmp_path, "--multi-exp")[1].splitlines()[-1] == "* accuracy: 86.00%"


def test_harmonic_mean_of_base_and_new(parse, tmp_path):
    base = write_logs(tmp_path / "base", ["Finish training\n" + block(80.0), "Finish training\n" + block(84.0)])
    new = write_logs(tmp_path / "new", [block(70.0), block(74.0)])  # logs of --eval-only runs
    lines = parse(base, new)[1].splitlines()
    assert [lines[-3].split(), lines[-1].split()] == [["base", "new", "HM"], ["82.00", "72.00", "76.68"]]


def test_harmonic_mean_of_nothing_is_zero():
    assert parse_test_res.harmonic_mean(0, 0) == 0


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
