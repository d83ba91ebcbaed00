"""``python -m anprompt table``, against tables computed by hand."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from anprompt.cli import main
from anprompt.table.base_to_new import harmonic_mean, published

ACCURACIES = {"base": {1: 80.0, 2: 84.0, 3: 82.0}, "new": {1: 70.0, 2: 72.0, 3: 77.0}}


@pytest.fixture
def write(tmp_path):
    """Write the ``results.json`` of one run under ``tmp_path``."""

    def write_run(folder, accuracy, seed=1, trainer="CoOp", dataset="DTD", classes="all", shots=16, **more):
        content = {"dataset": dataset, "classes": classes, "seed": seed, "trainer": trainer, "shots": shots}
        path = tmp_path / folder / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | {"accuracy": accuracy, "config": {}} | more))
        return path

    return write_run


@pytest.fixture
def base2new(write):
    """Write both halves of some seeds: ``base2new(CoOp={...})``, by trainer."""

    def write_runs(trainer="CoOp", dataset="DTD", stem="ep50", accuracies=ACCURACIES, **more):
        for classes, place in (("base", "train_base"), ("new", "test_new")):
            for seed, accuracy in accuracies.get(classes, {}).items():
                folder = f"base2new/{place}/{dataset}/shots_16/{trainer}/{stem}/seed{seed}"
                write(folder, accuracy, seed, trainer, dataset, classes, **more)

    return write_runs


@pytest.fixture
def table(tmp_path, capsys):
    """Status, output and error output of the command on everything written."""

    def run(*arguments):
        status = main(["table", str(tmp_path), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def cells(markdown, skip=2):
    """The rows below header and rule, cell by cell."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[skip:]]


# ---------------------------------------------------------------------------------------------- base to new


def test_base_to_new_by_hand(base2new, table):
    """Means 82 and 73, population deviations sqrt(8/3) and sqrt(26/3); H of 80|70, 84|72, 82|77 seed by seed."""
    base2new()
    status, out, err = table()
    assert (status, err) == (0, "")
    # 74.6667, 77.5385, 79.4214: mean 77.2088, deviation 1.9551
    assert cells(out) == [["CoOp", "ep50", "16", "DTD", "1 2 3", "82.00 ± 1.63", "73.00 ± 2.94", "77.21 ± 1.96"]]


def test_confidence_interval_is_students(base2new, table):
    """t(0.975, 2) = 4.302653; half widths t * s / sqrt(3) with s = 2 and sqrt(13)."""
    base2new()
    _, out, _ = table("--ci95")
    assert cells(out)[0][5:7] == ["82.00 ± 4.97", "73.00 ± 8.96"]
    assert "95 % confidence interval (Student t)" in out


def test_one_seed_has_no_spread(base2new, table):
    base2new(accuracies={"base": {1: 80}, "new": {1: 60}})
    assert cells(table()[1])[0][4:] == ["1", "80.00", "60.00", "68.57"]


def test_both_conventions_of_the_average_h(base2new, table):
    base2new(dataset="DTD", accuracies={"base": {1: 80}, "new": {1: 20}})  # H 32
    base2new(dataset="EuroSAT", accuracies={"base": {1: 40}, "new": {1: 60}})  # H 48
    rows = cells(table()[1])
    assert [row[3] for row in rows[:2]] == ["DTD", "EuroSAT"]
    assert rows[2][3:] == ["average of 2, H of the averages", "-", "60.00", "40.00", "48.00"]
    assert rows[3][3:] == ["average of 2, average of the Hs", "-", "60.00", "40.00", "40.00"]


def test_averages_over_different_data_are_warned_of(base2new, table):
    for dataset in ("DTD", "EuroSAT", "UCF101"):
        base2new(dataset=dataset)
        if dataset != "UCF101":
            base2new("MMRL", dataset)
    _, _, err = table()
    assert err == (
        "warning: averages over different data sets do not compare: "
        "CoOp ep50 16: DTD, EuroSAT, UCF101; MMRL ep50 16: DTD, EuroSAT\n"
    )


def test_a_seed_with_one_half_does_not_count(base2new, table):
    base2new(accuracies={"base": {1: 80, 2: 10, 4: 10}, "new": {1: 60, 3: 10}})
    _, out, err = table()
    assert cells(out)[0][4:] == ["1", "80.00", "60.00", "68.57"]
    assert err.splitlines() == [
        "warning: CoOp (ep50, 16 shots) on DTD: no new half of seed 2, 4: left out",
        "warning: CoOp (ep50, 16 shots) on DTD: no base half of seed 3: left out",
    ]


def test_without_any_new_half_base_is_shown(base2new, table):
    base2new(accuracies={"base": {1: 80, 2: 82}})
    _, out, err = table()
    assert cells(out)[0][4:] == ["1 2", "81.00 ± 1.00", "-", "-"]
    assert err == "warning: CoOp (ep50, 16 shots) on DTD: no new half of seed 1, 2: no H\n"


def test_files_and_shots_have_their_own_rows(base2new, write, table):
    base2new(stem="ep50")
    base2new(stem="ep100")
    write("anywhere/base", 50.0, trainer="Zero", classes="base", shots=-1)  # a folder that tells no YAML file
    write("anywhere/new", 50.0, trainer="Zero", classes="new", shots=-1)
    rows = cells(table()[1])
    assert [row[:3] for row in rows] == [["CoOp", "ep100", "16"], ["CoOp", "ep50", "16"], ["Zero", "-", "-"]]


def test_harmonic_mean_of_two_zeros(base2new, table):
    base2new(accuracies={"base": {1: 0}, "new": {1: 0}})
    assert cells(table()[1])[0][-1] == "0.00"


def test_costs(base2new, table):
    cost = {"train_seconds": 30.0, "peak_memory_bytes": 412_400_000, "memory_of": "process"}
    base2new("CoOp", accuracies={"base": {1: 80}}, parameters=46080, cost=cost)
    base2new("CoOp", accuracies={"base": {2: 80}}, parameters=46080, cost=cost | {"train_seconds": 33.0})
    base2new("MMRL", accuracies={"base": {1: 80}}, cost=cost | {"memory_of": "cuda", "train_seconds": None})
    base2new("Old", accuracies={"base": {1: 80}})
    _, out, _ = table("--cost")
    assert cells(out, skip=0)[0][8:] == ["parameters", "training (s)", "peak memory (MB)", "peak GPU memory (MB)"]
    assert [row[8:] for row in cells(out)] == [
        ["46,080", "31.5", "412", "-"],
        ["-", "-", "-", "412"],
        ["-", "-", "-", "-"],
    ]


# ---------------------------------------------------------------------------------------------- published results


def test_published_h_is_the_harmonic_mean_of_the_published_averages():
    rows = published()["rows"]
    assert len({row["method"] for row in rows}) == len(rows) > 20
    for row in rows:
        assert abs(harmonic_mean(row["base"], row["new"]) - row["H"]) <= 0.01, row["method"]
        assert row["source"], row["method"]


def test_published_rows_are_marked(base2new, table):
    base2new()
    _, out, _ = table("--compare")
    rows = cells(out)
    assert rows[0][-1] == "measured"
    (maple,) = (row for row in rows if row[0] == "MaPLe")
    assert maple[2:8] == ["16", "average of 11, H of the averages", "-", "82.28", "75.14", "78.55"]
    assert maple[-1].startswith("published, not measured here, CVPR23: ")
    assert all(row[-1].startswith("published, not measured here") for row in rows[1:])
    assert len(rows) == 1 + len(published()["rows"])
    assert published()["notes"][0] in out


def test_nothing_to_compare_with(write, table):
    write("few_shot/dtd/shots_1/CoOp/ep50/seed1", 50.0)
    assert table("--compare")[2] == "warning: there are no base-to-new results to compare with the published ones\n"


# ---------------------------------------------------------------------------------------------- the other protocols


def test_few_shot_by_hand(write, table):
    """CoOp's YAML file depends on the shots: still one row."""
    for shots, stem, accuracies in ((1, "ep50", (40, 44)), (16, "full", (60, 61))):
        for seed, accuracy in enumerate(accuracies, start=1):
            write(f"few_shot/dtd/shots_{shots}/CoOp/{stem}/seed{seed}", accuracy, seed, shots=shots)
    write("few_shot/eurosat/shots_16/CoOp/full/seed1", 90.0, dataset="EuroSAT")
    _, out, err = table()
    assert cells(out) == [
        ["CoOp", "ep50, full", "DTD", "1 2", "42.00 ± 2.00", "60.50 ± 0.50"],
        ["CoOp", "full", "EuroSAT", "1", "-", "90.00"],
        ["CoOp", "ep50, full", "average of 2", "-", "-", "75.25"],
    ]
    assert "1 shot " in out and "16 shots" in out
    assert err == ""


def test_few_shot_with_two_configs_of_the_same_shots(write, table):
    write("few_shot/dtd/shots_1/CoOp/a/seed1", 40.0, shots=1)
    write("few_shot/dtd/shots_1/CoOp/b/seed1", 50.0, shots=1)
    assert cells(table()[1]) == [["CoOp", "a", "DTD", "1", "40.00"], ["CoOp", "b", "DTD", "1", "50.00"]]


def test_shots_of_older_files_are_in_their_config(write, table):
    write("few_shot/dtd/any/CoOp/a/seed1", 40.0, shots=None, config={"DATASET": {"NUM_SHOTS": 4}})
    assert "4 shots" in table()[1]


def test_cross_dataset_by_hand(write, table):
    for seed, accuracy in ((1, 71.0), (2, 72.0)):
        write(f"imagenet/CoOp/ep50_16shots/seed{seed}", accuracy, seed, dataset="ImageNet")
        for name, shift in (("DTD", 20), ("EuroSAT", 30), ("ImageNetA", 40)):
            folder = f"evaluation/CoOp/ep50_16shots/{name.lower()}/seed{seed}"
            write(folder, accuracy - shift, seed, dataset=name, shots=-1)  # a test sets no shots
    _, out, err = table()
    transfer, domain = out.split("**Domain generalisation")
    start = ["CoOp", "ep50", "16", "1 2", "71.50 ± 0.50"]
    assert cells(transfer) == [[*start, "51.50 ± 0.50", "41.50 ± 0.50", "46.50"]]
    assert cells(domain) == [[*start, "31.50 ± 0.50", "31.50"]]
    assert "source: ImageNet" in transfer and "source: ImageNet" in domain
    assert err == ""


def test_no_average_over_part_of_the_targets(write, table):
    for trainer, targets in (("CoOp", ("DTD", "EuroSAT")), ("MMRL", ("DTD",))):
        for name in targets:
            write(f"evaluation/{trainer}/a_16shots/{name}/seed1", 50.0, trainer=trainer, dataset=name, shots=-1)
    assert [row[-1] for row in cells(table()[1])] == ["50.00", "-"]


def test_means_over_different_seeds_are_warned_of(write, table):
    for shots, seeds in ((1, (1, 2)), (2, (1,))):
        for seed in seeds:
            write(f"few_shot/dtd/shots_{shots}/CoOp/a/seed{seed}", 40.0, seed, shots=shots)
    assert table()[2] == "warning: CoOp on DTD: means over different seeds: 1 shot: 1 2; 2 shots: 1\n"


def test_every_protocol_has_its_own_table(base2new, write, table):
    base2new()
    write("few_shot/dtd/shots_1/CoOp/a/seed1", 40.0, shots=1)
    write("imagenet/CoOp/ep50_16shots/seed1", 71.0, dataset="ImageNet")
    captions = [line.split(":")[0] for line in table()[1].splitlines() if line.startswith("**")]
    assert captions == ["**Base to new", "**Few-shot", "**Cross-dataset transfer"]


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"accuracy": 80', "Expecting"),
        ("[]", "not the record of a run"),
        ("{}", "accuracy is None"),
        (b"\xff\xfe\x00", "decode"),
        ({"accuracy": float("nan")}, "accuracy is nan"),
        ({"accuracy": 140}, "accuracy is 140"),
        ({"accuracy": "80"}, "accuracy is '80'"),
        ({"seed": "1"}, "seed is '1'"),
        ({"classes": "old"}, "classes is 'old'"),
        ({"trainer": None}, "trainer is None"),
        ({"cost": [1]}, r"cost is [1]"),
        ({"config": "x"}, "config is 'x'"),
        ({"subset": ["x"]}, "subset is ['x']"),
    ],
)
def test_damaged_files_are_named_and_skipped(base2new, write, table, content, reason):
    base2new(accuracies={"base": {1: 80}, "new": {1: 60}})
    path = write("base2new/train_base/dtd/shots_16/CoOp/ep50/seed9", 10.0, seed=9, classes="base")
    if isinstance(content, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, err = table()
    assert status == 0
    assert cells(out)[0][4:] == ["1", "80.00", "60.00", "68.57"]
    assert err.startswith(f"warning: {path} is damaged (") and reason in err
    assert len(err.splitlines()) == 1


def test_of_two_equal_runs_the_first_counts(write, table):
    first = write("a/few_shot/dtd/shots_1/CoOp/x/seed1", 40.0, shots=1)
    second = write("b/few_shot/dtd/shots_1/CoOp/x/seed1", 60.0, shots=1)
    _, out, err = table()
    assert cells(out)[0][-1] == "40.00"
    assert err == f"warning: {first} and {second} are the same seed of the same run: only the first counts\n"


def test_a_file_found_twice_is_one_run(base2new, table, tmp_path):
    base2new()
    (tmp_path / "link").symlink_to("base2new")
    assert table(str(tmp_path / "base2new" / ".." / "link")) == table()


def test_seeds_with_other_configs_are_warned_of(base2new, table):
    def config(epochs, seed):
        return {"SEED": seed, "OUTPUT_DIR": f"{seed}", "OPTIM": {"MAX_EPOCH": epochs}, "TRAINER": {"NAME": "CoOp"}}

    base2new(accuracies={"base": {1: 80}, "new": {1: 60}}, config=config(10, 1))
    base2new(accuracies={"base": {2: 80}, "new": {2: 60}}, config=config(10, 2))
    assert table()[2] == ""
    base2new(accuracies={"base": {3: 80}, "new": {3: 60}}, config=config(5, 3))
    warnings = table()[2].splitlines()
    assert len(warnings) == 2
    assert all(line.endswith("are averaged, but their configs differ: OPTIM.MAX_EPOCH 10 -> 5") for line in warnings)


def test_trainers_that_saw_other_images_are_warned_of(base2new, table):
    base2new("CoOp", subset="a")
    base2new("MMRL", subset="a")
    base2new("Old")  # does not say
    assert table()[2] == ""
    base2new("MaPLe", accuracies={"base": {2: 80}, "new": {2: 60}}, subset="b")
    assert (
        table()[2] == "warning: DTD (base classes, 16 shots, seed 2): trained on different images: CoOp, MMRL / MaPLe\n"
    )


def test_no_results_and_no_folder(tmp_path, capsys):
    assert main(["table", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: no results below {tmp_path}: give the output folder")
    assert main(["table", str(tmp_path / "gone")]) == 2
    assert capsys.readouterr().err == f"error: no folder {tmp_path / 'gone'}\n"


# ---------------------------------------------------------------------------------------------- formats


def test_csv_is_unrounded_and_parses_back(base2new, table):
    base2new(parameters=46080)
    _, out, _ = table("--format", "csv", "--cost")
    (row,) = csv.DictReader(out.splitlines())
    assert row["trainer"] == "CoOp" and row["seeds"] == "1 2 3" and row["parameters"] == "46080"
    assert float(row["base"]) == 82.0
    assert float(row["base ±"]) == pytest.approx((8 / 3) ** 0.5, rel=1e-12)
    assert float(row["new ±"]) == pytest.approx((26 / 3) ** 0.5, rel=1e-12)
    assert float(row["H"]) == pytest.approx((2 * 5600 / 150 + 2 * 6048 / 156 + 2 * 6314 / 159) / 3, rel=1e-12)
    assert row["training (s)"] == ""


def test_csv_keeps_its_columns_where_a_half_is_missing(base2new, table):
    base2new("CoOp", accuracies={"base": {1: 80}}, parameters=512)
    base2new("MMRL")
    rows = list(csv.DictReader(table("--format", "csv", "--cost")[1].splitlines()))
    assert [(row["base"], row["new"], row["H"], row["parameters"]) for row in rows][0] == ("80.0", "", "", "512")


def test_several_tables_in_one_csv_are_apart(base2new, write, table):
    base2new()
    write("few_shot/dtd/shots_1/CoOp/a/seed1", 40.0, shots=1)
    first, second = table("--format", "csv")[1].split("\n\n")
    assert next(csv.DictReader(first.splitlines()))["data"] == "DTD"
    assert next(csv.DictReader(second.splitlines()))["1 shot"] == "40.0"


def test_latex_is_balanced_and_escaped(base2new, table):
    base2new(stem="vit_b16_50%_a&b#")
    _, out, _ = table("--format", "latex", "--ci95", "--compare")
    assert r"vit\_b16\_50\%\_a\&b\#" in out
    assert r"82.00 $\pm$ 4.97" in out
    assert "±" not in out
    for name in ("table", "tabular"):
        assert out.count(rf"\begin{{{name}}}") == out.count(rf"\end{{{name}}}") == 1
    assert out.count("{") == out.count("}")
    assert out.count(r"\toprule") == out.count(r"\midrule") == out.count(r"\bottomrule") == 1
    body = [line for line in out.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {8}
    caption = next(line for line in out.splitlines() if line.startswith(r"\caption"))
    assert r"95 \%" in caption and "%" not in caption.replace(r"\%", "")


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
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert cells(done.stdout)[0][0] == "CoOp"
