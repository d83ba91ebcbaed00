"""scripts/compare.sh with a stand-in for Python: who takes part, in which order, and what happens after a failure."""

import re

import pytest

from tests.helpers.stand_in import make_checkout, value_after


@pytest.fixture
def repo(tmp_path):
    """A checkout with the scripts and four trainers, of which one has no scripts and one no file for Shapes."""
    copy = make_checkout(tmp_path / "checkout")
    files = ("CoOp/tiny", "CoOp/vit_b16_ep50_ctxv1", "Mine/tiny", "Mine/mine", "Later/vit_b16", "ZeroshotCLIP/tiny")
    for file in files:
        path = copy / "configs" / "trainers" / f"{file}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return copy


def runs(lines):
    """(trainer, seed, protocol) of the calls of train.py."""
    return [
        (value_after(line, "--trainer"), value_after(line, "--seed"), value_after(line, "--output-dir").split("/")[-6])
        for line in lines
        if "/train.py" in line and "Zeroshot" not in line
    ]


def table(done):
    """(trainer, seeds) of the rows of the table at the end; it has the costs."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line[:1] == "|"
    ]
    header, _, *rows = rows
    assert "training (s)" in header
    return [(row[header.index("trainer")], row[header.index("seeds")]) for row in rows if "average" not in row[0]]


def test_all_trainers_with_a_file_for_the_data_run_and_end_in_one_table(call, repo, tmp_path):
    done, lines = call("compare.sh", repo=repo, SEEDS="1 2")
    assert done.returncode == 0, done.stderr
    expected = [(t, s, half) for t in ("CoOp", "Mine") for s in "12" for half in ("train_base", "test_new")]
    assert runs(lines) == expected
    assert [line for line in lines if "Zeroshot" in line and "/train.py" in line and "--eval-only" not in line] == []
    progress = re.findall(r"(.*): done in .* \[done (\d), running 0, failed 0, waiting (\d)", done.stdout)
    assert progress == [
        ("CoOp on shapes, seed 1", "1", "4"),
        ("CoOp on shapes, seed 2", "2", "3"),
        ("Mine on shapes, seed 1", "3", "2"),
        ("Mine on shapes, seed 2", "4", "1"),
        ("ZeroshotCLIP on shapes", "5", "0"),
    ]
    assert sorted(table(done)) == [("CoOp", "1 2"), ("Mine", "1 2"), ("ZeroshotCLIP", "1")]
    results = {str(path.parent.relative_to(tmp_path / "out/base2new")) for path in tmp_path.glob("out/**/results.json")}
    assert results == {
        *(
            f"{half}/shapes/shots_16/{trainer}/tiny/seed{seed}"
            for half in ("train_base", "test_new")
            for trainer in ("CoOp", "Mine")
            for seed in "12"
        ),
        *(f"{half}/shapes/ZeroshotCLIP/tiny/seed1" for half in ("test_base", "test_new")),
    }


def test_other_data_take_the_default_files_of_the_methods(call, repo):
    done, lines = call("compare.sh", "eurosat", repo=repo, SEEDS="3", DATA="/d", TRAINERS="Mine CoOp")
    assert done.returncode == 0, done.stderr
    assert runs(lines) == [(t, "3", half) for t in ("Mine", "CoOp") for half in ("train_base", "test_new")]
    files = [value_after(line, "--config-file").split("/trainers/")[1] for line in lines if "/train.py" in line]
    assert files == ["Mine/mine.yaml"] * 2 + ["CoOp/vit_b16_ep50_ctxv1.yaml"] * 2


def test_only_the_seeds_asked_for_are_in_the_table(call, repo):
    call("compare.sh", repo=repo, SEEDS="1 2", TRAINERS="CoOp")
    done, _ = call("compare.sh", repo=repo, SEEDS="2", TRAINERS="CoOp")
    assert table(done) == [("CoOp", "2")]


def test_optim_keys_go_to_those_that_train(call, repo):
    _, lines = call("compare.sh", "shapes", "OPTIM.MAX_EPOCH", "2", repo=repo, SEEDS="1")
    given = {
        value_after(line, "--trainer"): line.endswith(" OPTIM.MAX_EPOCH 2") for line in lines if "/train.py" in line
    }
    assert given == {"CoOp": True, "Mine": True, "ZeroshotCLIP": False}


def test_a_failed_run_does_not_stop_the_others(call, repo, tmp_path):
    done, lines = call("compare.sh", repo=repo, SEEDS="1 2", FAIL="--seed 1 --trainer CoOp")
    assert done.returncode == 1
    assert runs(lines)[0] == ("CoOp", "1", "train_base") and runs(lines)[-1] == ("Mine", "2", "test_new")
    assert "CoOp on shapes, seed 1: failed after" in done.stdout
    assert sorted(table(done)) == [("CoOp", "2"), ("Mine", "1 2"), ("ZeroshotCLIP", "1")]
    log = tmp_path / "out/runs/base2new/train_base/shapes/shots_16/CoOp/tiny/seed1.log"
    assert done.stderr == f"\nfailed: CoOp on shapes, seed 1 ({log})\n    error: it broke\n"


def test_one_process_or_several_share_a_run(call, repo):
    _, lines = call("compare.sh", repo=repo, SEEDS="1", TRAINERS="CoOp", NPROC="2")
    assert lines[0].startswith(f"-m torch.distributed.run --standalone --nproc_per_node 2 {repo}/train.py ")


def test_a_dry_run_prints_the_calls(call, repo, tmp_path):
    done, lines = call("compare.sh", repo=repo, SEEDS="1", TRAINERS="CoOp", DRY_RUN="1")
    assert (done.returncode, lines) == (0, [])
    assert done.stdout.count(f" --output-dir {tmp_path}/out/") == 2 and not (tmp_path / "out").exists()


def test_a_table_that_fails_is_a_failure(call, repo, tmp_path):
    call("compare.sh", repo=repo, TRAINERS="CoOp", SEEDS="1")
    for path in tmp_path.glob("out/**/results.json"):
        path.write_text('{"accuracy": 101}')
    done, _ = call("compare.sh", repo=repo, TRAINERS="CoOp", SEEDS="1", FOREIGN="1")
    assert done.returncode == 1
    assert "error: no table" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (
            ["shapes"],
            {"TRAINERS": "CoOp Cop"},
            "no YAML file for shapes in configs/trainers/Cop; .* CoOp Mine Zeroshot",
        ),
        (["shapes"], {"TRAINERS": "Later"}, "no YAML file for shapes in configs/trainers/Later"),
        (["shapes"], {"SEEDS": "1 two"}, "the seed must be a number, got 'two'"),
        (["shapes"], {"CFG": "none"}, r"no trainer has a YAML file for shapes \(CFG=none\)"),
        (["shapes", "OPTIM.LR", "1.0", "OPTIM.MAX_EPOCH"], {}, "'OPTIM.MAX_EPOCH' has no value"),
        (["shapes", "TRAINER.COOP.N_CTX", "4"], {}, "'TRAINER.COOP.N_CTX' is no key of all trainers"),
        (["shapez"], {}, "no data set 'shapez' in configs/datasets"),
        (["eurosat"], {}, "DATA is not set"),
    ],
)
def test_mistakes_are_named_before_anything_runs(call, repo, arguments, environment, message):
    done, lines = call("compare.sh", *arguments, repo=repo, **environment)
    assert (done.returncode, lines) == (2, [])
    assert re.match(f"error: {message}", done.stderr)
