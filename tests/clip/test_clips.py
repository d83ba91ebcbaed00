"""Clips: frames go through the vision tower one by one, and its rows are averaged before they are normalised."""

from types import SimpleNamespace

import pytest
import torch

from anprompt.clip import encoders
from anprompt.clip.encoders import Tokens, VisionStates, vision_rows, vision_trunk
from anprompt.prompts.prompted_clip import unit
from tests.clip.test_encoders import assert_same, random_tokens
from tests.conftest import small_clip

CASES = {"inserted": (3, True, False), "behind the patches": (1, False, True), "none": (1, False, False)}


def clips(*shape, seed=3, dtype=torch.float64):
    return torch.randn(*shape, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def rows_of(clip, images, case, tokens, **options):
    """Class row and token rows as one tensor, with tokens placed as the case says."""
    first, insert, at_end = CASES[case]
    if case == "none":
        return vision_rows(clip, vision_trunk(clip, images, **options)).class_row[..., None, :]
    appended = tokens[1] if at_end else None
    placed = Tokens({layer: rows for layer, rows in tokens.items() if layer > first - insert}, insert, at_end)
    rows = vision_rows(clip, vision_trunk(clip, images, first, appended, **options), placed)
    return torch.cat([rows.class_row[..., None, :], rows.token_rows], -2)


def tokens_of(case, dtype=torch.float64):
    layers = {"inserted": [3, 4], "behind the patches": [1, 2, 3], "none": []}[case]
    return {layer: rows.detach().to(dtype).requires_grad_() for layer, rows in random_tokens(layers, (2, 48)).items()}


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 3)], ids=["clips", "views"])
@pytest.mark.parametrize("case", CASES)
def test_rows_of_a_clip_are_the_mean_of_those_of_its_frames(clip, oracle, case, shape):
    """Frame by frame through the textbook tower, and added up in turn."""
    images, tokens = clips(*shape), tokens_of(case)
    first, insert, at_end = CASES[case]
    slow = []
    for item in images:
        total = 0
        for frame in item.flatten(0, -4):
            deep = {layer: rows for layer, rows in tokens.items() if layer > first - insert}
            row, token_rows = oracle.image(frame[None], deep, insert, appended=tokens[1] if at_end else None)
            total = total + torch.cat([row[:, None], token_rows], 1)[0]
        slow.append(total / len(item.flatten(0, -4)))
    fast = rows_of(clip, images, case, tokens)
    if tokens:
        assert_same(fast, torch.stack(slow), list(tokens.values()))
    assert torch.allclose(fast, torch.stack(slow)[:, : fast.shape[1]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_one_frame_is_the_image_bit_for_bit(clip, case, dtype):
    images, tokens = clips(3, dtype=dtype), tokens_of(case, dtype)
    clip = small_clip().to(dtype) if dtype == torch.float32 else clip
    alone = rows_of(clip, images, case, tokens)
    for shape in ((3, 1), (3, 1, 1)):
        rows = rows_of(clip, images.reshape(*shape, 3, 32, 32), case, tokens)
        assert torch.equal(rows, alone)
        if tokens:
            assert all(map(torch.equal, gradients(rows, tokens), gradients(alone, tokens)))


def gradients(rows, tokens):
    weights = torch.randn(rows.shape, dtype=rows.dtype, generator=torch.Generator().manual_seed(9))
    return torch.autograd.grad((rows * weights).sum(), list(tokens.values()), retain_graph=True)


@pytest.mark.parametrize("case", CASES)
def test_neither_order_nor_repetition_of_frames_matters(clip, case):
    """[4]"""
    images, tokens = clips(2, 4), tokens_of(case)
    rows = rows_of(clip, images, case, tokens)
    assert torch.allclose(rows_of(clip, images[:, [2, 0, 3, 1]], case, tokens), rows, rtol=0, atol=1e-12)
    one = images[:, :1]
    repeated = rows_of(clip, one.expand(-1, 5, -1, -1, -1), case, tokens)
    assert torch.allclose(repeated, rows_of(clip, one[:, 0], case, tokens), rtol=0, atol=1e-12)
    assert not torch.allclose(repeated, rows, rtol=0, atol=1e-3)


def test_first_the_mean_then_unit_length(monkeypatch):
    """[5]"""
    monkeypatch.setattr(encoders.blocks, "run_block", lambda block, hidden, pick: pick(hidden))
    tower = SimpleNamespace(transformer=SimpleNamespace(resblocks=[None]), ln_post=lambda rows: rows)
    frames = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]])
    rows = vision_rows(SimpleNamespace(visual=tower), VisionStates(frames, frames=2))
    assert torch.allclose(unit(rows.class_row), torch.tensor([[0.9487, 0.3162]]), rtol=0, atol=5e-5)


def test_every_prompted_layer_sees_the_same_number_of_rows(clip, images, monkeypatch):
    """[6] Class token, patches and prompts: those of deeper layers take the places of the first ones."""
    seen, run = [], encoders.blocks.run_block

    def noted(block, hidden, **more):
        seen.append(hidden.shape)
        return run(block, hidden, **more)

    monkeypatch.setattr(encoders.blocks, "run_block", noted)
    rows_of(clip, clips(2, 3), "behind the patches", tokens_of("behind the patches"))
    assert seen == [(6, 1 + 4 + 2, 48)] * 4


# ------------------------------------------------------------------ activation checkpointing


@pytest.mark.parametrize("case", ["inserted", "behind the patches"])
def test_layers_computed_again_give_the_same_gradients_bit_for_bit(clip, case):
    images, tokens = clips(2, 3), tokens_of(case)
    kept, again = (rows_of(clip, images, case, tokens, recompute=recompute) for recompute in (False, True))
    assert torch.equal(kept, again)
    assert all(map(torch.equal, gradients(kept, tokens), gradients(again, tokens)))


def test_between_the_passes_only_what_enters_a_layer_is_kept(clip):
    """A row per row, instead of ten; and nothing at all where nobody asks for gradients."""
    images, tokens = clips(2, 3), tokens_of("behind the patches")

    def stored(recompute):
        saved = {}

        def note(tensor):
            saved[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            rows_of(clip, images, "behind the patches", tokens, recompute=recompute)
        return sum(saved.values())

    per_layer = 6 * 7 * 48  # frames, rows, width
    assert stored(False) > 10 * 4 * per_layer
    assert stored(True) < 6 * per_layer  # of four layers, and of the norms before and after them
    with torch.no_grad():
        assert stored(True) == stored(False) == 0
