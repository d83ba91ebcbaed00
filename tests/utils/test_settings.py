"""Settings that are declared once: node, checks, what a checkpoint fixes, and values by dataset."""

import pytest

from anprompt.utils.config import merge_file, merge_overrides
from anprompt.utils.settings import FIXED, Setting, Settings, number, one_of, whole
from dassl.config import get_cfg_default


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "per_dataset.yaml"
    path.write_text("default: {WEIGHT: 0.5, WIDTH: 8}\nEuroSAT: {WEIGHT: 0.1}\nOwn: {WIDTH: 4, WEIGHT: 0.2}\n")
    return path


def settings(table):
    return Settings(
        "TOY",
        Setting("COUNT", 3, whole(1), FIXED),
        Setting("LOSS.WEIGHT", None, number(0, 1)),
        Setting("LOSS.KIND", "l1", one_of("l1", "l2"), FIXED),
        Setting("WIDTH", None, whole(1)),
        Setting("FAST", False),
        per_dataset=table,
    )


def config(toy, dataset, *pairs):
    cfg = get_cfg_default()
    toy.extend_cfg(cfg)
    cfg.DATASET.NAME = dataset
    merge_overrides(cfg, [str(word) for word in pairs])
    return cfg


def test_rows_make_the_node(table):
    node = config(settings(table), "EuroSAT").TRAINER.TOY
    assert {key: node[key] for key in ("PREC", "COUNT", "WIDTH", "FAST")} == {
        "PREC": "amp", "COUNT": 3, "WIDTH": None, "FAST": False,
    }  # fmt: skip
    assert node.LOSS == {"WEIGHT": None, "KIND": "l1"}
    assert settings(table).fixed == ["COUNT", "LOSS.KIND"]


@pytest.mark.parametrize(("dataset", "weight", "width"), [("EuroSAT", 0.1, 8), ("Own", 0.2, 4), ("Else", 0.5, 8)])
def test_what_is_left_open_is_the_datasets(table, dataset, weight, width):
    toy = settings(table)
    cfg = config(toy, dataset)
    assert toy.per_dataset_values(cfg) == {"LOSS.WEIGHT": weight, "WIDTH": width}
    values = toy.values(cfg)
    assert (weight, width, 3) == (values.LOSS.WEIGHT, values.WIDTH, values.COUNT)
    assert cfg.TRAINER.TOY.LOSS.WEIGHT is None  # which a checkpoint and a log can tell apart
    assert toy.has_row(cfg) == (dataset != "Else")


def test_a_value_of_the_config_wins(table):
    toy = settings(table)
    cfg = config(toy, "EuroSAT", "TRAINER.TOY.LOSS.WEIGHT", 0.7)
    assert toy.values(cfg).LOSS.WEIGHT == 0.7
    assert toy.per_dataset_values(cfg) == {"WIDTH": 8}


def test_a_protocol_replaces_values_of_the_table(table, tmp_path):
    toy = settings(table)
    cfg = config(toy, "EuroSAT", "TRAINER.TOY.PER_DATASET.EuroSAT.WEIGHT", 0.9)
    assert toy.values(cfg).LOSS.WEIGHT == 0.9
    assert toy.values(config(toy, "EuroSAT", "TRAINER.TOY.PER_DATASET.EuroSAT.WIDTH", 2)).WIDTH == 2  # by default's
    file = tmp_path / "own.yaml"
    file.write_text("TRAINER: {TOY: {PER_DATASET: {Mine: {WEIGHT: 0.3}}}}\n")
    cfg = config(toy, "Mine")
    merge_file(cfg, str(file))
    assert toy.per_dataset_values(cfg) == {"LOSS.WEIGHT": 0.3, "WIDTH": 8}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("COUNT", 0), r"TRAINER.TOY.COUNT: expected a number in 1..inf, got 0"),
        (("WIDTH", 1.5), "TRAINER.TOY.WIDTH: expected a whole number, got 1.5"),
        (("LOSS.KIND", "l3"), "TRAINER.TOY.LOSS.KIND: expected one of l1, l2, got 'l3'"),
        (("LOSS.WEIGHT", 2.0), r"TRAINER.TOY.LOSS.WEIGHT: expected a number in 0..1, got 2.0"),
        (("PER_DATASET.EuroSAT.WEIGHT", 2.0), r"TOY.PER_DATASET.EuroSAT.WEIGHT: expected a number in 0..1, got 2.0"),
    ],
)
def test_a_value_that_cannot_work_is_named(table, pairs, message):
    toy = settings(table)
    toy.check(config(toy, "EuroSAT"))
    with pytest.raises(ValueError, match=message):
        toy.check(config(toy, "EuroSAT", f"TRAINER.TOY.{pairs[0]}", pairs[1]))


def test_a_method_file_alone_says_which_file_it_lacks(tmp_path):
    toy = settings(tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match=r"TOY.LOSS.WEIGHT is None, .* no value for EuroSAT .*nowhere.yaml: put"):
        toy.check(config(toy, "EuroSAT"))
    toy.check(config(toy, "EuroSAT", "TRAINER.TOY.LOSS.WEIGHT", 0.5, "TRAINER.TOY.WIDTH", 2))
