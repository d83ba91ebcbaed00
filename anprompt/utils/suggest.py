"""The second half of an error message about an unknown name: which names would have been right."""

from collections.abc import Iterable
from difflib import get_close_matches

LIST_ALL_UP_TO = 20


def suggest(name: str, known: Iterable[str]) -> str:
    """``did you mean A or B?``, or the list of ``known`` names where none is close. Case is ignored.

    >>> suggest("anpromt", ["ANPrompt", "CoOp"])
    'did you mean ANPrompt?'
    """
    by_lower = {option.lower(): option for option in sorted(known)}
    close = get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(by_lower[match] for match in close)}?"
    if not by_lower:
        return "there is none to choose from"
    listed = list(by_lower.values())
    rest = len(listed) - LIST_ALL_UP_TO
    return f"known: {', '.join(listed[:LIST_ALL_UP_TO])}" + (f" and {rest} more" if rest > 0 else "")


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise ValueError unless ``name`` is one of ``known``; ``kind`` says what it names."""
    known = list(known)
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: {suggest(name, known)}")
