"""Texts from files and folders, as they may be printed."""

from __future__ import annotations

import re
from typing import Any

# Control characters, which move a terminal's cursor, rename its window or hide what stands before them; marks that turn
# the direction of writing; line separators; and halves of characters, which stand for bytes that are no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""A name from a file or a message about one, with escapes in place of what would act on a terminal.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def show_anything(stream: Any) -> None:
    """Let a stream write escapes in place of the characters that its encoding lacks (``LANG=C``)."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def printable_lines(text: object) -> str:
    """The same for a text that we have put on several lines."""
    return "\n".join(map(printable, str(text).split("\n")))
