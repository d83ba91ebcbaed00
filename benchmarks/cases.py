"""What is measured: sizes as in the protocols of the field, a random CLIP, and class names of realistic length."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from open_clip import SimpleTokenizer
from yacs.config import CfgNode

import anprompt  # noqa: F401  makes `import dassl` work
from anprompt.clip.backbone import Backbone, load_clip
from anprompt.prompts.templates import template_for
from anprompt.utils.config import merge_file
from dassl.config import get_cfg_default
from trainers.anprompt import add_anprompt_cfg

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "trainers" / "ANPrompt"
BACKBONES = {"ViT-B/16": "vit_b16.yaml", "tiny": "tiny.yaml"}  # name -> the settings that it is measured with
SKEW = 3  # most class names are short: lengths go with the cube of the rank


@dataclass(frozen=True)
class Case:
    """A class list and a batch.

    Attributes:
        classes, batch: C and B.
        dataset: whose template the prompts use, and whose BETA and SIM_W.
        longest: tokens of the longest prompt, with start and end, as with the real class names of such a set.
        repeats: timed steps of each variant, unless the command line says otherwise.
    """

    classes: int
    batch: int
    dataset: str
    longest: int
    repeats: int

    @property
    def name(self) -> str:
        return f"{self.classes}x{self.batch}"


CASES = {
    case.name: case
    for case in (
        Case(5, 4, "EuroSAT", 12, 15),
        Case(50, 4, "OxfordFlowers", 18, 9),
        Case(199, 4, "SUN397", 12, 5),
        Case(500, 32, "ImageNet", 18, 3),
        Case(1000, 32, "ImageNet", 18, 2),
    )
}


def class_names(case: Case) -> list[str]:
    """Different names whose prompts have 1 name token to ``case.longest`` tokens in all, most of them short."""
    tokenizer = SimpleTokenizer()
    room = case.longest - 2 - len(tokenizer.encode(template_for(case.dataset).format("")))
    words = [entry.removesuffix("</w>") for entry in tokenizer.encoder if entry.endswith("</w>")]
    words = [word for word in words if word.isascii() and word.isalpha() and len(word) > 3]  # one token each
    ranks = [rank / max(case.classes - 1, 1) for rank in range(case.classes)]
    lengths = [1 + round((room - 1) * rank**SKEW) for rank in ranks]
    random.Random(0).shuffle(lengths)
    return [" ".join(words[index : index + length]) for index, length in enumerate(lengths)]


def random_backbone(name: str) -> Backbone:
    """A CLIP of the named shape, with random weights that are always the same; ``tiny`` is read from its file."""
    if name == "tiny":
        return load_clip(name)
    torch.manual_seed(0)
    clip = open_clip.CLIP(**open_clip.get_model_config(name.replace("/", "-")), quick_gelu=True)
    clip.eval().requires_grad_(False)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return Backbone(clip, name, "random", clip.visual.image_size[0], mean, std)


def config(case: Case, backbone: str, device: str, precision: str) -> CfgNode:
    """The config of a training run of this case."""
    cfg = get_cfg_default()
    add_anprompt_cfg(cfg)
    merge_file(cfg, str(CONFIGS / BACKBONES[backbone]))
    cfg.DATASET.NAME = case.dataset
    cfg.TRAINER.NAME = "ANPrompt"
    cfg.TRAINER.ANPROMPT.PREC = precision
    cfg.USE_CUDA = cfg.TRAIN.CUDA_GRAPH = device == "cuda"
    cfg.freeze()
    return cfg


def random_batch(batch: int, classes: int, image_size: int, device: torch.device) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, image_size, image_size, generator=generator)
    return {"img": images.to(device), "label": (torch.arange(batch) % classes).to(device)}
