"""Our way through a block equals open_clip's own, outputs and gradients, float64, to 1e-9."""

import pytest
import torch

from anprompt.clip import blocks
from anprompt.clip.blocks import run_block
from anprompt.clip.encoders import Tokens, causal_mask, text_features, text_trunk
from tests.conftest import small_clip

TOLERANCE = 1e-9


def hidden_rows(width, seed=0):
    return torch.randn(3, 7, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_same(fast, slow, hidden):
    assert torch.allclose(fast, slow, rtol=0, atol=TOLERANCE)
    weights = torch.randn(fast.shape, dtype=fast.dtype, generator=torch.Generator().manual_seed(9))
    fast_grad, slow_grad = (torch.autograd.grad((out * weights).sum(), hidden)[0] for out in (fast, slow))
    assert fast_grad.abs().max() > 0
    assert torch.allclose(fast_grad, slow_grad, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_whole_block(quick, masked):
    clip = small_clip(depth=1, quick_gelu=quick)
    block = clip.transformer.resblocks[0]
    hidden = hidden_rows(32).requires_grad_()
    seen = torch.ones(7, 7, dtype=torch.bool).tril() if masked else None
    additive = torch.full((7, 7), float("-inf"), dtype=torch.float64).triu(1) if masked else None
    assert_same(run_block(block, hidden, seen), block(hidden, attn_mask=additive), hidden)


def test_rows_that_nobody_reads_are_left_out_but_seen(clip):
    block = clip.visual.transformer.resblocks[-1]
    hidden = hidden_rows(48).requires_grad_()

    def pick(rows):
        return rows[:, 2:4]

    fast = run_block(block, hidden, pick=pick)
    assert fast.shape == (3, 2, 48)
    assert_same(fast, pick(block(hidden)), hidden)


def test_layer_scale_is_applied():
    import open_clip

    block = open_clip.transformer.ResidualAttentionBlock(32, 4, ls_init_value=0.3).double().requires_grad_(False)
    hidden = hidden_rows(32).requires_grad_()
    assert_same(run_block(block, hidden), block(hidden), hidden)


# ------------------------------------------------------------------ mixed precision


def half_precision():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_weights_converted_once_give_what_autocast_gives(monkeypatch):
    block, hidden = small_clip(depth=1).float().transformer.resblocks[0], hidden_rows(32).float().requires_grad_()
    weights = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(9))

    def outputs_and_gradient(pick):
        with half_precision():
            rows = run_block(block, hidden, pick=pick)
        return rows, torch.autograd.grad((rows * weights[:, : rows.shape[1]]).sum(), hidden)[0]

    for pick in (None, lambda rows: rows[:, :2]):
        ours = outputs_and_gradient(pick)
        monkeypatch.setattr(blocks, "converted", lambda weight: weight)
        assert all(torch.equal(one, other) for one, other in zip(ours, outputs_and_gradient(pick), strict=True))
        monkeypatch.undo()


def test_a_frozen_weight_is_converted_once_and_anew_when_it_changes():
    weight = torch.randn(4, 4)
    with half_precision():
        first = blocks.converted(weight)
        assert first.dtype == torch.bfloat16 and blocks.converted(weight) is first
        weight.add_(1)
        second = blocks.converted(weight)
        assert torch.equal(second, weight.bfloat16()) and not torch.equal(first, second)
        weight.data = torch.zeros(4, 4)  # as Module.to() does it
        assert blocks.converted(weight).abs().max() == 0
    with torch.autocast("cpu", dtype=torch.float16):
        assert blocks.converted(weight).dtype == torch.float16


def test_weights_stay_as_they_are_in_full_precision_and_where_they_are_trained():
    weight = torch.randn(4, 4)
    assert blocks.converted(weight) is weight
    with half_precision():
        assert blocks.converted(weight.double()).dtype == torch.float64
        assert blocks.converted(trained := weight.clone().requires_grad_()) is trained


def test_what_inference_has_converted_serves_training():
    clip = small_clip(depth=2).float()
    ids = torch.tensor([[5, 8, 49407], [5, 9, 49407]])
    tokens = Tokens({2: torch.zeros(1, 32, requires_grad=True)}, insert=True)
    causal_mask.cache_clear()
    with half_precision():
        with torch.inference_mode():
            text_features(clip, text_trunk(clip, ids, 2), tokens)
        text_features(clip, text_trunk(clip, ids, 2), tokens).sum().backward()
    assert tokens.layers[2].grad.abs().max() > 0


def test_converted_weights_go_with_their_model():
    before = len(blocks._half_copies)
    weight = torch.randn(4, 4)
    with half_precision():
        blocks.converted(weight)
    assert len(blocks._half_copies) == before + 1
    del weight
    assert len(blocks._half_copies) == before
