"""The scripts of all methods share their protocols: where they differ, and how a method without scripts runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anprompt.cli import main
from anprompt.protocols import processes
from anprompt.protocols.scripts import Call, plan_script
from tests.helpers import REPOSITORY
from tests.helpers.stand_in import READ_BY_SCRIPTS, make_checkout, overrides, runs_of, value_after

PROTOCOLS = ("base2new_train", "base2new_test", "few_shot", "xd_train", "xd_test")
METHODS = {
    "anprompt": "ANPrompt", "coop": "CoOp", "cocoop": "CoCoOp", "kgcoop": "KgCoOp", "maple": "MaPLe", "mmrl": "MMRL",
    "mmrlpp": "MMRLpp", "promptsrc": "PromptSRC", "e2mim": "E2MIM",
}  # fmt: skip
BASE_TO_NEW = {
    "anprompt": "vit_b16",
    "e2mim": "vit_b16",
    "mmrl": "vit_b16",
    "mmrlpp": "vit_b16",
    "coop": "vit_b16_ctxv1",
    "cocoop": "vit_b16_c4_ep10_batch1_ctxv1",
    "kgcoop": "vit_b16_ep100_ctxv1",
    "maple": "vit_b16_c2_ep5_batch4_2ctx",
    "promptsrc": "vit_b16_c2_ep20_batch4_4+4ctx",
}
CROSS = BASE_TO_NEW | {
    "coop": "vit_b16_ep50_ctxv1",
    "maple": "vit_b16_c2_ep5_batch4_2ctx_cross_datasets",
    "promptsrc": "vit_b16_c2_ep20_batch4_4+4ctx_cross_datasets",
}
FEW_SHOT = {method: [stem] * 5 for method, stem in BASE_TO_NEW.items()} | {
    "coop": ["vit_b16_ep50", "vit_b16_ep100", "vit_b16_ep100", "vit_b16", "vit_b16"],
    "promptsrc": ["vit_b16_c2_ep50_batch4_4+4ctx_few_shot"] * 5,
}
ZERO_SHOT = {"zsclip": "ZeroshotCLIP", "zsclip2": "ZeroshotCLIP2"}
ON_VIDEO = {  # fronts whose data are clips: tests/protocols/test_stage0.py says what they run
    f"ga2clip/{name}.sh" for name in ("stage0", "base2new_train", "base2new_test", "few_shot", "zero_shot")
}
BATCHES = {"DATALOADER.TRAIN_X.BATCH_SIZE": "32"}
# What the protocols change in the YAML files: few-shot classification, and transfer. On ImageNet: 5 epochs otherwise.
CHANGES = {
    "anprompt": (BATCHES | {"OPTIM.MAX_EPOCH": "50"}, {"TRAINER.ANPROMPT.LOSS.SIM_W": "0.2"}),
    "mmrl": (
        BATCHES | {"OPTIM.MAX_EPOCH": "50", "TRAINER.MMRL.PER_DATASET.default.REG_WEIGHT": "0.5"},
        {"TRAINER.MMRL.REG_WEIGHT": "0.2"},
    ),
    "mmrlpp": (
        BATCHES | {"OPTIM.LR": "0.002", "OPTIM.MAX_EPOCH": "100"},
        {
            "TRAINER.MMRLPP.PER_DATASET.default.REG_WEIGHT": "0.2",
            "TRAINER.MMRLPP.PER_DATASET.ImageNet.REG_WEIGHT": "0.1",
        },
    ),
}


@pytest.fixture
def inline(tmp_path, monkeypatch, capsys):
    """``inline(SCRIPT, ...)``: the lines of arguments of what a script runs, without processes."""
    lines = []

    def note(command, environment):
        lines.extend(runs_of(" ".join(command[1:])))
        if "--output-dir" in command:
            folder = Path(command[command.index("--output-dir") + 1])
            (folder / "prompt_learner").mkdir(parents=True, exist_ok=True)
            (folder / "prompt_learner" / "checkpoint").write_text("model.pth.tar-10\n")
            (folder / "results.json").write_text("{}")
        return 0

    def call(script, *arguments, **environment):
        lines.clear()
        method, step = script.removesuffix(".sh").split("/")
        trainer = (METHODS | ZERO_SHOT)[method]
        for key in READ_BY_SCRIPTS:
            monkeypatch.delenv(key, raising=False)
        for key, value in {"OUTPUT": f"{tmp_path}/out", "PYTHON": "python", **environment}.items():
            monkeypatch.setenv(key, value)
        status = main(["script", step, trainer, *arguments])
        assert status == 0, capsys.readouterr().err
        return list(lines)

    monkeypatch.setattr(processes, "run", note)
    return call


FOUND = sorted(path.relative_to(REPOSITORY / "scripts") for path in (REPOSITORY / "scripts").glob("*/*.sh"))
SCRIPTS = [path for path in FOUND if str(path) not in ON_VIDEO]


def config(line):
    return value_after(line, "--config-file").removeprefix(f"{REPOSITORY}/configs/trainers/")


def trained(lines):
    return [line for line in lines if "train.py" in line]


def test_every_method_has_the_same_scripts():
    found = {path.relative_to(REPOSITORY / "scripts") for path in (REPOSITORY / "scripts").glob("*/*.sh")}
    expected = {f"{method}/{protocol}.sh" for method in METHODS for protocol in PROTOCOLS}
    assert {str(path) for path in found} == expected | {"zsclip/zeroshot.sh", "zsclip2/zeroshot.sh"} | ON_VIDEO


@pytest.mark.parametrize("script", sorted(ON_VIDEO))
def test_fronts_on_video_default_to_the_embedded_data(script, tmp_path):
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "DRY_RUN": "1", "OUTPUT": str(tmp_path)}
    done = subprocess.run(["bash", f"{REPOSITORY}/scripts/{script}"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    last = done.stdout.splitlines()[-1]
    data = "shapes" if script.endswith("stage0.sh") else "moves"
    assert f"{REPOSITORY}/configs/datasets/{data}.yaml" in last
    assert ("ZeroshotCLIP" if script.endswith("zero_shot.sh") else "GA2CLIP") in last


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_every_script_is_the_front_of_its_method_and_step(script, tmp_path):
    """Called from elsewhere; what the steps are is told in the tests below and in tests/protocols."""
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "DRY_RUN": "1", "DATA": "/d", "OUTPUT": "/out"}
    arguments = ["eurosat"] if script.stem == "zeroshot" else ["eurosat", "7"]
    front = ["bash", str(REPOSITORY / "scripts" / script), *arguments]
    done = subprocess.run(front, env=environment, cwd=tmp_path, capture_output=True, text=True)
    call = Call(REPOSITORY, (METHODS | ZERO_SHOT)[script.parent.name], arguments, environment, "")
    expected = [[sys.executable, f"{REPOSITORY}/train.py", *words] for words in plan_script(script.stem, call).calls]
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split("\t") for line in done.stdout.splitlines()] == [[*words, ""] for words in expected]


@pytest.mark.parametrize("method", METHODS)
def test_base_to_new(inline, method, tmp_path):
    yaml = f"{METHODS[method]}/{BASE_TO_NEW[method]}"
    (train, _) = inline(f"{method}/base2new_train.sh", "eurosat", "2", "OPTIM.LR", "1", DATA="/d")
    assert config(train) == f"{yaml}.yaml"
    assert value_after(train, "--trainer") == METHODS[method]
    assert value_after(train, "--output-dir") == f"{tmp_path}/out/base2new/train_base/eurosat/shots_16/{yaml}/seed2"
    same = {"DATASET.NUM_SHOTS": "16", "OPTIM.LR": "1"}
    assert overrides(train) == same | {"DATASET.SUBSAMPLE_CLASSES": "base"}
    (test, table) = inline(f"{method}/base2new_test.sh", "eurosat", "2", "OPTIM.LR", "1", DATA="/d")
    assert config(test) == f"{yaml}.yaml"
    assert value_after(test, "--model-dir") == value_after(train, "--output-dir")
    assert overrides(test) == same | {"DATASET.SUBSAMPLE_CLASSES": "new"}
    assert "parse_test_res.py --exact" in table


@pytest.mark.parametrize("method", METHODS)
def test_shapes_use_the_tiny_config_unless_cfg_is_set(inline, method):
    lines = inline(f"{method}/base2new_train.sh")
    assert [config(line) for line in trained(lines)] == [f"{METHODS[method]}/tiny.yaml"] * 2
    lines = inline(f"{method}/few_shot.sh", CFG="mine", SHOTS="1 8")
    assert [config(line) for line in trained(lines)] == [f"{METHODS[method]}/mine.yaml"] * 2


@pytest.mark.parametrize("method", METHODS)
def test_few_shot(inline, method):
    lines = inline(f"{method}/few_shot.sh", "eurosat", DATA="/d")
    stems = [f"{METHODS[method]}/{stem}" for stem in FEW_SHOT[method]]
    assert [config(line) for line in trained(lines)] == [f"{stem}.yaml" for stem in stems]
    assert all(
        value_after(line, "--output-dir").endswith(f"/{stem}/seed1")
        for line, stem in zip(trained(lines), stems, strict=True)
    )
    own = CHANGES[method][0] if method in CHANGES else {}
    shots = ("1", "2", "4", "8", "16")
    assert [overrides(line) for line in trained(lines)] == [{"DATASET.NUM_SHOTS": number} | own for number in shots]


@pytest.mark.parametrize("method", METHODS)
def test_imagenet(inline, method):
    (train, _) = inline(f"{method}/base2new_train.sh", "imagenet", DATA="/d")
    assert overrides(train).get("OPTIM.MAX_EPOCH") == ("5" if method in CHANGES else None)
    lines = inline(f"{method}/few_shot.sh", "imagenet", DATA="/d")
    assert {overrides(line).get("OPTIM.MAX_EPOCH") for line in trained(lines)} == (
        {"5"} if method in CHANGES else {None}
    )
    if method == "coop":
        assert {config(line) for line in trained(lines)} == {"CoOp/vit_b16_ep50.yaml"}


@pytest.mark.parametrize("method", METHODS)
def test_cross_dataset(inline, method, tmp_path):
    yaml = f"{METHODS[method]}/{CROSS[method]}"
    (train, _) = inline(f"{method}/xd_train.sh", DATA="/d")
    assert config(train) == f"{yaml}.yaml"
    assert value_after(train, "--output-dir") == f"{tmp_path}/out/imagenet/{yaml}_16shots/seed1"
    once = BATCHES | {"OPTIM.MAX_EPOCH": "1", "OPTIM.WARMUP_EPOCH": "0"}
    own = once | CHANGES[method][1] if method in CHANGES else {}
    assert overrides(train) == {"DATASET.NUM_SHOTS": "16"} | own
    (test, _) = inline(f"{method}/xd_test.sh", "eurosat", DATA="/d")
    assert config(test) == f"{yaml}.yaml"
    assert value_after(test, "--model-dir") == value_after(train, "--output-dir")
    assert value_after(test, "--output-dir") == f"{tmp_path}/out/evaluation/{yaml}_16shots/eurosat/seed1"


@pytest.mark.parametrize(("method", "trainer"), ZERO_SHOT.items())
def test_zero_shot(inline, method, trainer, tmp_path):
    (base, new, _) = inline(f"{method}/zeroshot.sh", "eurosat", DATA="/d")
    assert config(base) == config(new) == f"{trainer}/vit_b16.yaml"
    assert value_after(base, "--output-dir") == f"{tmp_path}/out/base2new/test_base/eurosat/{trainer}/vit_b16/seed1"


# ---------------------------------------------------------------------------------------------- without scripts


@pytest.fixture
def repo(tmp_path):
    """A checkout with the scripts and one more method: ``repo("a", "b")`` gives it the files a.yaml and b.yaml."""

    def make(*stems):
        copy = make_checkout(tmp_path / "checkout")
        folder = copy / "configs" / "trainers" / "MyMethod"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for stem in stems:
            (folder / f"{stem}.yaml").write_text("")
        return copy

    return make


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "zeroshot"])
def test_a_method_without_scripts_runs_all_protocols(call, repo, protocol):
    checkout = repo("tiny", "mine")
    environment = {"repo": checkout, "DATA": "/d", "TRAINER": "MyMethod", "SHOTS": "16"}
    call("base2new_train.sh", "eurosat", **environment)
    call("xd_train.sh", "imagenet", **environment)
    done, lines = call(f"{protocol}.sh", "eurosat", **environment)
    assert done.returncode == 0, done.stderr
    assert value_after(lines[0], "--trainer") == "MyMethod"
    assert value_after(lines[0], "--config-file") == f"{checkout}/configs/trainers/MyMethod/mine.yaml"


@pytest.mark.parametrize(
    ("stems", "data", "expected"),
    [
        (("tiny", "mine"), "shapes", "tiny"),
        (("tiny", "mine"), "eurosat", "mine"),
        (("mine",), "eurosat", "mine"),
        (("tiny", "mine", "vit_b16"), "eurosat", "vit_b16"),
        (("tiny",), "eurosat", "vit_b16"),  # train.py names those that exist
    ],
)
def test_default_config_of_a_method_without_scripts(call, repo, stems, data, expected):
    _, lines = call("base2new_train.sh", data, repo=repo(*stems), DATA="/d", TRAINER="MyMethod")
    assert value_after(lines[0], "--config-file").endswith(f"/MyMethod/{expected}.yaml")


def test_an_unknown_script_is_answered_with_those_that_there_are(call):
    done, _ = call("protocol.sh", "CoOp", "base2new_tset")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown script 'base2new_tset': there are base2new_train, base2new_test, ")


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "zeroshot"])
def test_the_trainer_must_be_named(call, protocol):
    done, lines = call(f"{protocol}.sh", "shapes", "1")
    assert (done.returncode, lines) == (2, [])
    assert re.fullmatch(
        rf"error: TRAINER is not set: .* TRAINER=CoOp bash \S*/scripts/{protocol}.sh shapes 1\n", done.stderr
    )


def test_the_scripts_of_a_method_do_not_look_at_the_environment_for_the_trainer(call):
    _, lines = call("coop/base2new_train.sh", TRAINER="MaPLe")
    assert value_after(lines[0], "--trainer") == "CoOp"


def test_a_trainer_that_writes_no_results_is_told_apart_from_one_that_has_not_finished(call, tmp_path):
    environment = {"DATA": "/d", "FOREIGN": "1"}
    for script in ("coop/base2new_train.sh", "coop/base2new_test.sh"):
        done, _ = call(script, "eurosat", **environment)
        assert done.returncode == 2
        assert re.fullmatch(
            r"error: the run in \S*/eurosat/\S*/seed1 has finished without a results.json, .* read its log with "
            r"parse_test_res.py, .* train.py --eval-only --model-dir \S*/seed1\n",
            done.stderr,
        )
    (log,) = (tmp_path / "out").rglob("log.txt")
    log.write_text("epoch [1/10]\n")
    done, _ = call("coop/base2new_test.sh", "eurosat", **environment)
    assert "no finished training run in" in done.stderr
