"""A small stand-in for OpenAI's ``clip`` package, for trainer files that ask for it where none is installed.

The names, the calls and the layout of the model are OpenAI's; the blocks, the tokenizer and the image transform are
open_clip's. The weights come through ``anprompt.clip.backbone``: nothing is ever downloaded. CLIP's transformers only.
"""

from clip.clip import _MODELS, _download, _tokenizer, available_models, build_model, load, tokenize

__all__ = ["_MODELS", "_download", "_tokenizer", "available_models", "build_model", "load", "tokenize"]
