"""The tables as CSV and LaTeX, and in a file."""

import csv
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY
from tests.table.rows import cells


def test_csv_is_unrounded_and_parses_back(base2new, table):
    base2new(parameters=46080)
    _, out, _ = table("--format", "csv", "--cost")
    (row,) = csv.DictReader(out.splitlines())
    assert row["trainer"] == "CoOp" and row["seeds"] == "1 2 3" and row["parameters"] == "46080"
    assert float(row["base"]) == 82.0
    assert float(row["base ±"]) == pytest.approx((8 / 3) ** 0.5, rel=1e-12)
    assert float(row["new ±"]) == pytest.approx((26 / 3) ** 0.5, rel=1e-12)
    assert float(row["HM"]) == pytest.approx((2 * 5600 / 150 + 2 * 6048 / 156 + 2 * 6314 / 159) / 3, rel=1e-12)
    assert row["training (s)"] == ""


def test_csv_keeps_its_columns_where_a_half_is_missing(base2new, table):
    base2new("CoOp", accuracies={"base": {1: 80}}, parameters=512)
    base2new("MMRL")
    rows = list(csv.DictReader(table("--format", "csv", "--cost")[1].splitlines()))
    assert [(row["base"], row["new"], row["HM"], row["parameters"]) for row in rows][0] == ("80.0", "", "", "512")


def test_several_tables_in_one_csv_are_apart(base2new, write, table):
    base2new()
    write("few_shot/dtd/shots_1/CoOp/a/seed1", 40.0, shots=1)
    first, second = table("--format", "csv")[1].split("\n\n")
    assert next(csv.DictReader(first.splitlines()))["data"] == "DTD"
    assert next(csv.DictReader(second.splitlines()))["1 shot"] == "40.0"


def test_latex_is_balanced_and_escaped(base2new, table):
    base2new(stem="vit_b16_50%_a&b#")
    _, out, _ = table("--format", "latex", "--ci95")
    assert r"vit\_b16\_50\%\_a\&b\#" in out
    assert r"82.00 $\pm$ 4.97" in out
    assert "±" not in out
    for name in ("table", "tabular"):
        assert out.count(rf"\begin{{{name}}}") == out.count(rf"\end{{{name}}}") == 1
    assert out.count("{") == out.count("}")
    assert out.count(r"\toprule") == out.count(r"\midrule") == out.count(r"\bottomrule") == 1
    body = [line for line in out.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {7}
    caption = next(line for line in out.splitlines() if line.startswith(r"\caption"))
    assert r"95 \%" in caption and "%" not in caption.replace(r"\%", "")


def test_output_must_be_a_file(base2new, table, tmp_path):
    base2new()
    status, _, err = table("--output", str(tmp_path))
    assert (status, err) == (
        2,
        f"error: --output {tmp_path} is a folder: name a file, such as {tmp_path / 'table.md'}\n",
    )


def test_output_goes_to_a_file(base2new, table, tmp_path):
    base2new()
    expected = table()[1]
    status, out, _ = table("--output", str(tmp_path / "tables" / "t.md"))
    assert (status, out) == (0, "")
    assert (tmp_path / "tables" / "t.md").read_text(encoding="utf-8") == expected


def test_the_module_runs(base2new, tmp_path):
    base2new()
    done = subprocess.run(
        [sys.executable, "-m", "anprompt", "table", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert cells(done.stdout)[0][0] == "CoOp"
