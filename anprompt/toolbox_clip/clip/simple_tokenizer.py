"""CLIP's tokenizer: open_clip's, with OpenAI's names for the two special tokens."""

from typing import Any

import open_clip
import regex
from open_clip.tokenizer import default_bpe

NAMES = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}  # open_clip's: OpenAI's


class SimpleTokenizer(open_clip.SimpleTokenizer):
    """``encode``, ``decode`` and ``encoder``, ``decoder`` (token -> id and back) as in OpenAI's package."""

    pat: Any  # compiled pattern

    def __init__(self, bpe_path: str = default_bpe()) -> None:
        super().__init__(bpe_path)
        pattern = self.pat.pattern
        for theirs, name in NAMES.items():
            index = self.encoder.pop(theirs)
            self.encoder[name], self.decoder[index] = index, name
            self.cache[name] = name
            pattern = pattern.replace(theirs, regex.escape(name))
        self.pat = regex.compile(pattern, regex.IGNORECASE)
