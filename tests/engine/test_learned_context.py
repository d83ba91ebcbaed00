"""Contexts of other runs, and in files of others: found by name, and one line where there is none."""

import os

import pytest
import torch
from safetensors.torch import save_file

from anprompt.engine.learned_context import find_checkpoint, read_context
from tests.helpers.archives import Call, pickled, write_archive
from tests.helpers.runs import start

KEY = "X.SOURCE"
CONTEXT = torch.arange(6.0).reshape(3, 2)
OTHER = torch.full((3, 2), 9.0)
FILES = {
    "ours, and coop's": {"state_dict": {"ctx": CONTEXT}, "epoch": 3},
    "coop's, with what it saves besides": {"state_dict": {"ctx": CONTEXT, "token_prefix": torch.ones(4, 1, 2)}},
    "the authors'": {"model_state_dict": {"module.prompt_learner.ctx_VPT": CONTEXT, "prompt_learner.ctx": OTHER}},
    "a whole model": {"model": {"prompt_learner.ctx": CONTEXT, "visual.proj": OTHER}},
    "a state dict": {"prompt_learner.ctx_VPT": CONTEXT},
    "in half precision": {"state_dict": {"ctx": CONTEXT.half()}},
}


@pytest.mark.parametrize("name", FILES)
def test_every_format(tmp_path, name):
    torch.save(FILES[name], tmp_path / "file.pt")
    context, told = read_context(tmp_path / "file.pt", KEY)
    assert torch.equal(context, CONTEXT) and context.dtype == torch.float32 and told == ""


def test_safetensors(tmp_path):
    save_file({"prompt_learner.ctx": CONTEXT}, tmp_path / "file.safetensors")
    assert torch.equal(read_context(tmp_path / "file.safetensors", KEY)[0], CONTEXT)


@pytest.mark.parametrize("trainer", ["CoOp", "PromptSRC", "MaPLe"])
def test_runs_of_this_project(make_cfg, trainer):
    run = start(make_cfg(trainer=trainer))
    run.save_model(0, run.cfg.OUTPUT_DIR)
    path = find_checkpoint(run.cfg.OUTPUT_DIR, KEY)
    assert path.name == "model.pth.tar-1" == find_checkpoint(f"{run.cfg.OUTPUT_DIR}/prompt_learner", KEY).name
    context, told = read_context(path, KEY)
    assert torch.equal(context, run.model.learner.ctx) and told == "Shapes"
    run.save_model(0, run.cfg.OUTPUT_DIR, is_best=True)
    assert find_checkpoint(run.cfg.OUTPUT_DIR, KEY).name == "model-best.pth.tar"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"tokens": CONTEXT}}, r"has no learned context: expected a tensor .* or ctx, found tokens$"),
        ({"state_dict": {"my_ctx": CONTEXT}}, "has no learned context"),
        ({"state_dict": {}}, "found no tensors"),
        ({"state_dict": {"ctx": torch.ones(4, 3, 2)}}, r"a context of shape \(4, 3, 2\): expected .* CSC False"),
        ({"state_dict": {"ctx": torch.ones(3, 2).long()}}, r"a context of shape \(3, 2\)"),
        ({"state_dict": {"ctx": torch.full((3, 2), float("nan"))}}, "numbers that are not finite"),
        ([1, 2], "cannot read .*file: expected tensors by name, found a list"),
    ],
)
def test_files_without_one(tmp_path, content, message):
    torch.save(content, tmp_path / "file")
    with pytest.raises(ValueError, match=f"^{KEY}: .*{message}") as error:
        read_context(tmp_path / "file", KEY)
    assert "\n" not in str(error.value)


def test_a_damaged_file_and_one_that_would_run(tmp_path):
    torch.save({"state_dict": {"ctx": CONTEXT}}, tmp_path / "cut")
    whole = (tmp_path / "cut").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    write_archive(tmp_path / "hostile", {"data.pkl": pickled(Call(os.system, "true")), "version": b"3"})
    for name in ("cut", "hostile"):
        with pytest.raises(ValueError, match=f"^{KEY}: cannot read .*{name}"):
            read_context(tmp_path / name, KEY)


def test_places_without_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("pipe", "a named pipe"),
        ("empty", "no checkpoint in .*empty: name the OUTPUT_DIR of a finished run"),
        ("none", "no file or folder .*none"),
    ):
        with pytest.raises((ValueError, OSError), match=f"^{KEY}: .*{message}"):
            find_checkpoint(str(tmp_path / name), KEY)
