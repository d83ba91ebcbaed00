"""Formulas of semi-supervised trainers against plain arithmetic."""

import math

import pytest
import torch
from torch import nn

from dassl.modeling.ops.utils import create_onehot, ema_model_update, linear_rampup, sharpen_prob, sigmoid_rampup


def test_sharpening_scales_powers_to_sum_to_one():
    found = sharpen_prob(torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], dtype=torch.float64))
    expected = [[0.36 / 0.46, 0.09 / 0.46, 0.01 / 0.46], [0.04 / 0.44, 0.04 / 0.44, 0.36 / 0.44]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)
    soft = sharpen_prob(torch.tensor([[0.64, 0.36]], dtype=torch.float64), temperature=0.5)
    torch.testing.assert_close(soft, torch.tensor([[0.8 / 1.4, 0.6 / 1.4]], dtype=torch.float64), rtol=0, atol=1e-9)


def test_labels_as_rows_with_a_one():
    rows = create_onehot(torch.tensor([2, 0]), 4)
    assert rows.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert rows.dtype == torch.float32


@pytest.mark.parametrize(("current", "share"), [(-3, 0.0), (0, 0.0), (5, 0.25), (20, 1.0), (21, 1.0)])
def test_ramps(current, share):
    assert linear_rampup(current, 20) == pytest.approx(share, abs=1e-12)
    assert sigmoid_rampup(current, 20) == pytest.approx(math.e ** (-5 * (1 - share) ** 2), abs=1e-12)


@pytest.mark.parametrize("ramp", [linear_rampup, sigmoid_rampup])
def test_a_ramp_has_a_length(ramp):
    with pytest.raises(ValueError, match="rampup_length: expected more than 0, got 0"):
        ramp(1, 0)


def test_an_average_of_models_moves_towards_the_newest():
    model, average = nn.Linear(2, 1).double(), nn.Linear(2, 1).double()
    before = [parameter.tolist() for parameter in average.parameters()]
    ema_model_update(model, average, 0.9)
    for old, new, found in zip(before, model.parameters(), average.parameters(), strict=True):
        expected = 0.9 * torch.tensor(old, dtype=torch.float64) + (1 - 0.9) * new
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert found.requires_grad and found.grad_fn is None
