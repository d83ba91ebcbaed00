"""Under which names tables and figures show trainers, where the registered one would say too much."""

import re
from dataclasses import replace

from anprompt.table.core import Table

SHOWN_AS = {"E2MIM": "E2MIM (reconstruction)"}  # the body of its paper could not be read: docs/method.md, section 9


def shown(text: str) -> str:
    """A cell, a label or a note with these names. Words stay that are parts of paths and of config keys."""
    for name, full in SHOWN_AS.items():
        text = re.sub(rf"(?<![\w./]){name}(?![\w./])", full, text)
    return text


def with_shown_names(table: Table) -> Table:
    """The table as a person is to read it."""
    rows = [[shown(cell) if isinstance(cell, str) else cell for cell in row] for row in table.rows]
    return replace(table, caption=shown(table.caption), rows=rows, notes=[shown(note) for note in table.notes])
