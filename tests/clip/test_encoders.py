"""Both towers equal the textbook formulation: outputs and gradients, float64, to 1e-9."""

import open_clip
import pytest
import torch

from anprompt.clip.encoders import (
    Tokens,
    end_of_text,
    split_prompts,
    text_features,
    text_layout,
    text_states,
    text_trunk,
    vision_rows,
    vision_trunk,
)
from anprompt.prompts.context import ContextPrompts
from tests.conftest import small_clip
from tests.helpers.oracle import Oracle

TOLERANCE = 1e-9
LAYER_SETS = [(1, 2, 3, 4), (3, 4), (4,), (2, 3), (2, 4)]


def random_tokens(layers, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        layer: torch.randn(*shape, dtype=torch.float64, generator=generator).mul_(0.3).requires_grad_()
        for layer in layers
    }


def assert_same(fast, slow, leaves):
    """Outputs, and gradients of a fixed random projection of them, agree."""
    assert torch.allclose(fast, slow, rtol=0, atol=TOLERANCE)
    weights = torch.randn(fast.shape, dtype=fast.dtype, generator=torch.Generator().manual_seed(9))
    fast_grads = torch.autograd.grad((fast * weights).sum(), leaves, allow_unused=True)
    slow_grads = torch.autograd.grad((slow * weights).sum(), leaves, allow_unused=True)
    for one, other in zip(fast_grads, slow_grads, strict=True):
        assert one is not None and one.abs().max() > 0
        assert torch.allclose(one, other, rtol=0, atol=TOLERANCE)


def test_without_tokens_both_towers_are_open_clip(clip, prompts, images):
    text = text_features(clip, text_trunk(clip, prompts))
    image = vision_rows(clip, vision_trunk(clip, images)).class_row @ clip.visual.proj
    assert torch.allclose(text, clip.encode_text(prompts), rtol=0, atol=TOLERANCE)
    assert torch.allclose(image, clip.encode_image(images), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("layers", LAYER_SETS)
@pytest.mark.parametrize(("count", "classes"), [(1, 5), (3, 2)])
def test_inserted_text_tokens(clip, oracle, prompts, layers, count, classes):
    tokens = random_tokens(layers, (count, 32))
    ids = prompts[:classes]
    fast = text_features(clip, text_trunk(clip, ids, layers[0]), Tokens(tokens, insert=True))
    assert_same(fast, oracle.text(ids, tokens), list(tokens.values()))


@pytest.mark.parametrize("layers", LAYER_SETS)
@pytest.mark.parametrize(("count", "beta"), [(1, 1.0), (3, 0.9), (3, 0.25)])
def test_inserted_vision_tokens_with_composition(clip, oracle, images, layers, count, beta):
    tokens = random_tokens(layers, (count, 48))
    rows = vision_rows(clip, vision_trunk(clip, images, layers[0]), Tokens(tokens, insert=True, beta=beta))
    class_row, token_rows = oracle.image(images, tokens, beta=beta)
    fast = torch.cat([rows.class_row[:, None], rows.token_rows], 1)
    assert_same(fast, torch.cat([class_row[:, None], token_rows], 1), list(tokens.values()))


@pytest.mark.parametrize(("depth", "vision_depth", "quick"), [(1, 1, True), (3, 3, False), (3, 5, True)])
def test_other_depths_and_activations(prompts, images, depth, vision_depth, quick):
    clip = small_clip(depth, vision_depth, quick)
    oracle = Oracle(clip, text_heads=4, vision_heads=3, quick=quick)
    text_tokens, vision_tokens = random_tokens([depth], (2, 32)), random_tokens([vision_depth], (2, 48))
    fast = text_features(clip, text_trunk(clip, prompts, depth), Tokens(text_tokens, insert=True))
    assert_same(fast, oracle.text(prompts, text_tokens), list(text_tokens.values()))
    trunk = vision_trunk(clip, images[:1], vision_depth)
    fast = vision_rows(clip, trunk, Tokens(vision_tokens, insert=True)).class_row
    assert_same(fast, oracle.image(images[:1], vision_tokens)[0], list(vision_tokens.values()))


def with_room(prompts, count):
    """Ids with ``count`` places behind the start token."""
    return torch.cat([prompts[:, :1], torch.full((len(prompts), count), 343), prompts[:, 1:-count]], 1)


def context_embeddings(clip, prompts, context):
    """CoOp's input: start token, context, words."""
    words = clip.token_embedding(prompts)
    count = context.shape[-2]
    context = context.expand(len(prompts), -1, -1)
    return torch.cat([words[:, :1], context, words[:, 1:-count]], 1), end_of_text(prompts) + count


def test_context_at_the_input(clip, oracle, prompts):
    context = random_tokens([1], (4, 32))[1]
    embeddings, eot = context_embeddings(clip, prompts, context)
    fast = text_features(clip, text_states(clip, embeddings, text_layout(with_room(prompts, 4))))
    assert_same(fast, oracle.text(prompts, embeddings=embeddings, eot=eot), [context])


def test_one_context_per_class(clip, oracle, prompts):
    """Only the start token is shared, although the ids say that more is."""
    context = random_tokens([1], (len(prompts), 2, 32))[1]
    embeddings, eot = context_embeddings(clip, prompts, context)
    layout = text_layout(with_room(prompts, 2), shared_up_to=1)
    fast = text_features(clip, text_states(clip, embeddings, layout))
    assert_same(fast, oracle.text(prompts, embeddings=embeddings, eot=eot), [context])


def test_one_group_of_prompts_per_image(clip, oracle, prompts):
    """CoCoOp: images times classes prompts, one context per image."""
    contexts = random_tokens([1], (3, 2, 32))[1]
    embeddings, eot = context_embeddings(clip, prompts, contexts[0].detach())
    open_prompts = ContextPrompts(embeddings, torch.tensor([[1, 2]] * len(prompts)), text_layout(with_room(prompts, 2)))
    fast = text_features(clip, open_prompts.states(clip, contexts))
    slow = [
        oracle.text(prompts, embeddings=context_embeddings(clip, prompts, context)[0], eot=eot) for context in contexts
    ]
    assert_same(fast, torch.cat(slow), [contexts])


def test_deep_text_prompts_overwrite_the_context(clip, oracle, prompts):
    """MaPLe, PromptSRC: rows of an input context are replaced in the first layers only."""
    context = random_tokens([1], (2, 32))[1]
    tokens = random_tokens([2, 3], (2, 32), seed=1)
    embeddings, eot = context_embeddings(clip, prompts, context)
    fast = text_features(clip, text_states(clip, embeddings, text_layout(with_room(prompts, 2))), Tokens(tokens))
    slow = oracle.text(prompts, tokens, insert=False, embeddings=embeddings, eot=eot)
    # The context is overwritten before layer 2, but layer 1 read it.
    assert_same(fast, slow, [context, *tokens.values()])


def test_appended_vision_prompts(clip, oracle, images):
    """MaPLe, PromptSRC: rows behind the patches, replaced in the first layers only."""
    appended = random_tokens([1], (2, 48))[1]
    tokens = random_tokens([2, 3], (2, 48), seed=1)
    rows = vision_rows(clip, vision_trunk(clip, images, appended=appended), Tokens(tokens, at_end=True))
    class_row, token_rows = oracle.image(images, tokens, insert=False, appended=appended)
    fast = torch.cat([rows.class_row[:, None], rows.token_rows], 1)
    assert_same(fast, torch.cat([class_row[:, None], token_rows], 1), [appended, *tokens.values()])


def test_tokens_per_image(clip, oracle, images):
    tokens = random_tokens([3, 4], (len(images), 2, 48))
    fast = vision_rows(clip, vision_trunk(clip, images, 3), Tokens(tokens, insert=True)).class_row
    assert_same(fast, oracle.image(images, tokens)[0], list(tokens.values()))


def test_rows_that_prompts_share_and_rows_behind_the_end_are_not_repeated(clip, prompts):
    """Five prompts "a photo of a ...": start and four words once, and what follows up to each end."""
    states = text_trunk(clip, prompts, 2)
    assert states.prefix.shape[:2] == (1, 5)
    assert states.own.shape[:2] == (1, int((end_of_text(prompts) + 1 - 5).sum()))


@pytest.fixture
def two_at_a_time(monkeypatch):
    """Five prompts go through the tower in three parts."""
    monkeypatch.setattr("anprompt.clip.encoders.MAX_CLASSES", 2)


@pytest.mark.parametrize("layers", [(1, 2, 3, 4), (3, 4), (4,)])
def test_many_prompts_in_parts(clip, oracle, prompts, layers, two_at_a_time):
    tokens = random_tokens(layers, (3, 32))
    trunk = text_trunk(clip, prompts, layers[0])
    assert [part.own.shape[1] for part in split_prompts(trunk)] == [len(part.places) for part in trunk.layout.parts]
    assert [len(part.last) for part in trunk.layout.parts] == [2, 2, 1]
    fast = text_features(clip, trunk, Tokens(tokens, insert=True))
    assert_same(fast, oracle.text(prompts, tokens), list(tokens.values()))
    with torch.no_grad():
        assert torch.allclose(text_features(clip, trunk, Tokens(tokens, insert=True)), fast, rtol=0, atol=TOLERANCE)


def test_parts_of_groups_come_back_in_order(clip, prompts, monkeypatch):
    """One group of prompts per image."""
    contexts = torch.randn(3, 2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def features():
        embeddings = clip.token_embedding(with_room(prompts, 2))
        slots = torch.tensor([[1, 2]] * len(prompts))
        open_prompts = ContextPrompts(embeddings, slots, text_layout(with_room(prompts, 2)))
        return text_features(clip, open_prompts.states(clip, contexts))

    whole = features()
    monkeypatch.setattr("anprompt.clip.encoders.MAX_CLASSES", 2)
    assert torch.allclose(features(), whole, rtol=0, atol=TOLERANCE)


def test_parts_are_computed_again_instead_of_kept(clip, prompts, two_at_a_time):
    """Between forward and backward pass, only what the parts started from is held."""
    tokens = random_tokens((2, 3, 4), (3, 32))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda t: t):
        text_features(clip, text_trunk(clip, prompts, 2), Tokens(tokens, insert=True))
    assert sum(saved) < 100, saved


@pytest.mark.parametrize("texts", [["sea"], ["sea", "sea"], ["sea", "a sea of grass and fire"], ["", "sea"]])
def test_prompts_that_share_all_or_nothing(clip, oracle, texts):
    """One prompt, equal prompts, one that another one starts with, and an empty one."""
    ids = open_clip.tokenizer.SimpleTokenizer()(texts)
    tokens = random_tokens([3, 4], (2, 32))
    fast = text_features(clip, text_trunk(clip, ids, 3), Tokens(tokens, insert=True))
    assert_same(fast, oracle.text(ids, tokens), list(tokens.values()))


def test_padding_and_order_of_prompts_change_nothing(clip, prompts):
    alone = torch.cat([text_features(clip, text_trunk(clip, prompts[i : i + 1])) for i in range(len(prompts))])
    together = text_features(clip, text_trunk(clip, prompts))
    assert torch.allclose(alone, together, rtol=0, atol=1e-12)
    order = [3, 0, 4, 2, 1]
    assert torch.allclose(text_features(clip, text_trunk(clip, prompts[order])), together[order], rtol=0, atol=1e-12)


def test_composition_closed_form(clip):
    """0.9 * (1, 2) + 0.1 * (11, -8) = (2, 1)."""
    from anprompt.clip.encoders import place_tokens

    hidden = torch.tensor([[[0.0, 0.0], [11.0, -8.0], [5.0, 5.0]]], dtype=torch.float64)
    tokens = Tokens({1: torch.zeros(1, 2), 2: torch.tensor([[1.0, 2.0]], dtype=torch.float64)}, insert=True, beta=0.9)
    placed = place_tokens(hidden, tokens, 2)
    assert torch.allclose(placed[0], torch.tensor([[0, 0], [2, 1], [5, 5]], dtype=torch.float64))


def test_beta_one_is_replacement_and_beta_zero_ignores_deeper_tokens(clip, images):
    tokens = random_tokens([2, 3, 4], (2, 48))
    trunk = vision_trunk(clip, images, 2)
    other = {**tokens, 3: random_tokens([3], (2, 48), seed=7)[3]}
    with_beta = [vision_rows(clip, trunk, Tokens(t, insert=True, beta=0.0)).class_row for t in (tokens, other)]
    assert torch.equal(*with_beta)
    replaced = [vision_rows(clip, trunk, Tokens(t, insert=True)).class_row for t in (tokens, other)]
    assert not torch.allclose(*replaced)


def test_token_order_matters_only_under_composition_of_text(clip, prompts, images):
    """Replaced tokens are keys and values only, so a joint permutation of them changes no text feature."""
    tokens = random_tokens([2, 3, 4], (3, 32))
    permuted = {layer: rows[[2, 0, 1]] for layer, rows in tokens.items()}
    trunk = text_trunk(clip, prompts, 2)

    def features(rows, beta):
        return text_features(clip, trunk, Tokens(rows, insert=True, beta=beta))

    assert torch.allclose(features(tokens, 1.0), features(permuted, 1.0), rtol=0, atol=1e-12)
    assert not torch.allclose(features(tokens, 0.5), features(permuted, 0.5), rtol=0, atol=1e-6)


def test_zero_tokens_are_not_no_tokens(clip, prompts):
    """Keys and values come from LayerNorm's bias and the attention's bias, so zero rows still act."""
    tokens = {layer: torch.zeros(2, 32, dtype=torch.float64) for layer in (3, 4)}
    trunk = text_trunk(clip, prompts, 3)
    assert not torch.allclose(text_features(clip, trunk, Tokens(tokens, insert=True)), text_features(clip, trunk))
