"""Estimators and critics: published values, a slow formula with gradients, and what each can and cannot see.

Numbers in brackets are those of the reconstruction's list of invariants.
"""

import math

import pytest
import torch

from anprompt.prompts.losses import similarity_loss
from anprompt.prompts.mutual_information import (
    CRITICS,
    ESTIMATORS,
    CosineCritic,
    RunningMean,
    build_critic,
    mutual_information_loss,
    sampled_infonce,
)
from tests.helpers import mi_oracle

S3 = [[2, 0, -1], [0, 1, 0], [-1, 0, 3]]


def doubles(rows):
    return torch.tensor(rows, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def shares(*shape, seed=9):
    return normal(*shape, seed=seed).softmax(dim=1)


def estimate(scores, estimator):
    """In nats, for a square matrix with the diagonal as positives."""
    loss = mutual_information_loss(scores, estimator=estimator).item()
    return math.log(len(scores)) - loss if estimator == "infonce" else -loss


# ------------------------------------------------------------------ values


def test_infonce_of_the_example():
    """[1]"""
    scores = doubles(S3)
    row, column = (mutual_information_loss(matrix).item() for matrix in (scores, scores.T))
    assert row == pytest.approx(0.262392, abs=1e-6) and column == pytest.approx(row, abs=1e-12)
    assert estimate(scores, "infonce") == pytest.approx(0.836221, abs=1e-6)
    assert estimate(scores, "infonce") <= math.log(3)


def test_estimates_over_all_pairs_of_the_example():
    """[2] With the pairs off the diagonal alone, DV would be 2.236617, beyond log 3."""
    scores = doubles(S3)
    assert estimate(scores, "dv") == pytest.approx(0.643918, abs=1e-6)
    assert estimate(scores, "nwj") == pytest.approx(0.572275, abs=1e-6)
    assert estimate(scores, "jsd") == pytest.approx(-1.261580, abs=1e-6)
    assert estimate(scores, "nwj") <= estimate(scores, "dv") <= math.log(3)
    off = scores[~torch.eye(3, dtype=torch.bool)]
    assert (scores.diag().mean() - off.exp().mean().log()).item() == pytest.approx(2.236617, abs=1e-6)


def test_scores_that_say_nothing():
    """[3]"""
    scores = torch.zeros(3, 3, dtype=torch.float64)
    assert mutual_information_loss(scores).item() == pytest.approx(math.log(3), abs=1e-12)
    assert estimate(scores, "dv") == pytest.approx(0, abs=1e-12)
    assert estimate(scores, "jsd") == pytest.approx(-2 * math.log(2), abs=1e-12)


def test_both_directions_of_a_matrix_that_is_not_symmetric():
    """[4]"""
    scores = doubles([[1, 0.5], [0.2, 0.8]])
    assert mutual_information_loss(scores).item() == pytest.approx(0.455782, abs=1e-6)
    assert mutual_information_loss(scores.T).item() == pytest.approx(0.462728, abs=1e-6)
    assert mutual_information_loss(scores, symmetric=True).item() == pytest.approx(0.459255, abs=1e-6)


@pytest.mark.parametrize(
    ("tau", "expected", "within"), [(1, 0.551445, 1e-6), (0.1, 9.080e-5, 1e-8), (0.07, 1.25e-6, 5e-9)]
)
def test_orthogonal_classes_at_temperatures(tau, expected, within):
    """[5]"""
    rows = torch.eye(3, dtype=torch.float64)
    assert mutual_information_loss(CosineCritic(tau)(rows, rows)).item() == pytest.approx(expected, abs=within)


def test_two_views_of_three_classes():
    """[6]"""
    soft, hard = doubles([[1, 0], [0, 1], [1, 1]]), doubles([[1, 0.2], [0.1, 1], [1, 0.8]])
    cosines = CosineCritic(1.0)(soft, hard)
    assert torch.allclose(cosines.diag(), doubles([0.9806, 0.9950, 0.9939]), atol=5e-5)
    loss = mutual_information_loss(CosineCritic(0.1)(soft, hard), symmetric=True)
    assert loss.item() == pytest.approx(0.144048, abs=1e-6)
    distance = mutual_information_loss(cosines, estimator="kgcoop")
    assert distance.item() == pytest.approx(0.010166, abs=1e-6)
    assert torch.allclose(distance, similarity_loss(soft, hard), rtol=0, atol=1e-12)  # KgCoOp's own


@pytest.mark.parametrize(
    ("tau", "loss", "slope"),
    [
        (0.01, 1.0e-7, -1.0e-5),
        (0.05, 0.6405, -9.46),
        (0.07, 1.3387, -10.54),
        (0.1, 2.0323, -8.69),
        (0.2, 2.9458, -4.74),
        (1.0, 3.7164, -0.98),
    ],
)
def test_the_gradient_vanishes_at_the_temperature_of_clip_and_not_at_its_own(tau, loss, slope):
    """[7] 50 classes, whose own cosine is larger than all others by 0.2."""
    gap = doubles(0.2).requires_grad_()
    value = mutual_information_loss((0.5 + gap * torch.eye(50, dtype=torch.float64)) / tau)
    value.backward()
    assert value.item() == pytest.approx(loss, rel=5e-2 if tau == 0.01 else 1e-4)
    assert gap.grad.item() == pytest.approx(slope, rel=5e-2 if tau == 0.01 else 5e-3)


def test_at_clips_temperature_the_visual_term_of_single_images_is_cross_entropy():
    """[8]"""
    features, text, labels = normal(5, 8), normal(4, 8, seed=1), torch.tensor([0, 3, 3, 1, 2])
    features, text = (torch.nn.functional.normalize(rows, dim=1) for rows in (features, text))
    loss = mutual_information_loss(CosineCritic(1 / 100.0)(features, text), labels)
    expected = torch.nn.functional.cross_entropy(100.0 * features @ text.T, labels)
    assert torch.allclose(loss, expected, rtol=0, atol=1e-12)


def test_soft_targets():
    """[11]"""
    logits, target = doubles([[3, 1, 2]]), doubles([[0.25, 0.75, 0]])
    value = mutual_information_loss(logits, target)
    assert value.item() == pytest.approx(1.907606, abs=1e-6)
    single = [mutual_information_loss(logits, torch.tensor([c])).item() for c in (0, 1)]
    assert value.item() == pytest.approx(0.25 * single[0] + 0.75 * single[1], abs=1e-12)


@pytest.mark.parametrize("kind", CRITICS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_order_of_classes_does_not_matter_and_their_correspondence_does(estimator, kind):
    """[13]"""
    critic = build_critic(kind, 8, tau=0.5, hidden=6, projected=5, generator=generator()).double()
    soft, hard, order = normal(5, 8), normal(5, 8, seed=1), torch.tensor([3, 0, 4, 1, 2])
    symmetric = estimator == "infonce"

    def loss(a, b):
        return mutual_information_loss(critic(a, b), estimator=estimator, symmetric=symmetric).item()

    value = loss(soft, hard)
    assert loss(soft[order], hard[order]) == pytest.approx(value, abs=1e-10)
    assert abs(loss(soft[order], hard) - value) > 1e-6
    same = soft[:1].expand(5, -1)
    assert loss(same, hard[order]) == pytest.approx(loss(same, hard), abs=1e-10)


def test_the_cosine_critic_does_not_see_lengths():
    """[16]"""
    soft, hard, lengths = normal(4, 8), normal(4, 8, seed=1), doubles([[0.5], [2], [30], [1]])
    critic = CosineCritic(0.07)
    assert torch.allclose(critic(lengths * soft, hard), critic(soft, hard), rtol=0, atol=1e-12)
    assert torch.allclose(critic(soft, lengths * hard), critic(soft, hard), rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimator", ["infonce", "dv"])
def test_an_unrestricted_critic_finds_all_there_is_whatever_the_features(estimator):
    """[17] log C: so a critic that memorises the classes leaves the prompts without a gradient."""
    score = doubles(20.0).requires_grad_()
    scores = score * (2 * torch.eye(3, dtype=torch.float64) - 1)
    assert estimate(scores, estimator) == pytest.approx(math.log(3), abs=1e-6)
    slope = torch.autograd.grad(mutual_information_loss(scores, estimator=estimator), score)[0]
    assert abs(slope.item()) < 1e-14


def test_sizes_of_the_critics():
    """[19] At the width of ViT-B/16; the context's 2,048 are tested with the other peers."""
    sizes = {
        kind: sum(
            parameter.numel()
            for parameter in build_critic(
                kind, 512, tau=0.07, hidden=256, projected=128, generator=generator()
            ).parameters()
        )
        for kind in CRITICS
    }
    assert sizes == {"cos": 0, "bilinear": 262_144, "separable": 328_448, "concat": 262_657}


@pytest.mark.parametrize(("classes", "ceiling"), [(5, 1.609), (19, 2.944), (50, 3.912), (51, 3.932), (500, 6.215)])
def test_no_estimate_is_above_the_logarithm_of_the_number_of_classes(classes, ceiling):
    """[20]"""
    scores = 200 * torch.eye(classes, dtype=torch.float64)
    assert estimate(scores, "infonce") == pytest.approx(ceiling, abs=1e-3)
    assert estimate(scores, "dv") == pytest.approx(ceiling, abs=1e-3)
    assert max(estimate(normal(classes, classes), name) for name in ("infonce", "dv", "nwj")) < ceiling


# ------------------------------------------------------------------ against the formula, pair by pair


def assert_same_with_gradients(fast, slow, inputs):
    assert torch.allclose(fast, slow, rtol=0, atol=1e-9)
    given, expected = (torch.autograd.grad(value, inputs, retain_graph=True) for value in (fast, slow))
    for one, other in zip(given, expected, strict=True):
        assert other.abs().max() > 1e-4
        assert torch.allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 0.0, 3.0]])
@pytest.mark.parametrize("kind", ["classes", "shares"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators_of_a_matrix_that_is_not_square(estimator, kind, weights):
    scores = normal(4, 6).requires_grad_()
    positives = torch.tensor([5, 0, 2, 2]) if kind == "classes" else shares(4, 6)
    target = mi_oracle.one_hot(positives, 6) if kind == "classes" else positives.tolist()
    slow = mi_oracle.information_loss(estimator, list(scores), target, weights)
    tensor = None if weights is None else doubles(weights)
    fast = mutual_information_loss(scores, positives, estimator=estimator, weights=tensor)
    assert_same_with_gradients(fast, slow, [scores])
    if weights is not None:
        assert (torch.autograd.grad(fast, scores)[0][2] == 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators_of_a_square_matrix(estimator, symmetric):
    scores = normal(5, 5).requires_grad_()
    fast = mutual_information_loss(scores, estimator=estimator, symmetric=symmetric and estimator == "infonce")
    assert_same_with_gradients(fast, mi_oracle.text_term([*scores], estimator, symmetric), [scores])


@pytest.mark.parametrize("kind", CRITICS)
def test_critics(kind):
    critic = build_critic(kind, 8, tau=0.3, hidden=6, projected=5, generator=generator()).double()
    with torch.no_grad():
        for index, parameter in enumerate(critic.parameters()):  # off the identity
            parameter.add_(0.1 * normal(*parameter.shape, seed=10 + index))
    a, b, direction = normal(3, 8).requires_grad_(), normal(4, 8, seed=1).requires_grad_(), normal(3, 4, seed=2)
    leaf = dict(critic.named_parameters())
    slow = mi_oracle.critic_scores(kind, a, b, 0.3, leaf, prefix="")
    slow = torch.stack([torch.stack(row) for row in slow])
    fast = critic(a, b)
    assert torch.allclose(fast, slow, rtol=0, atol=1e-9)
    seen = [parameter for name, parameter in leaf.items() if name != "last.bias"]  # adds to all scores alike
    assert_same_with_gradients((direction * fast).sum(), (direction * slow).sum(), [a, b, *seen])


def test_the_bilinear_critic_starts_as_the_cosine():
    a, b = (torch.nn.functional.normalize(normal(4, 8, seed=seed), dim=1) for seed in (0, 1))
    critic = build_critic("bilinear", 8, tau=0.07, hidden=6, projected=5, generator=generator()).double()
    assert torch.allclose(critic(a, b), CosineCritic(0.07)(a, b), rtol=0, atol=1e-12)


def test_critics_draw_from_their_own_generator():
    before = torch.get_rng_state()
    first, again, other = (
        build_critic(kind, 8, tau=0.07, hidden=6, projected=5, generator=generator(seed))
        for kind, seed in (("separable", 1), ("separable", 1), ("separable", 2))
    )
    build_critic("concat", 8, tau=0.07, hidden=6, projected=5, generator=generator())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.phi[0].weight, again.phi[0].weight)
    assert not torch.equal(first.phi[0].weight, other.phi[0].weight)
    assert not torch.equal(first.phi[0].weight, first.psi[0].weight)
    bound = 8**-0.5
    assert 0.9 * bound < first.phi[0].weight.abs().max() <= bound and first.phi[0].bias.abs().max() <= bound


# ------------------------------------------------------------------ Donsker-Varadhan with a moving denominator


def dv_gradient(scores, average=None):
    scores = scores.clone().requires_grad_()
    loss = mutual_information_loss(scores, estimator="dv", average=average)
    return loss.item(), torch.autograd.grad(loss, scores)[0]


def test_the_first_step_has_its_own_mean_as_denominator():
    """[18]"""
    plain, averaged = dv_gradient(normal(4, 4)), dv_gradient(normal(4, 4), RunningMean(0.99))
    assert averaged[0] == plain[0] and torch.allclose(averaged[1], plain[1], rtol=0, atol=1e-12)


def test_a_rate_of_zero_is_the_plain_gradient():
    average = RunningMean(0.0)
    for seed in range(3):
        plain, averaged = dv_gradient(normal(4, 4, seed=seed)), dv_gradient(normal(4, 4, seed=seed), average)
        average.advance()
        assert torch.allclose(averaged[1], plain[1], rtol=0, atol=1e-12)


def test_the_denominator_is_the_average_of_all_steps():
    average, denominator = RunningMean(0.9), None
    for seed in range(4):
        scores = normal(3, 3, seed=seed).requires_grad_()
        now = scores.exp().mean().item()
        denominator = now if denominator is None else 0.9 * denominator + 0.1 * now
        target = mi_oracle.one_hot(range(3), 3)
        slow = mi_oracle.information_loss("dv", list(scores), target, log_denominator=math.log(denominator))
        for _ in range(2):  # to look again changes nothing
            fast = mutual_information_loss(scores, estimator="dv", average=average)
        average.advance()
        assert_same_with_gradients(fast, slow, [scores])
        assert average.log_mean.item() == pytest.approx(math.log(denominator), abs=1e-12)


def test_the_average_does_not_overflow():
    average = RunningMean(0.99)
    for size in (800.0, 100.0, 900.0):
        _, gradient = dv_gradient(torch.full((3, 3), size, dtype=torch.float64), average)
        average.advance()
        assert torch.isfinite(gradient).all()


# ------------------------------------------------------------------ fewer negatives


@pytest.mark.parametrize("kind", ["cos", "concat"])
def test_all_negatives_in_a_circle_are_the_whole_matrix(kind):
    critic = build_critic(kind, 8, tau=0.5, hidden=6, projected=5, generator=generator()).double()
    soft, hard = normal(5, 8).requires_grad_(), normal(5, 8, seed=1).requires_grad_()
    offsets = torch.tensor([3, 1, 4, 2])
    whole = mutual_information_loss(critic(soft, hard), symmetric=True)
    assert_same_with_gradients(sampled_infonce(critic, soft, hard, offsets, symmetric=True), whole, [soft, hard])
    rows, labels, weights = normal(3, 8, seed=2).requires_grad_(), torch.tensor([4, 0, 4]), doubles([1, 2, 1])
    whole = mutual_information_loss(critic(rows, hard), labels, weights=weights)
    part = sampled_infonce(critic, rows, hard, offsets, labels, weights=weights)
    assert_same_with_gradients(part, whole, [rows, hard])


def test_two_negatives_are_the_two_classes_that_were_drawn():
    critic, soft, hard = CosineCritic(0.5), normal(5, 8).requires_grad_(), normal(5, 8, seed=1).requires_grad_()
    scores, total = critic(soft, hard), 0
    for c in range(5):
        for among in ([scores[c, (c + k) % 5] for k in (0, 1, 3)], [scores[(c - k) % 5, c] for k in (0, 1, 3)]):
            total = total + torch.log(sum(torch.exp(score) for score in among)) - scores[c, c]
    assert_same_with_gradients(
        sampled_infonce(critic, soft, hard, torch.tensor([1, 3]), symmetric=True), total / 10, [soft, hard]
    )


# ------------------------------------------------------------------ mistakes


def test_mistakes_are_named():
    scores = normal(3, 4)
    with pytest.raises(ValueError, match="estimator: expected one of infonce, dv, nwj, jsd, kgcoop, got 'mine'"):
        mutual_information_loss(scores, torch.zeros(3, dtype=torch.long), estimator="mine")
    with pytest.raises(ValueError, match="positives: expected columns of the positives, as the matrix is 3 x 4"):
        mutual_information_loss(scores)
    with pytest.raises(ValueError, match="symmetric: expected the diagonal as positives"):
        mutual_information_loss(scores, torch.zeros(3, dtype=torch.long), symmetric=True)
    with pytest.raises(ValueError, match="symmetric: expected one row per class"):
        sampled_infonce(CosineCritic(1), scores, scores, torch.tensor([1]), torch.tensor([0, 1, 2]), symmetric=True)
    with pytest.raises(ValueError, match="critic: expected one of cos, bilinear, separable, concat, got 'mlp'"):
        build_critic("mlp", 8, tau=0.07, hidden=6, projected=5, generator=generator())
