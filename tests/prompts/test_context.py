"""Context prompts: which rows stay open, and that the words around them are the tokenizer's."""

from functools import partial

import open_clip
import pytest
import torch

from anprompt.prompts.context import (
    ContextCLIP,
    ContextLearner,
    check_context,
    context_length,
    context_prompts,
    start_context,
)
from tests.conftest import backbone_around

NAMES = ["dog", "a_very small grey bird", "cat"]
TEMPLATE = "a photo of a {}."
DOG, STOP = 1929, 269


@pytest.fixture(scope="session")
def backbone(clip):
    return backbone_around(clip)


def read_back(backbone, prompts, count):
    """Ids of the prompts once tokens of the vocabulary stand in the open rows, as -1, -2, .."""
    markers, table = [1001 + k for k in range(count)], backbone.model.token_embedding.weight
    nearest = [torch.cdist(text, table).argmin(1).tolist() for text in prompts.fill(table[markers])]
    return [[-1 - markers.index(id_) if id_ in markers else id_ for id_ in text] for text in nearest]


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("end", [49406, -1, -2, -3, DOG, STOP, 49407]),
        ("middle", [49406, -1, DOG, -2, -3, STOP, 49407]),
        ("front", [49406, DOG, -1, -2, -3, STOP, 49407]),
    ],
)
def test_the_name_stands_where_it_is_asked_to(backbone, position, expected):
    prompts = context_prompts(backbone, NAMES, 3, position=position)
    texts = read_back(backbone, prompts, 3)
    assert texts[0][: len(expected)] == expected
    bird = open_clip.tokenizer.SimpleTokenizer().encode("a very small grey bird")
    row = {"end": 4, "middle": 2, "front": 1}[position]
    assert texts[1][row : row + 5] == bird
    assert prompts.embeddings.shape == (3, 11, 32)  # cut behind the longest
    assert prompts.is_shared == (position == "end")


def test_words_beyond_the_context_stay(backbone):
    prompts = context_prompts(backbone, ["dog"], 2, words="a_photo of a")
    (text,) = read_back(backbone, prompts, 2)
    of, a = open_clip.tokenizer.SimpleTokenizer().encode("of a")
    assert text == [49406, -1, -2, of, a, DOG, STOP, 49407]


def test_one_context_per_class(backbone):
    contexts = torch.randn(3, 2, 32, dtype=torch.float64)
    prompts = context_prompts(backbone, NAMES, 2, per_class=True)
    filled = prompts.fill(contexts)
    assert torch.equal(filled[:, 1:3], contexts)
    assert torch.equal(filled[1], prompts.fill(contexts[1])[1])
    assert not prompts.is_shared


def test_filling_leaves_the_prompts_open_for_the_next_context(backbone):
    prompts = context_prompts(backbone, NAMES, 2)
    before = prompts.embeddings.clone()
    prompts.fill(torch.randn(2, 32, dtype=torch.float64))
    assert torch.equal(prompts.embeddings, before)


def test_the_gradient_reaches_the_context_only(backbone):
    context = torch.randn(2, 32, dtype=torch.float64, requires_grad=True)
    prompts = context_prompts(backbone, NAMES, 2)
    prompts.fill(context).sum().backward()
    assert torch.equal(context.grad, torch.full((2, 32), 3.0, dtype=torch.float64))
    assert not prompts.embeddings.requires_grad


def test_a_prompt_that_does_not_fit_is_refused(backbone):
    context_prompts(backbone, ["dog"], 73)
    with pytest.raises(
        ValueError, match="context of 74 tokens leaves too little room.*needs 78 tokens but small takes 77"
    ):
        context_prompts(backbone, ["dog"], 74)
    with pytest.raises(ValueError, match=r"class names \['a,..'\] end in .*: use position end"):
        context_prompts(backbone, ["a,.."], 1, position="front")  # with its full stop it has fewer tokens than without


def test_length_of_a_context():
    assert context_length("", 16) == 16
    assert context_length("a photo of a", 16) == 4
    assert context_length("a_photo_of_a", 16) == 4
    assert context_length("unsupervised pretraining", 16) > 2  # tokens, not words


def test_random_start(backbone):
    torch.manual_seed(0)
    start = start_context(backbone, "", 200)
    assert start.shape == (200, 32)
    assert abs(start.mean()) < 1e-3 and start.std().item() == pytest.approx(0.02, rel=0.05)


def test_start_from_the_first_tokens_of_the_words(backbone):
    ids = open_clip.tokenizer.SimpleTokenizer().encode("a photo")
    assert torch.equal(start_context(backbone, "a_photo of a", 2), backbone.model.token_embedding.weight[ids])


def test_too_few_words_are_refused():
    check_context("KEY", "a photo of a", 4)
    check_context("KEY", "", 4)
    with pytest.raises(ValueError, match=r"KEY: expected words of at least 5 tokens, got 'a photo of a' \(4\)"):
        check_context("KEY", "a photo of a", 5)
    check_context("KEY", "a " * 73, 4)
    with pytest.raises(ValueError, match="KEY: expected words of at most 73 tokens, got 74: a class name follows"):
        check_context("KEY", "a " * 74, 4)


def test_text_is_encoded_once_inside_fixed_text_and_forgotten_after(backbone, images, monkeypatch):
    learner = ContextLearner(start_context(backbone, "", 2).double())
    model = ContextCLIP(backbone, learner, partial(context_prompts, count=2))
    model.set_classes(NAMES, TEMPLATE)
    calls, compute = [], model.compute_text
    monkeypatch.setattr(model, "compute_text", lambda: (calls.append(1), compute())[1])
    with torch.no_grad():
        with model.fixed_text():
            inside = [model(images), model(images)]
            learner.ctx.mul_(-3.0)  # a constant shift would vanish in LayerNorm
            assert torch.equal(model(images), inside[0])  # fixed
        assert len(calls) == 1
        after = model(images)
    assert len(calls) == 2
    assert torch.equal(inside[0], inside[1]) and not torch.allclose(after, inside[0])


def test_an_error_inside_fixed_text_does_not_leave_old_features_behind(backbone):
    learner = ContextLearner(start_context(backbone, "", 2).double())
    model = ContextCLIP(backbone, learner, partial(context_prompts, count=2))
    model.set_classes(NAMES, TEMPLATE)
    with pytest.raises(KeyError), model.fixed_text():
        raise KeyError
    assert model.cached_text is None
