"""The map that couples soft prompts with hard ones. Numbers in brackets are those of the method's invariants."""

import math

import pytest
import torch

from anprompt.prompts.coupling import Coupling, draw_kept
from tests.helpers import ga2_oracle


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_values():
    """[2]"""
    coupling = Coupling(2)
    with torch.no_grad():
        coupling.weight.copy_(torch.tensor([[1.0, 0, 1, 0], [0, -1, 0, -1]]))
        coupling.bias.copy_(torch.tensor([0.1, 0]))
    mapped = coupling(torch.tensor([[0.2, 0.3]]), torch.tensor([[-0.1, -0.5]]))
    assert torch.allclose(mapped, torch.tensor([[0.2, 0.2]]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["whole", "some kept", "by class"])
def test_values_and_gradients(kind):
    coupling = Coupling(5, generator()).double()
    hard, soft = (torch.randn(3, 5, dtype=torch.float64, generator=generator(seed)) for seed in (1, 2))
    shape = {"whole": None, "some kept": (3, 5), "by class": (4, 3, 5)}[kind]
    kept = None if shape is None else draw_kept(shape, 0.5, generator(3))
    leaves = [soft.requires_grad_(), *coupling.parameters()]
    masks = kept if kind == "by class" else [kept]
    slow = torch.stack([ga2_oracle.coupled(coupling.weight, coupling.bias, hard, soft, mask) for mask in masks])
    fast = coupling(hard, soft, kept)
    assert fast.shape == (shape or (3, 5))
    weights = torch.randn(slow.shape, dtype=torch.float64, generator=generator(4))
    assert torch.allclose(fast, slow if kind == "by class" else slow[0], rtol=0, atol=1e-12)
    one, other = (torch.autograd.grad((rows * weights).sum(), leaves) for rows in (fast, slow))
    for a, b in zip(one, other, strict=True):
        assert a.abs().max() > 0 and torch.allclose(a, b, rtol=0, atol=1e-12)


def test_start_and_range():
    """[2] As PyTorch's linear map starts; small prompts leave little, half of it zero."""
    coupling = Coupling(512, generator())
    assert sum(weight.numel() for weight in coupling.parameters()) == 524_800
    bound = 1 / math.sqrt(1024)
    for values in coupling.parameters():
        assert values.abs().max() <= bound and values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    hard, soft = (0.02 * torch.randn(16, 512, generator=generator(seed)) for seed in (1, 2))
    mapped = coupling(hard, soft)
    assert (mapped >= 0).all()
    assert mapped.std().item() == pytest.approx(0.012, abs=0.0015)
    assert (mapped == 0).float().mean().item() == pytest.approx(0.49, abs=0.04)
    assert torch.equal(mapped, coupling(hard, soft))  # without draws


def test_its_start_is_drawn_by_its_own_generator_alone():
    before = torch.get_rng_state()
    one, other = Coupling(8, generator(7)), Coupling(8, generator(7))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


@pytest.mark.parametrize("dropout", [0.0, 0.5, 0.9])
def test_what_dropout_keeps(dropout):
    kept = draw_kept((200, 100), dropout, generator())
    largest = torch.tensor(1 / (1 - dropout))
    assert torch.equal(kept.unique(), torch.stack([0 * largest, largest]) if dropout else largest[None])
    assert (kept == 0).float().mean().item() == pytest.approx(dropout, abs=0.01)
    assert kept.mean().item() == pytest.approx(1, abs=0.05)
