"""Losses of anchors. Numbers in brackets are those of the method's invariants."""

import pytest
import torch
import torch.nn.functional as F

from anprompt.prompts.anchors import additive_loss, extra_class_loss, hinge_loss, nearest, softplus_loss


def of(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("margin", "delta", "softplus"), [(0, 0.05, 0.71846), (0.1, 0.15, 0.77096), (0.2, 0.25, 0.82594)]
)
def test_values_and_gradients_of_softplus_and_hinge(margin, delta, softplus):
    """[12]"""
    classes, negative = of(0.30).requires_grad_(), of(0.25).requires_grad_()
    loss = softplus_loss(classes, negative, margin, 1.0)
    assert loss.item() == pytest.approx(softplus, abs=5e-6)
    assert hinge_loss(classes, negative, margin).item() == pytest.approx(delta, abs=1e-12)
    up, down = torch.autograd.grad(loss, [classes, negative])
    assert up.item() == pytest.approx(torch.sigmoid(of(delta)).item(), abs=1e-12)
    assert down.item() == -up.item() < 0


def test_kappa_bends_softplus_into_hinge():
    classes, negative = of(0.3, -0.4), of(0.1, 0.2)
    hinge = hinge_loss(classes, negative, 0.1)
    assert softplus_loss(classes, negative, 0.1, 1e4).item() == pytest.approx(hinge.item(), abs=1e-4)
    mild = F.softplus(3 * of(0.3, -0.5)).mean() / 3
    assert softplus_loss(classes, negative, 0.1, 3.0).item() == pytest.approx(mild.item(), abs=1e-12)


def test_hinge_leaves_anchors_alone_that_keep_the_margin():
    classes = of(0.1, 0.3).requires_grad_()
    hinge_loss(classes, of(0.25, 0.25), 0.1).backward()
    assert classes.grad.tolist() == [0.0, 0.5]


@pytest.mark.parametrize(("scale", "expected"), [(100, 5.006763), (10, 1.246567)])
def test_values_of_the_extra_class(scale, expected):
    """[13]"""
    loss = extra_class_loss(scale * of(0.30, 0.10, 0.20)[None], scale * of(0.25))
    assert loss.item() == pytest.approx(expected, abs=3e-6)  # ln(1 + e^5 + e^-5 + e^-15) is 5.0067604


def test_of_several_negative_texts_the_nearest_counts():
    """[14]"""
    anchors = F.normalize(torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1)
    texts = F.normalize(torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), dim=-1)
    slow = [max(float((anchor * text).sum()) for text in texts) for anchor in anchors]
    assert torch.allclose(nearest(anchors, texts), of(*slow), rtol=0, atol=1e-12)
    assert torch.allclose(nearest(anchors, texts[:1]), anchors @ texts[0], rtol=0, atol=1e-12)


def test_two_equal_anchors_are_one():
    """[15] In every mode."""
    logits, labels = of(3, 1, 2)[None], torch.tensor([0])
    for loss in (
        lambda n: softplus_loss(of(*[0.3] * n), of(*[0.25] * n), 0.1, 2.0),
        lambda n: hinge_loss(of(*[0.3] * n), of(*[0.25] * n), 0.1),
        lambda n: extra_class_loss(logits.expand(n, -1), of(*[2.5] * n)),
        lambda n: additive_loss(logits, labels, of(*[2.5] * n), 1.0),
    ):
        assert loss(2).item() == pytest.approx(loss(1).item(), abs=1e-15)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0])
def test_what_is_added_to_all_classes_teaches_nothing(alpha):
    """[10]"""
    logits, negative = (10 * of(0.3, 0.1, 0.2)[None]).requires_grad_(), of(2.5).requires_grad_()
    assert F.cross_entropy(logits, torch.tensor([0])).item() == pytest.approx(0.407606, abs=1e-6)
    loss = additive_loss(logits, torch.tensor([0]), negative, alpha)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    loss.backward()
    assert logits.grad.abs().max() < 1e-12 and negative.grad.abs().max() < 1e-12
