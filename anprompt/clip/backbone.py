"""The one door to a frozen CLIP: a name, and optionally a file.

Names (``MODEL.BACKBONE.NAME``):

* ``tiny``: the small CLIP that is bundled for trials and tests;
* ``ViT-B/16``, ``ViT-B/32``, ``ViT-L/14``, ``ViT-L/14@336px``: OpenAI's weights, found in ``~/.cache/clip`` where CLIP
  puts them;
* ``ARCH/TAG``: a pair of open_clip, such as ``ViT-B-16/laion2b_s34b_b88k``, found where open_clip puts it.

A path (``MODEL.BACKBONE.PATH``) replaces the search: OpenAI's ``.pt`` (TorchScript archive or state dict), a
``.safetensors`` file, an open_clip checkpoint, or one of a video model whose encoders are CLIP's, tuned (Text4Vis,
GA2-CLIP, ViFi-CLIP). Nothing is ever downloaded; a missing file is an error that says how
to get it. open_clip is imported on first use, because that takes seconds.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from anprompt.utils.archive import read_torch_file
from anprompt.utils.config import require_number
from anprompt.utils.files import at_home, require_file
from anprompt.utils.memory import is_shortage
from anprompt.utils.settings import Check
from anprompt.utils.suggest import suggest

if TYPE_CHECKING:
    from open_clip import CLIP, SimpleTokenizer

logger = logging.getLogger(__name__)
_loaded: dict[tuple, Backbone] = {}  # the last one of load_clip_once

TINY = "tiny"
TINY_FILE = Path(__file__).parents[1] / "assets" / "tiny_clip.safetensors"
TINY_DIGEST = "d0ce28eaf8c410bfd5aae0f7fa72eb08002d5718c4774265dba0dfd372b28ffc"  # sha256 of the bundled file

# OpenAI's names and the open_clip architectures of the same shape
OPENAI_ARCHS = {
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}

# Entries of OpenAI's files that are not weights
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")

# Settings of open_clip that change the words' ids, or what a block computes
_OTHER_TOKENIZER = ("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")
_OTHER_BLOCKS = (
    "block_type", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc",
)  # fmt: skip

# Where video models keep their weights, what they call CLIP's towers, and what they name as CLIP does.
_TUNED = ("model_state_dict", "model")
_TOWERS = {"image_encoder.": "visual.", "text_encoder.": ""}
_OF_CLIP = (
    "visual.", "transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection",
    "logit_scale",
)  # fmt: skip
WORDS = "token_embedding.weight"
_FULL_SCALE = math.log(100)  # to which CLIP's logit scale is clipped, and which all of OpenAI's models have

_SHOWN = 5  # differences that a message lists


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP and what is needed to feed it.

    Attributes:
        model: ``open_clip.CLIP`` on the CPU in float32, in evaluation mode, no parameter requires a gradient.
        name: as the user gave it.
        digest: sha256 of the weights file, in hexadecimal.
        image_size: side of the square input images, in pixels.
        mean, std: per-channel normalisation of images in [0, 1].
        file: ``path``, ``bytes`` and ``mtime_ns`` of the weights file when it was read; empty: there is none.
    """

    model: CLIP
    name: str
    digest: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    file: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.model.positional_embedding.device

    @property
    def text_width(self) -> int:
        return self.model.ln_final.weight.shape[0]

    @property
    def vision_width(self) -> int:
        return self.model.visual.proj.shape[0]

    @property
    def joint_width(self) -> int:
        return self.model.visual.proj.shape[1]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids ``[N, L]`` (int64) with start and end token, zero behind it; L is CLIP's 77.

        Raises:
            ValueError: a text does not fit. CLIP's own tokenizer would cut it silently.
        """
        tokenizer, length = _tokenizer(), self.model.context_length
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            tokens = [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
            if len(tokens) > length:
                raise ValueError(
                    f"text needs {len(tokens)} tokens but {self.name} takes {length}; shorten the class name in it, "
                    f'or the sentence around it where that is yours: "{text}"'
                )
            row[: len(tokens)] = torch.tensor(tokens)
        return ids


@dataclass(frozen=True)
class _Source:
    """What a name stands for: keyword arguments of ``open_clip.CLIP``, and where the weights are published."""

    name: str
    config: dict[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    url: str = ""
    hub: str = ""  # "owner/repository/" or "owner/repository/file"

    @property
    def digest(self) -> str:
        """The published sha256, or its first 8 digits, or empty: the URLs carry it."""
        match = re.search(r"/([0-9a-f]{64})/|-([0-9a-f]{8})\.pth?$", self.url)
        return next(filter(None, match.groups())) if match else ""

    @property
    def file_name(self) -> str:
        """The name under which CLIP and open_clip keep the file behind ``url``."""
        return self.url.rpartition("/")[2]


def load_clip(name: str, path: str = "", cache_dir: str | None = None) -> Backbone:
    """Load a frozen CLIP without touching any random number generator.

    Args:
        name: a name as listed at the top of this module.
        path: weights file to use instead of searching; ``~`` is expanded.
        cache_dir: folder to search instead of CLIP's and Hugging Face's own.

    Raises:
        FileNotFoundError: no weights; the message names the places searched and the command that gets the file.
        ValueError: unknown or unsupported name, or a file that is damaged or holds another model.
    """
    source = _source(name)
    stamp = _stamp(find_weights(name, path, cache_dir))  # first: if the file is replaced now, it fits neither
    file, digest = verified_weights(name, path, cache_dir)
    if name == TINY:
        config, state = _read_tiny(file)
    else:
        config, state = source.config, _read_state_dict(file, source, digest)
    model = _build(config, state, f"{file} (sha256 {digest}) does not hold {name}")
    logger.info("backbone %s from %s, sha256 %s", name, file, digest)
    return Backbone(model, name, digest, model.visual.image_size[0], source.mean, source.std, stamp)


def load_clip_once(name: str, path: str, device: torch.device) -> Backbone:
    """``load_clip`` onto a device. While the file stays as it is, later runs of this process get the same object.

    Nobody may change its weights.
    """
    file = find_weights(name, path)
    stat = file.stat()
    key = (name, str(file.resolve()), str(device), stat.st_mtime_ns, stat.st_size)
    if key in _loaded:
        logger.info("backbone %s: loaded already, sha256 %s", name, _loaded[key].digest)
        return _loaded[key]
    _loaded.clear()  # first: two may not fit into memory
    backbone = load_clip(name, path)
    backbone.model.to(device)
    _loaded[key] = backbone
    return backbone


def digest_of_weights(name: str, path: str = "", known: Mapping[str, Any] | None = None) -> str:
    """sha256 of the file that ``load_clip`` would read.

    Args:
        known: a digest, ``sha256``, with the :attr:`Backbone.file` it was taken of. If that is the same file still, it
            is not read again.
    """
    stamp = _stamp(find_weights(name, path))
    if known and all(known.get(key) == value for key, value in stamp.items()):
        return known["sha256"]
    return _digest_of_file(*stamp.values())


def _stamp(file: Path) -> dict[str, Any]:
    """By which a file that was replaced is recognised without reading it."""
    stat = file.stat()
    return {"path": str(file.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


@functools.cache
def _digest_of_file(path: str, *_: int) -> str:
    """Of a file while its size and time stay: a runner asks for that of one file many times."""
    return _sha256(Path(path))


def verified_weights(name: str, path: str = "", cache_dir: str | None = None) -> tuple[Path, str]:
    """The file of ``find_weights`` and its sha256; ValueError if it should be the published one but is not."""
    source = _source(name)
    file = find_weights(name, path, cache_dir)
    digest = _sha256(file)
    if name == TINY and not path and digest != TINY_DIGEST:
        raise ValueError(
            f"{file} is not the bundled CLIP: expected sha256 {TINY_DIGEST}, found {digest} ({file.stat().st_size:,} "
            "bytes). Reinstall the package, or set MODEL.BACKBONE.PATH to the file if you mean to use it."
        )
    # Only the file behind the URL has a published digest: a path is the user's own choice, and Hugging Face's differs.
    if not path and file.name == source.file_name and not digest.startswith(source.digest):
        raise ValueError(
            f"{file} is not the published {name}: expected sha256 {source.digest}, found {digest} "
            f"({file.stat().st_size:,} bytes). A download was probably cut short: delete the file and get it again "
            f"from {source.url}, or set MODEL.BACKBONE.PATH to the file if you mean to use it."
        )
    return file, digest


def text_depth(name: str) -> int:
    """Number of layers of the text tower, without reading weights; names and errors as for ``load_clip``."""
    return _config(name)["text_cfg"].get("layers", 12)


def vision_depth(name: str) -> int:
    """The same for the vision tower."""
    return _config(name)["vision_cfg"].get("layers", 12)


def layers_of(*depths: Callable[[str], int], low: int = 1) -> Check:
    """Check of a number of first layers, from ``low`` on: each of these towers has as many, as in
    ``layers_of(text_depth)``.
    """

    def check(key: str, value: Any, cfg: CfgNode) -> None:
        require_number(key, value, low, min(depth(cfg.MODEL.BACKBONE.NAME) for depth in depths))

    return check


def count_tokens(text: str) -> int:
    """Length of a text in CLIP's tokens, without start and end."""
    return len(_tokenizer().encode(text))


def _config(name: str) -> dict[str, Any]:
    return _source(name).config or _read_tiny(TINY_FILE)[0]


def find_weights(name: str, path: str = "", cache_dir: str | None = None) -> Path:
    """Return the file that ``load_clip`` would read, without reading it; arguments and errors are the same."""
    source = _source(name)
    if path:
        file = at_home(path)
        require_file(file, f"the weights of {name} (MODEL.BACKBONE.PATH)")
        if not file.is_file():
            raise FileNotFoundError(f"no weights file for {name} at {file} (MODEL.BACKBONE.PATH)")
        return file
    places = dict(_places(source, cache_dir))
    found = [file for file in places.values() if file is not None and file.is_file()]
    if found:
        return found[0]
    raise FileNotFoundError(
        f"no weights for backbone {name}. Looked for:\n"
        + "".join(f"  {place}\n" for place in places)
        + f"Nothing is downloaded automatically. {_how_to_get(source, cache_dir)}"
    )


def _source(name: str) -> _Source:
    import open_clip

    if name == TINY:  # its file brings its own configuration
        return _Source(name, {}, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    arch, _, tag = (f"{OPENAI_ARCHS[name]}/openai" if name in OPENAI_ARCHS else name).partition("/")
    unknown = f"unknown backbone {name!r} (MODEL.BACKBONE.NAME)"
    # Asked first, because `get_model_config` downloads for names such as `hf-hub:...`.
    if arch not in open_clip.list_models():
        nearest = suggest(name, [TINY, *OPENAI_ARCHS])
        raise ValueError(f"{unknown}: {nearest}; or a pair ARCH/TAG of open_clip, such as ViT-B-16/laion2b_s34b_b88k")
    config = open_clip.get_model_config(arch)
    if obstacle := _obstacle(config):
        raise ValueError(f"backbone {name} is not supported: {obstacle}. Take a plain ViT such as ViT-B/16.")
    published = open_clip.pretrained.get_pretrained_cfg(arch, tag)
    if not published:
        tags = open_clip.list_pretrained_tags_by_model(arch)
        hint = f"{suggest(tag, tags)}; OpenAI's weights are called {', '.join(OPENAI_ARCHS)}"
        raise ValueError(f"{unknown}: open_clip's {arch} has no tag {tag!r}; {hint}")
    config.pop("custom_text", None)
    # open_clip's plain architectures have GELU even for tags that were trained with QuickGELU, and only warn.
    config["quick_gelu"] = config.get("quick_gelu", False) or published.get("quick_gelu", False)
    urls = {"url": published.get("url", ""), "hub": published.get("hf_hub", "")}
    return _Source(name, config, tuple(published["mean"]), tuple(published["std"]), **urls)


def _obstacle(config: dict[str, Any]) -> str:
    """Why `encoders.py` cannot run an open_clip configuration, or an empty string."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    obstacles = {
        "its image tower is a ResNet, and prompt tokens need a transformer": isinstance(vision.get("layers"), list),
        "its image tower comes from timm": "timm_model_name" in vision,
        "its image tower pools by attention": bool(vision.get("attentional_pool")),
        "its image tower does not pool at the class token": vision.get("pool_type", "tok") != "tok",
        "its text tower comes from Hugging Face": "hf_model_name" in text,
        "its text tower needs another tokenizer than CLIP's": any(text.get(key) for key in _OTHER_TOKENIZER),
        "its text tower is not causal": text.get("no_causal_mask", False),
        "its text tower does not pool at the end token": text.get("embed_cls", False)
        or text.get("pool_type", "argmax") != "argmax",
        "its text tower has no projection": text.get("proj_type", "linear") == "none",
        "its blocks are not CLIP's": any(
            tower.get(key) not in (None, False, "default") for tower in (vision, text) for key in _OTHER_BLOCKS
        ),
        "it is not CLIP's pair of towers": config.get("custom_text", False) or "multimodal_cfg" in config,
    }
    return next((reason for reason, applies in obstacles.items() if applies), "")


def _places(source: _Source, cache_dir: str | None) -> Iterator[tuple[str, Path | None]]:
    """Where the weights may lie, in search order: a name for messages, and the file if it can be known."""
    if source.name == TINY:
        yield str(TINY_FILE), TINY_FILE
    if source.url:
        file = at_home(cache_dir or "~/.cache/clip") / source.file_name
        yield str(file), file
    if source.hub:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.constants import HF_HUB_CACHE

        repository, file_names = _hub_files(source.hub)
        for file_name in file_names:
            cached = try_to_load_from_cache(repository, file_name, cache_dir=cache_dir)
            place = f"{repository}: {file_name} in Hugging Face's cache {cache_dir or HF_HUB_CACHE}"
            yield place, Path(cached) if isinstance(cached, str) else None


def _hub_files(hub: str) -> tuple[str, list[str]]:
    """Split open_clip's ``owner/repository/[file]`` into the repository and the file names to try."""
    repository, _, file_name = hub.rpartition("/")
    return repository, [file_name] if file_name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


def _how_to_get(source: _Source, cache_dir: str | None) -> str:
    if source.name == TINY:
        return (
            "The file belongs to the package: reinstall it, or set MODEL.BACKBONE.PATH to one that you make with "
            "scripts/pretrain_tiny_clip.py --output FILE."
        )
    commands = []
    if source.url:
        commands.append(f"curl -L --create-dirs -o {cache_dir or '~/.cache/clip'}/{source.file_name} {source.url}")
    if source.hub:
        repository, file_names = _hub_files(source.hub)
        folder = f" --cache-dir {cache_dir}" if cache_dir else ""
        commands.append(f"hf download {repository} {' '.join(file_names)}{folder}")
    return "Get the file with\n  {}\nor set MODEL.BACKBONE.PATH to a copy that you have.".format(
        "\nor\n  ".join(commands)
    )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_state_dict(file: Path, source: _Source, digest: str) -> dict[str, Tensor]:
    """Read tensors by name from any of the supported formats, under the names that ``open_clip.CLIP`` uses."""
    try:
        state = read_any_format(file)
    except ValueError as error:
        published = f"; the published file has sha256 {source.digest}" if source.digest else ""
        raise ValueError(
            f"cannot read {file}: expected OpenAI's .pt (TorchScript archive or state dict), a .safetensors file or an "
            f"open_clip checkpoint, found {file.stat().st_size:,} bytes with sha256 {digest}{published}. "
            f"The file is cut short or of another kind ({error}): get it again, or name another."
        ) from None
    tuned = next((key for key in _TUNED if isinstance(state.get(key), dict)), None)
    if isinstance(state.get("state_dict"), dict):  # open_clip's training checkpoints
        state, tuned = state["state_dict"], None
    elif tuned:
        state = state[tuned]
    odd = [str(key) for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if odd:
        shown = ", ".join(odd[:_SHOWN])
        raise ValueError(f"{file} does not hold {source.name}: expected tensors by name, found others in {shown}")
    weights = {key.removeprefix("module."): value for key, value in state.items() if key not in _NOT_WEIGHTS}
    if tuned:
        weights = _of_clip(weights, file)
        if WORDS not in weights and "positional_embedding" in weights:  # there is a text tower
            weights[WORDS] = _own_words(file, source)
    if "logit_scale" in weights and weights["logit_scale"].numel() == 1:  # [] or [1], depending on who saved it
        weights["logit_scale"] = weights["logit_scale"].reshape(())
    return weights


def _of_clip(weights: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The encoders of a video model by CLIP's names. What it has besides is left out, and counted in the log."""
    renamed = {}
    for key, value in weights.items():
        tower = next((name for name in _TOWERS if key.startswith(name)), "")
        renamed[_TOWERS.get(tower, "") + key.removeprefix(tower)] = value
    kept = {key: value for key, value in renamed.items() if key.startswith(_OF_CLIP)}
    others = [key for key in renamed if key not in kept]
    if others:
        logger.info("%s: %d tensors are no part of CLIP's towers, such as %s", file, len(others), others[0])
    if "logit_scale" not in kept:
        logger.info("%s has no logit_scale: CLIP's own is taken, 100", file)
        kept["logit_scale"] = torch.tensor(_FULL_SCALE)
    return kept


def _own_words(file: Path, source: _Source) -> Tensor:
    """The token embedding, which ViFi-CLIP leaves as it was and does not save, of the weights that it started from."""
    try:
        own = find_weights(source.name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} has no {WORDS}, and CLIP's own are not there: {error}") from None
    logger.info("%s has no %s: that of %s is taken", file, WORDS, own)
    return _read_state_dict(own, source, _sha256(own))[WORDS]


def read_any_format(file: Path) -> dict[str, Any]:
    """Content of OpenAI's ``.pt`` (TorchScript archive or state dict), a ``.safetensors`` file or a checkpoint.

    Nothing in the file runs.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged or of another kind; says why, not which file.
    """
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (SafetensorError, KeyError, RuntimeError) as error:
            if is_shortage(error):
                raise
            raise ValueError(f"{type(error).__name__}: {error}") from None
    state = read_torch_file(file)
    if not isinstance(state, dict):
        raise ValueError(f"expected tensors by name, found a {type(state).__name__}")
    return state


def _read_tiny(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the bundled CLIP: its configuration, and its weights with the full token embedding restored.

    Only the rows of words that it was trained on are stored; all other words get their mean.
    """
    from safetensors import safe_open

    try:
        with safe_open(file, framework="pt") as archive:
            config = json.loads(archive.metadata()["config"])
            state = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118 (not a mapping)
        ids, rows = state.pop("token_embedding.ids").long(), state.pop("token_embedding.rows").float()
        embedding = rows.mean(dim=0).repeat(config["text_cfg"].get("vocab_size", 49408), 1)
        embedding[ids] = rows
    except Exception as error:
        if is_shortage(error):
            raise
        raise ValueError(
            f"{file} is not a whole file made by scripts/pretrain_tiny_clip.py: {type(error).__name__}: {error}"
        ) from None
    return config, {**state, "token_embedding.weight": embedding}


def _build(config: dict[str, Any], state: dict[str, Tensor], complaint: str) -> CLIP:
    """Make a frozen float32 CLIP that holds ``state``, or raise ``ValueError(complaint: how they differ)``."""
    import open_clip

    with torch.device("meta"):  # no memory, no initialisation, and no draw from the global generator
        model = open_clip.CLIP(**config)
    if differences := _differences(model.state_dict(), state):
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ValueError(f"{complaint}: {'; '.join(differences[:_SHOWN])}{more}. Is it the file of another model?")
    model.load_state_dict(state, assign=True)
    length = model.context_length  # the causal mask is the only buffer that no file holds
    mask = torch.full((length, length), float("-inf")).triu_(1)
    model.register_buffer("attn_mask", mask, persistent=False)
    model = model.float().eval().requires_grad_(False)
    broken = [key for key, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"{complaint}: {', '.join(broken[:_SHOWN])} holds numbers that are not finite. Get it again.")
    return model


def _differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """Describe how two state dicts differ: shapes first, because they tell most, then types and names."""
    shapes = [(key, tuple(expected[key].shape), tuple(found[key].shape)) for key in expected if key in found]
    types = [(key, found[key].dtype) for key in expected if key in found]
    return [
        *(f"{key} should be {wanted} but is {got}" for key, wanted, got in shapes if wanted != got),
        *(f"{key} should hold real numbers but holds {dtype}" for key, dtype in types if not dtype.is_floating_point),
        *(f"{key} is missing" for key in expected if key not in found),
        *(f"{key} is unknown" for key in found if key not in expected),
    ]


@functools.lru_cache(maxsize=1)
def _tokenizer() -> SimpleTokenizer:
    from open_clip import SimpleTokenizer

    return SimpleTokenizer()
