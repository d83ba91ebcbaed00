"""Slow textbook formulations of the peers, on ``oracle.py``: independent of ``anprompt`` and ``trainers``.

Texts come as lists of token ids without start and end; ``learner`` is what a method learns, in the words of its paper.
"""

import math

import torch

from tests.helpers.oracle import cross_entropy, normalise

START, END, CONTEXT = 49406, 49407, 77


def sentence(oracle, pieces):
    """One text as embeddings ``[77, D]`` and its end row, from ``pieces``: lists of ids, or vectors ``[M, D]``."""
    rows = []
    for piece in [[START], *pieces, [END]]:
        rows += list(piece) if torch.is_tensor(piece) else [oracle.weights["token_embedding.weight"][i] for i in piece]
    padding = [oracle.weights["token_embedding.weight"][0]] * (CONTEXT - len(rows))
    return torch.stack([*rows, *padding]), len(rows) - 1


def around(context, name, tail, position):
    """The pieces of one prompt: ``tail`` are the ids behind the name."""
    half = len(context) // 2
    return {
        "end": [context, name, tail],
        "middle": [context[:half], name, context[half:], tail],
        "front": [name, context, tail],
    }[position]


def context_text(oracle, context, names, tails, position="end", behind=(), deep=None):
    """Unit text features ``[C, E]``: ``context`` is ``[M, D]``, or ``[C, M, D]`` with one context per class.

    ``behind``: ids of fixed words between the context and the name. ``deep``: ``{layer: [K, D]}`` overwritten behind
    the start token.
    """
    texts = []
    for c, (name, tail) in enumerate(zip(names, tails, strict=True)):
        own = context[c] if context.dim() == 3 else context
        texts.append(sentence(oracle, around(own, [*behind, *name], tail, position)))
    embeddings, ends = torch.stack([rows for rows, _ in texts]), torch.tensor([end for _, end in texts])
    return normalise(oracle.text(None, deep, insert=False, embeddings=embeddings, eot=ends))


def plain_image(oracle, images):
    return normalise(oracle.image(images)[0] @ oracle.weights["visual.proj"])


def scale(oracle):
    return torch.exp(oracle.weights["logit_scale"])


def coop(oracle, context, names, tails, images, labels, position="end"):
    """Loss and logits of CoOp."""
    logits = scale(oracle) * plain_image(oracle, images) @ context_text(oracle, context, names, tails, position).T
    return cross_entropy(logits, labels), logits


def kgcoop(oracle, context, names, tails, images, labels, frozen_text, weight):
    text = context_text(oracle, context, names, tails)
    logits = scale(oracle) * plain_image(oracle, images) @ text.T
    cosines = [(text[c] * frozen_text[c]).sum() for c in range(len(text))]
    return cross_entropy(logits, labels) + weight * (1 - sum(cosines) / len(cosines)), logits


def cocoop(oracle, context, down, up, names, tails, images, labels):
    """``down`` and ``up``: (weight, bias) of the two layers. Image by image, class by class."""
    rows = []
    for feature in plain_image(oracle, images):
        hidden = torch.clamp(down[0] @ feature + down[1], min=0)
        shift = up[0] @ hidden + up[1]
        shifted = torch.stack([vector + shift for vector in context])
        text = [context_text(oracle, shifted, [n], [t])[0] for n, t in zip(names, tails, strict=True)]
        rows.append(torch.stack([scale(oracle) * (feature * one).sum() for one in text]))
    logits = torch.stack(rows)
    return cross_entropy(logits, labels), logits


def maple(oracle, context, deep, maps, names, tails, words, images, labels):
    """``context`` ``[K, Dt]``, ``deep``: those of layers 2, 3, ..; ``maps``: (weight, bias) for layers 1, 2, ..;
    ``words``: ids between the context and the name."""
    prompts = [context, *deep]
    vision = [prompt @ weight.T + bias for prompt, (weight, bias) in zip(prompts, maps, strict=True)]
    text = context_text(oracle, context, names, tails, behind=words, deep=dict(enumerate(deep, 2)))
    class_row, _ = oracle.image(images, dict(enumerate(vision[1:], 2)), insert=False, appended=vision[0])
    logits = scale(oracle) * normalise(class_row @ oracle.weights["visual.proj"]) @ text.T
    return cross_entropy(logits, labels), logits


def mean_text(oracle, ids):
    """``[T, C, 77]`` ids of T templates -> unit means of the raw features ``[C, E]``."""
    return normalise(sum(oracle.text(template) for template in ids) / len(ids))


def promptsrc(oracle, text_prompts, vision_prompts, names, tails, frozen_text, images, labels, text_w=25, image_w=10):
    """``*_prompts``: those of layers 1, 2, .."""
    text = context_text(oracle, text_prompts[0], names, tails, deep=dict(enumerate(text_prompts[1:], 2)))
    deep = dict(enumerate(vision_prompts[1:], 2))
    class_row, _ = oracle.image(images, deep, insert=False, appended=vision_prompts[0])
    image, frozen_image = normalise(class_row @ oracle.weights["visual.proj"]), plain_image(oracle, images)
    logits, frozen = scale(oracle) * image @ text.T, scale(oracle) * frozen_image @ frozen_text.T
    kl = 0
    for row, target in zip(logits, frozen, strict=True):
        q, p = torch.exp(row) / torch.exp(row).sum(), torch.exp(target) / torch.exp(target).sum()
        kl = kl + sum(p[c] * (torch.log(p[c]) - torch.log(q[c])) for c in range(len(p)))
    loss = cross_entropy(logits, labels)
    loss = loss + text_w * sum((text - frozen_text).abs().flatten()) / text.numel()
    loss = loss + image_w * sum((image - frozen_image).abs().flatten()) / image.numel()
    return loss + kl / logits.numel(), logits


def shared_map(learner, tower, layer):
    """Tokens of the ``layer``-th layer that has any, one after the other: (W + A_i B_i) r + b_i."""
    part = {name.removeprefix(f"{tower}_aligner."): value for name, value in learner.items()}
    matrix = part["weight"] + sum(
        torch.outer(part["up"][layer][:, rank], part["down"][layer][rank]) for rank in range(part["up"].shape[-1])
    )
    return torch.stack([matrix @ token + part["bias"][layer] for token in learner["tokens"]])


def mmrlpp(oracle, learner, ids, images, labels, layers, *, beta, alpha, weight):
    """Loss, and the logits of the class and the representation head."""
    clip = oracle.weights
    tokens = {
        tower: {layer: shared_map(learner, tower, i) for i, layer in enumerate(layers)} for tower in ("text", "vision")
    }
    text = normalise(oracle.text(ids, tokens["text"], beta=beta))
    class_row, rows = oracle.image(images, tokens["vision"], beta=beta)
    mean = torch.stack([image.sum(0) / len(image) for image in rows])
    projected = mean @ clip["visual.proj"] + (mean @ learner["prototype_proj.up"]) @ learner["prototype_proj.down"]
    features = normalise(class_row @ clip["visual.proj"]), normalise(projected)
    logits = [scale(oracle) * feature @ text.T for feature in features]
    loss = alpha * cross_entropy(logits[0], labels) + (1 - alpha) * cross_entropy(logits[1], labels)
    for learned, frozen in ((features[0], plain_image(oracle, images)), (text, normalise(oracle.text(ids)))):
        cosines = [(a * b).sum() for a, b in zip(learned, frozen, strict=True)]
        loss = loss + weight * (1 - sum(cosines) / len(cosines))
    return loss, *logits


def gaussian_average(states, mean, std):
    """``states``: the learnables after epochs 1, 2, .., as dicts."""
    shares = [math.exp(-((epoch - mean) ** 2) / (2 * std**2)) for epoch in range(1, len(states) + 1)]
    return {
        name: sum(share * state[name].double() for share, state in zip(shares, states, strict=True)) / sum(shares)
        for name in states[0]
    }


def expected_calibration_error(confidences, correct, bins):
    """Bin by bin, ``(low, high]``."""
    total = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidences) if b / bins < c <= (b + 1) / bins]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(accuracy - sum(confidences[i] for i in inside) / len(inside))
    return total
