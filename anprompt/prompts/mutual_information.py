"""Mutual information between two views, bounded from below on a matrix of scores.

A critic scores pairs of features, ``S[i, j] = critic(a_i, b_j)``; an estimator turns the matrix into a loss, smallest
where the estimate of the mutual information is largest. Soft and hand-written prompts are both functions of the class
index: their true mutual information is log C as soon as all classes differ. So what pulls these two views together is
the critic's restriction and its temperature, not the bound. Equations and their sources: ``docs/method.md``.

Notation: ``N`` rows, ``M`` columns, ``C`` classes, ``E`` width of the features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.prompts.prompted_clip import unit
from anprompt.utils.config import require

ESTIMATORS = ("infonce", "dv", "nwj", "jsd", "kgcoop")
CRITICS = ("cos", "bilinear", "separable", "concat")


# ---------------------------------------------------------------------------------------------- estimators


class RunningMean:
    """Moving average of ``mean(exp(S))`` over steps: the denominator of the Donsker-Varadhan gradient (MINE).

    A step only looks (:meth:`with_latest`), :meth:`advance` moves on: a step may be computed again, or replayed. All is
    on the device, in logarithms, in memory that stays in place.

    Args:
        rate: share of the past in the average.
    """

    def __init__(self, rate: float, device: torch.device | str = "cpu"):
        self.rate = rate
        self.log_mean = torch.full((), math.nan, dtype=torch.float64, device=device)  # NaN: nothing seen yet
        self.latest = torch.full_like(self.log_mean, math.nan)

    def with_latest(self, log_mean: Tensor) -> Tensor:
        """Logarithm of the average that counts this step's mean in; the first one is the average."""
        self.latest.copy_(log_mean.detach())
        past, rate = self.log_mean, torch.full_like(self.latest, self.rate)
        joined = torch.logaddexp(past + rate.log(), self.latest + (1 - rate).log())
        return torch.where(past.isnan(), self.latest, joined).to(log_mean.dtype)

    def advance(self) -> None:
        """Keep the average with the last step's mean."""
        self.log_mean.copy_(self.with_latest(self.latest))


def mutual_information_loss(
    scores: Tensor,
    positives: Tensor | None = None,
    *,
    estimator: str = "infonce",
    symmetric: bool = False,
    weights: Tensor | None = None,
    average: RunningMean | None = None,
) -> Tensor:
    """Minimised where the estimator's lower bound on the mutual information is largest.

    ``infonce`` is the mean cross-entropy of a row's positive among its columns, so ``log M`` minus it bounds the mutual
    information (van den Oord et al., 2018). ``dv`` (Donsker-Varadhan, as in MINE), ``nwj`` and ``jsd`` (Deep InfoMax)
    are minus their estimate. Their product of marginals is all N * M pairs, positives included: without those, ``dv``
    would not be bounded by log C. ``kgcoop`` is one minus the mean positive score, a distance for scores that are
    cosines.

    Args:
        scores: ``[N, M]``.
        positives: column of each row's positive, ``[N]``, or shares ``[N, M]`` that add up to one in each row; None:
            the diagonal of a square matrix.
        symmetric: ``infonce`` alone: the mean of rows against columns and columns against rows. It needs the diagonal.
        weights: of the rows, ``[N]``, up to a factor; rows of weight zero do not count. None: all count alike.
        average: ``dv`` alone: the gradient of its logarithm takes its denominator from here (MINE's correction).

    Raises:
        ValueError: an unknown estimator, or ``symmetric`` or a missing ``positives`` on a matrix without a diagonal.
    """
    require(estimator in ESTIMATORS, f"estimator: expected one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    rows, columns = scores.shape
    if positives is None:
        require(rows == columns, f"positives: expected columns of the positives, as the matrix is {rows} x {columns}")
        targets = torch.arange(rows, device=scores.device)
    else:
        require(not symmetric, "symmetric: expected the diagonal as positives (None), since columns have theirs there")
        targets = positives
    if estimator == "infonce":
        loss = _infonce(scores, targets, weights)
        return (loss + _infonce(scores.T, targets, weights)) / 2 if symmetric else loss
    if estimator == "jsd":
        joint = _row_mean(_at(-F.softplus(-scores), targets), weights)
        return _row_mean(F.softplus(scores).mean(dim=1), weights) - joint
    joint = _row_mean(_at(scores, targets), weights)
    if estimator == "kgcoop":
        return 1 - joint
    log_mean = _log_mean_exp(scores, weights)
    if estimator == "nwj":
        return (log_mean - 1).exp() - joint
    if average is not None:
        log_mean = _with_denominator(log_mean, average.with_latest(log_mean))
    return log_mean - joint


def _infonce(scores: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    return _row_mean(scores.logsumexp(dim=1) - _at(scores, targets), weights)


def _at(values: Tensor, targets: Tensor) -> Tensor:
    """Each row's value at its positive, or its mean over shares: ``[N, M]`` -> ``[N]``."""
    if targets.dim() == 1:
        return values.gather(1, targets[:, None])[:, 0]
    return (targets * values).sum(dim=1)


def _row_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of ``[N]``."""
    return values.mean() if weights is None else (weights * values).sum() / weights.sum()


def _log_mean_exp(scores: Tensor, weights: Tensor | None) -> Tensor:
    """Logarithm of the mean of ``exp(S)`` over all pairs."""
    rows, columns = scores.shape
    if weights is None:
        return scores.logsumexp(dim=(0, 1)) - math.log(rows * columns)
    shares = (weights / weights.sum()).log() - math.log(columns)
    return (scores + shares[:, None]).logsumexp(dim=(0, 1))


def _with_denominator(log_mean: Tensor, log_denominator: Tensor) -> Tensor:
    """The value of ``log_mean``, and the gradient of ``mean(exp(S)) / denominator``."""
    ratio = (log_mean.detach() - log_denominator).exp()
    return log_mean.detach() + ratio * (log_mean - log_mean.detach())


def sampled_infonce(
    critic: nn.Module,
    rows: Tensor,
    columns: Tensor,
    offsets: Tensor,
    positives: Tensor | None = None,
    *,
    symmetric: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """InfoNCE with K negatives per row, for critics that are dear: the classes ``offsets`` further on, in a circle.

    With ``offsets`` drawn without repetition every other class is equally likely a negative. Where row i is class i,
    each column has K of the rows as its negatives, and the same scores serve both directions.

    Args:
        critic: scores ``[..., N, E]`` against ``[..., M, E]``.
        rows: ``[N, E]``.
        columns: ``[C, E]``, one per class.
        offsets: ``[K]``, distinct, in 1..C-1.
        positives: classes of the rows, ``[N]``; None: row i is class i.
        symmetric, weights: as for :func:`mutual_information_loss`.
    """
    every = torch.arange(len(columns), device=columns.device)
    steps = F.pad(offsets, (1, 0))  # the positive first
    chosen = ((every if positives is None else positives)[:, None] + steps) % len(columns)  # [N, 1 + K]
    scores = critic(rows[:, None], columns[chosen])[:, 0]
    loss = _infonce(scores, torch.zeros_like(chosen[:, 0]), weights)
    if not symmetric:
        return loss
    require(positives is None, "symmetric: expected one row per class, in order (positives None)")
    of_columns = scores[(every[:, None] - steps) % len(columns), torch.arange(len(steps), device=steps.device)]
    return (loss + _infonce(of_columns, torch.zeros_like(every), weights)) / 2


# ---------------------------------------------------------------------------------------------- critics


class CosineCritic(nn.Module):
    """``cos(a_i, b_j) / tau``; nothing to learn."""

    def __init__(self, tau: float):
        super().__init__()
        self.tau = tau

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``[..., N, E]`` and ``[..., M, E]`` -> scores ``[..., N, M]``, as all critics."""
        return unit(a) @ unit(b).mT / self.tau


class BilinearCritic(nn.Module):
    """``a_i^T A b_j / tau``; A starts as the identity, and so as the cosine of unit features."""

    def __init__(self, width: int, tau: float):
        super().__init__()
        self.tau = tau
        self.matrix = nn.Parameter(torch.eye(width))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ self.matrix @ b.mT / self.tau


class SeparableCritic(nn.Module):
    """``cos(phi(a_i), psi(b_j)) / tau`` with a small network for each view."""

    def __init__(self, width: int, hidden: int, projected: int, tau: float, generator: torch.Generator):
        super().__init__()
        self.tau = tau
        self.phi, self.psi = (
            nn.Sequential(_linear(width, hidden, generator), nn.ReLU(), _linear(hidden, projected, generator))
            for _ in range(2)
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return unit(self.phi(a)) @ unit(self.psi(b)).mT / self.tau


class ConcatCritic(nn.Module):
    """One network for the two features side by side, ``[a_i; b_j]`` -> one number (MINE's). No temperature."""

    def __init__(self, width: int, hidden: int, generator: torch.Generator):
        super().__init__()
        self.first = _linear(2 * width, hidden, generator)
        self.last = _linear(hidden, 1, generator)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        left, right = self.first.weight.chunk(2, dim=1)  # the first layer of a pair is a sum: no pair is written out
        hidden = (a @ left.T)[..., :, None, :] + (b @ right.T)[..., None, :, :] + self.first.bias
        return self.last(hidden.relu())[..., 0]


def build_critic(
    kind: str, width: int, *, tau: float, hidden: int, projected: int, generator: torch.Generator
) -> nn.Module:
    """The critic of that name for features of ``width``.

    Args:
        tau: temperature; ``concat`` has none.
        hidden, projected: widths inside ``separable``; ``concat`` has the first.
        generator: what weights are drawn from: no other random number of a run depends on the critic.
    """
    require(kind in CRITICS, f"critic: expected one of {', '.join(CRITICS)}, got {kind!r}")
    if kind == "cos":
        return CosineCritic(tau)
    if kind == "bilinear":
        return BilinearCritic(width, tau)
    if kind == "separable":
        return SeparableCritic(width, hidden, projected, tau, generator)
    return ConcatCritic(width, hidden, generator)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear map with PyTorch's usual start, drawn from ``generator``."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer
