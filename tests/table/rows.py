"""A Markdown table, taken apart."""


def cells(markdown, skip=2):
    """The rows below header and rule, cell by cell."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[skip:]]
