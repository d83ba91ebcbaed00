"""GA2-CLIP: its model and objective against ``ga2_oracle.py``, and its trainer on clips and images.

Numbers in brackets are those of the method's invariants; others stand in ``tests/prompts``, ``tests/clip`` and
``tests/video``.
"""

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train
from anprompt.engine.checkpoint import load_checkpoint
from anprompt.engine.trainer import LEARNER
from anprompt.prompts.anchors import MODES
from anprompt.prompts.coupling import draw_kept
from anprompt.runs.run_folder import stored_result
from tests.conftest import backbone_around, small_clip
from tests.helpers import REPOSITORY, fake_clips, ga2_oracle
from tests.helpers.oracle import normalise
from tests.helpers.runs import Killed, assert_equal, finish, start, weights
from tests.trainers.test_peer_models import LABELS, NAMES, TAILS, TOKENIZER, WORDS, bare_trainer, leaves
from trainers.ga2clip import GA2CLIP, CoupledLearner, share_of_rate

UNTESTED = ["TEST.NO_TEST", "True"]
DEPTHS = (3, 2)
SMALL = ("N_CTX_TEXT", 3, "N_CTX_VISION", 2, "PROMPT_DEPTH_TEXT", DEPTHS[0], "PROMPT_DEPTH_VISION", DEPTHS[1])
OPTIONS = {"margin": 0.1, "kappa": 1.0, "weight": 1.0, "alpha": 1.0}
TEXT, TEMPLATE = ["else", "a sea of grass"], "a video of a person {}."


def random_clips(count, seed, frames=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, frames, 3, 32, 32, dtype=torch.float64, generator=generator)


@pytest.fixture
def clips():
    return random_clips(3, 5)


def negative_ids(texts):
    return TOKENIZER([TEMPLATE.format(text) for text in texts])


def bare(clip, *more, mode="none", texts=TEXT, hard=True, **changed):
    """A trainer on the small CLIP with hard prompts, and the options of the oracle."""
    options = OPTIONS | changed
    texts = texts[:1] if mode == "additive" else texts
    flat = [word for name, value in options.items() for word in (f"ANCHOR.{name.upper()}", value)]
    anchors = ("ANCHOR.MODE", mode, "ANCHOR.TEXT", texts)
    trainer = bare_trainer(GA2CLIP, clip, *SMALL, "HARD.ENABLED", hard, *anchors, *flat, *more)
    if hard:
        trainer.model.learner.take_hard(torch.randn(3, 32, generator=torch.Generator().manual_seed(8)))
    return trainer, options | {"mode": mode, "negative_ids": negative_ids(texts)}


def loss_of(trainer, batch):
    terms, logits = trainer.loss_terms(batch)
    return sum(terms.values()), logits


# ------------------------------------------------------------------ the objective against the oracle

CASES = {
    "none": ({}, None),
    "softplus": ({"mode": "softplus"}, (3, 32)),
    "softplus, other numbers": ({"mode": "softplus", "margin": -0.2, "kappa": 7.0, "weight": 20.0}, None),
    "hinge": ({"mode": "hinge", "margin": 1.2, "weight": 0.5}, (3, 32)),
    "extra class": ({"mode": "extra_class"}, None),
    "additive": ({"mode": "additive", "alpha": 3.0}, (3, 32)),
    "dropout by class": ({"mode": "softplus"}, (len(NAMES), 3, 32)),
    "no hard prompts": ({"mode": "softplus", "hard": False}, None),
    "stage 0": ({"hard": False}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_objective_and_all_gradients(clip, oracle, clips, name):
    changes, shape = CASES[name]
    per_class = ("HARD.PER_CLASS_DROPOUT", True) if shape and len(shape) == 3 else ()
    trainer, options = bare(clip, *per_class, **changes)
    learner, mode = trainer.model.learner, options["mode"]
    kept = None if shape is None else draw_kept(shape, 0.5, torch.Generator().manual_seed(2)).double()
    anchors = random_clips(2, 9)
    leaf = leaves(trainer)
    slow = ga2_oracle.ga2clip(
        oracle, leaf, WORDS, TAILS, clips, LABELS, depths=DEPTHS, hard=learner.hard, kept=kept, anchors=anchors,
        **options,
    )  # fmt: skip
    batch = {"images": clips, "labels": LABELS}
    batch |= {} if kept is None else {"kept": kept}
    batch |= {} if mode == "none" else {"anchors": anchors}
    loss, logits = loss_of(trainer, batch)
    assert torch.allclose(logits, slow[1], rtol=0, atol=1e-9)
    assert torch.allclose(loss, slow[0], rtol=0, atol=1e-9)
    loss.backward()
    expected = torch.autograd.grad(slow[0], list(leaf.values()))
    assert len(leaf) == 1 + (DEPTHS[0] - 1) + DEPTHS[1] + (2 if learner.hard is not None else 0)
    for (key, parameter), gradient in zip(learner.named_parameters(), expected, strict=True):
        assert gradient.abs().max() > 1e-6, key
        assert torch.allclose(parameter.grad, gradient, rtol=0, atol=1e-9), key
    assert all(parameter.grad is None for parameter in trainer.model.clip.parameters())


def test_an_evaluation_drops_nothing(clip, oracle, clips):
    """[2] And where each class had its own dropout, all share one context again."""
    for more in ((), ("HARD.PER_CLASS_DROPOUT", True)):
        trainer, _ = bare(clip, *more)
        leaf, hard = leaves(trainer), trainer.model.learner.hard
        slow = ga2_oracle.ga2clip(oracle, leaf, WORDS, TAILS, clips, LABELS, depths=DEPTHS, hard=hard)
        assert torch.allclose(trainer.model(clips), slow[1], rtol=0, atol=1e-9)
        assert torch.equal(trainer.model(clips), trainer.model(clips))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("names", [["red star", "red ring", "red big ring"], NAMES])
def test_equal_contexts_of_all_classes_are_one(clip, monkeypatch, names, depth):
    """Also where names begin alike, and where prompts go through the tower in parts."""
    trainer = bare_trainer(GA2CLIP, clip, *SMALL, "PROMPT_DEPTH_TEXT", depth, names=names)
    tokens = trainer.model.learner.text_tokens()
    whole = trainer.model.text_from(tokens)
    apart = tokens | {1: tokens[1].expand(len(names), -1, -1)}
    assert torch.allclose(trainer.model.text_from(apart), whole, rtol=0, atol=1e-12)
    monkeypatch.setattr("anprompt.clip.encoders.MAX_CLASSES", 2)
    trainer.model.set_classes(names, "a photo of a {}.")
    assert torch.allclose(trainer.model.text_from(apart), whole, rtol=0, atol=1e-12)


class Waits(TorchDispatchMode):
    """Notes what makes the host wait for a device: sizes and numbers that depend on values."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        indices = args[1] if function is torch.ops.aten.index.Tensor else ()
        masked = any(index is not None and index.dtype == torch.bool for index in indices)
        if masked or function in (torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def test_contexts_of_classes_can_be_recorded(clip):
    """As a CUDA graph, which a step that waits for the device is not: only the first one, which runs before, may."""
    trainer = bare_trainer(GA2CLIP, clip, *SMALL)
    tokens = trainer.model.learner.text_tokens()
    apart = tokens | {1: tokens[1].expand(len(NAMES), -1, -1)}
    first, later = Waits(), Waits()
    with first:
        trainer.model.text_from(apart)
    with later:
        trainer.model.text_from(apart)
    assert first.found and not later.found


@pytest.mark.parametrize("words", ["", "a video of a person"])
@pytest.mark.parametrize("depths", [(1, 1), (4, 0), (2, 3)])
def test_other_depths_and_starts(clip, oracle, clips, depths, words):
    more = ("PROMPT_DEPTH_TEXT", depths[0], "PROMPT_DEPTH_VISION", depths[1], "CTX_INIT", words)
    trainer, _ = bare(clip, *more)
    remaining = TOKENIZER.encode(words)[3:]
    slow = ga2_oracle.ga2clip(
        oracle, leaves(trainer), WORDS, TAILS, clips, LABELS, depths=depths, hard=trainer.model.learner.hard,
        words=remaining,
    )  # fmt: skip
    assert torch.allclose(trainer.model(clips), slow[1], rtol=0, atol=1e-9)


# ------------------------------------------------------------------ forward


def vit_b16(depths=(9, 9), coupled=True):
    """What is learned on ViT-B/16, which needs no weights."""
    return CoupledLearner(torch.zeros(16, 512), depths, (16, 768), coupled)


def test_count():
    """[1] [7]"""
    counts = {
        "default": (vit_b16(), 709_120),
        "no hard prompts": (vit_b16(coupled=False), 184_320),
        "one layer": (vit_b16((1, 1)), 8_192 + 524_800 + 12_288),
    }
    for name, (learner, expected) in counts.items():
        assert sum(weight.numel() for weight in learner.parameters()) == expected, name
        assert all(weight.requires_grad for weight in learner.parameters())
    assert "hard" in dict(vit_b16().named_buffers()) and not dict(vit_b16(coupled=False).named_buffers())


def test_nothing_else_learns(clip):
    """[1]"""
    trainer, _ = bare(clip, mode="softplus")
    learner = {id(weight) for weight in trainer.model.learner.parameters()}
    assert {id(weight) for weight in trainer.model.parameters() if weight.requires_grad} == learner


def test_without_its_parts_it_is_promptsrcs_model_bit_for_bit(clip, images):
    """[3] Independent prompts in both towers, and nothing else; in fp32."""
    from trainers.promptsrc import PromptSRC

    clip = small_clip().float()
    images = images.float()
    own = bare_trainer(GA2CLIP, clip, *SMALL, "HARD.ENABLED", False, "ANCHOR.ENABLED", False).model
    plain = bare_trainer(PromptSRC, clip, *SMALL, "CTX_INIT", "").model
    plain.learner.load_state_dict(own.learner.state_dict())
    for model in (own, plain):
        model.learner.float()
    assert torch.equal(own(images), plain(images))
    assert own.negative.numel() == 0


def test_prompts_of_the_first_layer_act_although_deeper_ones_overwrite_them(clip, clips):
    """[6]"""
    trainer, _ = bare(clip)
    learner, before = trainer.model.learner, trainer.model(clips)
    for parameter in (learner.ctx, learner.deep_text[0], learner.vision[0], learner.vision[1]):
        with torch.no_grad():
            change = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            parameter.add_(change)
            assert not torch.allclose(trainer.model(clips), before, rtol=0, atol=1e-3)
            parameter.sub_(change)
    assert torch.allclose(trainer.model(clips), before, rtol=0, atol=1e-9)
    with torch.no_grad():
        learner.hard.add_(torch.randn(3, 32, generator=torch.Generator().manual_seed(1)))
        assert not torch.allclose(trainer.model(clips), before, rtol=0, atol=1e-4)


def test_the_text_stays_within_clips_77_places(clip):
    """[6] [9] And each name has its own end."""
    prompts = bare(clip)[0].model.prompts
    ends = prompts.layout.last.tolist()
    assert prompts.embeddings.shape[1] <= 77
    lengths = [len(word) + len(tail) for word, tail in zip(WORDS, TAILS, strict=True)]
    assert [end - start for start, end in zip([-1, *ends], ends, strict=False)] == [
        1 + 3 + length + 1 - prompts.layout.shared for length in lengths
    ]
    assert len(set(lengths)) > 2
    with pytest.raises(ValueError, match="77"):
        bare(clip)[0].model.set_classes(["word " * 80], "a photo of a {}.")


# ------------------------------------------------------------------ anchors


@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("seed", [9, 10])
def test_the_authors_term_teaches_nothing(clip, clips, alpha, seed):
    """[10] Whatever the anchor and its weight."""
    plain, _ = bare(clip)
    loss, _ = loss_of(plain, {"images": clips, "labels": LABELS})
    loss.backward()
    trainer, _ = bare(clip, mode="additive", alpha=alpha)
    with_anchor, _ = loss_of(trainer, {"images": clips, "labels": LABELS, "anchors": random_clips(1, seed)})
    with_anchor.backward()
    assert torch.allclose(with_anchor, loss, rtol=0, atol=1e-10)
    for one, other in zip(plain.model.learner.parameters(), trainer.model.learner.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("none", "additive")])
def test_the_other_modes_teach(clip, clips, mode):
    trainer, _ = bare(clip, mode=mode, margin=1.5)
    terms, _ = trainer.loss_terms({"images": clips, "labels": LABELS, "anchors": random_clips(1, 9)})
    gradients = torch.autograd.grad(terms["loss_anchor"], list(trainer.model.learner.parameters()))
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients)


def test_anchors_do_not_touch_the_logits_of_clips(clip, clips):
    """[11]"""
    trainer, _ = bare(clip, mode="softplus")
    batch = {"images": clips, "labels": LABELS}
    alone = trainer.loss_terms(batch)[1]
    for seed in (1, 2):
        beside = trainer.loss_terms(batch | {"anchors": random_clips(2, seed)})[1]
        assert torch.allclose(beside, alone, rtol=0, atol=1e-12)


def test_one_pass_for_clips_and_anchors(clip, clips, monkeypatch):
    trainer, _ = bare(clip, mode="softplus")
    passes, encode = [], trainer.model.encode_image
    monkeypatch.setattr(trainer.model, "encode_image", lambda part: (passes.append(len(part)), encode(part))[1])
    trainer.loss_terms({"images": clips, "labels": LABELS, "anchors": random_clips(2, 1)})
    trainer.loss_terms({"images": clips, "labels": LABELS})  # no clip is taken for an anchor where there is none
    assert passes == [5, 3]


def test_two_equal_anchors_are_one(clip, clips):
    """[15]"""
    for mode in MODES[1:]:
        trainer, _ = bare(clip, mode=mode)
        one = random_clips(1, 9)
        batch = {"images": clips, "labels": LABELS}
        losses = [loss_of(trainer, batch | {"anchors": one.repeat(n, 1, 1, 1, 1)})[0] for n in (1, 2)]
        assert torch.allclose(*losses, rtol=0, atol=1e-12), mode


def test_the_margin_that_is_reported(clip, oracle, clips):
    """max_c cos(a, t_c) - max_j cos(a, q_j), over the anchors."""
    trainer, options = bare(clip, mode="softplus")
    anchors = random_clips(2, 9)
    trainer.loss_terms({"images": clips, "labels": LABELS, "anchors": anchors})
    text, features = trainer.model.encode_text(), trainer.model.encode_image(anchors)
    negative = normalise(oracle.text(options["negative_ids"]))
    margins = [max(a @ t for t in text) - max(a @ q for q in negative) for a in features]
    assert torch.allclose(trainer.watched["anchor_margin"], sum(margins) / 2, rtol=0, atol=1e-9)
    assert not trainer.watched["anchor_margin"].requires_grad


def test_negative_texts_are_the_frozen_clips(clip, oracle):
    """[16] Whatever the classes; and no part of a checkpoint."""
    trainer, options = bare(clip, mode="softplus")
    expected = normalise(oracle.text(options["negative_ids"]))
    assert torch.allclose(trainer.model.negative, expected, rtol=0, atol=1e-9)
    before = trainer.model.negative
    trainer.model.set_classes(["owl"], "a photo of a {}.")
    assert trainer.model.negative is before and not before.requires_grad
    assert "negative" not in trainer.model.state_dict()


# ------------------------------------------------------------------ the schedule


def test_rates():
    """[23]"""
    expected = [0, 0.02, 0.04, 0.03902, 0.03618, 0.03176, 0.02618, 0.02, 0.01382, 0.008244, 0.00382, 0.0009789, 0]
    for epoch, rate in enumerate(expected):
        for per_epoch in (1, 6):
            found = 0.04 * share_of_rate(epoch * per_epoch, per_epoch, 2, 12)
            assert found == pytest.approx(rate, abs=5e-6)
    for epoch, rate in {1: 0.0016, 4: 0.0064, 5: 0.008, 15: 0.005236, 29: 3.15e-5}.items():
        assert 0.008 * share_of_rate(7 * epoch, 7, 5, 30) == pytest.approx(rate, rel=2e-3)
    assert share_of_rate(3, 6, 2, 12) == pytest.approx(0.25)  # within an epoch, too
    assert share_of_rate(0, 6, 0, 12) == 1
    assert [share_of_rate(update, 1, 2, 1) for update in (0, 1)] == [0, 0.5]  # shorter than its warm-up


@pytest.mark.parametrize(
    ("data", "clips", "updates", "theirs"),
    [
        ("hmdb51_video", 416, 7, 6),
        ("ucf101_video", 816, 13, 12),
        ("ssv2_video", 1392, 44, 43),
        ("kinetics400_video", 3200, 50, 50),
    ],
)
def test_updates_per_epoch(make_cfg, data, clips, updates, theirs):
    """[25] Of 64 clips, SSv2's of 32. The authors leave out what makes no whole update; here it is one."""
    folder = REPOSITORY / "configs/trainers/GA2CLIP"
    cfg = make_cfg(trainer="GA2CLIP").clone()
    cfg.defrost()
    for file in (folder / "vit_b16.yaml", folder / f"protocols/base2new_{data}.yaml"):
        if file.is_file():
            cfg.merge_from_file(str(file))
    batch, parts = cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.TRAIN.ACCUMULATE
    loader = torch.utils.data.DataLoader(range(clips), batch, drop_last=True)
    trainer = SimpleNamespace(cfg=cfg, train_loader_x=loader)
    assert GA2CLIP.updates_per_epoch(trainer) == updates
    assert clips // (batch * parts) == theirs


# ------------------------------------------------------------------ the trainer, on clips


@pytest.fixture
def ga2_cfg(make_cfg):
    def make(*options, config="tiny", **others):
        return make_cfg(*fake_clips.OPTIONS, "DATALOADER.TEST.BATCH_SIZE", "3", *hard_and_anchors(config), *options,
                        trainer="GA2CLIP", **others)  # fmt: skip

    return make


def hard_and_anchors(config):
    """What the configurations of the method differ in."""
    parts = {"tiny": (True, True), "tiny_stage0": (False, False), "tiny_no_hard": (False, True),
             "tiny_no_anchor": (True, False)}  # fmt: skip
    hard, anchors = parts[config]
    named = ("TRAINER.GA2CLIP.HARD.ENABLED", str(hard), "TRAINER.GA2CLIP.ANCHOR.ENABLED", str(anchors))
    return (*named, *(("TRAINER.GA2CLIP.HARD.SOURCE", "template") if hard else ()))


def followed(trainer):
    """The numbers of every step, and its images."""
    step, seen, images = trainer.forward_backward, [], []

    def noting(batch):
        images.append(batch["img"].clone())
        summary = step(batch)
        seen.append({name: value.item() for name, value in summary.items()})
        return summary

    trainer.forward_backward = noting
    return seen, images


@pytest.mark.parametrize("config", ["tiny", "tiny_stage0", "tiny_no_hard", "tiny_no_anchor"])
def test_a_killed_run_ends_with_the_same_weights(ga2_cfg, config):
    """Killed in its second epoch: dropout, anchors and their augmentation go on where they were."""
    more = (*UNTESTED, "DATALOADER.TRAIN_U.BATCH_SIZE", "2")
    whole = start(ga2_cfg(*more, config=config, output="whole"))
    summaries, _ = followed(whole)
    whole.train()
    cfg = ga2_cfg(*more, config=config, output="killed")
    trainer = start(cfg)
    step = trainer.forward_backward

    def dies(batch):
        if (trainer.epoch, trainer.batch_idx) == (1, 1):
            raise Killed
        return step(batch)

    trainer.forward_backward = dies
    with pytest.raises(Killed):
        trainer.train()
    resumed = start(cfg)
    again, _ = followed(resumed)
    resumed.train()
    assert resumed.start_epoch == 1
    assert_equal(weights(whole), weights(resumed))
    assert again == summaries[len(summaries) // 3 :]
    one, other = (load_checkpoint(f"{run.cfg.OUTPUT_DIR}/{LEARNER}/model.pth.tar-3") for run in (whole, resumed))
    assert_equal(one["generators"], other["generators"])
    assert one["scheduler"]["last_epoch"] == other["scheduler"]["last_epoch"] == len(summaries)


def test_batches_are_the_same_whatever_is_switched_off(ga2_cfg):
    """Neither anchors, nor dropout, nor the start of the map draw from the generators of the clips."""
    seen = {}
    for config in ("tiny", "tiny_stage0", "tiny_no_hard"):
        trainer = start(ga2_cfg(*UNTESTED, config=config, output=config))
        first = {name: rows for name, rows in weights(trainer).items() if name.startswith(("ctx", "deep", "vision"))}
        _, images = followed(trainer)
        trainer.train()
        seen[config] = first | {"images": torch.cat(images)}
    assert_equal(seen["tiny"], seen["tiny_stage0"])
    assert_equal(seen["tiny"], seen["tiny_no_hard"])


def test_what_a_step_reports(ga2_cfg):
    trainer = start(ga2_cfg(*UNTESTED))
    seen, _ = followed(trainer)
    trainer.train()
    for summary in seen:
        assert list(summary) == ["loss", "loss_ce", "loss_anchor", "anchor_margin", "acc"]
        assert summary["loss"] == pytest.approx(summary["loss_ce"] + summary["loss_anchor"], rel=1e-6)


def test_hard_prompts_stay_and_are_saved(ga2_cfg):
    """[8]"""
    cfg = ga2_cfg(*UNTESTED)
    trainer = start(cfg)
    seen = []
    step = trainer.forward_backward
    trainer.forward_backward = lambda batch: (step(batch), seen.append(trainer.model.learner.hard.clone()))[0]
    clip_before = copy.deepcopy(trainer.model.clip.state_dict())
    before, negative = weights(trainer), trainer.model.negative.clone()
    trainer.train()
    after = weights(trainer)
    assert_equal(clip_before, trainer.model.clip.state_dict())
    assert torch.equal(negative, trainer.model.negative)  # [16]
    assert len(seen) == 9 and all(torch.equal(seen[0], later) for later in seen)
    assert seen[0].abs().max() > 0 and trainer.model.learner.hard.grad is None
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == set(after)  # hard prompts among them: they came when training began
    saved = load_checkpoint(f"{cfg.OUTPUT_DIR}/{LEARNER}/model.pth.tar-3")
    assert_equal(saved["state_dict"], after)
    assert saved["method_state"] == {
        "hard_from": 'the words "a video of a person doing an action"',
        "hard_digest": "",
    }
    tested = start(ga2_cfg("TRAINER.GA2CLIP.HARD.SOURCE", "", output="test"))  # a checkpoint needs no source
    tested.load_model(cfg.OUTPUT_DIR)
    assert torch.equal(tested.model.learner.hard, seen[0])


def test_trained_on_base_and_tested_on_new(ga2_cfg):
    """[27] Only the names differ."""
    cfg = ga2_cfg(*UNTESTED)
    trained = finish(cfg)
    everyone = start(ga2_cfg(classes="all", output="all"))
    everyone.load_model(cfg.OUTPUT_DIR)
    assert_equal(weights(trained), weights(everyone))
    assert len(trained.model.encode_text()) == 2 and len(everyone.model.encode_text()) == 4
    assert torch.allclose(everyone.model.encode_text()[:2], trained.model.encode_text(), atol=1e-5)
    assert 0 <= everyone.test() <= 100


def test_it_learns_and_anchors_move_away_from_the_classes(ga2_cfg):
    """[26] The two classes have each other's names, so that there is something to learn."""
    options = (*UNTESTED, "OPTIM.MAX_EPOCH", "8", "TRAINER.GA2CLIP.ANCHOR.WEIGHT", "5.0", "VIDEO.GRAY_P", "0.0")
    trainer = start(ga2_cfg(*options, "TRAINER.GA2CLIP.HARD.DROPOUT", "0.0"))
    for item in trainer.dm.dataset.train_x:
        item._label = 1 - item._label
    seen, _ = followed(trainer)
    trainer.train()

    def mean(name, part):
        return sum(summary[name] for summary in part) / len(part)

    assert mean("loss_ce", seen[-6:]) < mean("loss_ce", seen[:6])
    assert mean("anchor_margin", seen[-6:]) < mean("anchor_margin", seen[:6]) - 0.01


def test_results_tell_top_5_beside_top_1(ga2_cfg, capsys):
    trainer = finish(ga2_cfg("OPTIM.MAX_EPOCH", "1", classes="all"))
    results = json.loads(Path(trainer.cfg.OUTPUT_DIR, "results.json").read_text())
    assert results["top5_accuracy"] == 100.0  # of four classes
    assert results["accuracy"] == 100 * results["correct"] / results["total"]
    assert results["total"] == 8 and results["parameters"] == trainer.learnable_count
    assert "* top5_accuracy: 100.0%" in capsys.readouterr().out


def test_layers_computed_again_train_alike(ga2_cfg):
    """Bit for bit, through whole runs."""
    runs = [
        finish(ga2_cfg(*UNTESTED, "TRAINER.GA2CLIP.GRAD_CHECKPOINT", again, "OPTIM.MAX_EPOCH", "1", output=again))
        for again in ("False", "True")
    ]
    assert runs[1].model.recompute and not runs[0].model.recompute
    assert_equal(*map(weights, runs))


# ------------------------------------------------------------------ stage 0, on images


def test_stage_0_on_images_makes_the_hard_prompts(ga2_cfg, make_cfg):
    """From a run's folder, and from the file in it."""
    parts = ("TRAINER.GA2CLIP.HARD.ENABLED", "False", "TRAINER.GA2CLIP.ANCHOR.ENABLED", "False")
    stage0 = finish(make_cfg(*parts, *UNTESTED, trainer="GA2CLIP", output="stage0"))
    assert set(weights(stage0)) == set(dict(stage0.model.learner.named_parameters()))
    for source in (stage0.cfg.OUTPUT_DIR, f"{stage0.cfg.OUTPUT_DIR}/{LEARNER}/model.pth.tar-3"):
        cfg = ga2_cfg(*UNTESTED, "TRAINER.GA2CLIP.HARD.SOURCE", source, "OPTIM.MAX_EPOCH", "1", output=source[-5:])
        trainer = finish(cfg)
        assert torch.equal(trainer.model.learner.hard, stage0.model.learner.ctx)
        assert trainer.hard_from == "model.pth.tar-3, trained on Shapes"


def test_a_finished_run_is_not_one_of_other_hard_prompts(ga2_cfg, make_cfg):
    """Stage 0 was run again, into the same folder; or it is not there any more."""
    stage0 = start(make_cfg("TRAINER.COOP.CTX_INIT", "a photo of a", trainer="CoOp", output="stage0"))
    stage0.save_model(0, stage0.cfg.OUTPUT_DIR)
    cfg = ga2_cfg("TRAINER.GA2CLIP.HARD.SOURCE", stage0.cfg.OUTPUT_DIR, "OPTIM.MAX_EPOCH", "1")
    finish(cfg)
    words = train.build_parser().parse_args([])
    assert stored_result(cfg, words).count("\n") == 0
    with torch.no_grad():
        stage0.model.learner.ctx += 0.1
    stage0.save_model(0, stage0.cfg.OUTPUT_DIR)
    with pytest.raises(
        ValueError, match="a finished run with other inputs: the prompts that it started from sha256 .* -> sha256"
    ):
        stored_result(cfg, words)
    shutil.rmtree(stage0.cfg.OUTPUT_DIR)
    assert "Note: its start could not be compared: TRAINER.GA2CLIP.HARD.SOURCE" in stored_result(cfg, words)


def test_hard_prompts_of_the_same_data_are_told_of(ga2_cfg, make_cfg, capsys):
    switched_off = ga2_cfg(*UNTESTED, "OPTIM.MAX_EPOCH", "1", config="tiny_stage0", output="stage0")
    finish(switched_off)
    elsewhere = start(make_cfg("TRAINER.COOP.CTX_INIT", "a photo of a", trainer="CoOp", output="elsewhere"))
    elsewhere.save_model(0, elsewhere.cfg.OUTPUT_DIR)
    for source, told in ((switched_off.OUTPUT_DIR, True), (elsewhere.cfg.OUTPUT_DIR, False)):
        trainer = start(ga2_cfg("TRAINER.GA2CLIP.HARD.SOURCE", source, output=f"told{told}"))
        capsys.readouterr()
        trainer.hard_prompts()
        assert ("was trained on FakeClips, too: name a run on other data" in capsys.readouterr().out) is told


def test_images_have_no_anchors(make_cfg):
    trainer = start(make_cfg(*UNTESTED, "TRAINER.GA2CLIP.HARD.ENABLED", "False", trainer="GA2CLIP"))
    message = r"ANCHOR.ENABLED needs anchors, and Shapes has none: .*DATASET.ANCHOR.LIST, or set .*ENABLED False$"
    with pytest.raises(ValueError, match=message):
        trainer.train()


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("ANCHOR.MODE", "softmax"), "ANCHOR.MODE: expected one of none, softplus, hinge, extra_class, additive, got"),
        (("ANCHOR.MODE", "additive", "ANCHOR.TEXT", "['a', 'b']"), "additive adds one number .* expected one .* got 2"),
        (("ANCHOR.TEXT", "[]"), "ANCHOR.TEXT: expected a list of texts such as"),
        (("ANCHOR.TEMPLATE", "a video"), "ANCHOR.TEMPLATE is 'a video': expected one {}"),
        (("ANCHOR.KAPPA", "0.0"), "ANCHOR.KAPPA: expected a number in 0.0001..inf, got 0.0"),
        (("ANCHOR.WEIGHT", "-1.0"), "ANCHOR.WEIGHT: expected"),
        (("ANCHOR.MARGIN", "3.0"), "ANCHOR.MARGIN: expected a number in -2..2, got 3.0"),
        (("HARD.DROPOUT", "1.0"), "HARD.DROPOUT: expected a number in 0..0.99, got 1.0"),
        (("HARD.FALLBACK", "none"), "HARD.FALLBACK: expected one of error, template, got 'none'"),
        (("PROMPT_DEPTH_TEXT", "0"), "PROMPT_DEPTH_TEXT: expected a number in 1..6, got 0"),
        (("PROMPT_DEPTH_VISION", "7"), "PROMPT_DEPTH_VISION: expected a number in 0..6, got 7"),
        (("CTX_INIT", "a photo"), "CTX_INIT: expected words of at least 4 tokens, got 'a photo'"),
    ],
)
def test_config_mistakes_are_refused_before_weights_are_read(ga2_cfg, monkeypatch, options, message):
    monkeypatch.setattr("anprompt.engine.trainer.load_clip_once", lambda *_: pytest.fail("weights were read"))
    keys = [f"TRAINER.GA2CLIP.{word}" if index % 2 == 0 else word for index, word in enumerate(options)]
    with pytest.raises(ValueError, match=message):
        start(ga2_cfg(*keys))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("OPTIM.LR_SCHEDULER", "single_step", "OPTIM.LR_SCHEDULER 'single_step' has no effect: .*Use 'cosine'"),
        ("OPTIM.WARMUP_TYPE", "constant", "OPTIM.WARMUP_TYPE 'constant' has no effect"),
        ("OPTIM.WARMUP_MIN_LR", "0.1", "OPTIM.WARMUP_MIN_LR 0.1 has no effect"),
    ],
)
def test_schedules_that_it_does_not_have_are_refused(ga2_cfg, key, value, message):
    with pytest.raises(ValueError, match=message):
        start(ga2_cfg(key, value))


def test_the_authors_term_is_warned_of(ga2_cfg, capsys):
    start(ga2_cfg("TRAINER.GA2CLIP.ANCHOR.MODE", "additive"))
    assert "additive is the authors' code, and its gradient is zero" in capsys.readouterr().out
    start(ga2_cfg("TRAINER.GA2CLIP.ANCHOR.MODE", "hinge", output="hinge"))
    assert "Warning" not in capsys.readouterr().out


def test_a_source_that_does_not_fit(ga2_cfg, make_cfg, tmp_path, capsys):
    """[17 to 19 of the list of ambiguities] One line, or words in its place where that is asked for."""
    coop = start(make_cfg("TRAINER.COOP.CTX_INIT", "a photo of", trainer="CoOp", output="coop"))
    coop.save_model(0, coop.cfg.OUTPUT_DIR)
    for number, (source, message) in enumerate(
        (
            ("", "HARD.SOURCE is empty: name the OUTPUT_DIR of a run on other data"),
            (f"{tmp_path}/none", "HARD.SOURCE: no file or folder .*none: name the OUTPUT_DIR of a run"),
            (coop.cfg.OUTPUT_DIR, "holds 3 prompts of width 128: expected 4 of 128, as .*N_CTX_TEXT"),
        )
    ):
        keys = (*UNTESTED, "OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "0", "TRAINER.GA2CLIP.HARD.SOURCE", source)
        with pytest.raises((ValueError, OSError), match=message):
            start(ga2_cfg(*keys, output="error")).train()
        capsys.readouterr()
        trainer = finish(ga2_cfg(*keys, "TRAINER.GA2CLIP.HARD.FALLBACK", "template", output=f"words{number}"))
        assert "Warning: no hard prompts but those of words, since" in capsys.readouterr().out
        assert trainer.hard_from.startswith("the words")


def test_hard_words_are_repeated_until_there_are_enough(clip):
    trainer = bare_trainer(GA2CLIP, clip, *SMALL)
    trainer.backbone = backbone_around(clip)
    ids = torch.tensor(TOKENIZER.encode("a video of a person doing an action"))
    expected = clip.token_embedding.weight[ids]
    assert torch.equal(trainer.hard_template(len(ids) + 2), torch.cat([expected, expected[:2]]))
