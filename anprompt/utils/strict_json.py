"""JSON that says one thing: of two equal names, Python's reader takes the last and drops the first."""

import json
import re
from typing import Any


def loads(text: str) -> Any:
    """``json.loads``, which refuses an object with the same name twice.

    Raises:
        ValueError: no JSON, nested too deeply, or a name is there twice; names both places.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{twice!r} is there twice{_places(text, twice)}: only the last would count")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deeply") from error


def _places(text: str, name: str) -> str:
    """``", in line 1, column 2 and line 7, column 3"``; nothing where the name is written with escapes."""
    found = [match.start() for match in re.finditer(rf"{re.escape(json.dumps(name, ensure_ascii=False))}\s*:", text)]
    lines = [f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}" for at in found[:3]]
    return f", in {' and '.join(lines)}" if len(lines) > 1 else ""
