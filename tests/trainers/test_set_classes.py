"""A model without a data set, and with another class list: what one built on that list answers, bit for bit."""

import pytest
import torch

from tests.trainers.test_peer_models import NAMES, bare_trainer
from trainers.anprompt import ANPrompt
from trainers.cocoop import CoCoOp
from trainers.coop import CoOp
from trainers.e2mim import E2MIM
from trainers.ga2clip import GA2CLIP
from trainers.kgcoop import KgCoOp
from trainers.maple import MaPLe
from trainers.mmrl import MMRL
from trainers.mmrlpp import MMRLpp
from trainers.promptsrc import PromptSRC
from trainers.zsclip import ZeroshotCLIP, ZeroshotCLIP2

OTHERS = ["a quite long name of a thing", "owl"]
TEMPLATE = "a drawing of a {}."
METHODS = {
    "ANPrompt": (ANPrompt, ("LAYERS", [3, 4])),
    "MMRL": (MMRL, ("REP_LAYERS", [3, 4])),
    "MMRLpp": (MMRLpp, ("REP_LAYERS", [3, 4])),
    "CoOp": (CoOp, ("N_CTX", 3)),
    "CoOp, name in front": (CoOp, ("N_CTX", 3, "CLASS_TOKEN_POSITION", "front")),
    "CoCoOp": (CoCoOp, ()),
    "KgCoOp": (KgCoOp, ()),
    "E2MIM": (E2MIM, ("TEST.ENSEMBLE", 0.5)),
    "MaPLe": (MaPLe, ("PROMPT_DEPTH", 3)),
    "PromptSRC": (PromptSRC, ("PROMPT_DEPTH_TEXT", 3, "PROMPT_DEPTH_VISION", 3)),
    "GA2CLIP": (GA2CLIP, ("PROMPT_DEPTH_TEXT", 3, "PROMPT_DEPTH_VISION", 3)),
    "GA2CLIP, stage 0": (GA2CLIP, ("PROMPT_DEPTH_TEXT", 3, "PROMPT_DEPTH_VISION", 3, "HARD.ENABLED", False)),
    "ZeroshotCLIP": (ZeroshotCLIP, ()),
    "ZeroshotCLIP2": (ZeroshotCLIP2, ()),
}


@pytest.fixture(params=METHODS)
def trainer(clip, request, monkeypatch):
    monkeypatch.setattr("trainers.cocoop.REDUCTION", 4)  # the small CLIP would get a meta-net of one hidden number
    kind, options = METHODS[request.param]
    return bare_trainer(kind, clip, *options)


@torch.no_grad()
def test_another_class_list_is_as_if_it_had_been_there_from_the_start(trainer, images):
    own = trainer.cfg.clone()
    own.DATASET.TEMPLATE = TEMPLATE
    other = trainer.model_for(own, trainer.backbone, OTHERS)
    other.learner.double().load_state_dict(trainer.model.learner.state_dict())
    before = trainer.model.head_logits(images)
    with trainer.model.fixed_text():
        trainer.model.set_classes(OTHERS, TEMPLATE)
        after, expected = trainer.model.head_logits(images), other.head_logits(images)
    assert after.keys() == expected.keys() == before.keys()
    for name, logits in after.items():
        assert logits.dtype == torch.float64 and logits.shape == (len(images), len(OTHERS))
        assert torch.equal(logits, expected[name]), name
    trainer.model.set_classes(NAMES, "a photo of a {}, a type of pet.")
    for name, logits in trainer.model.head_logits(images).items():
        assert torch.equal(logits, before[name]), name


@torch.no_grad()
@pytest.mark.parametrize(
    ("names", "template", "message"),
    [
        ([], TEMPLATE, "expected at least one class name, got none"),
        (OTHERS, "a photo", "the template is 'a photo': expected one {}"),
        (["word " * 90], TEMPLATE, "77"),
    ],
)
def test_a_class_list_that_cannot_be_leaves_the_old_one(trainer, images, names, template, message):
    before = trainer.model.head_logits(images)
    with pytest.raises(ValueError, match=message):
        trainer.model.set_classes(names, template)
    assert trainer.model.classnames == NAMES
    for name, logits in trainer.model.head_logits(images).items():
        assert torch.equal(logits, before[name]), name


def test_class_specific_contexts_serve_their_classes_only(clip):
    model = bare_trainer(CoOp, clip, "N_CTX", 3, "CSC", True).model
    model.set_classes(NAMES, TEMPLATE)
    with pytest.raises(ValueError, match="class-specific contexts exist for the 6 classes .* CSC False"):
        model.set_classes(NAMES[::-1], TEMPLATE)
