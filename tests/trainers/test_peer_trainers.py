"""The peers' trainers on real files: Shapes and the bundled tiny CLIP, a few images and epochs, seconds each."""

import copy
import json
import shutil
from types import SimpleNamespace

import open_clip
import pytest
import torch

import trainers
from anprompt.clip.backbone import Backbone
from anprompt.engine.checkpoint import load_checkpoint
from anprompt.engine.trainer import LEARNER
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from tests.helpers import REPOSITORY
from tests.helpers.no_fetching import NoFetching
from tests.helpers.peer_oracle import gaussian_average
from tests.helpers.runs import Killed, assert_equal, fewer_test_images, finish, run_cfg, start, weights

PEERS = {
    "CoOp": [],
    "KgCoOp": [],
    "E2MIM": [],
    "CoCoOp": [],
    "MaPLe": [],
    "PromptSRC": ["TRAINER.PROMPTSRC.GPA_MEAN", "2.0", "TRAINER.PROMPTSRC.GPA_STD", "1.5"],
    "MMRL": [],
    "MMRLpp": [],
    "GA2CLIP": ["TRAINER.GA2CLIP.HARD.ENABLED", "False", "TRAINER.GA2CLIP.ANCHOR.ENABLED", "False"],
}
ZERO_SHOT = ("ZeroshotCLIP", "ZeroshotCLIP2")
BATCHES = ["DATALOADER.TRAIN_X.BATCH_SIZE", "4", "DATALOADER.TEST.BATCH_SIZE", "20"]  # three training steps per epoch
UNTESTED = ["TEST.NO_TEST", "True"]


@pytest.fixture
def peer_cfg(make_cfg):
    def make(trainer, *options, **others):
        return make_cfg(*BATCHES, *PEERS.get(trainer, []), *options, trainer=trainer, **others)

    return make


@pytest.fixture(autouse=True, scope="module")
def few_templates():
    """Save PromptSRC's passes over 60; ``test_peer_models.py`` counts them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.promptsrc.TEMPLATES", 3)
        yield


every_peer = pytest.mark.parametrize("name", PEERS)


@pytest.fixture(scope="module")
def trained(few_templates, data_root, tmp_path_factory):
    """By the name of a peer: its finished run, to be read only, with what it was before and after every epoch."""
    runs = {}

    def run_of(name):
        if name not in runs:
            options = [*BATCHES, *PEERS[name], *UNTESTED]
            folder = tmp_path_factory.mktemp(name)
            trainer = start(run_cfg(data_root, folder, options, trainer=name, classes="base", seed=1))
            clip = copy.deepcopy(trainer.model.clip.state_dict())
            before, after = followed(trainer)
            trainer.train()
            runs[name] = SimpleNamespace(trainer=trainer, folder=folder, clip=clip, before=before, after=after)
        return runs[name]

    return run_of


def some_images(trainer, count=4):
    return torch.stack([trainer.dm.test_loader.dataset[i]["img"] for i in range(count)])


def save_untrained(cfg):
    """A checkpoint without a run: what it holds is not asked for."""
    trainer = start(cfg)
    trainer.save_model(0, cfg.OUTPUT_DIR)
    return trainer


# ------------------------------------------------------------------ start, and what training changes


@pytest.mark.parametrize("name", ["CoOp", "KgCoOp", "E2MIM"])
def test_words_start_as_zero_shot_clip(peer_cfg, make_cfg, name):
    trainer, zero_shot = start(peer_cfg(name)), start(make_cfg(trainer="ZeroshotCLIP", output="zero"))
    images = some_images(trainer, 32)
    with torch.no_grad():
        expected = zero_shot.model_inference(images)
        assert torch.allclose(trainer.model_inference(images), expected, rtol=0, atol=1e-4)


@every_peer
def test_only_learnables_change_and_only_they_are_saved(trained, name):
    run = trained(name)
    assert_equal(run.clip, run.trainer.model.clip.state_dict())
    before, after = run.before[0], weights(run.trainer)
    assert before.keys() == after.keys() == dict(run.trainer.model.learner.named_parameters()).keys()
    assert all(not torch.equal(before[key], after[key]) for key in before)
    assert all(tensor.dtype == torch.float32 and torch.isfinite(tensor).all() for tensor in after.values())
    assert_equal(load_checkpoint(run.folder / LEARNER / "model.pth.tar-3")["state_dict"], after)


@pytest.mark.parametrize("precision", ["amp", "bf16"])
@every_peer
def test_one_epoch_in_half_precision(peer_cfg, name, precision):
    trainer = start(peer_cfg(name, f"TRAINER.{name.upper()}.PREC", precision, "OPTIM.MAX_EPOCH", "1"))
    before = weights(trainer)
    fewer_test_images(trainer).train()
    after = weights(trainer)
    assert all(tensor.dtype == torch.float32 and torch.isfinite(tensor).all() for tensor in after.values())
    assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", [*PEERS, "ANPrompt"])
def test_a_step_between_two_progress_lines_fetches_nothing(peer_cfg, name):
    """On a GPU, the host would wait. SGD, because AdamW keeps its step count on the CPU and reads it there."""
    trainer = start(peer_cfg(name, "TRAIN.PRINT_FREQ", "10", "OPTIM.NAME", "sgd"))
    trainer.before_train()
    trainer.close_writer()
    batch = next(iter(trainer.train_loader_x))
    trainer.batch_idx, trainer.num_batches = 0, 5
    with NoFetching():
        summary = trainer.forward_backward(batch)
    assert summary["loss"].item() == pytest.approx(sum(summary[term].item() for term in [*summary][1:-1]))
    trainer.batch_idx = 4
    with pytest.raises(AssertionError, match="equal|_local_scalar_dense"), NoFetching():  # that it would notice
        trainer.forward_backward(batch)["loss"].item()


@every_peer
def test_precisions_differ_by_rounding_only(peer_cfg, name):
    def first_loss(precision):
        trainer = start(peer_cfg(name, f"TRAINER.{name.upper()}.PREC", precision, output=precision))
        trainer.before_train()
        trainer.close_writer()
        batch = {"images": some_images(trainer), "labels": torch.tensor([0, 1, 2, 3])}
        with torch.no_grad(), trainer.autocast():
            return sum(trainer.loss_terms(batch)[0].values()).item()

    full, half, bfloat = (first_loss(precision) for precision in ("fp32", "amp", "bf16"))
    assert full != half != bfloat != full
    assert half == pytest.approx(full, rel=2e-2) and bfloat == pytest.approx(full, rel=1e-1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "amp", "bf16"])
@every_peer
def test_training_runs_on_a_gpu(peer_cfg, name, precision):
    trainer = finish(peer_cfg(name, f"TRAINER.{name.upper()}.PREC", precision))
    assert trainer.device.type == "cuda"
    assert all(torch.isfinite(tensor).all() for tensor in weights(trainer).values())


def test_cocoop_trains_alike_in_chunks(peer_cfg, monkeypatch):
    """Through the whole trainer, with the recomputation under autocast."""

    def trained(at_a_time, output):
        monkeypatch.setattr("trainers.cocoop.MAX_PROMPTS", at_a_time)
        options = ("OPTIM.MAX_EPOCH", "1", "TRAINER.COCOOP.PREC", "bf16", "OPTIM.WARMUP_CONS_LR", "0.002")
        return weights(finish(peer_cfg("CoCoOp", *options, *UNTESTED, output=output)))

    whole, chunks = trained(512, "whole"), trained(7, "chunks")
    assert all(torch.allclose(whole[key], chunks[key], rtol=0, atol=1e-4) for key in whole)


# ------------------------------------------------------------------ resume


@every_peer
def test_a_run_killed_in_its_second_epoch_ends_with_the_same_weights(trained, peer_cfg, monkeypatch, name):
    cfg = peer_cfg(name, *UNTESTED, output="killed")
    trainer = start(cfg)
    step = trainer.forward_backward
    monkeypatch.setattr(trainer, "forward_backward", lambda batch: die_in(trainer, 1, 1) or step(batch))
    with pytest.raises(Killed):
        trainer.train()
    resumed = finish(cfg)
    assert resumed.start_epoch == 1
    assert_equal(weights(trained(name).trainer), weights(resumed))


def die_in(trainer, epoch, batch=None):
    if trainer.epoch == epoch and batch in (None, trainer.batch_idx):
        raise Killed


def followed(trainer):
    """Note the learnables before and after every epoch, as they are without any averaging."""
    run_epoch, before, after = trainer.run_epoch, [], []
    trainer.run_epoch = lambda: (before.append(weights(trainer)), run_epoch(), after.append(weights(trainer)))
    return before, after


def close(one, other):
    return one.keys() == other.keys() and all(
        torch.allclose(one[key].double(), other[key].double(), rtol=0, atol=1e-8) for key in one
    )


def test_promptsrc_ends_with_the_gaussian_average_of_its_epochs(trained):
    run = trained("PromptSRC")
    found = weights(run.trainer)
    assert close(found, gaussian_average(run.after, mean=2.0, std=1.5))
    assert not close(found, run.after[-1])
    assert_equal(run.before[2], run.after[1])  # training itself never sees the average
    saved = load_checkpoint(run.folder / LEARNER / "model.pth.tar-3")
    assert_equal(saved["state_dict"], found)
    assert_equal(saved["training_state"]["last_state"], run.after[-1])


def test_the_weight_of_an_epoch_counts_from_one(peer_cfg):
    """So narrow around 2 that the second epoch is all that counts."""
    trainer = start(peer_cfg("PromptSRC", "TRAINER.PROMPTSRC.GPA_STD", "0.1", *UNTESTED))
    _, after = followed(trainer)
    trainer.train()
    assert close(weights(trainer), after[1])


def test_promptsrc_of_one_epoch_is_that_epoch(peer_cfg):
    trainer = start(peer_cfg("PromptSRC", "OPTIM.MAX_EPOCH", "1", *UNTESTED))
    _, after = followed(trainer)
    trainer.train()
    assert close(weights(trainer), after[0])


@pytest.mark.parametrize("moment", ["before saving", "after saving"])
def test_promptsrc_killed_around_its_last_checkpoint_ends_with_the_same_average(trained, peer_cfg, monkeypatch, moment):
    cfg = peer_cfg("PromptSRC", *UNTESTED, output="killed")
    trainer = start(cfg)
    save = trainer.save_model

    def dies(*args, **kwargs):
        if moment == "after saving":
            save(*args, **kwargs)
        die_in(trainer, 2)
        if moment == "before saving":
            save(*args, **kwargs)

    monkeypatch.setattr(trainer, "save_model", dies)
    with pytest.raises(Killed):
        trainer.train()
    assert_equal(weights(trained("PromptSRC").trainer), weights(finish(cfg)))


def test_a_longer_promptsrc_goes_on_from_its_last_prompts_not_from_their_average(trained, peer_cfg, tmp_path):
    early = trained("PromptSRC").after
    shutil.copytree(trained("PromptSRC").folder, tmp_path / "run")
    longer = start(peer_cfg("PromptSRC", "OPTIM.MAX_EPOCH", "5", *UNTESTED))
    before, late = followed(longer)
    longer.train()
    assert len(late) == 2
    assert_equal(before[0], early[-1])
    assert close(weights(longer), gaussian_average([*early, *late], mean=2.0, std=1.5))


def test_a_promptsrc_cut_short_to_what_is_done_ends_with_the_average(peer_cfg, monkeypatch):
    trainer = start(peer_cfg("PromptSRC", *UNTESTED))
    _, after = followed(trainer)
    monkeypatch.setattr(trainer, "before_epoch", lambda: die_in(trainer, 2))
    with pytest.raises(Killed):
        trainer.train()
    shorter = finish(peer_cfg("PromptSRC", "OPTIM.MAX_EPOCH", "2", *UNTESTED))
    assert close(weights(shorter), gaussian_average(after, mean=2.0, std=1.5))


# ------------------------------------------------------------------ checkpoints on other classes and settings


@every_peer
def test_a_checkpoint_of_the_base_classes_serves_the_new_ones(trained, peer_cfg, name):
    """Logits of a class do not depend on which other classes are asked for."""
    run, logits = trained(name), {}
    images = some_images(run.trainer)
    for classes in ("new", "all"):
        trainer = start(peer_cfg(name, classes=classes, output=classes))
        trainer.load_model(str(run.folder), epoch=3)
        assert_equal(weights(run.trainer), weights(trainer))
        assert trainer.headline() == "class"
        with torch.no_grad():
            logits[classes] = trainer.model_inference(images)
    assert logits["new"].shape == (4, 12) and logits["all"].shape == (4, 24)
    assert torch.allclose(logits["all"][:, 12:], logits["new"], rtol=0, atol=1e-4)


def test_headline_of_mmrl_on_its_own_classes_is_fused(peer_cfg):
    cfg = peer_cfg("MMRL")
    save_untrained(cfg)
    trainer = start(peer_cfg("MMRL", output="again"))
    trainer.load_model(cfg.OUTPUT_DIR, epoch=1)
    assert trainer.headline() == "fused"


def test_width_of_mmrl_on_other_data_is_that_of_the_training_run(peer_cfg):
    """As from ImageNet (512) to EuroSAT, whose own runs have 2,048."""
    cfg = peer_cfg("MMRL")
    trained = save_untrained(cfg)
    wider = "TRAINER.MMRL.PER_DATASET.default.REP_DIM"
    other = start(peer_cfg("MMRL", wider, "2048", classes="new", output="other"))
    assert other.model.learner.tokens.shape == (5, 2048)
    other.load_model(cfg.OUTPUT_DIR, epoch=1)
    assert_equal(weights(trained), weights(other))
    assert other.required_settings()["TRAINER.MMRL.REP_DIM"] == 512
    assert other.learnable_count == trained.learnable_count  # what results.json tells


def test_beta_of_mmrlpp_on_other_data_is_that_of_the_training_run(peer_cfg, capsys):
    """The authors chose one per target; a test keeps its training's unless it is asked for another."""
    cfg = peer_cfg("MMRLpp")
    save_untrained(cfg)
    lower = ("TRAINER.MMRLPP.PER_DATASET.default.BETA", "0.3")
    other = start(peer_cfg("MMRLpp", *lower, classes="new", output="other"))
    assert other.model.beta == other.model.text_beta == 0.3
    other.load_model(cfg.OUTPUT_DIR, epoch=1)
    assert other.model.beta == other.model.text_beta == 0.9
    assert "BETA 0.9, from the training run" in capsys.readouterr().out
    asked = ("TRAINER.MMRLPP.BETA", "0.3", "TEST.TARGET_SETTINGS", "True")
    other = start(peer_cfg("MMRLpp", *asked, classes="new", output="third"))
    other.load_model(cfg.OUTPUT_DIR, epoch=1)
    assert other.model.beta == other.model.text_beta == 0.3
    assert other.target_settings == {"TRAINER.MMRLPP.BETA": {"trained": 0.9, "tested": 0.3}}


def test_class_specific_contexts_are_refused_on_other_classes(peer_cfg):
    cfg = peer_cfg("CoOp", "TRAINER.COOP.CSC", "True")
    assert save_untrained(cfg).model.learner.ctx.shape == (12, 4, 128)
    start(peer_cfg("CoOp", "TRAINER.COOP.CSC", "True", output="same")).load_model(cfg.OUTPUT_DIR, epoch=1)
    other = start(peer_cfg("CoOp", "TRAINER.COOP.CSC", "True", classes="new", output="other"))
    message = r"class-specific contexts exist for Shapes \(12 classes.*train with TRAINER.COOP.CSC False"
    with pytest.raises(ValueError, match=message):
        other.load_model(cfg.OUTPUT_DIR, epoch=1)


def test_class_specific_contexts_serve_other_images_of_the_same_classes(peer_cfg, monkeypatch):
    """ImageNet's, say, those of ImageNetV2."""
    cfg = peer_cfg("CoOp", "TRAINER.COOP.CSC", "True")
    saved = save_untrained(cfg)
    other = start(peer_cfg("CoOp", "TRAINER.COOP.CSC", "True", output="other"))
    monkeypatch.setattr(other, "data_identity", lambda: {**saved.data_identity(), "dataset": "ShapesV2"})
    other.load_model(cfg.OUTPUT_DIR, epoch=1)
    assert_equal(weights(saved), weights(other))


def test_class_specific_contexts_start_apart_unless_from_words(peer_cfg):
    own = ("TRAINER.COOP.CSC", "True")
    words = start(peer_cfg("CoOp", *own)).model.learner.ctx
    assert all(torch.equal(words[0], context) for context in words)
    random = start(peer_cfg("CoOp", *own, "TRAINER.COOP.CTX_INIT", "", "TRAINER.COOP.N_CTX", "5")).model.learner.ctx
    assert random.shape[1] == 5 and not torch.equal(random[0], random[1])


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("CoOp", "CSC", "True", "CSC False there, True here"),
        ("CoOp", "CLASS_TOKEN_POSITION", "front", "CLASS_TOKEN_POSITION 'end' there, 'front' here"),
        ("CoOp", "CTX_INIT", "a photo of", r"ctx: shape \(4, 128\) in the file, \(3, 128\) here"),
        ("MaPLe", "N_CTX", "3", "N_CTX 2 there, 3 here"),
        ("MaPLe", "CTX_INIT", "a photo of the", "CTX_INIT 'a photo of a' there, 'a photo of the' here"),
        ("MaPLe", "PROMPT_DEPTH", "3", "PROMPT_DEPTH 4 there, 3 here"),
        ("PromptSRC", "N_CTX_TEXT", "2", "N_CTX_TEXT 4 there, 2 here"),
        ("PromptSRC", "N_CTX_VISION", "2", "N_CTX_VISION 4 there, 2 here"),
        ("PromptSRC", "CTX_INIT", "one photo of a", "CTX_INIT 'a photo of a' there"),
        ("PromptSRC", "PROMPT_DEPTH_TEXT", "2", "PROMPT_DEPTH_TEXT 4 there, 2 here"),
        ("PromptSRC", "PROMPT_DEPTH_VISION", "2", "PROMPT_DEPTH_VISION 4 there, 2 here"),
        ("MMRL", "N_REP_TOKENS", "4", "N_REP_TOKENS 5 there, 4 here"),
        ("MMRL", "REP_LAYERS", "[5, 6]", r"REP_LAYERS \[3, 4, 5, 6\] there, \[5, 6\] here"),
        ("MMRL", "REP_DIM", "64", "REP_DIM 512 there, 64 here"),
        ("MMRL", "ALPHA", "0.5", "ALPHA 0.7 there, 0.5 here"),
        ("MMRLpp", "N_REP_TOKENS", "4", "N_REP_TOKENS 5 there, 4 here"),
        ("MMRLpp", "REP_LAYERS", "[5, 6]", r"REP_LAYERS \[3, 4, 5, 6\] there, \[5, 6\] here"),
        ("MMRLpp", "REP_DIM", "64", "REP_DIM 512 there, 64 here"),
        ("MMRLpp", "BETA", "0.5", "BETA was 0.9 in training and is 0.5 here"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(peer_cfg, name, option, value, message):
    cfg = peer_cfg(name)
    save_untrained(cfg)
    other = start(peer_cfg(name, f"TRAINER.{name.upper()}.{option}", value, output="other"))
    with pytest.raises(ValueError, match=message):
        other.load_model(cfg.OUTPUT_DIR, epoch=1)


def test_what_only_training_needs_may_differ_from_the_checkpoint(peer_cfg):
    for name, option, value in (
        ("KgCoOp", "W", "1.0"),
        ("PromptSRC", "GPA_MEAN", "1.0"),
        ("PromptSRC", "TEXT_LOSS_WEIGHT", "1.0"),
        ("MMRL", "REG_WEIGHT", "3.0"),
        ("MMRLpp", "REG_WEIGHT", "3.0"),
    ):
        cfg = peer_cfg(name, output=name)
        saved = save_untrained(cfg)
        other = start(peer_cfg(name, f"TRAINER.{name.upper()}.{option}", value, output="other"))
        other.load_model(cfg.OUTPUT_DIR, epoch=1)
        assert_equal(weights(saved), weights(other))


def test_a_checkpoint_of_another_method_is_refused(peer_cfg):
    """The learnables of CoOp and KgCoOp have the same name and shape."""
    cfg = peer_cfg("CoOp")
    save_untrained(cfg)
    with pytest.raises(ValueError, match="TRAINER.NAME 'CoOp' there, 'KgCoOp' here"):
        start(peer_cfg("KgCoOp", output="other")).load_model(cfg.OUTPUT_DIR, epoch=1)


# ------------------------------------------------------------------ configs


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("CoOp", "PREC", "half", "TRAINER.COOP.PREC: expected one of fp32, amp, bf16, got 'half'"),
        ("CoOp", "CLASS_TOKEN_POSITION", "fron", "CLASS_TOKEN_POSITION 'fron': did you mean front"),
        ("CoOp", "N_CTX", "0", "TRAINER.COOP.N_CTX: expected a number in 1..inf, got 0"),
        ("CoOp", "CTX_INIT", "_", "TRAINER.COOP.CTX_INIT: expected words of at least 1 tokens"),
        ("KgCoOp", "N_CTX", "0", "N_CTX: expected a number in 1"),
        ("KgCoOp", "CTX_INIT", " ", "TRAINER.KGCOOP.CTX_INIT: expected words of at least 1 tokens"),
        ("KgCoOp", "W", "-1.0", "W: expected a number in 0..inf, got -1.0"),
        ("CoCoOp", "N_CTX", "0", "N_CTX: expected a number in 1"),
        ("CoCoOp", "CTX_INIT", " ", "TRAINER.COCOOP.CTX_INIT: expected words of at least 1 tokens"),
        ("MaPLe", "N_CTX", "0", "N_CTX: expected a number in 1"),
        ("MaPLe", "PROMPT_DEPTH", "7", "PROMPT_DEPTH: expected a number in 1..6, got 7"),
        ("MaPLe", "PROMPT_DEPTH", "0", "PROMPT_DEPTH: expected a number in 1..6, got 0"),
        ("MaPLe", "CTX_INIT", "photo", r"CTX_INIT: expected words of at least 2 tokens, got 'photo' \(1\)"),
        ("PromptSRC", "N_CTX_TEXT", "0", "N_CTX_TEXT: expected a number in 1"),
        ("PromptSRC", "N_CTX_VISION", "0", "N_CTX_VISION: expected a number in 1"),
        ("PromptSRC", "PROMPT_DEPTH_TEXT", "7", "PROMPT_DEPTH_TEXT: expected a number in 1..6, got 7"),
        ("PromptSRC", "PROMPT_DEPTH_VISION", "7", "PROMPT_DEPTH_VISION: expected a number in 1..6, got 7"),
        ("PromptSRC", "TEXT_LOSS_WEIGHT", "-1.0", "TEXT_LOSS_WEIGHT: expected a number in 0"),
        ("PromptSRC", "IMAGE_LOSS_WEIGHT", "-1.0", "IMAGE_LOSS_WEIGHT: expected a number in 0"),
        ("PromptSRC", "CTX_INIT", "a photo", r"CTX_INIT: expected words of at least 4 tokens, got 'a photo' \(2\)"),
        ("PromptSRC", "GPA_MEAN", "500.0", "GPA_MEAN 500.0 with GPA_STD 1.5 gives no weight to any of the 3 epochs"),
        ("PromptSRC", "GPA_STD", "0.0", "GPA_STD: expected a number in"),
        ("MMRL", "N_REP_TOKENS", "0", "N_REP_TOKENS: expected a number in 1"),
        ("MMRL", "REP_DIM", "0", "REP_DIM: expected a number in 1"),
        ("MMRL", "REP_DIM", "12.5", "REP_DIM: expected a whole number, got 12.5"),
        ("MMRL", "REG_WEIGHT", "-1.0", "REG_WEIGHT: expected a number in 0"),
        ("MMRL", "ALPHA", "1.5", "ALPHA: expected a number in 0..1, got 1.5"),
        ("MMRL", "REP_LAYERS", "[3, 4]", "REP_LAYERS: expected contiguous layers up to the last of the 6"),
        ("MMRLpp", "REP_DIM", "0", "REP_DIM: expected a number in 1"),
        ("MMRLpp", "BETA", "1.5", "BETA: expected a number in 0..1, got 1.5"),
        ("MMRLpp", "REP_LAYERS", "[3, 4]", "REP_LAYERS: expected contiguous layers up to the last of the 6"),
    ],
)
def test_config_mistakes_are_refused_before_weights_are_read(peer_cfg, monkeypatch, name, option, value, message):
    monkeypatch.setattr("anprompt.engine.trainer.load_clip_once", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match=message):
        start(peer_cfg(name, f"TRAINER.{name.upper()}.{option}", value))


@pytest.mark.parametrize("name", [*PEERS, *ZERO_SHOT])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TEST.SPLIT", "tets", "TEST.SPLIT 'tets': did you mean test"),
        ("DATASET.TEMPLATE", "a photo", "DATASET.TEMPLATE is 'a photo': expected one {}"),
        ("INPUT.INTERPOLATION", "bicubi", "INPUT.INTERPOLATION 'bicubi': did you mean bicubic"),
    ],
)
def test_mistakes_in_what_a_test_needs_are_refused_before_weights_are_read(
    peer_cfg, monkeypatch, name, key, value, message
):
    monkeypatch.setattr("anprompt.engine.trainer.load_clip_once", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match=message):
        start(peer_cfg(name, key, value))


@every_peer
def test_fp16_is_taken_as_amp(peer_cfg, capsys, name):
    trainer = start(peer_cfg(name, f"TRAINER.{name.upper()}.PREC", "fp16"))
    assert trainer.precision() == "amp" and trainer.scaler.is_enabled()
    assert f"TRAINER.{name.upper()}.PREC fp16 is taken as amp" in capsys.readouterr().out
    assert {tensor.dtype for tensor in weights(trainer).values()} == {torch.float32}


PUBLISHED = {  # learnables at ViT-B/16 size, by trainer and config
    "CoOp": {
        "vit_b16": 8_192,
        "vit_b16_ep50": 8_192,
        "vit_b16_ep100": 8_192,
        "vit_b16_ep50_ctxv1": 2_048,
        "vit_b16_ctxv1": 2_048,
    },
    "KgCoOp": {"vit_b16_ep100_ctxv1": 2_048},
    "E2MIM": {"vit_b16": 2_048, "vit_b16_ep100": 2_048},
    "CoCoOp": {"vit_b16_c4_ep10_batch1_ctxv1": 35_360},
    "MaPLe": {
        "vit_b16_c2_ep5_batch4_2ctx": 3_555_072,
        "vit_b16_c2_ep5_batch4_2ctx_cross_datasets": 3 * (2 * 512 + 513 * 768),
    },
    "PromptSRC": {
        "vit_b16_c2_ep20_batch4_4+4ctx": 46_080,
        "vit_b16_c2_ep50_batch4_4+4ctx_few_shot": 46_080,
        "vit_b16_c2_ep20_batch4_4+4ctx_cross_datasets": 3 * 4 * (512 + 768),
    },
    "MMRL": {"vit_b16": 4_992_256},
    "MMRLpp": {"vit_b16": 813_312},
    "GA2CLIP": {"vit_b16": 709_120, "vit_b16_few_shot": 709_120, "vit_b16_stage0": 184_320},
    "ZeroshotCLIP": {"vit_b16": 0},
    "ZeroshotCLIP2": {"vit_b16": 0},
}


@pytest.fixture(scope="module")
def vit_b16():
    """The widths and the number of layers of ViT-B/16 without its weights: one layer stands in for all."""
    state = torch.get_rng_state()
    clip = open_clip.model.CLIP(
        embed_dim=512,
        vision_cfg={"image_size": 224, "patch_size": 16, "width": 768, "layers": 1},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 1},
    ).requires_grad_(False)
    torch.set_rng_state(state)
    for transformer in (clip.transformer, clip.visual.transformer):
        transformer.resblocks = torch.nn.ModuleList([transformer.resblocks[0]] * 12)
    return Backbone(clip, "ViT-B/16", "", 224, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def test_all_configs_of_the_peers_are_known_here():
    for name in (*PEERS, *ZERO_SHOT):
        stems = {path.stem for path in (REPOSITORY / "configs/trainers" / name).glob("*.yaml")}
        assert {stem for stem in stems if not stem.startswith("tiny")} == PUBLISHED[name].keys() and "tiny" in stems


@pytest.mark.parametrize(("name", "config"), [(name, config) for name, by in PUBLISHED.items() for config in by])
def test_configs_at_vit_b16_size_have_the_published_number_of_learnables(vit_b16, monkeypatch, name, config):
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    cfg.merge_from_file(str(REPOSITORY / f"configs/trainers/{name}/{config}.yaml"))
    cfg.merge_from_list(["TRAINER.NAME", name, "DATASET.NAME", "Caltech101"])
    monkeypatch.setattr("anprompt.engine.trainer.find_weights", lambda *_: None)
    kind = TRAINER_REGISTRY.get(name)
    trainer = kind.__new__(kind)
    trainer.cfg, trainer.device, trainer.backbone = cfg, torch.device("cpu"), vit_b16
    trainer.check_cfg(cfg)
    trainer.check_images()
    learner = trainer.model_for(cfg, vit_b16, ["dog"]).learner
    assert sum(parameter.numel() for parameter in learner.parameters()) == PUBLISHED[name][config]


# ------------------------------------------------------------------ evaluation and its record


@every_peer
def test_text_is_kept_during_an_evaluation_only(peer_cfg, monkeypatch, name):
    trainer = fewer_test_images(start(peer_cfg(name)), batches=3)
    trainer.before_train()
    trainer.epoch = 0
    trainer.set_model_mode("train")
    calls, compute = [], trainer.model.compute_text
    monkeypatch.setattr(trainer.model, "compute_text", lambda: (calls.append(1), compute())[1])
    trainer.run_epoch()
    assert len(calls) == (0 if name in ("CoCoOp", "GA2CLIP") else 3)  # one per step; GA2CLIP's have dropout
    calls.clear()
    trainer.test(split="test")
    trainer.close_writer()
    assert len(calls) == (0 if name == "CoCoOp" else 1)  # one for three batches
    assert trainer.model.cached_text is None
    images = some_images(trainer)
    with torch.no_grad():
        with trainer.evaluation():
            inside = trainer.model_inference(images)
        assert torch.equal(inside, trainer.model_inference(images))


KEYS = {
    "protocol", "configuration", "source", "source_classes", "training", "dataset", "classes", "shots", "seed",
    "trainer", "split", "headline", "accuracy", "error_rate", "macro_f1",
    "calibration_error", "total", "correct", "heads", "per_class", "parameters", "cost", "trained_on", "subset",
    "target_settings", "method_state", "versions", "config", "inputs", "earlier_schedules",
}  # fmt: skip


@pytest.mark.parametrize("name", [*PEERS, *ZERO_SHOT])
def test_results_file(peer_cfg, tmp_path, name):
    trainer = fewer_test_images(start(peer_cfg(name, "OPTIM.MAX_EPOCH", "1")))
    trainer.train()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results) == KEYS
    heads = {"class", "prototype", "fused"} if name in ("MMRL", "MMRLpp") else {"class"}
    assert set(results["heads"]) == heads
    assert results["headline"] == ("fused" if name in ("MMRL", "MMRLpp") else "class")
    head = results["heads"][results["headline"]]
    assert results["correct"] == head["correct"] and results["accuracy"] == head["accuracy"]
    assert head["accuracy"] == 100 * head["correct"] / results["total"]
    assert results["total"] == sum(len(batch["label"]) for batch in trainer.test_loader)
    assert sum(row["total"] for row in results["per_class"]) == results["total"]
    assert sum(row["correct"] for row in results["per_class"]) == results["correct"]
    assert [row["class"] for row in results["per_class"]] == trainer.dm.dataset.classnames
    assert results["parameters"] == sum(parameter.numel() for parameter in trainer.model.learner.parameters())
    phases = {"build_seconds", "train_seconds", "test_seconds"}
    assert set(results["cost"]) == phases | {"processes", "peak_memory_bytes", "memory_of"}
    assert results["cost"]["build_seconds"] > 0
    assert (results["cost"]["train_seconds"] > 0) == (name in PEERS) and results["cost"]["test_seconds"] > 0
    assert 0 <= results["calibration_error"] <= 100
    assert results["trainer"] == name and results["config"]["TRAINER"]["NAME"] == name
    assert results["trained_on"]["classnames"] == trainer.dm.dataset.classnames


def test_results_on_new_classes_name_what_was_trained_on(peer_cfg, tmp_path):
    cfg = peer_cfg("KgCoOp")
    save_untrained(cfg)
    trainer = fewer_test_images(start(peer_cfg("KgCoOp", classes="new", output="new")))
    trainer.load_model(cfg.OUTPUT_DIR, epoch=1)
    trainer.test()
    results = json.loads((tmp_path / "new" / "results.json").read_text())
    assert results["trained_on"]["classnames"] != trainer.dm.dataset.classnames
    assert (results["classes"], results["parameters"]) == ("new", 512)
    assert (results["protocol"], results["source"], results["source_classes"]) == ("base2new", "Shapes", "base")


def test_the_subset_of_a_run_is_told_apart_by_seed_and_shots_not_by_method(peer_cfg, tmp_path):
    def subset(name, output, *options, seed=1):
        trainer = fewer_test_images(start(peer_cfg(name, *options, seed=seed, output=output)))
        trainer.test()
        return json.loads((tmp_path / output / "results.json").read_text())["subset"]

    first = subset("CoOp", "a")
    assert first == subset("MMRL", "b") and len(first) == 64
    assert first != subset("CoOp", "c", seed=2)
    assert first != subset("CoOp", "d", "DATASET.NUM_SHOTS", "2")
    assert subset("CoOp", "e", "DATASET.NUM_SHOTS", "-1") is None
