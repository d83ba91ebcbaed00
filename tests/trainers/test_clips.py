"""Every method on clips: its loss, its gradients and its heads are those of frames that are averaged, then normalised.

The formulations are those of the tests on images, around an oracle that takes frames for images.
"""

import pytest
import torch

from anprompt.prompts.context import ContextCLIP
from anprompt.prompts.deep_tokens import DeepTokenCLIP
from anprompt.utils.rng import NamedGenerators
from tests.helpers import peer_oracle
from tests.helpers.oracle import ClipOracle, normalise
from tests.trainers import test_anprompt_model as anprompt_model
from tests.trainers import test_e2mim as e2mim
from tests.trainers import test_peer_models as peers
from tests.trainers.test_peer_models import bare_trainer
from trainers.coop import CoOp
from trainers.e2mim import E2MIM
from trainers.mmrl import MMRL
from trainers.promptsrc import PromptSRC
from trainers.zsclip import ZeroshotCLIP, ZeroshotCLIP2


def random_clips(seed=5, frames=2):
    return torch.randn(3, frames, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def clips():
    return random_clips()


@pytest.fixture(scope="module")
def clip_oracle(clip):
    return ClipOracle(clip, text_heads=4, vision_heads=3, quick=True)


OBJECTIVES = {
    "CoOp": lambda *given: peers.test_coop(*given, "end", False, ""),
    "KgCoOp": lambda *given: peers.test_kgcoop(*given),
    "MaPLe": lambda *given: peers.test_maple(*given, 3, 2, "a photo of a"),
    "PromptSRC": lambda *given: peers.test_promptsrc(*given, 3, 3),
    "MMRL": lambda *given: peers.test_mmrl(*given, 40),
    "MMRL++": lambda *given: peers.test_mmrlpp(*given, 40, 0.3, (2, 3, 4)),
    "zero-shot": lambda *given: peers.test_zero_shot_averages_unit_features(
        *given, ZeroshotCLIP, "OxfordPets", ["a photo of a {}, a type of pet."]
    ),
    "zero-shot, several templates": lambda *given: peers.test_zero_shot_averages_unit_features(
        *given, ZeroshotCLIP2, "ImageNet", peers.SEVEN
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_and_all_gradients(clip, clip_oracle, clips, name):
    OBJECTIVES[name](clip, clip_oracle, clips)


@pytest.mark.parametrize("name", ["paper", "early release", "mmrl++"])
def test_objective_of_anprompt(clip, clip_oracle, prompts, clips, name):
    anprompt_model.test_objective_and_all_gradients_equal_the_oracle(clip, clip_oracle, prompts, clips, name)


@pytest.mark.parametrize("name", ["default", "weights", "joined"])
def test_objective_of_e2mim(clip, clip_oracle, clips, monkeypatch, name):
    monkeypatch.setattr(e2mim, "other_images", lambda: random_clips(6))
    e2mim.test_objective_and_all_gradients(clip, clip_oracle, clips, name, across=False)


@pytest.mark.parametrize("options", [(), ("MIX.LEVEL", "feature"), ("MIX.MODE", "inter")])
def test_clips_are_mixed_frame_by_frame_in_one_share(clip, clips, options):
    """With the queue as with the batch, and features as those of images."""
    trainer, _ = e2mim.bare(clip, *options)
    trainer.cfg.TRAINER.E2MIM.PREC, trainer.generators = "fp32", NamedGenerators(0)
    labels = torch.tensor([4, 0, 4])
    parsed = {"images": clips, "labels": labels}
    trainer.mixed(parsed)
    mixed = trainer.mixed(parsed)
    if options == ("MIX.LEVEL", "feature"):
        assert torch.allclose(mixed["features"], trainer.model.encode_image(clips), rtol=0, atol=1e-9)
        return
    for one, other in zip(mixed["mixed_images"], clips, strict=True):
        partners = [partner for partner in clips if e2mim.lies_between(one, other, partner)]
        assert one.shape == clips.shape[1:] and (partners or torch.equal(one, other))


# ------------------------------------------------------------------ heads, projected frame by frame


def projected_then_averaged(rows, matrix):
    """``[B * T, D]`` rows of frames, each projected: the mean of two at a time, made unit."""
    features = torch.stack([row @ matrix for row in rows])
    return normalise(torch.stack([(one + other) / 2 for one, other in features.split(2)]))


def test_both_heads_of_inserted_tokens(clip, oracle, clips):
    trainer = bare_trainer(MMRL, clip, "REP_LAYERS", [3, 4])
    model = trainer.model
    assert isinstance(model, DeepTokenCLIP)
    features = model.encode_image(clips, with_frozen=True)
    tokens = dict(zip((3, 4), model.learner.vision_tokens(), strict=True))
    class_rows, token_rows = oracle.image(clips.flatten(0, 1), tokens)
    visual, own = oracle.weights["visual.proj"], model.learner.prototype_proj.matrix()
    averaged = torch.stack([sum(rows) / len(rows) for rows in token_rows])
    frozen = oracle.image(clips.flatten(0, 1))[0]
    for fast, slow in (
        (features.class_token, projected_then_averaged(class_rows, visual)),
        (features.prototype, projected_then_averaged(averaged, own)),
        (features.frozen, projected_then_averaged(frozen, visual)),
    ):
        assert torch.allclose(fast, slow, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [CoOp, E2MIM, PromptSRC])
def test_the_head_of_a_context(clip, oracle, clips, kind):
    deep = ("PROMPT_DEPTH_TEXT", 2, "PROMPT_DEPTH_VISION", 3) if kind is PromptSRC else ()
    model = bare_trainer(kind, clip, *deep).model
    assert isinstance(model, ContextCLIP)
    tokens = dict(model.learner.vision_tokens())
    appended = tokens.pop(1, None)
    rows = oracle.image(clips.flatten(0, 1), tokens, insert=False, appended=appended)[0]
    slow = projected_then_averaged(rows, oracle.weights["visual.proj"])
    assert torch.allclose(model.encode_image(clips), slow, rtol=0, atol=1e-9)
    plain = projected_then_averaged(oracle.image(clips.flatten(0, 1))[0], oracle.weights["visual.proj"])
    assert torch.allclose(model.encode_frozen_image(clips), plain, rtol=0, atol=1e-9)
    per_frame = torch.stack([peer_oracle.plain_image(oracle, item) for item in clips])
    assert not torch.allclose(normalise(per_frame.mean(1)), plain, rtol=0, atol=1e-6)  # a mean of unit features


@pytest.mark.parametrize("kind", [CoOp, MMRL, PromptSRC])
def test_the_order_of_frames_does_not_matter(clip, clips, kind):
    """[4] And one frame is the image, bit for bit."""
    options = {MMRL: ("REP_LAYERS", [3, 4]), PromptSRC: ("PROMPT_DEPTH_TEXT", 3, "PROMPT_DEPTH_VISION", 3)}
    model = bare_trainer(kind, clip, *options.get(kind, ())).model
    heads, mixed_up = model.head_logits(clips), model.head_logits(clips[:, [1, 0]])
    alone, images = model.head_logits(clips[:, :1]), model.head_logits(clips[:, 0])
    for name, logits in heads.items():
        assert torch.allclose(mixed_up[name], logits, rtol=0, atol=1e-9)
        assert torch.equal(alone[name], images[name])
