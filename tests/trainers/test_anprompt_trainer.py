"""The trainer on real files: Shapes and the bundled tiny CLIP, a few classes and shots, seconds per run."""

import io
import json
import random
import shutil
from contextlib import redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from yacs.config import CfgNode

from anprompt.engine import checkpoint
from anprompt.engine.trainer import LEARNER
from anprompt.utils.rng import rng_state, set_rng_state
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase
from tests.helpers.runs import (
    Killed,
    assert_equal,
    fewer_test_images,
    finish,
    left_by_killed_process,
    run_cfg,
    start,
    weights,
)
from trainers.anprompt import SETTINGS
from trainers.zsclip import ZeroshotCLIP

UNTESTED = ("TEST.NO_TEST", "True")


@pytest.fixture(scope="module")
def whole(data_root, tmp_path_factory):
    """A finished run with the settings of ``make_cfg()``, to be read only."""
    folder, printed = tmp_path_factory.mktemp("whole") / "run", io.StringIO()
    with redirect_stdout(printed):
        trainer = finish(run_cfg(data_root, folder, [], trainer="ANPrompt", classes="base", seed=1), True)
    return SimpleNamespace(trainer=trainer, folder=folder, printed=printed.getvalue(), weights=weights(trainer))


@pytest.fixture
def run(whole, tmp_path):
    """A copy of its folder, where a run of ``make_cfg()`` finds it."""
    return shutil.copytree(whole.folder, tmp_path / "run")


def results_in(folder):
    return json.loads((folder / "results.json").read_text())


# ------------------------------------------------------------------ what training leaves


def test_only_learnables_change_and_only_they_are_saved(make_cfg):
    cfg = make_cfg(*UNTESTED)
    trainer = start(cfg)
    clip_before = {name: tensor.clone() for name, tensor in trainer.model.clip.state_dict().items()}
    before = weights(trainer)
    trainer.train()
    assert_equal(clip_before, dict(trainer.model.clip.state_dict()))
    after = weights(trainer)
    assert all(not torch.equal(before[name], after[name]) for name, _ in trainer.model.learner.named_parameters())
    saved = torch.load(f"{cfg.OUTPUT_DIR}/{LEARNER}/model.pth.tar-3", weights_only=True)
    assert list(saved)[:5] == ["state_dict", "epoch", "optimizer", "scheduler", "val_result"]
    assert_equal(saved["state_dict"], after)


def test_files_of_a_finished_run_are_those_of_dassl_and_the_results(whole):
    files = {path.relative_to(whole.folder).as_posix() for path in whole.folder.rglob("*") if path.is_file()}
    files = {name for name in files if not name.startswith("tensorboard/")}
    assert files == {"results.json", f"{LEARNER}/checkpoint", f"{LEARNER}/model.pth.tar-3"}
    assert (whole.folder / LEARNER / "checkpoint").read_text() == "model.pth.tar-3\n"


def test_checkpoint_frequency_keeps_the_files_that_dassl_keeps(make_cfg, tmp_path):
    finish(make_cfg("TRAIN.CHECKPOINT_FREQ", "2", *UNTESTED))
    names = {path.name for path in (tmp_path / "run" / LEARNER).glob("model*")}
    assert names == {"model.pth.tar-2", "model.pth.tar-3"}


def test_results_file_has_unrounded_numbers_of_every_head(whole):
    results = results_in(whole.folder)
    assert set(results["heads"]) == {"class", "prototype", "fused"}
    assert results["headline"] == "fused"
    assert results["total"] == len(whole.trainer.dm.dataset.test)
    for head in results["heads"].values():
        assert head["accuracy"] == 100 * head["correct"] / results["total"]
    assert results["accuracy"] == results["heads"]["fused"]["accuracy"]
    assert results["config"]["TRAINER"]["ANPROMPT"]["N_TOKENS"] == 5
    assert (results["dataset"], results["classes"], results["seed"]) == ("Shapes", "base", 1)


def test_printed_accuracy_of_the_result_block_is_the_headline(whole):
    printed, results = whole.printed, results_in(whole.folder)
    end = printed.index("Finish training")
    assert f"* accuracy: {results['accuracy']:.1f}%" in printed[end:]
    assert printed[end:].count("* accuracy:") == 1


# ------------------------------------------------------------------ resume


@pytest.mark.parametrize("moment", ["mid-epoch", "before saving", "while saving", "before the pointer", "after saving"])
def test_an_interrupted_run_ends_with_the_same_weights(whole, make_cfg, monkeypatch, moment):
    cfg = make_cfg(output="killed")
    trainer = start(cfg)

    def dies_in_second_epoch(original, before=True):
        def wrapped(*args, **kwargs):
            if not before:
                original(*args, **kwargs)
            if trainer.epoch == 1:
                raise Killed
            return original(*args, **kwargs) if before else None

        return wrapped

    with monkeypatch.context() as patch:
        if moment == "mid-epoch":
            original = trainer.forward_backward
            patch.setattr(
                trainer,
                "forward_backward",
                lambda batch: dies_in_second_epoch(original)(batch) if trainer.batch_idx == 1 else original(batch),
            )
        elif moment == "before saving":
            patch.setattr(trainer, "save_model", dies_in_second_epoch(trainer.save_model))
        elif moment == "while saving":
            patch.setattr(torch, "save", dies_in_second_epoch(torch.save, before=False))
        elif moment == "before the pointer":
            patch.setattr(checkpoint, "write_pointer", dies_in_second_epoch(checkpoint.write_pointer))
        else:
            patch.setattr(trainer, "save_model", dies_in_second_epoch(trainer.save_model, before=False))
        with pytest.raises(Killed):
            trainer.train()
    resumed = finish(cfg)
    assert resumed.start_epoch == (2 if moment == "after saving" else 1)
    assert_equal(whole.weights, weights(resumed))
    assert resumed.get_current_lr() == whole.trainer.get_current_lr()


def test_resume_with_fresh_noise_every_epoch_is_exact(make_cfg, monkeypatch):
    options = ("TRAINER.ANPROMPT.NOISE.RESAMPLE", "True", *UNTESTED)
    whole = finish(make_cfg(*options, output="whole"))
    cfg = make_cfg(*options, output="killed")
    trainer = start(cfg)
    monkeypatch.setattr(trainer, "before_epoch", lambda: _die_at(trainer, 2) or type(trainer).before_epoch(trainer))
    with pytest.raises(Killed):
        trainer.train()
    assert_equal(weights(whole), weights(finish(cfg)))


def _die_at(trainer, epoch):
    if trainer.epoch == epoch:
        raise Killed


def test_resume_with_best_val_remembers_the_best(make_cfg, monkeypatch):
    options = ("TEST.FINAL_MODEL", "best_val")
    whole = finish(make_cfg(*options, output="whole"))
    cfg = make_cfg(*options, output="killed")
    trainer = start(cfg)
    monkeypatch.setattr(trainer, "before_epoch", lambda: _die_at(trainer, 2))
    with pytest.raises(Killed):
        trainer.train()
    resumed = start(cfg)
    resumed.before_train()
    assert resumed.best_result == trainer.best_result
    resumed.close_writer()
    assert_equal(weights(whole), weights(finish(cfg)))


def test_a_run_killed_before_its_result_is_written_is_finished_by_the_next(whole, make_cfg, monkeypatch, tmp_path):
    cfg = make_cfg(output="killed")
    with monkeypatch.context() as patch:
        trainer = fewer_test_images(start(cfg))
        patch.setattr(trainer, "write_results", lambda *results: _die_at(trainer, 2))
        with pytest.raises(Killed):
            trainer.train()
    assert not (tmp_path / "killed" / "results.json").exists()
    assert_equal(whole.weights, weights(finish(cfg, all_test_images=True)))
    assert results_in(whole.folder)["heads"] == results_in(tmp_path / "killed")["heads"]


def test_what_killed_processes_left_behind_is_removed(make_cfg, monkeypatch, tmp_path):
    cfg = make_cfg("TRAIN.CHECKPOINT_FREQ", "1", *UNTESTED)
    finish(cfg)
    folder = tmp_path / "run" / LEARNER
    names = {path.name for path in folder.iterdir()}
    state = checkpoint.load_checkpoint(folder / "model.pth.tar-1")
    checkpoint.save_checkpoint({**state, "rolling": True}, folder / "model.pth.tar-1")
    for path in (folder / "model.pth.tar-2", folder / "checkpoint"):
        left_by_killed_process(path)
    (folder / ".model_of_the_user").write_bytes(b"")
    finish(cfg)
    assert {path.name for path in folder.iterdir()} == names - {"model.pth.tar-1"} | {".model_of_the_user"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": "new"},
            r"run on Shapes \(12 classes, .*and this run is on Shapes \(12 classes.*another OUTPUT_DIR",
        ),
        ({"seed": 2}, "a run with seed 1, and this run has seed 2"),
    ],
)
def test_a_run_on_other_data_is_not_resumed(run, make_cfg, changes, message):
    with pytest.raises(ValueError, match=message):
        finish(make_cfg("OPTIM.MAX_EPOCH", "4", **changes))


def test_a_folder_to_resume_must_hold_a_run(make_cfg):
    with pytest.raises(FileNotFoundError, match="nothing to resume in nowhere"):
        finish(make_cfg("RESUME", "nowhere"))


@pytest.mark.parametrize("content", [b"model.pth.tar-7\n", b"\x00\xff", b""])
def test_a_damaged_pointer_is_named(run, make_cfg, content):
    (run / LEARNER / "checkpoint").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint names .* no checkpoint there. Remove the folder to start over"):
        finish(make_cfg("OPTIM.MAX_EPOCH", "4"))


def test_precision_may_change_on_resume(run, make_cfg):
    assert finish(make_cfg("OPTIM.MAX_EPOCH", "4", "TRAINER.ANPROMPT.PREC", "amp")).start_epoch == 3


def test_noise_of_another_source_is_not_resumed(whole, run, make_cfg, tmp_path):
    sentences = {name: [name, f"the {name}"] for name in whole.trainer.dm.dataset.classnames}
    (tmp_path / "Shapes.json").write_text(json.dumps(sentences))
    with pytest.raises(ValueError, match="came from built-in paraphrases .* now it would come from HPT descriptions"):
        finish(make_cfg("OPTIM.MAX_EPOCH", "4", "TRAINER.ANPROMPT.NOISE.HPT_DIR", str(tmp_path)))


def test_running_again_only_tests(whole, run, make_cfg):
    again = finish(make_cfg())
    assert again.start_epoch == again.max_epoch
    assert_equal(whole.weights, weights(again))


def test_same_seed_same_weights_other_seed_other_weights(make_cfg):
    seeds = {"a": 0, "b": 0, "c": 2}
    runs = [weights(finish(make_cfg(*UNTESTED, output=name, seed=seed))) for name, seed in seeds.items()]
    assert_equal(runs[0], runs[1])
    assert not torch.equal(runs[0]["tokens"], runs[2]["tokens"])


def test_two_runs_of_a_process_read_the_weights_once(make_cfg, monkeypatch):
    first = start(make_cfg(output="a"))
    monkeypatch.setattr("anprompt.clip.backbone.load_clip", lambda *_: pytest.fail("weights were read again"))
    assert start(make_cfg(output="b")).backbone is first.backbone


def test_a_forgotten_config_file_is_named(make_cfg):
    with pytest.raises(ValueError, match="MODEL.BACKBONE.NAME is empty: give the trainer's YAML file"):
        start(make_cfg("MODEL.BACKBONE.NAME", ""))


# ------------------------------------------------------------------ bad moments and bad files


def test_a_loss_that_is_not_finite_names_the_term_and_keeps_the_last_checkpoint(make_cfg, monkeypatch):
    cfg = make_cfg()
    trainer = start(cfg)
    monkeypatch.setattr(
        "trainers.anprompt.weak_alignment_loss",
        lambda *logits: logits[0].sum() * (float("nan") if trainer.epoch == 1 else 0.0),
    )
    with pytest.raises(FloatingPointError, match=r"epoch 2, batch 1: wa = nan.*kept: model.pth.tar-1"):
        trainer.train()
    state = checkpoint.load_checkpoint(f"{cfg.OUTPUT_DIR}/{LEARNER}/model.pth.tar-1")
    assert all(torch.isfinite(tensor).all() for tensor in state["state_dict"].values())


def test_a_loss_found_late_is_reported_for_the_batch_where_it_began(make_cfg, monkeypatch):
    """Between progress lines nobody looks at the numbers."""
    trainer = start(
        make_cfg("TRAIN.PRINT_FREQ", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "2", "TRAIN.CHECKPOINT_FREQ", "1")
    )
    monkeypatch.setattr(
        "trainers.anprompt.weak_alignment_loss",
        lambda *logits: logits[0].sum() * (float("nan") if trainer.epoch == 1 and trainer.batch_idx >= 2 else 0.0),
    )
    with pytest.raises(FloatingPointError, match=r"epoch 2, batch 3: .*kept: model.pth.tar-1"):
        trainer.train()
    assert trainer.batch_idx == 3  # the fourth batch, where the next line was due


def test_a_loss_that_breaks_behind_the_last_line_is_found(make_cfg, monkeypatch):
    """Also where an epoch has fewer batches than its loader announces."""
    trainer = start(make_cfg("TRAIN.PRINT_FREQ", "0"))
    trainer.train_loader_x = type("Loader", (list,), {"__len__": lambda self: 100})(trainer.train_loader_x)
    monkeypatch.setattr(
        "trainers.anprompt.weak_alignment_loss",
        lambda *logits: logits[0].sum() * (float("nan") if trainer.batch_idx == 2 else 0.0),
    )
    with pytest.raises(FloatingPointError, match="epoch 1, batch 3: wa = nan"):
        trainer.train()


def test_learnables_that_are_not_finite_do_not_replace_the_last_checkpoint(make_cfg, monkeypatch, tmp_path):
    """The last step of an epoch may break the weights after its loss was still fine."""
    trainer = start(make_cfg())
    original = trainer.forward_backward

    def breaks_the_last_step(batch):
        summary = original(batch)
        if (trainer.epoch, trainer.batch_idx + 1) == (1, trainer.num_batches):
            trainer.model.learner.tokens.data[0, 0] = float("nan")
        return summary

    monkeypatch.setattr(trainer, "forward_backward", breaks_the_last_step)
    with pytest.raises(
        FloatingPointError, match=r"learnables are not finite in epoch 2, .*: tokens\. .*model.pth.tar-1"
    ):
        trainer.train()
    assert [path.name for path in (tmp_path / "run" / LEARNER).glob("model*")] == ["model.pth.tar-1"]


def test_an_error_while_saving_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "model.pth.tar-1"
    checkpoint.save_checkpoint({"state_dict": {"x": torch.ones(2)}}, path)

    def half(state, file):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save_checkpoint({"state_dict": {"x": torch.zeros(2)}}, path)
    assert checkpoint.load_checkpoint(path)["state_dict"]["x"].tolist() == [1, 1]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_truncated_checkpoint_is_one_clear_error(run, make_cfg):
    path = run / LEARNER / "model.pth.tar-3"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"model.pth.tar-3 \(2,000 bytes\): the archive is cut short"):
        start(make_cfg(output="other")).load_model(str(run), epoch=3)


def test_a_missing_checkpoint_lists_what_is_there(whole, make_cfg):
    with pytest.raises(FileNotFoundError, match=r"model.pth.tar-7; found there: model.pth.tar-3"):
        start(make_cfg(output="other")).load_model(str(whole.folder), epoch=7)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("N_TOKENS", "4", r"N_TOKENS 5 there, 4 here"),
        ("LAYERS", "[5, 6]", r"LAYERS \[3, 4, 5, 6\] there, \[5, 6\] here"),
        ("NOISE_PROMPT.SOURCE", "off", r"SOURCE 'cluster' there, 'off' here"),
        ("NOISE_PROMPT.COEF", "0.5", r"COEF 0.2 there, 0.5 here"),
        ("LOSS.ALPHA", "0.1", r"ALPHA 0.7 there, 0.1 here"),
        ("TEXT_ALIGNER", "shared", r"TEXT_ALIGNER 'linear' there, 'shared' here"),
        ("TEXT_BETA", "0.5", r"TEXT_BETA 1.0 there, 0.5 here"),
        ("REP_DIM", "64", r"tokens: shape \(5, 128\) in the file, \(5, 64\) here"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(whole, make_cfg, option, value, message):
    other = start(make_cfg(f"TRAINER.ANPROMPT.{option}", value, output="other"))
    with pytest.raises(ValueError, match=message):
        other.load_model(str(whole.folder), epoch=3)


def test_a_checkpoint_older_than_a_setting_has_its_default(whole, run, make_cfg):
    path = run / LEARNER / "model.pth.tar-3"
    state = checkpoint.load_checkpoint(path)
    older = {key: value for key, value in state["settings"].items() if ".TEXT_" not in key}
    assert len(older) == len(state["settings"]) - 2
    checkpoint.save_checkpoint({**state, "settings": older}, path)
    same = start(make_cfg(output="same"))
    same.load_model(str(run), epoch=3)
    assert_equal(whole.weights, weights(same))
    with pytest.raises(ValueError, match="TEXT_BETA 1.0 there, 0.5 here"):
        start(make_cfg("TRAINER.ANPROMPT.TEXT_BETA", "0.5", output="other")).load_model(str(run), epoch=3)


def test_a_checkpoint_of_another_backbone_is_refused(run, make_cfg):
    path = run / LEARNER / "model.pth.tar-3"
    state = checkpoint.load_checkpoint(path)
    checkpoint.save_checkpoint({**state, "settings": {**state["settings"], "MODEL.BACKBONE.NAME": "ViT-B/16"}}, path)
    with pytest.raises(ValueError, match=r"MODEL.BACKBONE.NAME 'ViT-B/16' there, 'tiny' here"):
        start(make_cfg(output="other")).load_model(str(run), epoch=3)


def test_loading_is_strict(run, make_cfg):
    path = run / LEARNER / "model.pth.tar-3"
    state = checkpoint.load_checkpoint(path)
    tensors = {**state["state_dict"], "tokens": torch.zeros(2, 2), "extra": torch.zeros(1)}
    del tensors["noise_prompts"]
    checkpoint.save_checkpoint({**state, "state_dict": tensors}, path)
    with pytest.raises(
        ValueError, match=r"missing noise_prompts; unexpected extra; tokens: shape \(2, 2\) in the file"
    ):
        start(make_cfg(output="other")).load_model(str(run), epoch=3)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("PREC", "half", "PREC: expected one of fp32, amp, bf16, got 'half'"),
        ("N_TOKENS", "0", "N_TOKENS: expected a number in 1..inf, got 0"),
        ("LAYERS", "[3, 5, 6]", r"LAYERS: expected contiguous layers.*got \[3, 5, 6\]"),
        ("LAYERS", "[]", "LAYERS: expected contiguous layers"),
        ("LAYERS", "[0, 1]", "LAYERS: expected contiguous layers"),
        ("LAYERS", "[11, 12]", r"last of the 6 text layers of tiny, such as \[3, 4, 5, 6\], got \[11, 12\]"),
        ("LAYERS", "[3, 4]", "last of the 6 text layers of tiny"),
        ("BETA", "1.5", r"BETA: expected a number in 0..1, got 1.5"),
        ("BETA", "high", r"BETA: expected a number in 0..1, got 'high'"),
        ("TEXT_BETA", "1.5", r"TEXT_BETA: expected a number in 0..1, got 1.5"),
        ("TEXT_ALIGNER", "srra", "TEXT_ALIGNER: expected one of linear, shared, got 'srra'"),
        ("REP_DIM", "0", r"REP_DIM: expected a number in 1..inf, got 0"),
        ("LOSS.SIM_W", "-1.0", r"SIM_W: expected a number in 0..inf, got -1.0"),
        ("NOISE.STRENGTH", "2.0", r"STRENGTH: expected a number in 0..1, got 2.0"),
        ("NOISE_PROMPT.SOURCE", "kmeans", "SOURCE: expected one of cluster, learnable, off, got 'kmeans'"),
        ("HEAD.SEEN", "rep", "HEAD.SEEN: expected one of class, prototype, fused, got 'rep'"),
    ],
)
def test_config_mistakes_are_refused(make_cfg, option, value, message):
    with pytest.raises(ValueError, match=message):
        start(make_cfg(f"TRAINER.ANPROMPT.{option}", value))


def test_a_wrong_image_size_is_refused(make_cfg):
    with pytest.raises(ValueError, match=r"INPUT.SIZE: tiny takes \(64, 64\) images, got \(224, 224\)"):
        start(make_cfg("INPUT.SIZE", "(224, 224)"))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("INPUT.PIXEL_STD", "[0.5, 0.5, 0.5]", r"INPUT.PIXEL_STD: tiny was trained with .*, got \[0.5, 0.5, 0.5\]"),
        ("INPUT.TRANSFORMS", "['random_flip']", "INPUT.TRANSFORMS: 'normalize' is missing"),
        ("INPUT.INTERPOLATION", "bicubical", "unknown INPUT.INTERPOLATION 'bicubical': did you mean bicubic"),
        ("TEST.SPLIT", "vall", r"unknown TEST.SPLIT 'vall': did you mean val\?"),
        ("TEST.FINAL_MODEL", "best", "unknown TEST.FINAL_MODEL 'best'"),
        ("OPTIM.MAX_EPOCH", "0", "OPTIM.MAX_EPOCH: expected a number in 1..1000000000, got 0"),
        ("DATALOADER.KEEP_TRAIN_GB", "-1.0", r"DATALOADER.KEEP_TRAIN_GB: expected a number in 0\.\.inf, got -1.0"),
    ],
)
def test_settings_that_would_silently_mean_something_else_are_refused(make_cfg, option, value, message):
    with pytest.raises(ValueError, match=message):
        start(make_cfg(option, value))


def test_more_noise_prompts_than_sentences_is_refused(make_cfg):
    with pytest.raises(ValueError, match="cannot form 2000 noise prompts"):
        start(make_cfg("TRAINER.ANPROMPT.N_TOKENS", "2000")).train()


# ------------------------------------------------------------------ noise


def test_noise_prompts_are_kept_on_new_classes(whole, make_cfg):
    trained = whole.weights["noise_prompts"]
    new = start(make_cfg(classes="new", output="new"))
    assert not torch.equal(new.model.learner.noise_prompts, trained)
    new.load_model(str(whole.folder), epoch=3)
    assert torch.equal(new.model.learner.noise_prompts, trained)


def test_training_leaves_noise_prompts_and_weak_noise_features_alone(make_cfg):
    trainer = start(make_cfg())
    trainer.before_train()
    prompts, features = trainer.model.learner.noise_prompts.clone(), trainer.weak_noise.clone()
    trainer.epoch = 0
    trainer.run_epoch()
    trainer.close_writer()
    assert prompts.abs().sum() > 0
    assert torch.equal(prompts, trainer.model.learner.noise_prompts)
    assert torch.equal(features, trainer.weak_noise)


def test_building_noise_draws_from_no_global_generator(make_cfg):
    trainer = start(make_cfg())
    before = random.getstate(), torch.get_rng_state()
    trainer.build_noise(redraw=True)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_fresh_noise_changes_every_epoch_only_where_asked(make_cfg):
    def indices(*options, output):
        trainer, seen = start(make_cfg(*options, *UNTESTED, output=output)), []
        original = trainer.run_epoch
        trainer.run_epoch = lambda: (seen.append(trainer.noise_index), original())
        trainer.train()
        return seen

    assert len(set(indices(output="once"))) == 1
    assert len(set(indices("TRAINER.ANPROMPT.NOISE.RESAMPLE", "True", output="fresh"))) == 3


def test_the_log_names_the_source_of_the_noise(make_cfg, tmp_path, capsys):
    trainer = start(make_cfg())
    trainer.build_noise(redraw=True)
    assert "Weak noise: built-in paraphrases" in capsys.readouterr().out
    names = trainer.dm.dataset.classnames
    (tmp_path / "hpt").mkdir()
    (tmp_path / "hpt" / "Shapes.json").write_text(
        json.dumps({name: [f"{name} {i}" for i in range(5)] for name in names})
    )
    trainer = start(make_cfg("TRAINER.ANPROMPT.NOISE.HPT_DIR", str(tmp_path / "hpt"), output="hpt"))
    trainer.build_noise(redraw=True)
    assert "Weak noise: HPT descriptions (5 per class)" in capsys.readouterr().out


# ------------------------------------------------------------------ evaluation


def test_headline_follows_whether_the_classes_were_trained_on(whole, make_cfg):
    assert whole.trainer.headline() == "fused"
    for classes, expected in [("base", "fused"), ("new", "class"), ("all", "class")]:
        trainer = start(make_cfg(classes=classes, output=classes))
        trainer.load_model(str(whole.folder), epoch=3)
        assert trainer.headline() == expected


def test_another_data_set_with_the_same_class_names_is_not_seen(make_cfg):
    """ImageNetV2 has ImageNet's class names: domain generalisation reports one head for all its targets."""
    trainer = start(make_cfg())
    trainer.trained_on = trainer.data_identity()
    assert trainer.headline() == "fused"
    trainer.trained_on = {**trainer.data_identity(), "dataset": "ShapesV2"}
    assert trainer.headline() == "class"


def test_text_features_are_never_stale(make_cfg):
    """Evaluate, train, evaluate: the second evaluation sees the trained tokens."""
    trainer = fewer_test_images(start(make_cfg()))
    trainer.before_train()
    images = trainer.test_loader[0]["img"]
    trainer.test(split="test")
    with torch.no_grad(), trainer.evaluation():
        first = trainer.model.head_logits(images)["class"]
    trainer.epoch = 0
    trainer.run_epoch()
    trainer.test(split="test")
    with torch.no_grad(), trainer.evaluation():
        cached = trainer.model.head_logits(images)["class"]
    with torch.no_grad():
        fresh = trainer.model.head_logits(images)["class"]
    trainer.close_writer()
    assert not torch.allclose(first, cached)
    assert torch.equal(cached, fresh)


def test_heads(make_cfg):
    trainer = fewer_test_images(start(make_cfg()))
    images = trainer.test_loader[0]["img"][:4]
    with torch.no_grad():
        heads = trainer.model.head_logits(images)
        assert torch.equal(trainer.model_inference(images), heads["fused"])
    assert torch.allclose(heads["fused"], 0.7 * heads["class"] + 0.3 * heads["prototype"])


def test_zero_shot_log_ends_like_a_training_log(make_cfg, capsys):
    finish(make_cfg(trainer="ZeroshotCLIP"))
    printed = capsys.readouterr().out
    assert "\nFinish training\n" in printed and "* accuracy:" in printed[printed.index("Finish training") :]


def test_zero_shot_trainer_gives_clips_own_logits(make_cfg):
    trainer = start(make_cfg(trainer="ZeroshotCLIP"))
    assert isinstance(trainer, ZeroshotCLIP)
    images = next(iter(trainer.test_loader))["img"][:8]
    prompts = [f"a photo of a {name}." for name in trainer.dm.dataset.classnames]
    with torch.no_grad():
        image, text, scale = trainer.model.clip(images, trainer.backbone.tokenize(prompts))
        assert torch.allclose(trainer.model_inference(images), scale * image @ text.T, atol=1e-4)


# ------------------------------------------------------------------ settings and precision


def test_per_dataset_values_hold_until_the_config_names_one(make_cfg):
    cfg = make_cfg("DATASET.NAME", "Food101")
    assert (SETTINGS.values(cfg).BETA, SETTINGS.values(cfg).LOSS.SIM_W) == (0.1, 5.0)
    cfg = make_cfg("DATASET.NAME", "Food101", "TRAINER.ANPROMPT.BETA", "0.3", "TRAINER.ANPROMPT.LOSS.SIM_W", "2.0")
    assert (SETTINGS.values(cfg).BETA, SETTINGS.values(cfg).LOSS.SIM_W) == (0.3, 2.0)


def test_active_per_dataset_values_are_printed(make_cfg, capsys):
    cfg = make_cfg("TRAINER.ANPROMPT.BETA", "0.7")
    cfg.defrost()
    cfg.TRAINER.ANPROMPT.PER_DATASET.Shapes = CfgNode({"BETA": 0.4, "SIM_W": 3.0})
    start(cfg)
    assert "Per-dataset values for Shapes: LOSS.SIM_W 3.0\n" in capsys.readouterr().out


def test_another_dataset_keeps_the_beta_of_training(make_cfg, monkeypatch):
    cfg = make_cfg("OPTIM.MAX_EPOCH", "1", "TRAINER.ANPROMPT.BETA", "0.35")
    finish(cfg)
    trainer = start(make_cfg(classes="new", output="new"))
    trainer.load_model(cfg.OUTPUT_DIR, epoch=1)
    assert trainer.model.beta == 0.35


@pytest.mark.parametrize(
    ("key", "trained", "tested"),
    [("BETA", 0.35, 0.5), ("HEAD.SEEN", "fused", "class"), ("HEAD.UNSEEN", "class", "fused")],
)
def test_settings_of_its_own_are_refused_at_a_test_unless_asked_for(make_cfg, tmp_path, capsys, key, trained, tested):
    name = f"TRAINER.ANPROMPT.{key}"
    cfg = make_cfg("OPTIM.MAX_EPOCH", "1", name, str(trained))
    finish(cfg)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["target_settings"] == {}
    other = (name, str(tested))
    with pytest.raises(ValueError, match=f"{name} was {trained!r} in training and is {tested!r} here"):
        start(make_cfg(*other, classes="new", output="refused")).load_model(cfg.OUTPUT_DIR, epoch=1)
    trainer = start(make_cfg(*other, "TEST.TARGET_SETTINGS", "True", classes="new", output="new"))
    trainer.load_model(cfg.OUTPUT_DIR, epoch=1)
    fewer_test_images(trainer).test()
    assert f"Chosen for this test: {name} {tested} (trained with {trained})\n" in capsys.readouterr().out
    result = json.loads((tmp_path / "new" / "results.json").read_text())
    assert result["target_settings"] == {name: {"trained": trained, "tested": tested}}
    assert trainer.model.beta == (tested if key == "BETA" else trainer.values.BETA)
    assert trainer.headline() == (tested if key == "HEAD.UNSEEN" else "class")


@pytest.mark.parametrize(("change", "split"), [("no validation set", "test"), ("the test set", "test"), ("", "val")])
def test_a_model_is_not_chosen_on_the_images_of_its_result(make_cfg, change, split):
    trainer = start(make_cfg("TEST.FINAL_MODEL", "best_val", "TEST.SPLIT", split))
    data = trainer.dm.dataset
    data._val = {"no validation set": [], "the test set": data.test}.get(change, data.val)  # ImageNet's: its test set
    with pytest.raises(
        ValueError, match="best_val would choose the model on .* images .*: use TEST.FINAL_MODEL last_step"
    ):
        trainer.train()


def test_a_validation_without_images_is_refused_on_any_data(make_cfg, monkeypatch):
    """The readers here look for themselves; a data set of the user's need not."""

    class Unvalidated(DatasetBase):
        def __init__(self, cfg):
            whole = DATASET_REGISTRY.get("Shapes")(cfg)
            super().__init__(train_x=whole.train_x, test=whole.test)

    monkeypatch.setitem(DATASET_REGISTRY._objects, "Unvalidated", Unvalidated)
    data = ("DATASET.NAME", "Unvalidated", "DATASET.TEMPLATE", "a {}.")
    with pytest.raises(ValueError, match=r"^TEST\.SPLIT is val, but Unvalidated has no validation images: use"):
        start(make_cfg(*data, "TEST.SPLIT", "val"))
    assert start(make_cfg(*data)).val_loader is None


def test_every_result_says_its_head_and_classes(make_cfg, tmp_path, capsys):
    trainer = start(make_cfg(classes="new"))
    fewer_test_images(trainer).test()
    assert "(headline: fused; new classes of Shapes)\n" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (result["headline"], result["classes"]) == ("fused", "new")


@pytest.mark.parametrize("precision", ["fp32", "amp", "bf16"])
@pytest.mark.parametrize("reading", ["cluster", "learnable"])
def test_one_epoch_in_every_precision(make_cfg, precision, reading):
    trainer = start(
        make_cfg(
            "TRAINER.ANPROMPT.PREC", precision, "TRAINER.ANPROMPT.NOISE_PROMPT.SOURCE", reading, "OPTIM.MAX_EPOCH", "1"
        )
    )
    before = weights(trainer)
    fewer_test_images(trainer).train()
    after = weights(trainer)
    assert all(tensor.dtype == torch.float32 and torch.isfinite(tensor).all() for tensor in after.values())
    assert not torch.equal(before["tokens"], after["tokens"])


def test_precisions_differ_by_rounding_only(make_cfg):
    def first_loss(precision):
        trainer = start(make_cfg("TRAINER.ANPROMPT.PREC", precision, output=precision))
        trainer.build_noise(redraw=True)
        images = torch.stack([trainer.dm.test_loader.dataset[i]["img"] for i in range(4)])
        with torch.no_grad(), trainer.autocast():
            terms, _ = trainer.loss_terms({"images": images, "labels": torch.tensor([0, 1, 2, 3])})
        return sum(terms.values()).item()

    full, half, bfloat = (first_loss(precision) for precision in ("fp32", "amp", "bf16"))
    assert full != half != bfloat != full
    assert half == pytest.approx(full, rel=1e-2) and bfloat == pytest.approx(full, rel=5e-2)


def test_extras_switched_off_on_the_command_line_leave_mmrl(make_cfg):
    off = {
        "NOISE_PROMPT.SOURCE": "off",
        "VISION_ALIGNER": "linear",
        "BETA": "1.0",
        "PROTOTYPE_PROJ": "full",
        "LOSS.WA_W": "0.0",
    }
    options = [word for key, value in off.items() for word in (f"TRAINER.ANPROMPT.{key}", value)]
    trainer = finish(make_cfg(*options))
    assert trainer.noise_index is None and trainer.weak_noise is None
    kinds = {name.split(".")[0] for name in trainer.model.learner.state_dict()}
    assert kinds == {"tokens", "text_aligner", "vision_aligner", "prototype_proj"}
    batch = {"images": torch.zeros(2, 3, 64, 64), "labels": torch.tensor([0, 1])}
    assert set(trainer.loss_terms(batch)[0]) == {"ce", "sim_image", "sim_text"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "amp", "bf16"])
def test_training_runs_on_a_gpu(make_cfg, precision):
    trainer = finish(make_cfg("TRAINER.ANPROMPT.PREC", precision))
    assert trainer.device.type == "cuda"
    assert all(torch.isfinite(tensor).all() for tensor in weights(trainer).values())


def test_global_generators_continue_where_they_were():
    np.random.seed(3), random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    np.random.standard_normal(3), random.gauss(0, 1)  # noqa: NPY002  both leave a spare number behind
    state = rng_state()
    expected = np.random.standard_normal(3).tolist(), random.gauss(0, 1), torch.rand(3).tolist()  # noqa: NPY002
    set_rng_state(state)
    assert (np.random.standard_normal(3).tolist(), random.gauss(0, 1), torch.rand(3).tolist()) == expected  # noqa: NPY002
