"""GA2-CLIP's scripts on Moves as a user calls them, from drawn files to results; with few epochs and clips."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY
from tests.helpers.stand_in import READ_BY_SCRIPTS

SHORT = ["OPTIM.MAX_EPOCH", "3", "OPTIM.WARMUP_EPOCH", "1", "DATASET.NUM_SHOTS", "4"]


@pytest.mark.slow
def test_the_scripts_train_and_test_on_moves(tmp_path):
    kept = {key: value for key, value in os.environ.items() if key not in READ_BY_SCRIPTS}
    kept |= {"PYTHON": sys.executable, "OUTPUT": f"{tmp_path}/out", "DATA": f"{tmp_path}/data"}

    def call(script, *words, **more):
        command = ["bash", f"{REPOSITORY}/scripts/ga2clip/{script}.sh", *words]
        done = subprocess.run(command, env=kept | more, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr[-2000:]
        return done.stdout

    def results(folder):
        return json.loads((tmp_path / "out" / folder / "results.json").read_text())

    call("stage0", "shapes", "1", *SHORT)
    stage0 = "stage0/shapes/GA2CLIP/tiny_stage0/seed1"
    assert results(stage0)["dataset"] == "Shapes"

    hard = ["TRAINER.GA2CLIP.HARD.SOURCE", f"{tmp_path}/out/{stage0}"]
    out = call("base2new_train", "moves", "1", *hard, *SHORT)
    assert "Hard prompts: model.pth.tar-3, trained on Shapes" in out and "anchor_margin" in out
    zero_shot = call("zero_shot")
    assert zero_shot.count("* top5_accuracy: ") == 2
    base, new = (results(f"base2new/{half}/moves/shots_16/GA2CLIP/tiny/seed1") for half in ("train_base", "test_new"))
    untrained = results("base2new/test_base/moves/ZeroshotCLIP/tiny/seed1")
    assert base["training"] == new["training"] and len(base["per_class"]) == len(new["per_class"]) == 12
    assert untrained["accuracy"] < base["accuracy"] < base["top5_accuracy"]
    assert "had finished before" not in out and "accuracy" in call("base2new_test", "moves", "1", *hard, *SHORT)

    call("few_shot", "moves", "1", *hard, *SHORT[:-2], SHOTS="1")
    few = results("few_shot/moves/shots_1/GA2CLIP/tiny/seed1")
    assert few["shots"] == 1 and len(few["per_class"]) == 24
