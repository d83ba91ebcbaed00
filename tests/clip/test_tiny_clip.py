"""The bundled tiny CLIP: its file, how well it does on Shapes, and the script that makes it."""

import json
import re
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from anprompt.clip.backbone import TINY_FILE, load_clip
from anprompt.data import shapes_world as world
from anprompt.prompts.templates import paraphrases_for, prompts_for, template_for
from scripts import pretrain_tiny_clip as script

HALF = len(world.CLASSNAMES) // 2


@pytest.fixture(scope="module")
def tiny():
    return load_clip("tiny")


@pytest.fixture(scope="module")
def known():
    """Ids of the words that have a row of their own."""
    with safe_open(TINY_FILE, framework="pt") as file:
        return set(file.get_tensor("token_embedding.ids").tolist())


class Run(NamedTuple):
    """A run of the script: the file it wrote, what it printed, and the bundled file as it was before."""

    path: Path
    printed: str
    bundled: bytes


@pytest.fixture(scope="module")
def one_step(tmp_path_factory):
    """One step of pretraining; threads and global generator are left as they were."""
    threads, printed = torch.get_num_threads(), StringIO()
    run = Run(tmp_path_factory.mktemp("tiny") / "tiny.safetensors", "", TINY_FILE.read_bytes())
    with redirect_stdout(printed), torch.random.fork_rng():
        script.main(["--steps", "1", "--output", str(run.path)])
    torch.set_num_threads(threads)
    return run._replace(printed=printed.getvalue())


def layout(path) -> dict:
    """Dtype and shape of each tensor, and the configuration."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        config = json.loads(file.metadata()["config"])
    return {"config": config} | {key: (value.dtype, tuple(value.shape)) for key, value in tensors.items()}


def test_file_is_small():
    assert TINY_FILE.stat().st_size < 6_000_000


def test_weights_are_half_precision_and_only_known_words_are_stored():
    stored = layout(TINY_FILE)
    config, ids, rows = (stored.pop(key) for key in ("config", "token_embedding.ids", "token_embedding.rows"))
    assert config == script.CONFIG
    assert ids[0] == torch.int32
    assert rows == (torch.float16, (*ids[1], config["text_cfg"]["width"]))
    assert {dtype for dtype, _ in stored.values()} == {torch.float16}
    assert "token_embedding.weight" not in stored


@pytest.mark.parametrize("dataset", ["Shapes", *script.OTHER_DATASETS])
def test_every_word_of_the_templates_and_paraphrases_has_a_row(tiny, known, dataset):
    wordings = (template_for(dataset), *paraphrases_for(dataset))
    names = world.CLASSNAMES if dataset == "Shapes" else ("x",)
    ids = tiny.tokenize([wording.format(name) for wording in wordings for name in names])
    assert set(ids.unique().tolist()) - {0} <= known  # 0 is padding


@pytest.mark.parametrize("classnames", [world.CLASSNAMES[:HALF], world.CLASSNAMES[HALF:]], ids=["base", "new"])
def test_zero_shot_is_decent_and_leaves_room(tiny, classnames):
    mean, std = (np.array(values, np.float32) for values in (tiny.mean, tiny.std))
    hits = []
    with torch.no_grad():
        text = tiny.model.encode_text(tiny.tokenize(prompts_for("Shapes", classnames)), normalize=True)
        for label, name in enumerate(classnames):
            files = [world.jpeg(world.dataset_photo("test", name, index)) for index in range(40)]
            pixels = np.stack([np.array(Image.open(BytesIO(file))) for file in files]) / np.float32(255)
            images = torch.from_numpy((pixels - mean) / std).permute(0, 3, 1, 2)
            logits = tiny.model.encode_image(images, normalize=True) @ text.T
            hits.append((logits.argmax(dim=-1) == label).float().mean())
    assert 0.40 <= torch.stack(hits).mean() <= 0.85


def test_script_makes_a_file_of_the_bundled_layout(one_step):
    assert layout(one_step.path) == layout(TINY_FILE)
    assert load_clip("tiny", str(one_step.path)).image_size == world.SIZE


def test_script_with_output_leaves_the_bundled_file_alone(one_step):
    assert TINY_FILE.read_bytes() == one_step.bundled
    assert one_step.path.read_bytes() != one_step.bundled


def test_script_prints_progress_and_zero_shot_accuracies(one_step):
    assert re.search(r"^step 1/1  loss \d+\.\d+", one_step.printed)
    assert re.findall(r"on the (\w+) classes of Shapes: \d+\.\d%", one_step.printed) == ["base", "new"]


def test_pretraining_is_reproducible():
    tokenizer = script.SimpleTokenizer()
    tokens = script.known_tokens(tokenizer)
    with torch.random.fork_rng():
        first, second = (script.train(2, tokenizer, tokens).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_each_batch_shows_every_colour_and_shape_once():
    images, captions = script.next_batch(script.Random(0))
    assert len(images) == len(captions) == len(world.COLOURS) * len(world.SHAPES)
