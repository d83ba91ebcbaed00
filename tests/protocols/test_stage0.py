"""Stage 0: what a trainer learns on other data before, as scripts and runner plan it. One stands for any: GA2-CLIP."""

import dataclasses
from pathlib import Path

import pytest

from anprompt.protocols import processes
from anprompt.protocols.plan import Request, plan
from anprompt.protocols.scripts import Call, plan_script
from anprompt.protocols.stage0 import stage0_of
from tests.helpers import REPOSITORY

KEY = "TRAINER.GA2CLIP.HARD.SOURCE"
FOLDER = "/OUT/stage0/shapes/GA2CLIP/tiny_stage0/seed1"


def calls(script, words, **environment):
    values = {"OUTPUT": "/OUT", "DRY_RUN": "1", "DATA": "/DATA"} | environment
    return plan_script(script, Call(REPOSITORY, "GA2CLIP", words, values, "typed")).calls


def value_after(words, flag):
    return words[words.index(flag) + 1]


def jobs(protocol, datasets, **more):
    values = {"trainers": ["GA2CLIP"], "seeds": [1, 2], "repository": REPOSITORY, "root": Path("/DATA")}
    return plan(Request(protocol=protocol, datasets=datasets, **(values | {"output": Path("/OUT")} | more)))


def test_on_embedded_data_a_script_runs_it_first_and_both_halves_start_from_it():
    before, training = calls("base2new_train", ["moves", "1"])
    assert value_after(before, "--output-dir") == FOLDER
    assert value_after(before, "--config-file").endswith("GA2CLIP/tiny_stage0.yaml")
    assert value_after(before, "--dataset-config-file").endswith("datasets/shapes.yaml")
    assert "--skip-finished" in before and KEY not in before
    assert [training[place + 1] for place, word in enumerate(training) if word == KEY] == [FOLDER, FOLDER]
    (test,) = calls("base2new_test", ["moves", "1"])
    assert value_after(test, KEY) == FOLDER


@pytest.mark.parametrize("pairs", [[KEY, "mine.pth"], ["TRAINER.GA2CLIP.HARD.ENABLED", "False"]])
def test_a_source_of_ones_own_or_none_needs_no_stage_0(pairs):
    (training,) = calls("base2new_train", ["moves", "1", *pairs])
    assert FOLDER not in training


def test_a_file_that_takes_no_hard_prompts_needs_none():
    (training,) = calls("base2new_train", ["moves", "1"], CFG="tiny_stage0")
    assert KEY not in training


def test_few_shot_runs_it_once():
    before, *trainings = calls("few_shot", ["moves", "3"])
    folder = "/OUT/stage0/shapes/GA2CLIP/tiny_stage0/seed3"
    assert value_after(before, "--output-dir") == folder
    assert len(trainings) == 5 and all(value_after(words, KEY) == folder for words in trainings)


@pytest.mark.parametrize(
    ("script", "protocols"),
    [("base2new_train", ["source", "base2new"]), ("few_shot", ["source", *["few_shot"] * 5]), ("stage0", ["source"])],
)
def test_its_result_is_of_the_same_protocol_whoever_runs_it(script, protocols, monkeypatch):
    """Not of the script's: tables would show it among the few-shot runs, or leave it out of base to new."""
    told = []

    def run(command, environment):
        told.append(environment["ANPROMPT_PROTOCOL"])
        return 0

    monkeypatch.setattr(processes, "run", run)
    data = "shapes" if script == "stage0" else "moves"
    call = Call(REPOSITORY, "GA2CLIP", [data, "1"], {"OUTPUT": "/OUT", "DATA": "/DATA"}, "")
    unreported = dataclasses.replace(plan_script(script, call), reports=[])
    assert processes.work(unreported, call) == 0 and told == protocols


def test_elsewhere_it_has_to_have_finished(tmp_path):
    with pytest.raises(
        ValueError, match=r"no finished stage 0 in .*kinetics400_video/GA2CLIP/vit_b16_stage0/seed1: run"
    ):
        calls("base2new_train", ["hmdb51_video", "1"], OUTPUT=str(tmp_path), DRY_RUN="", CFG="vit_b16")
    done = tmp_path / "stage0/kinetics400_video/GA2CLIP/vit_b16_stage0/seed1"
    done.mkdir(parents=True)
    (done / "results.json").write_text("{}")
    (training,) = calls("base2new_train", ["hmdb51_video", "1"], OUTPUT=str(tmp_path), DRY_RUN="", CFG="vit_b16")
    assert value_after(training, KEY) == str(done)


def test_its_script_takes_data_seed_and_pairs():
    (words,) = calls("stage0", ["kinetics400_video", "2", "OPTIM.MAX_EPOCH", "3"])
    assert value_after(words, "--output-dir") == "/OUT/stage0/kinetics400_video/GA2CLIP/vit_b16_stage0/seed2"
    assert words[-2:] == ["OPTIM.MAX_EPOCH", "3"]
    assert calls("stage0", []) == calls("stage0", ["shapes", "1"])
    with pytest.raises(ValueError, match="CoOp has no stage 0"):
        plan_script("stage0", Call(REPOSITORY, "CoOp", ["shapes", "1"], {"DRY_RUN": "1"}, ""))


@pytest.mark.parametrize(("protocol", "runs"), [("base2new", 1), ("few_shot", 5)])
def test_the_runner_makes_it_a_job_of_its_own_that_the_others_need(protocol, runs):
    made = jobs(protocol, ["moves"])
    stages = [job for job in made if "stage 0" in job.name]
    assert [job.name for job in stages] == ["GA2CLIP on shapes, seed 1, stage 0", "GA2CLIP on shapes, seed 2, stage 0"]
    for stage in stages:
        assert len([job for job in made if job.needs is stage]) == runs
    assert len(made) == 2 + 2 * runs


def test_the_runner_leaves_a_finished_one_as_it_is(tmp_path):
    """With whatever settings its script was given."""
    done = tmp_path / "stage0/kinetics400_video/GA2CLIP/vit_b16_stage0/seed1"
    done.mkdir(parents=True)
    (done / "results.json").write_text("{}")
    made = jobs("base2new", ["hmdb51_video"], output=tmp_path)
    assert [(job.dataset, job.detail) for job in made] == [
        ("hmdb51_video", "seed 1"),
        ("kinetics400_video", "seed 2, stage 0"),
        ("hmdb51_video", "seed 2"),
    ]
    assert [job.needs for job in made] == [None, None, made[1]]
    assert value_after(made[0].calls[0], KEY) == str(done)


def test_all_trainers_are_those_that_need_no_other_data():
    names = {job.trainer for job in jobs("base2new", ["shapes"], trainers=["all"])}
    assert "CoOp" in names and "GA2CLIP" not in names


def test_a_line_that_is_missing_is_named(tmp_path):
    (tmp_path / "protocols").mkdir()
    file = tmp_path / "protocols/stage0.yaml"
    file.write_text("key: TRAINER.MINE.SOURCE\nfile: a\n")
    with pytest.raises(
        ValueError, match=r"stage0.yaml: expected the lines embedded, file, key, source, takers, got file, key"
    ):
        stage0_of(tmp_path, embedded=True)
