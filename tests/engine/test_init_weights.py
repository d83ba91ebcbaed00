"""MODEL.INIT_WEIGHTS: a new training that starts from what another one has learned."""

from pathlib import Path

import pytest
import torch

from anprompt.cli import main
from anprompt.clip import backbone
from anprompt.engine.trainer import LEARNER
from anprompt.prompts.noise import noise_banks
from tests.helpers.runs import assert_equal, fewer_test_images, start, weights

QUICK = ("OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0", "DATALOADER.TEST.BATCH_SIZE", "20")


@pytest.fixture
def trained(make_cfg):
    trainer = fewer_test_images(start(make_cfg(*QUICK, output="first")))
    trainer.train()
    return trainer, Path(trainer.output_dir, LEARNER, "model.pth.tar-1")


def starting_from(make_cfg, path, *options, **more):
    return make_cfg(*QUICK, "MODEL.INIT_WEIGHTS", str(path), *options, output="second", **more)


def test_learnables_are_those_of_the_file_and_the_training_is_new(make_cfg, trained, capsys):
    first, path = trained
    second = fewer_test_images(start(starting_from(make_cfg, path, classes="new", seed=2)))
    assert f"Start from {path} (epoch = 1, trained on Shapes (" in capsys.readouterr().out
    assert_equal(weights(first), weights(second))
    assert second.trained_on is None and second.training is None and second.train_seconds == 0
    second.train()
    assert any(not torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))
    assert torch.load(Path(second.output_dir, LEARNER, "model.pth.tar-1"))["trained_on"] == second.data_identity()


def test_a_resume_goes_on_from_its_own_checkpoint(make_cfg, trained):
    _, path = trained
    cfg = starting_from(make_cfg, path, "OPTIM.MAX_EPOCH", "2")
    second = fewer_test_images(start(cfg))
    second.train()
    again = start(cfg)
    assert again.resume_model_if_exist(cfg.OUTPUT_DIR) == 2
    assert_equal(weights(second), weights(again))


def test_a_missing_file_is_named_before_weights_are_loaded(make_cfg, tmp_path, monkeypatch):
    monkeypatch.setattr("anprompt.engine.trainer.load_clip_once", lambda *_: pytest.fail("loaded"))
    with pytest.raises(FileNotFoundError, match=r"^MODEL\.INIT_WEIGHTS: no checkpoint at .*gone\.pth"):
        start(starting_from(make_cfg, tmp_path / "gone.pth"))
    with pytest.raises(ValueError, match=r"^MODEL\.INIT_WEIGHTS: .* is a folder, expected a file"):
        start(starting_from(make_cfg, tmp_path))


@pytest.mark.parametrize("content", [b"x", {"state_dict": {"ctx": torch.ones(4, 8)}}, [1]])
def test_what_is_no_checkpoint_of_ours_is_refused(content, make_cfg, tmp_path):
    path = tmp_path / "odd.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=r"^MODEL\.INIT_WEIGHTS: .*odd\.pth") as error:
        start(starting_from(make_cfg, path))
    assert "\n" not in str(error.value)


def test_another_shape_of_learnables_is_refused(make_cfg, trained):
    with pytest.raises(ValueError, match=r"^MODEL\.INIT_WEIGHTS: .*N_TOKENS"):
        start(starting_from(make_cfg, trained[1], "TRAINER.ANPROMPT.N_TOKENS", "3"))


def test_what_learns_nothing_cannot_start_from_anything(make_cfg, trained):
    with pytest.raises(ValueError, match=r"^MODEL\.INIT_WEIGHTS .* ZeroshotCLIP learns nothing"):
        start(make_cfg("MODEL.INIT_WEIGHTS", str(trained[1]), trainer="ZeroshotCLIP", output="second"))


# ---------------------------------------------------------------------------------------------- users without a home


@pytest.fixture
def homeless(monkeypatch):
    """A user of a container, without a home folder and an entry in its list of users."""
    import pwd

    def unknown(*_):
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)


def test_weights_of_a_user_without_home_are_missed_by_their_place(homeless):
    with pytest.raises(FileNotFoundError, match=r"no weights for backbone ViT-B/16. Looked for:\n  ~/\.cache/clip/"):
        backbone.find_weights("ViT-B/16")
    with pytest.raises(FileNotFoundError, match="no weights file for tiny at ~/w.pt"):
        backbone.find_weights("tiny", "~/w.pt")


def test_so_are_descriptions_and_data(homeless, capsys):
    with pytest.raises(FileNotFoundError, match="~/hpt"):
        noise_banks("Shapes", ["red circle"], "", "~/hpt")
    assert main(["doctor", "--root", "~/data"]) == 2
    assert "there is no folder ~/data: --root names" in capsys.readouterr().err


def test_a_user_without_home_trains(homeless, make_cfg, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)  # test images cannot be kept: they are decoded
    cfg = make_cfg(*QUICK)
    fewer_test_images(start(cfg)).train()
    assert Path(cfg.OUTPUT_DIR, "results.json").is_file()
