"""Names, files and texts: what CoOp-family files take from ``from clip import clip``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import open_clip
import torch
from torch import Tensor

from anprompt.clip.backbone import OPENAI_ARCHS, TINY, TINY_FILE, load_clip, read_any_format, verified_weights
from anprompt.utils.files import at_home, atomic_path, remove_leftovers
from anprompt.utils.suggest import require_known, suggest
from clip.model import CLIP, HEADS, build_model
from clip.simple_tokenizer import SimpleTokenizer

__all__ = ["available_models", "build_model", "load", "tokenize"]

_tokenizer = SimpleTokenizer()


class _Models(dict[str, str]):
    """Name -> URL; an unknown name is answered with those that come close."""

    def __missing__(self, name: str) -> NoReturn:
        hint = "; its image tower is a ResNet, which is not supported" if name.startswith("RN") else ""
        raise ValueError(f"unknown CLIP model {name!r} (MODEL.BACKBONE.NAME){hint}: {suggest(name, self)}")


_MODELS = _Models({name: open_clip.get_pretrained_url(arch, "openai") for name, arch in OPENAI_ARCHS.items()})
_MODELS[TINY] = TINY_FILE.as_uri()


def available_models() -> list[str]:
    return list(_MODELS)


def tokenize(texts: str | Sequence[str], context_length: int = 77, truncate: bool = False) -> Tensor:
    """Token ids ``[N, context_length]`` (int64) with start and end token, zero behind it.

    Args:
        truncate: cut a text that does not fit, keeping the end token.

    Raises:
        RuntimeError: a text does not fit.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    for text in texts:
        if not truncate and len(_tokenizer.encode(text)) + 2 > context_length:
            raise RuntimeError(f"Input {text} is too long for context length {context_length}")
    return _tokenizer(texts, context_length)


def load(
    name: str, device: str | torch.device | None = None, jit: bool = False, download_root: str | None = None
) -> tuple[CLIP, Any]:
    """A CLIP and the transform of its images; half precision on a GPU, float32 on the CPU.

    Args:
        name: one of ``available_models()``, or a file in OpenAI's layout.
        device: default: the GPU if there is one.
        download_root: folder to search instead of ``~/.cache/clip``.

    Raises:
        FileNotFoundError: no weights; the message names the command that gets them.
        ValueError: unknown name, damaged file, or ``jit=True``.
    """
    if jit:
        raise ValueError("clip.load(jit=True): this adapter has no TorchScript model, use jit=False")
    file = name if Path(name).is_file() else _download(_MODELS[name], download_root)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = build_model(read_any_format(Path(file))).to(device)
    if device.type == "cpu":
        model.float()
    return model, open_clip.image_transform(model.visual.input_resolution, is_train=False)


def _download(url: str, root: str | None = None) -> str:
    """Path of the weights behind a URL of ``_MODELS``, in OpenAI's layout. Only the name says download.

    Raises:
        FileNotFoundError: no weights; the message names the places searched and the command that gets the file.
        ValueError: another URL, or a file that is not what was published.
    """
    names = {known: name for name, known in _MODELS.items()}
    require_known("URL of CLIP weights", url, names)
    name = names[url]
    try:
        file, digest = verified_weights(name, cache_dir=root)
    except (FileNotFoundError, ValueError) as error:  # both end in a key that files which ask for `clip` do not read
        raise type(error)(str(error).partition("or set MODEL.BACKBONE.PATH")[0].rstrip(", \n")) from None
    return str(file if file.suffix == ".pt" else _in_openai_layout(name, file, digest, root))


def _in_openai_layout(name: str, file: Path, digest: str, root: str | None) -> Path:
    """Copy of a file that is no ``.pt`` (the tiny CLIP, or a safetensors file of Hugging Face) as a state dict.

    The callers read the path themselves, with ``torch.jit.load`` and ``torch.load``, and hand the content to
    ``build_model``. So the copy is a real file of tensors under OpenAI's names. Two more entries tell the heads:
    OpenAI's loader takes ``width // 64``, which the tiny CLIP does not follow. The digest in its name keeps the copy
    of another file from being taken for this one.
    """
    copy = at_home(root or "~/.cache/clip") / f"{name.replace('/', '-')}-{digest[:16]}.pt"
    remove_leftovers(copy.parent)
    if not copy.is_file():
        model = load_clip(name, str(file)).model
        state = dict(model.state_dict())
        for prefix, entry in HEADS.items():
            state[entry] = torch.tensor(model.get_submodule(prefix).resblocks[0].attn.num_heads)
        with atomic_path(copy) as temporary:
            torch.save(state, temporary)
    return copy
