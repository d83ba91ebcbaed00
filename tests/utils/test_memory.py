"""Full memory is told as such, and nothing else is."""

import io
import sys
from pathlib import Path

import pytest
import torch

from anprompt.clip import backbone
from anprompt.engine.checkpoint import load_checkpoint
from anprompt.utils.memory import named_shortage
from anprompt.utils.text import show_anything
from dassl.utils import setup_logger
from tests.helpers.runs import fewer_test_images, start

FULL = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to"),
]


@pytest.mark.parametrize("error", FULL)
def test_full_memory_is_a_mistake_that_can_be_mended(error):
    told = r"^the memory of (the GPU|this machine) is full \(in a test\): buy some$"
    with pytest.raises(OSError, match=told), named_shortage("in a test", "buy some"):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("memory"), ValueError("out of memory")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as raised, named_shortage("in a test", "buy some"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", FULL)
def test_a_whole_file_is_not_called_damaged_where_memory_is_full(error, monkeypatch, tmp_path):
    def full(*_, **__):
        raise error

    monkeypatch.setattr("safetensors.safe_open", full)
    with pytest.raises(type(error)):
        backbone._read_tiny(backbone.TINY_FILE)
    monkeypatch.setattr("anprompt.engine.checkpoint.read_torch_file", full)
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(OSError, match=r"is full \(reading .*model\.pth\)"):
        load_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize("call", ["train", "count_correct"])
def test_a_run_that_runs_out_of_memory_says_what_to_lower(call, make_cfg, monkeypatch):
    trainer = start(make_cfg("DATALOADER.NUM_WORKERS", "0"))

    def full(*_, **__):
        raise FULL[1]

    monkeypatch.setattr(trainer, "run_epoch", full)
    monkeypatch.setattr(trainer.model, "head_logits", full)
    with pytest.raises(OSError, match=r"GPU is full .*DATALOADER\.TEST\.BATCH_SIZE"):
        trainer.train() if call == "train" else trainer.count_correct(trainer.test_loader)


# ---------------------------------------------------------------------------------------------- printing ends no run


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    flush = write


def test_a_terminal_that_is_gone_ends_no_run_that_has_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone())
    setup_logger(str(tmp_path))
    print("epoch 1 \ud800")
    sys.stdout.close()
    assert (tmp_path / "log.txt").read_text() == "epoch 1 \\ud800\n"
    with pytest.raises(BrokenPipeError):
        print("nobody has this")


def test_what_a_terminal_lacks_is_replaced():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    show_anything(stream)
    print("Eiche, \u6a2b \udc80", file=stream, flush=True)
    assert raw.getvalue() == b"Eiche, \\u6a2b \\udc80\n"
    show_anything(io.StringIO())  # takes everything


def test_results_are_written_before_what_is_optional(make_cfg, monkeypatch):
    trainer = fewer_test_images(start(make_cfg("DATALOADER.NUM_WORKERS", "0")))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer, "write_scalar", full)
    with pytest.raises(OSError, match="No space"):
        trainer.test()
    assert Path(trainer.output_dir, "results.json").is_file()
