"""All protocols on all fifteen data sets, each by one command; every number of the tables is computed anew here."""

import json
from pathlib import Path

import yaml

from tests.helpers import REPOSITORY
from tests.protocols.conftest import SHORT

ELEVEN = [
    "caltech101", "dtd", "eurosat", "fgvc_aircraft", "food101", "imagenet", "oxford_flowers", "oxford_pets",
    "stanford_cars", "sun397", "ucf101",
]  # fmt: skip
VARIANTS = ["imagenet_a", "imagenet_r", "imagenet_sketch", "imagenetv2"]


def rows_of(printed, caption):
    """Rows of the table with that caption, as dictionaries by column."""
    lines = iter(printed.splitlines())
    assert any(line.startswith(f"**{caption}") for line in lines)
    next(lines)
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [dict(zip(table[0], row, strict=True)) for row in table[2:]]


def name_of(stem):
    return yaml.safe_load((REPOSITORY / "configs" / "datasets" / f"{stem}.yaml").read_text())["DATASET"]["NAME"]


def per_cent(folder: Path):
    """Accuracy from the counts of one run."""
    result = json.loads((folder / "results.json").read_text())
    return 100 * result["correct"] / result["total"]


def test_base_to_new_of_the_eleven(call, tmp_path):
    status, printed, started = call("base2new", "--seeds", "1")
    assert status == 0, printed.err
    assert sorted(started) == [f"ANPrompt on {data}, seed 1" for data in ELEVEN]
    rows = {row["data"]: row for row in rows_of(printed.out, "Base to new")}
    assert len(rows) == 13
    sums = [0.0, 0.0, 0.0]
    for data in ELEVEN:
        tail = f"{data}/shots_16/ANPrompt/tiny/seed1"
        base, new = (per_cent(tmp_path / "out/base2new" / half / tail) for half in ("train_base", "test_new"))
        hm = 2 * base * new / (base + new) if base + new else 0
        row = rows[name_of(data)]
        assert [row["base"], row["new"], row["HM"]] == [f"{value:.2f}" for value in (base, new, hm)], data
        sums = [total + value for total, value in zip(sums, (base, new, hm), strict=True)]
    base, new, hm = (total / 11 for total in sums)
    of_averages = rows["average of 11, HM of the averages"]
    assert [of_averages[key] for key in ("base", "new", "HM")] == [
        f"{value:.2f}" for value in (base, new, 2 * base * new / (base + new))
    ]
    assert rows["average of 11, average of the HMs"]["HM"] == f"{hm:.2f}"

    status, again, started = call("base2new", "--seeds", "1")
    assert (status, started) == (0, [])
    assert rows_of(again.out, "Base to new") == rows_of(printed.out, "Base to new")


def test_few_shot_of_the_eleven(call, tmp_path):
    status, printed, started = call("few_shot", "--seeds", "2", "--shots", "1")
    assert status == 0, printed.err
    assert sorted(started) == [f"ANPrompt on {data}, seed 2, 1 shot" for data in ELEVEN]
    rows = {row["data"]: row["1 shot"] for row in rows_of(printed.out, "Few-shot")}
    values = {data: per_cent(tmp_path / f"out/few_shot/{data}/shots_1/ANPrompt/tiny/seed2") for data in ELEVEN}
    assert {data: rows[name_of(data)] for data in ELEVEN} == {data: f"{value:.2f}" for data, value in values.items()}
    assert rows["average of 11"] == f"{sum(values.values()) / 11:.2f}"


def test_transfer_to_ten_data_sets_and_to_four_variants_from_one_training(call, tmp_path):
    status, printed, started = call("cross_dataset", "--seeds", "1")
    assert status == 0, printed.err
    assert started[0] == "ANPrompt on imagenet, seed 1, training" and len(started) == 11
    check_transfer(printed, "Cross-dataset transfer", [data for data in ELEVEN if data != "imagenet"], tmp_path)

    status, printed, started = call("domain_generalisation", "--seeds", "1")
    assert status == 0, printed.err
    assert sorted(started) == [f"ANPrompt on {data}, seed 1, test" for data in VARIANTS]  # it was trained above
    check_transfer(printed, "Domain generalisation", VARIANTS, tmp_path)


def check_transfer(printed, caption, targets, tmp_path):
    (row,) = rows_of(printed.out, caption)
    values = {data: per_cent(tmp_path / f"out/evaluation/ANPrompt/tiny_16shots/{data}/seed1") for data in targets}
    source = per_cent(tmp_path / "out/imagenet/ANPrompt/tiny_16shots/seed1")
    assert row["source: ImageNet"] == f"{source:.2f}"
    assert {data: row[name_of(data)] for data in targets} == {key: f"{value:.2f}" for key, value in values.items()}
    assert row["average of targets"] == f"{sum(values.values()) / len(values):.2f}"


def test_trainers_side_by_side_and_zero_shot_once(call):
    arguments = ("--datasets", "dtd", "--trainers", "ZeroshotCLIP", "MMRL", "--seeds", "4", "5")
    status, printed, started = call("base2new", *arguments)
    assert status == 0, printed.err
    assert started == ["ZeroshotCLIP on dtd", "MMRL on dtd, seed 4", "MMRL on dtd, seed 5"]
    rows = rows_of(printed.out, "Base to new")
    assert [(row["trainer"], row["seeds"]) for row in rows] == [("MMRL", "4 5"), ("ZeroshotCLIP", "1")]


def test_a_training_that_fails_takes_only_its_tests_with_it(call, fifteen, tmp_path):
    status, printed, started = call("cross_dataset", "--source", "eurosat", "--datasets", "dtd", root=tmp_path)
    assert status == 1
    assert started == [f"ANPrompt on eurosat, seed {seed}, training" for seed in (1, 2, 3)]
    assert "not run, for want of the training: ANPrompt on dtd, seed 1, test; ANPrompt on dtd, seed 2" in printed.err


def test_another_config_is_not_taken_for_finished(call):
    assert call("base2new", "--seeds", "1", "--datasets", "dtd")[0] == 0
    status, printed, started = call("base2new", "--seeds", "1", "--datasets", "dtd", opts=(*SHORT, "OPTIM.LR", "0.5"))
    assert (status, started) == (1, ["ANPrompt on dtd, seed 1"])
    assert "another config: OPTIM.LR" in printed.err
