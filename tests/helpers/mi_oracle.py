"""Slow formulations of E2MIM, pair by pair: independent of ``anprompt`` and ``trainers``."""

import math
from collections import deque

import torch

from tests.helpers.oracle import cross_entropy, normalise
from tests.helpers.peer_oracle import context_text, plain_image, scale


def softplus(x):
    return torch.log(1 + torch.exp(x))


def information_loss(estimator, rows, shares, weights=None, log_denominator=None):
    """``rows``: lists of scores; ``shares``: lists of the same shape, each row's adding up to one."""
    count, columns = len(rows), len(rows[0])
    weights = [1.0] * count if weights is None else weights
    weights = [float(weight) / float(sum(weights)) for weight in weights]
    pairs = [(i, j) for i in range(count) for j in range(columns)]

    def joint(function):
        return sum(weights[i] * shares[i][j] * function(rows[i][j]) for i, j in pairs)

    def marginals(function):
        return sum(weights[i] / columns * function(rows[i][j]) for i, j in pairs)

    if estimator == "infonce":
        total = 0
        for i in range(count):
            among = sum(torch.exp(score) for score in rows[i])
            total = total - weights[i] * sum(
                shares[i][j] * torch.log(torch.exp(rows[i][j]) / among) for j in range(columns)
            )
        return total
    if estimator == "dv":
        mean = marginals(torch.exp)
        if log_denominator is not None:  # its gradient, with another denominator; its value is the true one
            surrogate = mean / math.exp(log_denominator)
            return torch.log(mean).detach() + surrogate - surrogate.detach() - joint(lambda score: score)
        return torch.log(mean) - joint(lambda score: score)
    if estimator == "nwj":
        return marginals(lambda score: torch.exp(score - 1)) - joint(lambda score: score)
    if estimator == "jsd":
        return marginals(softplus) + joint(lambda score: softplus(-score))
    assert estimator == "kgcoop"
    return 1 - joint(lambda score: score)


def one_hot(positives, columns):
    return [[1.0 if j == int(p) else 0.0 for j in range(columns)] for p in positives]


def dense(matrix, weight, bias):
    return weight @ matrix + bias


def critic_score(kind, a, b, tau, leaf, prefix="critic."):
    """Of one pair of features; ``leaf``: the learnables by name."""
    if kind == "cos":
        return (normalise(a) * normalise(b)).sum() / tau
    if kind == "bilinear":
        matrix = leaf[f"{prefix}matrix"]
        return sum(a[k] * (matrix[k] * b).sum() for k in range(len(a))) / tau

    def network(names, x):
        first, last = names
        hidden = torch.clamp(dense(x, leaf[f"{prefix}{first}.weight"], leaf[f"{prefix}{first}.bias"]), min=0)
        return dense(hidden, leaf[f"{prefix}{last}.weight"], leaf[f"{prefix}{last}.bias"])

    if kind == "separable":
        left, right = network(("phi.0", "phi.2"), a), network(("psi.0", "psi.2"), b)
        return (normalise(left) * normalise(right)).sum() / tau
    return network(("first", "last"), torch.cat([a, b]))[0]


def critic_scores(kind, a, b, tau, leaf, prefix="critic."):
    return [[critic_score(kind, row, column, tau, leaf, prefix) for column in b] for row in a]


def transpose(rows):
    return [[row[j] for row in rows] for j in range(len(rows[0]))]


def text_term(scores, estimator, symmetric=True, log_denominator=None):
    """``scores``: ``C`` lists of ``C``."""
    shares = one_hot(range(len(scores)), len(scores))
    loss = information_loss(estimator, scores, shares, log_denominator=log_denominator)
    if symmetric and estimator == "infonce":
        return (loss + information_loss(estimator, transpose(scores), shares)) / 2
    return loss


def class_mean(features, labels, wanted):
    members = [feature for feature, label in zip(features, labels.tolist(), strict=True) if label == wanted]
    return normalise(sum(members) / len(members))


def visual_term(kind, features, labels, text, tau, leaf, estimator, view="proto", shares=None, log_denominator=None):
    """``[C_b, C]``: one row per class of the batch, or per image; rows against columns alone."""
    if view == "proto":
        present = sorted(set(labels.tolist()))
        rows, targets = [class_mean(features, labels, c) for c in present], one_hot(present, len(text))
    else:
        rows = list(features)
        targets = one_hot(labels, len(text)) if shares is None else shares.tolist()
    scores = critic_scores(kind, rows, text, tau, leaf)
    return information_loss(estimator, scores, targets, log_denominator=log_denominator)


def fuse(text, features, labels, eta):
    """Text features of the batch's classes joined with their visual means."""
    present = set(labels.tolist())
    return [
        normalise(row + eta * class_mean(features, labels, c)) if c in present else row for c, row in enumerate(text)
    ]


def soft_cross_entropy(logits, shares):
    total = 0
    for row, weights in zip(logits, shares, strict=True):
        log_sum = torch.log(torch.exp(row).sum())
        total = total + sum(weight * (log_sum - score) for weight, score in zip(weights, row, strict=True))
    return total / len(logits)


def e2mim(oracle, leaf, names, tails, images, labels, hand_written, mixed, options, shares=None):
    """Loss and logits. ``mixed``: unit features ``[B, E]`` of the mixed images; ``shares``: their classes, if inter."""
    text = context_text(oracle, leaf["ctx"], names, tails, options["position"])
    logits = scale(oracle) * plain_image(oracle, images) @ text.T
    loss = cross_entropy(logits, labels)
    kind, tau, estimator = options["critic"], options["tau"], options["estimator"]
    if options["mi"]:
        soft = text if options["eta"] is None else fuse(text, mixed, labels, options["eta"])
        scores = critic_scores(kind, soft, hand_written, tau, leaf)
        loss = loss + options["mi"] * text_term(scores, estimator, options["symmetric"])
    if options["vis"]:
        view = "sample" if shares is not None else options["view"]
        loss = loss + options["vis"] * visual_term(kind, mixed, labels, text, tau, leaf, estimator, view, shares)
    if options["ce"]:
        targets = one_hot(labels, len(text)) if shares is None else shares
        loss = loss + options["ce"] * soft_cross_entropy(scale(oracle) * mixed @ text.T, targets)
    return loss, logits


# ------------------------------------------------------------------ partners, one image after the other


class SlowQueue:
    """The last few items of every class, and which slot each is in."""

    def __init__(self, classes, length):
        self.length = length
        self.items = [deque(maxlen=length) for _ in range(classes)]
        self.pushed = [0] * classes

    def push(self, items, labels):
        for item, label in zip(items, labels.tolist(), strict=True):
            self.items[label].append((self.pushed[label] % self.length, item))
            self.pushed[label] += 1

    def best(self, label, draws):
        held = self.items[label]
        return max(held, key=lambda entry: draws[entry[0]])[1] if held else None


def partner(i, items, labels, draws, mode, queue=None):
    """Item and label of the partner of image i."""
    label = int(labels[i])
    if mode == "intra":
        candidates = [j for j in range(len(labels)) if j != i and int(labels[j]) == label]
    else:
        candidates = [j for j in range(len(labels)) if int(labels[j]) != label]
    if candidates:
        j = max(candidates, key=lambda j: float(draws.among_batch[i, j]))
        return items[j], int(labels[j])
    held = queue.best(label, draws.among_queue[i].tolist()) if queue is not None and mode == "intra" else None
    return (items[i] if held is None else held), label
