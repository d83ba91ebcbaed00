"""Slow formulation of GA2-CLIP, number by number: independent of ``anprompt`` and ``trainers``."""

import torch

from tests.helpers.oracle import cross_entropy, normalise
from tests.helpers.peer_oracle import context_text, scale


def coupled(weight, bias, hard, soft, kept=None):
    """``[K, D]``: every number of every prompt by itself."""
    rows = []
    for k, (h, s) in enumerate(zip(hard, soft, strict=True)):
        joined = torch.cat([h, s])
        row = []
        for d in range(len(bias)):
            value = (weight[d] * joined).sum() + bias[d]
            value = value if value > 0 else 0 * value
            row.append(value if kept is None else kept[k][d] * value)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def clip_features(oracle, clips, appended, deep):
    """``[B, T, 3, H, W]``: frames as images, each projected, then averaged, and only then of unit length."""
    rows, _ = oracle.image(torch.cat([*clips]), deep, insert=False, appended=appended)
    frames = [row @ oracle.weights["visual.proj"] for row in rows]
    count = clips.shape[1]
    return torch.stack([normalise(sum(frames[i : i + count]) / count) for i in range(0, len(frames), count)])


def anchor_term(mode, s, text, negative, anchors, logits, labels, options):
    """Anchor by anchor; of ``additive``, what it adds to the cross-entropy of the clips."""
    total, shift = 0, 0
    for anchor in anchors:
        classes = [(anchor * t).sum() for t in text]
        generic = [(anchor * q).sum() for q in negative]
        nearest, nearest_negative = max(classes), max(generic)
        delta = nearest - nearest_negative + options["margin"]
        if mode == "softplus":
            total = total + torch.log(1 + torch.exp(options["kappa"] * delta)) / options["kappa"]
        elif mode == "hinge":
            total = total + (delta if delta > 0 else 0 * delta)
        elif mode == "extra_class":
            among = sum(torch.exp(s * cosine) for cosine in [*classes, nearest_negative])
            total = total - torch.log(torch.exp(s * nearest_negative) / among)
        shift = shift + nearest_negative / len(anchors)
    if mode == "additive":
        moved = torch.stack([torch.stack([z + s * options["alpha"] * shift for z in row]) for row in logits])
        return cross_entropy(moved, labels) - cross_entropy(logits, labels)
    return options["weight"] * total / len(anchors)


def ga2clip(oracle, leaf, names, tails, clips, labels, *, depths, mode="none", hard=None, kept=None, anchors=(),
            negative_ids=None, words=(), **options):  # fmt: skip
    """Loss and logits; ``leaf``: what is learned, by name. ``kept`` ``[K, D]``, or ``[C, K, D]``."""
    context = leaf["ctx"]
    if hard is not None:
        weight, bias = leaf["coupling.weight"], leaf["coupling.bias"]
        masks = kept if kept is not None and kept.dim() == 3 else [kept]
        context = torch.stack([coupled(weight, bias, hard, leaf["ctx"], mask) for mask in masks])
        context = context if len(context) > 1 else context[0]
    deep_text = {layer + 2: leaf[f"deep_text.{layer}"] for layer in range(depths[0] - 1)}
    text = context_text(oracle, context, names, tails, behind=words, deep=deep_text)
    vision = [leaf[f"vision.{layer}"] for layer in range(depths[1])]
    placed = (vision[0], dict(enumerate(vision[1:], 2))) if vision else (None, {})
    s = scale(oracle)
    logits = s * clip_features(oracle, clips, *placed) @ text.T
    loss = cross_entropy(logits, labels)
    if mode != "none":
        negative = normalise(oracle.text(negative_ids))
        features = clip_features(oracle, anchors, *placed)
        loss = loss + anchor_term(mode, s, text, negative, features, logits, labels, options)
    return loss, logits
