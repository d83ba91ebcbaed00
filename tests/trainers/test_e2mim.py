"""E2MIM (reconstruction): its model and objective against ``mi_oracle.py``, and its trainer on real files.

Numbers in brackets are those of the reconstruction's list of invariants; the others are in ``tests/prompts``.
"""

import copy

import pytest
import torch

from anprompt.engine.checkpoint import load_checkpoint
from anprompt.engine.trainer import LEARNER
from anprompt.prompts.class_mixup import class_means
from anprompt.prompts.mutual_information import mutual_information_loss
from dassl.engine import TRAINER_REGISTRY
from tests.helpers import mi_oracle, peer_oracle
from tests.helpers.oracle import normalise
from tests.helpers.runs import Killed, assert_equal, fewer_test_images, finish, start, weights
from tests.trainers.test_peer_models import LABELS, NAMES, TAILS, WORDS, bare_trainer, ids, leaves
from trainers.coop import CoOp
from trainers.e2mim import E2MIM

BATCHES = ["DATALOADER.TRAIN_X.BATCH_SIZE", "5", "DATALOADER.TEST.BATCH_SIZE", "20"]  # two steps per epoch
UNTESTED = ["TEST.NO_TEST", "True"]
TEMPLATE = "a photo of a {}, a type of pet."
LABELS_TWICE = torch.tensor([4, 0, 4])  # a class with two images
SHARES = torch.tensor([[0.3, 0.7, 0, 0, 0, 0], [0, 0.9, 0, 0.1, 0, 0], [0, 0, 0, 0, 0, 1.0]], dtype=torch.float64)
OPTIONS = {
    "position": "end", "critic": "cos", "tau": 0.07, "estimator": "infonce", "mi": 1.0, "vis": 1.0, "ce": 0.0,
    "symmetric": True, "view": "proto", "eta": None,
}  # fmt: skip
KEYS = {
    "position": "CLASS_TOKEN_POSITION", "critic": "MI.CRITIC", "tau": "MI.TAU", "estimator": "MI.ESTIMATOR",
    "mi": "MI.WEIGHT", "vis": "VIS.WEIGHT", "ce": "MIX.CE_WEIGHT", "symmetric": "MI.SYMMETRIC", "view": "VIS.VIEW",
}  # fmt: skip


def bare(clip, *more, **changed):
    options = OPTIONS | changed
    flat = [word for name, key in KEYS.items() for word in (key, options[name])]
    flat += [] if options["eta"] is None else ["VIS.FUSE", "add", "VIS.ETA", options["eta"]]
    trainer = bare_trainer(E2MIM, clip, "MI.HIDDEN", 6, "MI.PROJ_DIM", 5, *flat, *more)
    return trainer, options


def other_images():
    return torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def loss_of(trainer, batch):
    terms, logits = trainer.loss_terms(batch)
    return sum(terms.values()), logits


# ------------------------------------------------------------------ the objective against the oracle

CHANGES = {
    "default": {},
    "weights": {"mi": 0.3, "vis": 2.5, "ce": 0.7},
    "text alone": {"vis": 0.0},
    "images alone": {"mi": 0.0},
    "temperature": {"tau": 0.3},
    "one direction": {"symmetric": False},
    "dv": {"estimator": "dv"},
    "nwj": {"estimator": "nwj", "tau": 0.5},
    "jsd": {"estimator": "jsd"},
    "kgcoop": {"estimator": "kgcoop", "tau": 0.07},
    "bilinear": {"critic": "bilinear", "tau": 0.2},
    "separable": {"critic": "separable", "tau": 0.2},
    "concat": {"critic": "concat"},
    "concat, dv": {"critic": "concat", "estimator": "dv"},
    "a row per image": {"view": "sample"},
    "joined": {"eta": 0.5},
    "name in front": {"position": "front"},
}


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_objective_and_all_gradients(clip, oracle, images, name, across):
    if across and CHANGES[name].get("eta"):
        pytest.skip("refused: mixed images have no class")
    trainer, options = bare(clip, *(("MIX.MODE", "inter") if across else ()), **CHANGES[name])
    if options["estimator"] == "kgcoop":
        options["tau"] = 1.0  # a distance of cosines
    mixed = other_images()
    batch = {"images": images, "labels": LABELS_TWICE, "mixed_images": mixed}
    shares = None
    if across:
        batch["class_shares"] = shares = SHARES
    leaf = leaves(trainer)
    slow = mi_oracle.e2mim(
        oracle, leaf, WORDS, TAILS, images, LABELS_TWICE, normalise(oracle.text(ids(TEMPLATE))),
        peer_oracle.plain_image(oracle, mixed), options, shares,
    )  # fmt: skip
    loss, logits = loss_of(trainer, batch)
    assert torch.allclose(logits, slow[1], rtol=0, atol=1e-9)
    assert torch.allclose(trainer.model(images), slow[1], rtol=0, atol=1e-9)
    assert torch.allclose(loss, slow[0], rtol=0, atol=1e-9)
    loss.backward()
    expected = torch.autograd.grad(slow[0], list(leaf.values()), allow_unused=True)
    for (key, parameter), gradient in zip(trainer.model.learner.named_parameters(), expected, strict=True):
        silent = key == "critic.last.bias"  # adds to all scores alike
        assert silent or gradient.abs().max() > 1e-6, key
        assert torch.allclose(parameter.grad, gradient, rtol=0, atol=1e-9), key
    assert all(parameter.grad is None for parameter in trainer.model.clip.parameters())


def test_one_pass_of_the_encoder_for_images_and_mixed_ones(clip, images, monkeypatch):
    trainer, _ = bare(clip)
    passes, encode = [], trainer.model.encode_image
    monkeypatch.setattr(trainer.model, "encode_image", lambda part: (passes.append(len(part)), encode(part))[1])
    trainer.loss_terms({"images": images, "labels": LABELS, "mixed_images": other_images()})
    assert passes == [6]


def test_features_that_were_mixed_before_are_not_encoded_again(clip, oracle, images, monkeypatch):
    trainer, options = bare(clip)
    features, mixed = (peer_oracle.plain_image(oracle, part) for part in (images, other_images()))
    whole = loss_of(trainer, {"images": images, "labels": LABELS_TWICE, "mixed_images": other_images()})
    monkeypatch.setattr(trainer.model, "encode_image", None)
    batch = {"images": images, "labels": LABELS_TWICE, "features": features, "mixed_features": mixed}
    assert torch.allclose(loss_of(trainer, batch)[0], whole[0], rtol=0, atol=1e-9)


def test_without_mixup_the_images_are_their_own_view(clip, images):
    trainer, _ = bare(clip)
    plain = loss_of(trainer, {"images": images, "labels": LABELS_TWICE})
    same = loss_of(trainer, {"images": images, "labels": LABELS_TWICE, "mixed_images": images})
    assert torch.allclose(plain[0], same[0], rtol=0, atol=1e-9)


def test_the_visual_matrix_has_a_row_per_class_of_the_batch(clip, images):
    """[C_b, C] with rows against columns alone: two of the three images count as one."""
    trainer, _ = bare(clip, mi=0.0)
    batch = {"images": images, "labels": LABELS_TWICE}
    text, features = trainer.model.encode_text(), trainer.model.encode_image(images)
    means, counts = class_means(features, LABELS_TWICE, len(NAMES))
    present = [0, 4]
    assert counts.nonzero().flatten().tolist() == present
    scores = trainer.model.learner.critic(means[present], text)
    assert scores.shape == (2, 6)
    expected = mutual_information_loss(scores, torch.tensor(present))
    assert torch.allclose(trainer.loss_terms(batch)[0]["mi_v"], expected, rtol=0, atol=1e-12)


def test_at_clips_temperature_a_row_per_image_is_the_cross_entropy_of_mixed_images(clip, images):
    """[8] So both at once would be one term twice."""
    scale = clip.logit_scale.exp().item()
    trainer, _ = bare(clip, tau=1 / scale, view="sample", ce=1.0)
    terms, _ = trainer.loss_terms({"images": images, "labels": LABELS_TWICE, "mixed_images": other_images()})
    assert torch.allclose(terms["mi_v"], terms["ce_mix"], rtol=0, atol=1e-9)


def test_every_term_moves_the_context_and_nothing_else(clip, images):
    """[14]"""
    trainer, _ = bare(clip, ce=1.0)
    text = trainer.model.encode_text()
    assert not trainer.model.hand_written.requires_grad
    features, mixed = trainer.encode_images({"images": images, "mixed_images": other_images()})
    assert text.requires_grad and not features.requires_grad and not mixed.requires_grad
    terms, _ = trainer.loss_terms({"images": images, "labels": LABELS, "mixed_images": other_images()})
    assert list(terms) == ["ce", "mi_t", "mi_v", "ce_mix"]
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, trainer.model.learner.ctx, retain_graph=True)
        assert gradient.abs().max() > 1e-6, name
    sum(terms.values()).backward()
    assert all(entry.grad is None and not entry.requires_grad for entry in trainer.model.clip.parameters())


def test_the_order_of_classes_does_not_matter(clip, images):
    """[13] In the whole objective: names in another order, and labels with them."""
    order = [3, 0, 5, 2, 4, 1]
    trainer, _ = bare(clip)
    other = bare_trainer(E2MIM, clip, names=[NAMES[i] for i in order])
    batch = {"images": images, "labels": LABELS_TWICE}
    moved = {"images": images, "labels": torch.tensor([order.index(label) for label in LABELS_TWICE.tolist()])}
    assert torch.allclose(loss_of(trainer, batch)[0], loss_of(other, moved)[0], rtol=0, atol=1e-9)


def test_fewer_negatives_are_drawn_as_part_of_the_batch(clip, images):
    trainer, _ = bare(clip, "MI.NUM_NEG", 5)
    whole, _ = bare(clip)
    batch = {"images": images, "labels": LABELS_TWICE}
    all_of_them = batch | {"negatives": torch.tensor([2, 5, 1, 4, 3])}
    assert torch.allclose(loss_of(trainer, all_of_them)[0], loss_of(whole, batch)[0], rtol=0, atol=1e-9)
    few = loss_of(trainer, batch | {"negatives": torch.tensor([2, 5])})[0]
    assert few < loss_of(whole, batch)[0] - 1e-3


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_hand_written_prompts_may_join_an_evaluation(clip, oracle, images, share):
    trainer, _ = bare(clip, "TEST.ENSEMBLE", share)
    soft = peer_oracle.context_text(oracle, leaves(trainer)["ctx"], WORDS, TAILS)
    text = normalise((1 - share) * soft + share * normalise(oracle.text(ids(TEMPLATE))))
    expected = peer_oracle.scale(oracle) * peer_oracle.plain_image(oracle, images) @ text.T
    assert torch.allclose(trainer.model(images), expected, rtol=0, atol=1e-9)
    training = loss_of(trainer, {"images": images, "labels": LABELS})[1]
    assert torch.allclose(
        training, peer_oracle.scale(oracle) * peer_oracle.plain_image(oracle, images) @ soft.T, rtol=0, atol=1e-9
    )


def test_the_sentence_of_textures_is_kgcoops(clip, oracle):
    """Unless one is asked for."""
    own, asked = "a photo of a {}, a type of texture.", "the texture {}."
    trainer = bare_trainer(E2MIM, clip, dataset="DescribableTextures")
    assert torch.allclose(trainer.model.hand_written, normalise(oracle.text(ids(own))), rtol=0, atol=1e-9)
    trainer.cfg.DATASET.TEMPLATE = asked
    model = trainer.model_for(trainer.cfg, trainer.backbone, NAMES)
    assert torch.allclose(model.hand_written, normalise(oracle.text(ids(asked))), rtol=0, atol=1e-9)


def test_several_hand_written_prompts_are_averaged(clip, oracle):
    trainer, _ = bare(clip, "TEMPLATES", ["art of a {}.", "one {}."])
    features = [normalise(oracle.text(ids(template))) for template in ("art of a {}.", "one {}.")]
    assert torch.allclose(trainer.model.hand_written, normalise(sum(features)), rtol=0, atol=1e-9)


# ------------------------------------------------------------------ the trainer, on real files


@pytest.fixture
def e2mim_cfg(make_cfg):
    def make(*options, **others):
        keys = [f"TRAINER.E2MIM.{word}" if index % 2 == 0 else word for index, word in enumerate(options)]
        return make_cfg(*BATCHES, *UNTESTED, *keys, trainer="E2MIM", **others)

    return make


SILENT = ("MI.WEIGHT", "0.0", "VIS.WEIGHT", "0.0")


@pytest.mark.parametrize("mixup", ["False", "True"])
def test_without_its_terms_it_is_coop_bit_for_bit(e2mim_cfg, make_cfg, mixup):
    """[15] Through whole epochs, so through every random number that a step could take from CoOp."""
    coop = finish(make_cfg(*BATCHES, *UNTESTED, trainer="CoOp", output="coop"))
    silent = finish(e2mim_cfg(*SILENT, "MIX.ENABLED", mixup))
    assert_equal(weights(coop), weights(silent))
    assert torch.equal(coop.model.learner.ctx.grad, silent.model.learner.ctx.grad)


def batches_of(cfg):
    """Images of a whole run."""
    trainer, seen = start(cfg), []
    parse = trainer.parse_batch_train
    trainer.parse_batch_train = lambda batch: (seen.append(batch["img"].clone()), parse(batch))[1]
    trainer.train()
    return torch.cat(seen)


def test_critic_and_mixup_take_no_random_number_from_the_batches(e2mim_cfg, make_cfg):
    coop = batches_of(make_cfg(*BATCHES, *UNTESTED, trainer="CoOp", output="coop"))
    mixed = batches_of(e2mim_cfg("MI.CRITIC", "concat", "MI.NUM_NEG", "4"))
    assert torch.equal(coop, mixed)


CASES = {
    "default": (),
    "feature": ("MIX.LEVEL", "feature"),
    "inter": ("MIX.MODE", "inter", "MIX.CE_WEIGHT", "0.5"),
    "dv, separable": ("MI.ESTIMATOR", "dv", "MI.CRITIC", "separable", "MI.LR_MULT", "0.1", "MI.TAU", "0.5"),
    "few negatives": ("MI.NUM_NEG", "3", "MI.CRITIC", "concat", "VIS.FUSE", "add"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_with_the_same_weights(e2mim_cfg, name):
    """Killed in its second epoch, with images in the queue: generators and averages go on, the queue begins anew."""
    more = ("DATASET.NUM_SHOTS", "2")  # so that a class has partners in the queue
    whole = start(with_options(e2mim_cfg, CASES[name], more, output="whole"))
    summaries = followed(whole)
    whole.train()
    cfg = with_options(e2mim_cfg, CASES[name], more, output="killed")
    trainer = start(cfg)
    step = trainer.forward_backward

    def dies(batch):
        if (trainer.epoch, trainer.batch_idx) == (1, 2):
            raise Killed
        return step(batch)

    trainer.forward_backward = dies
    with pytest.raises(Killed):
        trainer.train()
    resumed = start(cfg)
    again = followed(resumed)
    resumed.train()
    assert resumed.start_epoch == 1
    assert_equal(weights(whole), weights(resumed))
    assert again == summaries[len(summaries) // 3 :]  # every term of every step
    one, other = (load_checkpoint(f"{run.cfg.OUTPUT_DIR}/{LEARNER}/model.pth.tar-3") for run in (whole, resumed))
    assert_equal(one["generators"], other["generators"])
    assert_equal(one["training_state"], other["training_state"])
    assert set(one["training_state"]) == ({"mi_t", "mi_v"} if name.startswith("dv") else set())
    if whole.queue.items is not None:
        assert torch.equal(whole.queue.pushed, resumed.queue.pushed)
        labels = torch.arange(12).repeat_interleave(2)
        nothing, slots = torch.zeros(24, *whole.queue.items.shape[1:]), torch.eye(2).repeat(12, 1)
        held = [run.queue.pick(nothing, labels, slots) for run in (whole, resumed)]
        assert torch.equal(*held) and held[0].any()


def with_options(make, own, shared, output):
    """A config with keys of the method's node and keys of others."""
    cfg = make(*own, output=output).clone()
    cfg.defrost()
    cfg.merge_from_list(list(shared))
    cfg.freeze()
    return cfg


def followed(trainer):
    """The numbers of every step."""
    step, seen = trainer.forward_backward, []

    def noting(batch):
        summary = step(batch)
        seen.append({name: value.item() for name, value in summary.items()})
        return summary

    trainer.forward_backward = noting
    return seen


def test_the_queue_begins_anew_with_every_epoch(e2mim_cfg):
    trainer = start(e2mim_cfg())
    parse, held = trainer.parse_batch_train, []

    def noting(batch):
        held.append(0 if trainer.queue.pushed is None else int(trainer.queue.pushed.sum()))
        return parse(batch)

    trainer.parse_batch_train = noting
    trainer.train()
    assert held == [0, 5] * 3


def test_partners_come_from_the_queue_where_the_batch_has_none(e2mim_cfg):
    """Two shots of twelve classes in batches of five: every mixed image is of one class."""
    trainer = start(with_options(e2mim_cfg, (), ("DATASET.NUM_SHOTS", "2"), output="run"))
    trainer.before_train()
    trainer.close_writer()
    trainer.before_epoch()
    seen, queued = {}, 0
    for batch in trainer.train_loader_x:
        parsed = trainer.parse_batch_train(batch)
        images, labels, mixed = parsed["images"], parsed["labels"], parsed["mixed_images"]
        for i, label in enumerate(labels.tolist()):
            here = [images[j] for j in range(len(labels)) if j != i and int(labels[j]) == label]
            candidates = here or seen.get(label, [])
            if not candidates:
                assert torch.equal(mixed[i], images[i])
                continue
            queued += not here
            assert not torch.equal(mixed[i], images[i])  # as if it had met itself in the queue
            assert any(lies_between(mixed[i], images[i], partner) for partner in candidates)
        for image, label in zip(images, labels.tolist(), strict=True):
            seen.setdefault(label, []).append(image)
    assert queued


def lies_between(mixed, image, partner):
    """Whether ``mixed - partner`` is a share of ``image - partner``."""
    whole, part = (image - partner).flatten(), (mixed - partner).flatten()
    share = (whole @ part) / (whole @ whole)
    return 0 <= share <= 1 and torch.allclose(part, share * whole, atol=1e-4)


@pytest.mark.parametrize("case", ["default", "feature", "inter", "dv, separable", "few negatives"])
def test_only_learnables_change_and_only_they_are_saved(e2mim_cfg, case):
    cfg = e2mim_cfg(*CASES[case])
    trainer = start(cfg)
    frozen = copy.deepcopy(trainer.model.clip.state_dict()), trainer.model.hand_written.clone()
    before = weights(trainer)
    trainer.train()
    assert_equal(frozen[0], trainer.model.clip.state_dict())
    assert torch.equal(frozen[1], trainer.model.hand_written)
    after = weights(trainer)
    assert before.keys() == after.keys()
    same = [key for key in before if torch.equal(before[key], after[key])]
    assert same in ([], ["critic.last.bias"])  # adds to all scores alike
    assert_equal(load_checkpoint(f"{cfg.OUTPUT_DIR}/{LEARNER}/model.pth.tar-3")["state_dict"], after)


def test_the_critic_has_a_learning_rate_of_its_own(e2mim_cfg):
    trainer = start(e2mim_cfg("MI.CRITIC", "bilinear", "MI.LR_MULT", "0.25"))
    context, critic = trainer.optim.param_groups
    assert critic["params"] == [trainer.model.learner.critic.matrix]
    assert context["params"] == [trainer.model.learner.ctx]
    assert critic["initial_lr"] == 0.25 * context["initial_lr"]
    assert len(start(e2mim_cfg(output="cos")).optim.param_groups) == 1


def test_a_base_checkpoint_serves_other_classes(e2mim_cfg, monkeypatch):
    """[22] Another number of them; the hand-written features are theirs, and nothing of a class list was saved."""
    cfg = e2mim_cfg("MI.CRITIC", "separable")
    trained = finish(cfg)
    saved = load_checkpoint(f"{cfg.OUTPUT_DIR}/{LEARNER}/model.pth.tar-3")["state_dict"]
    assert {name.split(".")[0] for name in saved} == {"ctx", "critic"}
    everyone = start(e2mim_cfg("MI.CRITIC", "separable", classes="all", output="all"))
    everyone.load_model(cfg.OUTPUT_DIR)
    assert_equal(weights(trained), weights(everyone))
    assert everyone.model.hand_written.shape == (24, trained.model.hand_written.shape[1])
    assert torch.allclose(everyone.model.hand_written[:12], trained.model.hand_written, atol=1e-5)
    images = torch.stack([everyone.dm.test_loader.dataset[i]["img"] for i in range(4)])
    with torch.no_grad():
        logits = everyone.model_inference(images)
        assert logits.shape == (4, 24)
        assert torch.allclose(logits[:, :12], trained.model_inference(images), atol=1e-4)
    monkeypatch.setattr(everyone.model.learner, "critic", None)  # a prediction needs none
    assert fewer_test_images(everyone).test() >= 0


def test_the_share_of_hand_written_prompts_is_that_of_the_training_run(e2mim_cfg):
    cfg = e2mim_cfg("TEST.ENSEMBLE", "0.3")
    trainer = start(cfg)
    trainer.save_model(0, cfg.OUTPUT_DIR)
    start(e2mim_cfg("TEST.ENSEMBLE", "0.3", output="same")).load_model(cfg.OUTPUT_DIR, epoch=1)
    with pytest.raises(ValueError, match=r"TEST.ENSEMBLE was 0.3 in training and is 0.0 here"):
        start(e2mim_cfg(output="other")).load_model(cfg.OUTPUT_DIR, epoch=1)


def test_a_sampler_that_needs_more_classes_than_there_are_is_refused_in_words(e2mim_cfg):
    """[21] Dassl answers with an assertion."""
    sampler = ("DATALOADER.TRAIN_X.SAMPLER", "RandomClassSampler", "DATALOADER.TRAIN_X.N_INS", "2")
    more = (*sampler, "DATALOADER.TRAIN_X.BATCH_SIZE", "32")
    with pytest.raises(ValueError, match="needs 16 classes, the data has 12"):
        start(with_options(e2mim_cfg, (), more, output="run"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MI.ESTIMATOR", "mine"), "MI.ESTIMATOR: expected one of infonce, dv, nwj, jsd, kgcoop, got 'mine'"),
        (("MI.CRITIC", "bilinar"), "MI.CRITIC: expected one of cos, bilinear, separable, concat, got 'bilinar'"),
        (("VIS.VIEW", "protos"), "VIS.VIEW: expected one of proto, sample, got 'protos'"),
        (("VIS.FUSE", "ad"), "VIS.FUSE: expected one of none, add, got 'ad'"),
        (("MIX.MODE", "intro"), "MIX.MODE: expected one of intra, inter, got 'intro'"),
        (("MIX.LEVEL", "pixels"), "MIX.LEVEL: expected one of pixel, feature, got 'pixels'"),
        (("CLASS_TOKEN_POSITION", "fron"), "CLASS_TOKEN_POSITION 'fron': did you mean front"),
        (("CTX_INIT", "_"), "CTX_INIT: expected words of at least 1 tokens"),
        (("TEMPLATES", "['a photo']"), "one of TRAINER.E2MIM.TEMPLATES is 'a photo': expected one {}"),
        (("TEMPLATES", "[3]"), "one of TRAINER.E2MIM.TEMPLATES is '3': expected one {}"),
        (("N_CTX", "0"), "TRAINER.E2MIM.N_CTX: expected a number in 1..inf, got 0"),
        (("MI.WEIGHT", "-1.0"), "TRAINER.E2MIM.MI.WEIGHT: expected a number in 0..inf, got -1.0"),
        (("MI.TAU", "0.0"), "MI.TAU: expected a number in 0.0001..inf, got 0.0"),
        (("MI.HIDDEN", "0"), "MI.HIDDEN: expected"),
        (("MI.PROJ_DIM", "0"), "MI.PROJ_DIM: expected"),
        (("MI.NUM_NEG", "-1"), "MI.NUM_NEG: expected"),
        (("MI.EMA", "1.0"), "MI.EMA: expected a number in 0..0.9999, got 1.0"),
        (("MI.LR_MULT", "-1.0"), "MI.LR_MULT: expected"),
        (("VIS.WEIGHT", "-1.0"), "VIS.WEIGHT: expected"),
        (("VIS.ETA", "-1.0"), "VIS.ETA: expected"),
        (("MIX.BETA", "0.0"), "MIX.BETA: expected"),
        (("MIX.PROB", "1.5"), "MIX.PROB: expected a number in 0..1, got 1.5"),
        (("MIX.QUEUE", "-1"), "MIX.QUEUE: expected"),
        (("MIX.CE_WEIGHT", "-1.0"), "MIX.CE_WEIGHT: expected"),
        (("TEST.ENSEMBLE", "1.5"), "TEST.ENSEMBLE: expected"),
        (("MI.ESTIMATOR", "kgcoop", "MI.CRITIC", "concat"), "kgcoop is a distance of cosines: use .*MI.CRITIC cos"),
        ((*SILENT, "MI.CRITIC", "concat"), "MI.CRITIC concat has no term to learn from"),
        (("VIS.FUSE", "add", "MI.WEIGHT", "0.0"), "VIS.FUSE add is part of the text term"),
        (("VIS.FUSE", "add", "MIX.MODE", "inter"), "VIS.FUSE add needs images of one class"),
        (("MI.NUM_NEG", "3", "MI.ESTIMATOR", "dv"), "MI.NUM_NEG is for MI.ESTIMATOR infonce"),
        (("MI.NUM_NEG", "3", "MIX.MODE", "inter"), "MI.NUM_NEG is for MI.ESTIMATOR infonce and MIX.MODE intra"),
        (("MIX.CE_WEIGHT", "1.0", "MIX.ENABLED", "False"), "MIX.CE_WEIGHT weighs mixed images"),
    ],
)
def test_config_mistakes_are_refused_before_weights_are_read(e2mim_cfg, monkeypatch, options, message):
    monkeypatch.setattr("anprompt.engine.trainer.load_clip_once", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match=message):
        start(e2mim_cfg(*options))


def test_what_the_number_of_classes_decides(e2mim_cfg, monkeypatch, capsys):
    trainer = start(e2mim_cfg("MI.NUM_NEG", "12"))
    with pytest.raises(ValueError, match="NUM_NEG: expected fewer negatives than the 12 classes, got 12"):
        trainer.train()
    trainer = start(e2mim_cfg("MI.CRITIC", "concat"))
    monkeypatch.setattr(trainer.model, "classnames", ["dog"])
    with pytest.raises(ValueError, match="compares classes with each other: expected at least 2, got 1"):
        trainer.train()
    trainer = start(e2mim_cfg("MI.CRITIC", "concat"))
    trainer.before_train()
    trainer.close_writer()
    assert "MI.CRITIC concat can memorise 12 classes" in capsys.readouterr().out


def test_two_weights_of_one_term_are_warned_of(e2mim_cfg, capsys):
    start(e2mim_cfg("VIS.VIEW", "sample", "MIX.CE_WEIGHT", "1.0"))
    assert "VIS.VIEW sample and MIX.CE_WEIGHT are one term at two temperatures" in capsys.readouterr().out


def test_contexts_per_class_are_refused_on_other_classes(e2mim_cfg):
    cfg = e2mim_cfg("CSC", "True")
    trainer = start(cfg)
    assert trainer.model.learner.ctx.shape[0] == 12
    trainer.save_model(0, cfg.OUTPUT_DIR)
    other = start(e2mim_cfg("CSC", "True", classes="new", output="other"))
    with pytest.raises(ValueError, match="train with TRAINER.E2MIM.CSC False to test on other classes"):
        other.load_model(cfg.OUTPUT_DIR, epoch=1)


def test_registered():
    assert TRAINER_REGISTRY.get("E2MIM") is E2MIM and issubclass(CoOp, E2MIM.__mro__[1])
