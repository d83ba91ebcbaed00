"""A number under the right name: what shares a row, what is named and left out, and how a test finds its training."""

import csv

import pytest

from anprompt.runs.read_results import find_results
from anprompt.table.core import Options
from anprompt.table.curves import few_shot_figures
from tests.table.rows import cells

NAMES = ["cat", "dog", "owl", "fox"]


def config(trainer="CoOp", seed=1, **settings):
    return {"SEED": seed, "OUTPUT_DIR": f"{seed}", "TRAINER": {"NAME": trainer}, **settings}


def classes_of(names):
    return [{"class": name, "total": 1, "correct": 1} for name in names]


def identity(protocol, training="t", source="DTD", **more):
    """What a ``results.json`` of this version says beside the numbers."""
    of_classes = "base" if protocol == "base2new" else "all"
    told = {"protocol": protocol, "source": source, "source_classes": of_classes, "training": training}
    return told | {"configuration": "ep50", "parameters": 512, "split": "test"} | more


@pytest.fixture
def halves(write):
    """Write base and new of one training, wherever they lie."""

    def write_halves(place, base, new, training="t", **more):
        for classes, accuracy in (("base", base), ("new", new)):
            if accuracy is not None:
                write(f"{place}/{classes}", accuracy, classes=classes, **(identity("base2new", training) | more))

    return write_halves


# ---------------------------------------------------------------------------------------------- identity, not folders


def test_the_file_says_what_the_folders_do_not(halves, table):
    halves("anywhere", 80.0, 60.0)
    assert cells(table()[1]) == [["CoOp", "ep50", "16", "DTD", "1", "80.00", "60.00", "68.57"]]


@pytest.mark.parametrize("protocol", ["few_shot", "source", "target"])
def test_the_protocol_of_the_file_wins_over_its_folders(write, table, protocol):
    folder = "a_4shots/seed1" if protocol == "few_shot" else "few_shot/dtd/shots_16/CoOp/a/seed1"
    more = identity(protocol, source="ImageNet" if protocol == "target" else "DTD")
    write(folder, 50.0, **more)
    caption = {"few_shot": "**Few-shot", "source": "**Cross-dataset", "target": "**Cross-dataset"}[protocol]
    _, out, err = table()
    assert out.startswith(caption) and err == ""
    assert cells(out)[0][1] == "ep50"


def test_shots_are_the_training_s(write, table):
    """A test of ImageNet's model on other data sets none."""
    write("t/DTD", 40.0, **identity("target", source="ImageNet"), config=config(DATASET={"NUM_SHOTS": -1}))
    assert cells(table()[1])[0][3] == "16"


# ---------------------------------------------------------------------------------------------- halves of one training


def test_halves_of_two_trainings_are_not_paired(halves, table, tmp_path):
    """The base half was trained again, the new half is the first training's."""
    halves("one", None, 60.0, training="first")
    halves("two", 80.0, None, training="second")
    _, out, err = table()
    assert cells(out) == [["CoOp", "ep50", "16", "DTD", "1", "80.00", "-", "-"]]
    assert err.splitlines() == [
        f"warning: {tmp_path}/one/new/results.json tests another training than that of "
        f"{tmp_path}/two/base/results.json: left out",
        "warning: CoOp (ep50, 16 shots) on DTD: no new half of seed 1: no HM",
    ]


def test_of_two_trainings_with_one_config_the_first_counts_whole(halves, table):
    """Not its base half with the other's new half."""
    halves("one", 80.0, 60.0, training="first")
    halves("two", 40.0, 30.0, training="second")
    _, out, err = table()
    assert [row[5:7] for row in cells(out)] == [["80.00", "60.00"]]
    assert "are the same seed of the same run: only the first counts" in err and "tests another training" in err


def test_a_target_of_another_training_is_named(write, table):
    write("s", 70.0, dataset="ImageNet", **identity("source", "second", "ImageNet"))
    write("t", 40.0, **identity("target", "first", "ImageNet"))
    _, out, err = table()
    assert "40.00" not in out and "tests another training than that of" in err


def test_halves_of_earlier_files_are_compared_by_their_configs(base2new, write, table):
    base2new(accuracies={"base": {1: 80}, "new": {}}, config=config(OPTIM={"MAX_EPOCH": 1}))
    base2new(accuracies={"base": {}, "new": {1: 60}}, config=config(OPTIM={"MAX_EPOCH": 3}))
    _, _, err = table()
    assert err.endswith("may be of two trainings: their configs differ in OPTIM.MAX_EPOCH\n")


# ---------------------------------------------------------------------------------------------- configurations


def test_a_variant_beside_the_default_has_its_own_row(halves, table):
    """Each new half follows its training, although its own config says nothing of the variant."""
    halves("a_w0", 70.0, 50.0, "v", config=config(TRAINER={"NAME": "CoOp", "COOP": {"W": 0.0}}))
    halves("z", 80.0, 60.0, "d", config=config(TRAINER={"NAME": "CoOp", "COOP": {"W": 8.0}}))
    default = {"config": config(TRAINER={"NAME": "CoOp", "COOP": {"W": 8.0}})}
    halves("a_w0", None, 50.0, "v", **default)
    _, out, err = table()
    assert [row[1:2] + row[5:7] for row in cells(out)] == [
        ["ep50, TRAINER.COOP.W 0.0", "70.00", "50.00"],
        ["ep50, TRAINER.COOP.W 8.0", "80.00", "60.00"],
    ]
    assert err == ""


def test_averages_are_of_one_variant(halves, table):
    """Two settings on one of two data sets: no average mixes them."""
    for data, epochs, accuracy in (("DTD", 10, 80.0), ("DTD", 5, 40.0), ("EuroSAT", 10, 60.0)):
        more = {"dataset": data, "source": data, "config": config(OPTIM={"MAX_EPOCH": epochs})}
        halves(f"{data}{epochs}", accuracy, accuracy, f"{data}{epochs}", **more)
    rows = [(row[1], row[3], row[7]) for row in cells(table()[1])]
    assert ("ep50, OPTIM.MAX_EPOCH 10", "average of 2, HM of the averages", "70.00") in rows
    assert len(rows) == 5


@pytest.mark.parametrize(
    "settings",
    [
        {"SEED": 2, "OUTPUT_DIR": "x"},
        {"DATALOADER": {"KEEP_TRAIN_GB": 0.0}},
        {"TRAINER": {"NAME": "CoOp", "MMRL": {"REP_DIM": 5}}},
        {"NEW_KEY": 3},
    ],
    ids=["seed", "circumstance", "other trainer", "other version"],
)
def test_what_does_not_decide_numbers_makes_no_variant(write, table, settings):
    """Neither do keys that only one of two versions has."""
    write("few/a/seed1", 40.0, 1, config=config(DATALOADER={"KEEP_TRAIN_GB": 2.0}), **identity("few_shot", "a"))
    write("few/a/seed2", 50.0, 2, config=config() | settings, **identity("few_shot", "b"))
    assert [row[-1] for row in cells(table()[1])] == ["45.00 ± 5.00"]


def test_few_shot_variants_have_their_own_rows_and_curves(write, table, tmp_path):
    for epochs, accuracy in ((5, 40.0), (50, 60.0)):
        more = identity("few_shot", f"{epochs}") | {"config": config(OPTIM={"MAX_EPOCH": epochs})}
        write(f"{epochs}", accuracy, **more)
    assert [row[-1] for row in cells(table()[1])] == ["40.00", "60.00"]
    figures = few_shot_figures(find_results([tmp_path], print), Options(print))
    assert list(figures["DTD"]) == ["CoOp (ep50, OPTIM.MAX_EPOCH 5)", "CoOp (ep50, OPTIM.MAX_EPOCH 50)"]


# ---------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("earlier", [True, False])
def test_targets_of_two_sources_are_not_averaged(write, table, earlier):
    for seed, source, accuracy in ((1, "ImageNet", 40.0), (2, "Caltech101", 50.0)):
        trained_on = {"trained_on": {"dataset": source, "classnames": ["a"]}}
        told = [trained_on, trained_on]
        if not earlier:
            told = [identity(protocol, source, source) for protocol in ("source", "target")]
        write(f"{source}/CoOp/vit_16shots/seed{seed}", 70.0, seed, dataset=source, **told[0])
        write(f"evaluation/CoOp/vit_16shots/dtd/seed{seed}", accuracy, seed, shots=-1 if earlier else 16, **told[1])
    _, out, err = table("--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert [(row["trained on"], row["seeds"], row["DTD"]) for row in rows] == [
        ("Caltech101", "2", "50.0"),
        ("ImageNet", "1", "40.0"),
    ]
    assert err == ""


def test_yaml_data_of_earlier_files_are_called_by_their_folders(write, table, tmp_path):
    for folder, accuracy in (("alpha", 40.0), ("beta", 60.0)):
        data = config(DATASET={"NAME": "ImageFolder", "FOLDER": folder, "NUM_SHOTS": 16})
        write(f"few_shot/{folder}/shots_16/CoOp/a/seed1", accuracy, dataset="ImageFolder", config=data)
    assert [row[2] for row in cells(table()[1])] == ["alpha", "beta", "average of 2"]
    figures = few_shot_figures(find_results([tmp_path], print), Options(print))
    assert list(figures) == ["alpha", "beta", "average of 2"]


def test_few_shot_averages_over_different_data_are_warned_of(write, table):
    for trainer, names in (("CoOp", ("DTD", "EuroSAT", "UCF101")), ("MMRL", ("DTD", "EuroSAT"))):
        for name in names:
            write(f"{trainer}/{name}", 50.0, trainer=trainer, dataset=name, **identity("few_shot", source=name))
    assert table()[2] == (
        "warning: averages over different data sets do not compare: CoOp: DTD, EuroSAT, UCF101; MMRL: DTD, EuroSAT\n"
    )


# ---------------------------------------------------------------------------------------------- in no table


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"training": None}, "nothing was trained (--eval-only without --model-dir)"),
        ({"protocol": None}, "trained on 2 classes of DTD, tested on all classes of DTD (4), which no protocol does"),
        ({}, "trained on 2 classes of DTD, tested on all classes of DTD (4), which protocol few_shot does not"),
        ({"protocol": "base2new"}, "protocol base2new with all classes"),
        ({"source": "UCF101"}, "of UCF101, tested on all classes of DTD (4), which protocol few_shot does not"),
        ({"protocol": "target", "source_classes": "base"}, "protocol target with a model of base classes of DTD"),
        ({"classes": "base"}, "protocol few_shot with base classes"),
        ({"classes": "new", "protocol": "base2new", "trained_on": {"dataset": "DTD", "classnames": NAMES}},
         "trained on the new classes, which only a test may see"),
    ],
)  # fmt: skip
def test_what_fits_no_row_is_named(write, table, changes, reason):
    trained_on = {"dataset": "DTD", "classnames": NAMES[:2]}
    write("good", 90.0, seed=2, **identity("few_shot"))
    told = identity("few_shot", trained_on=trained_on, per_class=classes_of(NAMES))
    path = write("odd", 10.0, **(told | changes))
    _, out, err = table()
    assert cells(out) == [["CoOp", "ep50", "DTD", "2", "90.00"]]
    assert err.startswith(f"warning: {path} is in no table: ") and err.endswith(f"{reason}\n")
    assert err.count("\n") == 1


def test_earlier_files_tell_it_as_far_as_they_can(write, table):
    """They have no protocol, but what was trained on and what was tested."""
    more = {"trained_on": {"dataset": "DTD", "classnames": NAMES[:2]}, "per_class": classes_of(NAMES)}
    write("general/DTD/CoOp/tiny/seed1", 50.0, **more)
    assert "which protocol few_shot does not" in table()[2]


def test_zero_shot_has_nothing_to_train(halves, table):
    halves("z", 80.0, 60.0, None, source=None, source_classes=None, parameters=0, shots=-1, trainer="ZeroshotCLIP")
    assert cells(table()[1]) == [["ZeroshotCLIP", "ep50", "-", "DTD", "1", "80.00", "60.00", "68.57"]]


def test_validation_numbers_do_not_mix_with_test_numbers(write, table, tmp_path):
    for name in ("DTD", "EuroSAT"):
        for split, accuracy in (("test", 50.0), ("val", 90.0)):
            told = identity("few_shot", name, name, split=split)
            write(f"{name}{split}", accuracy, seed=1 + (split == "val"), dataset=name, **told)
    assert [(row[2], row[-1]) for row in cells(table()[1])] == [
        ("DTD", "50.00"), ("EuroSAT", "50.00"), ("average of 2", "50.00"),
        ("DTD (val)", "90.00"), ("EuroSAT (val)", "90.00"), ("average of 2 (val)", "90.00"),
    ]  # fmt: skip
    warnings = []
    figures = few_shot_figures(find_results([tmp_path], print), Options(warnings.append))
    assert figures["DTD"]["CoOp"][16].mean == 50 and warnings == ["2 results on validation images are not drawn"]


def test_names_cannot_move_the_cursor_or_break_a_row(write, table):
    write("a", 50.0, dataset="D\x1b[2JTD|x\n", **identity("few_shot", source="D\x1b[2JTD|x\n"))
    out = table()[1]
    assert "\x1b" not in out and [row[2] for row in cells(out)] == ["D\\x1b[2JTD?x\\n"]
