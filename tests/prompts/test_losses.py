"""Numeric invariants of the objective's terms, closed-form gradients included."""

import math

import pytest
import torch

from anprompt.prompts.losses import head_cross_entropy, similarity_loss, weak_alignment_loss
from tests.helpers.oracle import walo_sum


def doubles(rows):
    return torch.tensor(rows, dtype=torch.float64)


def random_logits(seed, shape=(4, 6), scale=3.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("class_logits", "noise_logits", "expected"),
    [
        ([[2, 0], [0, 1]], [[1, 0], [0, 2]], 0.0390991),
        ([[10, 0, 0], [0, 10, 0]], [[0, 0, 0], [0, 0, 0]], 0.359422),  # the reverse direction gives 0.0708506
        ([[2, 0], [0, 1]], [[0, 0], [0, 3]], 0.157611),  # the population deviation or the variance give another value
    ],
)
def test_walo_values(class_logits, noise_logits, expected):
    value = weak_alignment_loss(doubles(class_logits), doubles(noise_logits))
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_walo_equals_the_sum_over_entries():
    class_logits, noise_logits = random_logits(0), random_logits(1)
    assert torch.allclose(weak_alignment_loss(class_logits, noise_logits), walo_sum(class_logits, noise_logits))


def test_walo_gradients_in_closed_form():
    x, y = random_logits(0).requires_grad_(), random_logits(1).requires_grad_()
    grad_x, grad_y = torch.autograd.grad(weak_alignment_loss(x, y), (x, y))
    with torch.no_grad():
        n, sigma = x.numel(), x.std()
        s = 1 / ((sigma + 1e-6) * n)
        p, q = x.softmax(1), y.softmax(1)
        r = q.log() - p.log()
        divergence = (q * r).sum()
        expected_x = s * (p - q) - s * divergence / (sigma + 1e-6) * (x - x.mean()) / ((n - 1) * sigma)
        expected_y = s * q * (r - (q * r).sum(1, keepdim=True))
    assert torch.allclose(grad_x, expected_x, rtol=0, atol=1e-12)
    assert torch.allclose(grad_y, expected_y, rtol=0, atol=1e-12)


def test_walo_is_zero_exactly_where_predictions_agree():
    x = random_logits(0)
    row_shift = random_logits(2, (4, 1))
    assert abs(weak_alignment_loss(x, x + row_shift).item()) < 1e-12
    assert weak_alignment_loss(x, random_logits(1)).item() > 1e-3


def test_walo_shifts():
    """A constant per row of the noise logits, or one for all class logits, changes nothing."""
    x, y = random_logits(0), random_logits(1)
    value = weak_alignment_loss(x, y)
    assert torch.allclose(weak_alignment_loss(x, y + random_logits(2, (4, 1))), value)
    assert torch.allclose(weak_alignment_loss(x + 5, y), value)
    assert not torch.allclose(weak_alignment_loss(x + random_logits(2, (4, 1)), y), value)  # changes sigma


def test_walo_doubling_class_logits_halves_the_scale():
    """Predictions that differ by the same divergence weigh half as much at twice the spread."""
    x = random_logits(0)
    uniform = torch.zeros_like(x)
    ratio = weak_alignment_loss(2 * x, uniform) / weak_alignment_loss(x, uniform)
    divergences = [-(v.log_softmax(1).mean(1) + math.log(6)).sum() for v in (2 * x, x)]
    assert ratio.item() == pytest.approx((divergences[0] / divergences[1] / 2).item(), rel=1e-5)


def test_walo_of_constant_class_logits_is_scaled_by_epsilon_and_has_finite_gradients():
    x, y = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True), random_logits(1, (2, 3))
    q = y.softmax(1)
    divergence = (q * (q.log() + math.log(3))).sum()
    value = weak_alignment_loss(x, y)
    assert value.item() == pytest.approx((divergence / (1e-6 * 6)).item())
    assert torch.isfinite(torch.autograd.grad(value, x)[0]).all()


def test_walo_of_a_single_logit_is_zero():
    assert weak_alignment_loss(doubles([[3.0]]), doubles([[1.0]])).item() == 0


def test_walo_does_not_overflow_in_half_precision():
    """std * B * C = 3 * 32,000 is infinite in fp16, which would silently switch the loss off."""
    x = 3 * torch.randn(32, 1000, generator=torch.Generator().manual_seed(0))
    y = torch.randn(32, 1000, generator=torch.Generator().manual_seed(1))
    half = weak_alignment_loss(x.half(), y.half())
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(weak_alignment_loss(x, y).item(), rel=1e-2)
    assert half.item() > 0


def test_similarity_values():
    assert similarity_loss(doubles([[1, 0], [0, 1]]), doubles([[1, 0], [1, 0]])).item() == pytest.approx(0.5)
    x = random_logits(0)
    assert similarity_loss(x, 2 * x).item() == pytest.approx(0, abs=1e-12)


def test_two_cross_entropies_are_not_the_cross_entropy_of_fused_logits():
    value = head_cross_entropy(doubles([[3, 1]]), doubles([[1, 2]]), torch.tensor([0]), alpha=0.7)
    assert value.item() == pytest.approx(0.482828, abs=1e-6)
    fused = torch.nn.functional.cross_entropy(doubles([[2.4, 1.3]]), torch.tensor([0]))
    assert fused.item() == pytest.approx(0.287335, abs=1e-6)
