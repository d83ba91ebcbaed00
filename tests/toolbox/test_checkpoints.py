"""Checkpoint files: plain data, never half-written, and the old ones of Dassl."""

import copyreg
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint, resume_from_checkpoint, save_checkpoint
from tests.helpers.archives import data_range, flip
from tests.toolbox.toy import GOLDEN, GOLDEN_DIR, ToyNet

LEGACY_A = "legacy_torch2.4.1_runA_model.pth.tar-3"
LEGACY_B = "legacy_torch2.4.1_runB_model-best.pth.tar"
LEGACY_ADAMW = "legacy_torch2.4.1_adamw_model.pth.tar-3"


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "prompt_learner")


def state(epoch=1, value=0.0):
    weights = OrderedDict({"fc.weight": torch.full((2,), value)})
    return {"state_dict": weights, "epoch": epoch, "optimizer": None, "scheduler": None, "val_result": None}


def pointer(folder):
    return Path(folder, "checkpoint").read_text()


# ---------------------------------------------------------------------------------------------- writing


def test_saving_names_the_file_by_its_epoch_and_says_so(folder, capsys):
    save_checkpoint(state(epoch=3), folder)
    assert sorted(os.listdir(folder)) == ["checkpoint", "model.pth.tar-3"]
    assert pointer(folder) == "model.pth.tar-3\n"
    assert capsys.readouterr().out == f"Checkpoint saved to {folder}/model.pth.tar-3\n"


def test_a_named_file_becomes_the_newest_too(folder):
    save_checkpoint(state(), folder, model_name="model-best.pth.tar")
    assert pointer(folder) == "model-best.pth.tar\n"


def test_is_best_saves_twice(folder):
    save_checkpoint(state(epoch=2, value=5.0), folder, is_best=True)
    assert torch.equal(
        load_checkpoint(f"{folder}/model-best.pth.tar")["state_dict"]["fc.weight"], torch.full((2,), 5.0)
    )
    assert pointer(folder) == "model.pth.tar-2\n"


def test_prefix_of_data_parallel_is_removed_from_the_file_only(folder):
    original = {**state(), "state_dict": OrderedDict({"module.module.w": torch.ones(1)})}
    save_checkpoint(original, folder)
    assert list(load_checkpoint(f"{folder}/model.pth.tar-1")["state_dict"]) == ["module.w"]
    assert list(original["state_dict"]) == ["module.module.w"]
    save_checkpoint(original, folder, remove_module_from_keys=False)
    assert list(load_checkpoint(f"{folder}/model.pth.tar-1")["state_dict"]) == ["module.module.w"]


def test_a_process_killed_while_saving_leaves_the_old_checkpoint(folder, monkeypatch):
    save_checkpoint(state(value=1.0), folder)

    def half(content, file):
        file.write(b"PK\x03\x04 half a fi")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(state(value=2.0), folder)
    assert sorted(os.listdir(folder)) == ["checkpoint", "model.pth.tar-1"]
    assert load_checkpoint(f"{folder}/model.pth.tar-1")["state_dict"]["fc.weight"].tolist() == [1.0, 1.0]


def test_the_pointer_moves_after_the_model_file_is_complete(folder, monkeypatch):
    done, replace, fsync = [], os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append(os.path.basename(new)), replace(old, new)))
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("on disk"), fsync(number)))
    save_checkpoint(state(), folder)
    assert done == ["on disk", "model.pth.tar-1", "on disk", "checkpoint"]


# ---------------------------------------------------------------------------------------------- reading


def test_no_path():
    with pytest.raises(ValueError, match="got None"):
        load_checkpoint(None)


def test_no_file(folder):
    with pytest.raises(FileNotFoundError, match=folder):
        load_checkpoint(f"{folder}/model.pth.tar-9")


@pytest.mark.parametrize("damage", [lambda content: content[:200], lambda content: b"no checkpoint at all"])
def test_a_damaged_file_is_named(damage, folder, tmp_path, capsys):
    save_checkpoint(state(), folder)
    broken = tmp_path / "broken"
    broken.write_bytes(damage((tmp_path / "prompt_learner" / "model.pth.tar-1").read_bytes()))
    with pytest.raises((RuntimeError, pickle.UnpicklingError)):
        load_checkpoint(str(broken))
    assert f'Unable to load checkpoint from "{broken}"' in capsys.readouterr().out


def test_a_flipped_bit_is_one_clear_error(folder):
    """PyTorch itself does not test the checksums of its archives."""
    save_checkpoint(state(value=1.0), folder)
    path = Path(folder, "model.pth.tar-1")
    for bit in range(8 * len(data_range(path, "data/0"))):
        flip(path, data_range(path, "data/0")[bit // 8], bit % 8)
        for load in (load_checkpoint, lambda fpath: resume_from_checkpoint(os.path.dirname(fpath), ToyNet())):
            with pytest.raises(ValueError, match=r'the checkpoint ".*model\.pth\.tar-1" is damaged \(.*data/0'):
                load(str(path))
        flip(path, data_range(path, "data/0")[bit // 8], bit % 8)
    assert load_checkpoint(str(path))["state_dict"]["fc.weight"].tolist() == [1.0, 1.0]


def test_a_flipped_bit_among_the_names_is_noticed_too(folder):
    save_checkpoint(state(), folder)
    path = Path(folder, "model.pth.tar-1")
    for place in data_range(path, "data.pkl")[::7]:
        flip(path, place, 0)
        with pytest.raises(ValueError, match="is damaged"):
            load_checkpoint(str(path))
        flip(path, place, 0)


def test_a_file_that_was_written_without_checksums_loads(folder):
    torch.serialization.set_crc32_options(False)
    try:
        save_checkpoint(state(value=2.0), folder)
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(f"{folder}/model.pth.tar-1")["state_dict"]["fc.weight"].tolist() == [2.0, 2.0]


def test_a_file_from_before_pytorch_1_6_loads(folder):
    path = Path(folder, "old")
    path.parent.mkdir()
    torch.save(state(value=3.0), path, _use_new_zipfile_serialization=False)
    assert load_checkpoint(str(path))["state_dict"]["fc.weight"].tolist() == [3.0, 3.0]


# ---------------------------------------------------------------------------------------------- files of Dassl


@pytest.mark.parametrize("name, epoch, val_result", [(LEGACY_A, 3, None), (LEGACY_B, 2, 40.0), (LEGACY_ADAMW, 3, None)])
def test_content_of_a_file_of_dassl(name, epoch, val_result):
    content = load_checkpoint(str(GOLDEN_DIR / name))
    layout = GOLDEN["checkpoint_layout_real_dassl"]
    assert list(content) == layout["top_level_keys_in_order"]
    assert list(content["state_dict"]) == layout["state_dict_keys_toy"]
    assert (content["epoch"], content["val_result"]) == (epoch, val_result)


def test_the_scheduler_of_dassl_becomes_plain_numbers():
    scheduler = load_checkpoint(str(GOLDEN_DIR / LEGACY_A))["scheduler"]
    json.dumps(scheduler)
    for key, value in GOLDEN["checkpoint_layout_real_dassl"]["scheduler_with_warmup_values_run_A_final"].items():
        outer, _, inner = key.partition(".")
        assert (scheduler[outer][inner] if inner else scheduler[outer]) == value, key


def test_a_file_of_dassl_can_be_written_anew_as_plain_data(tmp_path):
    torch.save(load_checkpoint(str(GOLDEN_DIR / LEGACY_A)), tmp_path / "plain")
    assert torch.load(tmp_path / "plain", weights_only=True)["epoch"] == 3


def test_the_numpy_confusion_matrix_of_dassl_loads():
    matrix = torch.as_tensor(load_checkpoint(str(GOLDEN_DIR / "legacy_cmat.pt")))
    assert matrix.shape == (5, 5)
    assert matrix.sum(dim=1).tolist() == pytest.approx([1.0] * 5)


@pytest.mark.parametrize("name", [LEGACY_A, LEGACY_ADAMW])
@pytest.mark.parametrize("max_epoch, rate", [(6, 0.001875), (3, 0.000625)])
def test_resuming_from_a_file_of_dassl_continues_the_rate(name, max_epoch, rate, tmp_path):
    (tmp_path / "model.pth.tar-3").write_bytes((GOLDEN_DIR / name).read_bytes())
    (tmp_path / "checkpoint").write_text("model.pth.tar-3\n")
    model, cfg = ToyNet().prompt_learner, get_cfg_default().OPTIM
    cfg.merge_from_list(["NAME", "adamw" if "adamw" in name else "sgd", "LR", 0.0025, "MAX_EPOCH", max_epoch])
    cfg.merge_from_list(["LR_SCHEDULER", "cosine", "WARMUP_EPOCH", 1, "WARMUP_TYPE", "constant"])
    optimizer = build_optimizer(model, cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    assert resume_from_checkpoint(str(tmp_path), model, optimizer, scheduler) == 3
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, abs=1e-12)
    before = model.fc.weight.clone()
    model.fc(torch.ones(1, 48)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.fc.weight, before)


class Attack:
    """Runs a command while it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("place", ["top", "scheduler"])
def test_foreign_code_in_a_file_is_refused_and_not_run(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**state(), place: Attack()}, "evil")
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        load_checkpoint("evil")
    assert os.listdir() == ["evil"]


def test_classes_of_optimisers_are_not_run_either(tmp_path, monkeypatch):
    """Objects under torch.optim are recorded, whatever arguments the file wants to build them with."""
    monkeypatch.chdir(tmp_path)
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), 2)
    torch.save({"scheduler": {"successor": scheduler}}, "old")
    loaded = load_checkpoint("old")["scheduler"]["successor"]
    assert (type(loaded), loaded["step_size"], "optimizer" in loaded) == (dict, 2, False)


def test_reading_old_files_leaves_pickle_alone():
    before = (pickle.load, pickle.Unpickler, dict(copyreg.dispatch_table))
    load_checkpoint(str(GOLDEN_DIR / LEGACY_A))
    assert (pickle.load, pickle.Unpickler, dict(copyreg.dispatch_table)) == before


# ---------------------------------------------------------------------------------------------- resuming


def test_resume_restores_what_is_given(folder, capsys):
    source = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(source.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    content = {"state_dict": source.state_dict(), "epoch": 4, "optimizer": optimizer.state_dict()}
    save_checkpoint({**content, "scheduler": scheduler.state_dict(), "val_result": None}, folder)
    capsys.readouterr()
    model = nn.Linear(2, 1)
    target = torch.optim.SGD(model.parameters(), lr=0.1)
    assert resume_from_checkpoint(folder, model, target) == 4
    assert torch.equal(model.weight, source.weight)
    assert target.param_groups[0]["lr"] == 0.5
    assert capsys.readouterr().out.splitlines() == [
        f'Loading checkpoint from "{folder}/model.pth.tar-4"',
        "Loaded model weights",
        "Loaded optimizer",
        "Previous epoch: 4",
    ]


def test_resume_loads_weights_strictly(folder):
    save_checkpoint(state(), folder)
    with pytest.raises(RuntimeError, match="Missing key"):
        resume_from_checkpoint(folder, nn.Linear(2, 1))


def test_resume_without_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        resume_from_checkpoint(str(tmp_path), nn.Linear(2, 1))
