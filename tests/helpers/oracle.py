"""Slow textbook formulation of CLIP with tokens and of the objectives, as an independent oracle.

Nothing here uses ``anprompt`` or ``open_clip``: plain tensor algebra on a state dict, all 77 text positions, every
layer of both towers for every pass, the mask built anew per layer, one attention head at a time. Notation as in
``anprompt/clip/encoders.py``.
"""

import math

import torch


def layer_norm(x, weights, name):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def activation(x, quick):
    if quick:
        return x / (1 + torch.exp(-1.702 * x))
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attention(x, weights, name, heads, causal):
    length, width = x.shape[-2:]
    size = width // heads
    projected = x @ weights[f"{name}.in_proj_weight"].T + weights[f"{name}.in_proj_bias"]
    queries, keys, values = projected.split(width, dim=-1)
    outputs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = queries[..., part] @ keys[..., part].transpose(-1, -2) / math.sqrt(size)
        if causal:
            visible = torch.tensor([[column <= row for column in range(length)] for row in range(length)])
            scores = scores.masked_fill(~visible, float("-inf"))
        shares = torch.exp(scores - scores.max(-1, keepdim=True).values)
        outputs.append(shares / shares.sum(-1, keepdim=True) @ values[..., part])
    return torch.cat(outputs, -1) @ weights[f"{name}.out_proj.weight"].T + weights[f"{name}.out_proj.bias"]


def block(x, weights, name, heads, quick, causal):
    x = x + attention(layer_norm(x, weights, f"{name}.ln_1"), weights, f"{name}.attn", heads, causal)
    hidden = layer_norm(x, weights, f"{name}.ln_2") @ weights[f"{name}.mlp.c_fc.weight"].T
    hidden = activation(hidden + weights[f"{name}.mlp.c_fc.bias"], quick)
    return x + hidden @ weights[f"{name}.mlp.c_proj.weight"].T + weights[f"{name}.mlp.c_proj.bias"]


def put(x, rows, start, insert, beta):
    """``x`` with ``rows`` inserted at ``start`` or mixed into the rows that stand there."""
    rows = rows.expand(x.shape[0], -1, -1)
    if insert:
        return torch.cat([x[:, :start], rows, x[:, start:]], 1)
    count = rows.shape[1]
    mixed = beta * rows + (1 - beta) * x[:, start : start + count]
    return torch.cat([x[:, :start], mixed, x[:, start + count :]], 1)


class Oracle:
    """CLIP in double precision from the state dict of an ``open_clip.CLIP``."""

    def __init__(self, clip, text_heads, vision_heads, quick):
        self.weights = {name: tensor.detach().double() for name, tensor in clip.state_dict().items()}
        self.text_heads, self.vision_heads, self.quick = text_heads, vision_heads, quick
        self.text_depth = self.depth("transformer.resblocks")
        self.vision_depth = self.depth("visual.transformer.resblocks")

    def depth(self, prefix):
        return len({name.split(f"{prefix}.")[1].split(".")[0] for name in self.weights if name.startswith(prefix)})

    def embed(self, ids):
        return self.weights["token_embedding.weight"][ids]

    def text(self, ids, tokens=None, insert=True, beta=1.0, embeddings=None, eot=None):
        """``[N, 77]`` ids -> ``[N, E]``, tokens ``{layer: [K, D] or [N, K, D]}`` behind the start token."""
        w, tokens = self.weights, tokens or {}
        x = (self.embed(ids) if embeddings is None else embeddings) + w["positional_embedding"]
        rows = ids.argmax(1) if eot is None else eot
        for layer in range(1, self.text_depth + 1):
            if layer in tokens:
                first = insert and layer == min(tokens)
                x = put(x, tokens[layer], 1, first, beta)
                rows = rows + tokens[layer].shape[-2] if first else rows
            x = block(x, w, f"transformer.resblocks.{layer - 1}", self.text_heads, self.quick, causal=True)
        x = layer_norm(x, w, "ln_final")
        return torch.stack([x[n, row] for n, row in enumerate(rows.tolist())]) @ w["text_projection"]

    def image(self, images, tokens=None, insert=True, beta=1.0, appended=None):
        """``[B, 3, H, W]`` -> class rows ``[B, D]`` and token rows ``[B, K, D]`` after the last LayerNorm."""
        w, tokens = self.weights, tokens or {}
        kernel = w["visual.conv1.weight"]
        size = kernel.shape[-1]
        grid = range(0, images.shape[-1], size)
        patches = [
            (images[:, None, :, y : y + size, x : x + size] * kernel).sum((-1, -2, -3)) for y in grid for x in grid
        ]
        x = torch.stack([w["visual.class_embedding"].expand(len(images), -1), *patches], 1)
        x = x + w["visual.positional_embedding"]
        count = 0
        if appended is not None:
            x, count = torch.cat([x, appended.expand(len(x), -1, -1)], 1), appended.shape[-2]
        x = layer_norm(x, w, "visual.ln_pre")
        for layer in range(1, self.vision_depth + 1):
            if layer in tokens:
                count = tokens[layer].shape[-2]
                start = x.shape[1] - count if appended is not None else 1
                x = put(x, tokens[layer], start, insert and layer == min(tokens), beta)
            x = block(x, w, f"visual.transformer.resblocks.{layer - 1}", self.vision_heads, self.quick, causal=False)
        x = layer_norm(x, w, "visual.ln_post")
        return x[:, 0], (x[:, -count:] if appended is not None else x[:, 1 : 1 + count])


class ClipOracle(Oracle):
    """The same for clips ``[B, T, 3, H, W]``: every frame as an image, and T rows at a time added up in turn."""

    def image(self, images, *arguments, **options):
        frames = images.shape[1]
        rows = super().image(images.flatten(0, 1), *arguments, **options)
        return tuple(torch.stack([sum(several) / frames for several in part.split(frames)]) for part in rows)


def normalise(x):
    return x / torch.sqrt((x**2).sum(-1, keepdim=True))


def cross_entropy(logits, labels):
    picked = torch.stack([row[label] for row, label in zip(logits, labels.tolist(), strict=True)])
    return (torch.log(torch.exp(logits).sum(1)) - picked).mean()


def walo_sum(class_logits, noise_logits):
    """WALoss entry by entry."""
    rows, columns = class_logits.shape
    p = torch.exp(class_logits) / torch.exp(class_logits).sum(1, keepdim=True)
    q = torch.exp(noise_logits) / torch.exp(noise_logits).sum(1, keepdim=True)
    mean = class_logits.sum() / (rows * columns)
    sigma = torch.sqrt(((class_logits - mean) ** 2).sum() / (rows * columns - 1))
    total = 0
    for b in range(rows):
        for c in range(columns):
            total = total + q[b, c] * (torch.log(q[b, c]) - torch.log(p[b, c]))
    return total / ((sigma + 1e-6) * rows * columns)


def anprompt_tokens(learner, prefix, layer, count, noise_coef):
    """Tokens of one layer from a learner's parameters: own projection plus ``noise_coef`` times that of the noise."""
    source = learner["tokens"]
    if f"{prefix}_aligner.weight" in learner:  # shared matrix, low-rank residual, own bias
        matrix = learner[f"{prefix}_aligner.weight"]
        matrix = matrix + learner[f"{prefix}_aligner.up"][layer] @ learner[f"{prefix}_aligner.down"][layer]
        own = [matrix @ source[k] + learner[f"{prefix}_aligner.bias"][layer] for k in range(count)]
    else:
        name = f"{prefix}_aligner.maps.{layer}"
        own = [learner[f"{name}.weight"] @ source[k] + learner[f"{name}.bias"] for k in range(count)]
    name = f"{prefix}_noise_aligner.maps.{layer}"
    if f"{name}.weight" not in learner:
        return torch.stack(own)
    noise = learner["noise_prompts"]
    return torch.stack(
        [own[k] + noise_coef * (learner[f"{name}.weight"] @ noise[k] + learner[f"{name}.bias"]) for k in range(count)]
    )


def anprompt_objective(
    oracle, learner, ids, images, labels, weak_noise, layers, *, beta, coef, alpha, sim_w, wa_w, text_beta=1.0
):
    """The whole objective; returns the sum of the terms and the logits of the class and prototype heads."""
    w, count = oracle.weights, len(learner["tokens"])
    scale = torch.exp(w["logit_scale"])
    text = {J: anprompt_tokens(learner, "text", i, count, coef) for i, J in enumerate(layers)}
    vision = {J: anprompt_tokens(learner, "vision", i, count, coef) for i, J in enumerate(layers)}
    f_t = normalise(oracle.text(ids, text, beta=text_beta))
    class_row, token_rows = oracle.image(images, vision, beta=beta)
    if "prototype_proj.weight" in learner:
        prototype_matrix = learner["prototype_proj.weight"]
    else:
        prototype_matrix = w["visual.proj"] + learner["prototype_proj.up"] @ learner["prototype_proj.down"]
    f_v = normalise(class_row @ w["visual.proj"])
    f_r = normalise(sum(token_rows[:, k] @ prototype_matrix for k in range(count)) / count)
    f_v0 = normalise(oracle.image(images)[0] @ w["visual.proj"])
    f_t0 = normalise(oracle.text(ids))
    class_logits, prototype_logits = scale * f_v @ f_t.T, scale * f_r @ f_t.T
    loss = alpha * cross_entropy(class_logits, labels) + (1 - alpha) * cross_entropy(prototype_logits, labels)
    loss = loss + sim_w * (1 - (f_v * f_v0).sum(1).mean()) + sim_w * (1 - (f_t * f_t0).sum(1).mean())
    if wa_w:
        loss = loss + wa_w * walo_sum(class_logits, scale * f_r @ weak_noise.T)
    return loss, class_logits, prototype_logits


def mmrl_objective(oracle, learner, ids, images, labels, layers, *, alpha, reg_w):
    """MMRL written on its own: one token bank, replaced in every layer, own projection, no noise."""
    w = oracle.weights
    scale = torch.exp(w["logit_scale"])
    bank = learner["tokens"]

    def tokens(tower):
        names = [f"{tower}_aligner.maps.{i}" for i in range(len(layers))]
        return {J: bank @ learner[f"{n}.weight"].T + learner[f"{n}.bias"] for J, n in zip(layers, names, strict=True)}

    text = normalise(oracle.text(ids, tokens("text")))
    class_row, token_rows = oracle.image(images, tokens("vision"))
    f_v = normalise(class_row @ w["visual.proj"])
    f_r = normalise(token_rows.mean(1) @ learner["prototype_proj.weight"])
    loss = alpha * cross_entropy(scale * f_v @ text.T, labels)
    loss = loss + (1 - alpha) * cross_entropy(scale * f_r @ text.T, labels)
    frozen_v = normalise(oracle.image(images)[0] @ w["visual.proj"])
    frozen_t = normalise(oracle.text(ids))
    return loss + reg_w * (2 - (f_v * frozen_v).sum(1).mean() - (text * frozen_t).sum(1).mean())
