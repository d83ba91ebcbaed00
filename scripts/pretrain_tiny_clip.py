"""Pretrains the CLIP that ships with this package, on captioned drawings of the world of the Shapes dataset.

    python scripts/pretrain_tiny_clip.py                                       # rewrites the bundled file
    python scripts/pretrain_tiny_clip.py --steps 20 --output try.safetensors   # a quick look

Contrastive training as in CLIP, from scratch, on an endless stream of flat drawings with captions in many
wordings. It sees every colour and shape, but never the style of the dataset, let alone its images.

The result is a safetensors file of float16 tensors: the state dict of `open_clip.model.CLIP`, except that of the token
embedding only the rows of known words are stored (`token_embedding.ids`, int32 [n], ascending, and
`token_embedding.rows`, [n, width]). The constructor's arguments are JSON in the metadata, under `config`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import save
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone works without installation

from anprompt.clip.backbone import TINY, TINY_FILE, load_clip
from anprompt.clip.encoders import text_features, text_trunk
from anprompt.data import shapes_world as world
from anprompt.prompts import templates
from anprompt.utils.files import atomic_path

SEED = 1
THREADS = 1  # the batch is too small to gain much from more, and float sums would depend on their number
STEPS = 2600
PEAK_LR = 5e-4
WARMUP = 100  # steps
WEIGHT_DECAY = 0.05
MAX_LOGIT_SCALE = math.log(100)  # CLIP's own limit
LOG_EVERY = 100

# As in CLIP, the image tower is wider than the text tower; heads are 32 wide, so that both have a few.
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": world.SIZE,
        "patch_size": 16,
        "width": 160,
        "layers": 6,
        "head_width": 32,
        "mlp_ratio": 3.0,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 6, "mlp_ratio": 3.0},
    "quick_gelu": True,
}

# --- what it reads ------------------------------------------------------------------------------------------------

WORDINGS = (
    templates.template_for("Shapes"),
    *templates.paraphrases_for("Shapes"),
    "{}",
    "a {}.",
    "a drawing of a {}.",
    "a flat drawing of a {}.",
    "a painted {}.",
    "a {} on paper.",
)
NOUNS = (
    "{colour} {shape}",
    "{colour} {shape}",
    "{colour} {shape}",
    "{shape} that is {colour}",
    "{size} {colour} {shape}",
    "{colour} {shape} on a {background} background",
)
WRONG_CAPTIONS = 0.05  # share that names another colour or shape: captions from the web are not all true either
SMALL = 0.65  # scale below which a shape is called small
# Their templates are not trained on, but their words get rows, so that no two of them read the same.
OTHER_DATASETS = (
    "OxfordPets",
    "OxfordFlowers",
    "Food101",
    "FGVCAircraft",
    "StanfordCars",
    "SUN397",
    "UCF101",
    "EuroSAT",
    "DescribableTextures",
)


def captioned_drawing(colour: str, shape: str, rng: Random) -> tuple[np.ndarray, str]:
    """One training example: pixels uint8 [SIZE, SIZE, 3] and a caption that says what they show."""
    background = rng.choice([*world.BACKGROUNDS])
    scale = rng.uniform(0.45, 0.8)
    pixels = world.drawing(colour, shape, background, scale, rng)
    if rng.random() < WRONG_CAPTIONS:
        colour, shape = rng.choice([(rng.choice([*world.COLOURS]), shape), (colour, rng.choice([*world.SHAPES]))])
    size = "small" if scale < SMALL else "large"
    noun = rng.choice(NOUNS).format(colour=colour, shape=shape, background=background, size=size)
    return pixels, rng.choice(WORDINGS).format(noun)


def next_batch(rng: Random) -> tuple[Tensor, list[str]]:
    """Images [B, 3, SIZE, SIZE] and their B captions.

    Each colour and shape pair comes exactly once: no true caption fits another image of the batch as well, and for
    every image there are captions that differ from its own in the colour or in the shape alone.
    """
    examples = [captioned_drawing(colour, shape, rng) for colour in world.COLOURS for shape in world.SHAPES]
    return normalised([pixels for pixels, _ in examples]), [caption for _, caption in examples]


def normalised(pictures: list[np.ndarray]) -> Tensor:
    """Pictures, uint8 [SIZE, SIZE, 3] each, as CLIP takes them: float32 [B, 3, SIZE, SIZE]."""
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (images - mean) / std


def known_tokens(tokenizer: SimpleTokenizer) -> Tensor:
    """Ascending ids, int64 [n], of every word that a caption, a template or one of its paraphrases can contain."""
    wordings = {*WORDINGS}
    for dataset in OTHER_DATASETS:
        wordings |= {templates.template_for(dataset), *templates.paraphrases_for(dataset)}
    words = {*world.COLOURS, *world.SHAPES, *world.BACKGROUNDS, "small", "large", "x"}
    # With a word in every gap, because braces would be read as words.
    texts = words | {wording.format("x") for wording in wordings}
    texts |= {noun.format(colour="x", shape="x", size="x", background="x") for noun in NOUNS}
    ids = {token for text in texts for token in tokenizer.encode(text)}
    return torch.tensor(sorted(ids | {tokenizer.sot_token_id, tokenizer.eot_token_id}))


# --- how it learns ------------------------------------------------------------------------------------------------


def build_model(words: int) -> CLIP:
    """A fresh CLIP whose vocabulary has only the known words: nothing is spent on the 49 thousand others."""
    torch.manual_seed(SEED)
    return CLIP(**{**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "vocab_size": words}})


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    return PEAK_LR * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def contrastive_loss(model: CLIP, images: Tensor, ids: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over the batch."""
    image = F.normalize(model.encode_image(images), dim=-1)
    text = F.normalize(text_features(model, text_trunk(model, ids)), dim=-1)
    logits = model.logit_scale.exp() * image @ text.T
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train(steps: int, tokenizer: SimpleTokenizer, tokens: Tensor) -> CLIP:
    """Train from scratch; token ids count within `tokens`, whose order keeps the end-of-text token the largest."""
    model, rng, start = build_model(len(tokens)), Random(SEED), time.monotonic()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    for step in range(steps):
        images, captions = next_batch(rng)
        ids = torch.searchsorted(tokens, tokenizer(captions))
        loss = contrastive_loss(model, images, ids)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}  {time.monotonic() - start:.0f} s", flush=True)
    return model


# --- what comes out -----------------------------------------------------------------------------------------------


def write_asset(model: CLIP, tokens: Tensor, path: Path) -> None:
    tensors = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    tensors["token_embedding.rows"] = tensors.pop("token_embedding.weight")
    tensors["token_embedding.ids"] = tokens.int()
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={"config": json.dumps(CONFIG)}))


@torch.no_grad()
def zero_shot(path: Path, classnames: tuple[str, ...]) -> float:
    """Accuracy in percent on the test images of some classes of Shapes, with the file as a user loads it."""
    clip = load_clip(TINY, str(path))
    text = clip.model.encode_text(clip.tokenize(templates.prompts_for("Shapes", classnames)), normalize=True)
    hits = 0
    for label, classname in enumerate(classnames):
        files = (world.jpeg(world.dataset_photo("test", classname, i)) for i in range(world.SPLIT_SIZES["test"]))
        images = normalised([np.array(Image.open(io.BytesIO(file))) for file in files])
        hits += int((clip.model.encode_image(images, normalize=True) @ text.T).argmax(dim=-1).eq(label).sum())
    return 100 * hits / (world.SPLIT_SIZES["test"] * len(classnames))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Pretrain the bundled tiny CLIP.")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=TINY_FILE, help="file to write (default: the bundled one)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(THREADS)
    tokenizer = SimpleTokenizer()
    tokens = known_tokens(tokenizer)
    write_asset(train(args.steps, tokenizer, tokens), tokens, args.output)
    half = len(world.CLASSNAMES) // 2
    for name, classnames in (("base", world.CLASSNAMES[:half]), ("new", world.CLASSNAMES[half:])):
        print(f"zero-shot accuracy on the {name} classes of Shapes: {zero_shot(args.output, classnames):.1f}%")
    print(f"wrote {args.output} ({args.output.stat().st_size / 1e6:.2f} MB)")
    if args.output == TINY_FILE:
        digest = hashlib.sha256(TINY_FILE.read_bytes()).hexdigest()
        print(f"anprompt/clip/backbone.py takes no other file than the one it knows: TINY_DIGEST = {digest!r}")


if __name__ == "__main__":
    main()
