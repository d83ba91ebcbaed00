"""What the tables make of damaged, missing, doubled and mismatched ``results.json`` files."""

import json
import os

import pytest

from anprompt.cli import main
from tests.table.rows import cells


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"accuracy": 80', "Expecting"),
        ("[]", "not the result of a run"),
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
        ({"target_settings": {"BETA": 1}}, "target_settings is {'BETA': 1}"),
        ({"target_settings": {"BETA": {"tested": 1}}}, "target_settings is {'BETA': {'tested': 1}}"),
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


def test_seeds_with_other_configs_have_rows_of_their_own(base2new, table):
    def config(epochs, seed):
        return {"SEED": seed, "OUTPUT_DIR": f"{seed}", "OPTIM": {"MAX_EPOCH": epochs}, "TRAINER": {"NAME": "CoOp"}}

    base2new(accuracies={"base": {1: 80}, "new": {1: 60}}, config=config(10, 1))
    base2new(accuracies={"base": {2: 80}, "new": {2: 60}}, config=config(10, 2))
    assert [row[1:5] for row in cells(table()[1])] == [["ep50", "16", "DTD", "1 2"]]
    base2new(accuracies={"base": {3: 80}, "new": {3: 60}}, config=config(5, 3))
    _, out, err = table()
    assert [row[1:5] for row in cells(out)] == [
        ["ep50, OPTIM.MAX_EPOCH 10", "16", "DTD", "1 2"],
        ["ep50, OPTIM.MAX_EPOCH 5", "16", "DTD", "3"],
    ]
    assert err == ""


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


def test_what_is_no_file_is_skipped_at_once(write, table, tmp_path):
    write("few_shot/DTD/CoOp/ep50_16shots/seed1", 50.0)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "results.json")
    (tmp_path / "folder" / "results.json").mkdir(parents=True)
    status, _, warnings = table()
    assert status == 0
    for name, kind in (("pipe", "a named pipe"), ("folder", "a folder")):
        assert f"{tmp_path}/{name}/results.json is {kind}, expected a file" in warnings
