"""Tables as text: Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tabulate import tabulate

from anprompt.table.core import Cell, Difference, Stat, Table
from anprompt.table.names import with_shown_names
from anprompt.utils.text import printable

SPECIAL_IN_LATEX = str.maketrans({character: f"\\{character}" for character in "&%$#_{}"})


def render(tables: Sequence[Table], style: str) -> str:
    """``md`` and ``latex``: rounded, with captions and notes. ``csv``: unrounded, spreads in their own columns."""
    return "\n".join(
        {"md": markdown, "latex": latex, "csv": comma_separated}[style](with_shown_names(table)) for table in tables
    )


def markdown(table: Table) -> str:
    notes = "".join(f"\n{note}\n" for note in table.notes)
    return f"**{table.caption}**\n\n{body(table, 'github')}\n{notes}"


def latex(table: Table) -> str:
    caption = " ".join([table.caption, *table.notes]).translate(SPECIAL_IN_LATEX)
    tabular = body(table, "latex_booktabs")  # escapes the cells
    lines = ["\\begin{table}", "\\centering", f"\\caption{{{caption}}}", tabular, "\\end{table}", ""]
    return "\n".join(lines).replace("±", "$\\pm$")


def body(table: Table, style: str) -> str:
    rows = [[as_text(cell) for cell in row] for row in table.rows]
    numeric = [any(not isinstance(cell, str | None) for cell in column) for column in zip(*table.rows, strict=True)]
    align = ["right" if right else "left" for right in numeric]
    return tabulate(rows, headers=table.header, tablefmt=style, colalign=align, disable_numparse=True)


def as_text(cell: Cell) -> str:
    if isinstance(cell, Stat):
        mean = f"{cell.mean:+.2f}" if isinstance(cell, Difference) else f"{cell.mean:.2f}"
        return mean + (f" ± {cell.spread:.2f}" if cell.spread is not None else "")
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.1f}"
    return in_cell(cell) if cell else "-"


def in_cell(text: str) -> str:
    """Names come from files: none breaks its row."""
    return printable(text).replace("|", "?")


def comma_separated(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = list(zip(*table.rows, strict=True))
    measured = [any(isinstance(cell, Stat) for cell in column) for column in columns]
    writer.writerow(
        name
        for head, two in zip(table.header, measured, strict=True)
        for name in ([head, f"{head} ±"] if two else [head])
    )
    for row in table.rows:
        writer.writerow(value for cell, two in zip(row, measured, strict=True) for value in as_values(cell, two))
    return text.getvalue()


def as_values(cell: Cell, two: bool) -> list[Cell]:
    """Values of one cell in one column or, where the column holds a mean and its spread, in two. Unknown: empty."""
    if isinstance(cell, Stat):
        return [cell.mean, cell.spread]
    return [cell, None] if two else [cell]
