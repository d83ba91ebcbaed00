"""YAML that says one thing: what PyYAML would settle silently is an error here, with its line.

Of two equal keys, PyYAML takes the last and drops the first with all that is below it; ``010`` is 8 to it, ``1:30`` is
90, and a file that contains itself is read without end.
"""

import re
from typing import Any

import yaml

DEEPEST = 30  # levels; a config has five
MOST = 10_000  # values, those behind aliases counted wherever they stand
TEXT, WHOLE, FLOAT, DATE, MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "timestamp", "merge")
)
OCTAL = re.compile(r"[+-]?0[0-7_]+")


def load(text: str) -> Any:
    """What a YAML text says, as plain dictionaries, lists and values; None where it says nothing.

    Raises:
        ValueError: no YAML; a key that is there twice or is not text; a number that YAML takes for another than people
            do; too deep, too large, or without end. One line, which names the line of the text.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Check().visit(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise ValueError(_one_line(error, text)) from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:  # PyYAML's answers to "!!bool 7" and the like
        raise ValueError(f"a value is not of the type that its tag (!!) names ({error})") from error


def _one_line(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return " ".join(str(error).split())
    if text[mark.index : mark.index + 1] == "\t":
        return f"line {mark.line + 1} has a tab, where YAML takes spaces only"
    context = f" ({error.context})" if error.context else ""
    return f"line {mark.line + 1}: {' '.join(f'{error.problem}{context}'.split())}"


class _Loader(yaml.SafeLoader):
    """PyYAML's, which climbs down by calling itself, but not without end."""

    level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.level == DEEPEST:
            raise ValueError(f"line {_line(self.peek_event())}: more than {DEEPEST} levels, one within the other")
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


class _Check:
    """Walks through the nodes of a document, before anything is made of them."""

    def __init__(self) -> None:
        self.values = 0

    def visit(self, node: yaml.Node, key: str = "", above: tuple[int, ...] = ()) -> None:
        """``key``: where the node is, as in ``OPTIM.LR``. ``above``: the nodes that it is in."""
        self.values += 1
        if id(node) in above:
            raise ValueError(f"line {_line(node)}: {key} contains itself")
        if self.values > MOST:
            raise ValueError(f"more than {MOST:,} values, those behind aliases (*name) counted wherever they stand")
        inside = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            _refuse_odd_keys(node, key)
            for name, value in node.value:
                self.visit(value, f"{key}.{name.value}" if key else name.value, inside)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                self.visit(value, key, inside)
        else:
            _refuse_odd_values(node, key)


def _refuse_odd_keys(node: yaml.MappingNode, section: str) -> None:
    lines: dict[str, int] = {}
    for name, _ in node.value:
        if not isinstance(name, yaml.ScalarNode) or name.tag not in (TEXT, MERGE):
            found = repr(name.value) if isinstance(name, yaml.ScalarNode) else "a list or a section"
            raise ValueError(f"line {_line(name)}: expected the name of a key, found {found}")
        full = f"{section}.{name.value}" if section else name.value
        if name.value in lines:
            raise ValueError(
                f"{full} is there twice, in lines {lines[name.value]} and {_line(name)}: only the last would count, "
                "so put both together"
            )
        lines[name.value] = _line(name)


def _refuse_odd_values(node: yaml.ScalarNode, key: str) -> None:
    text, plain = node.value, ""
    if node.tag == DATE:
        kind = "a date"
    elif node.tag in (WHOLE, FLOAT) and ":" in text:
        kind = "a number to the base 60"
    elif node.tag == WHOLE and OCTAL.fullmatch(text):
        kind, plain = "an octal number", f"{int(text.replace('_', ''))}, or "
    else:
        return
    raise ValueError(f'line {_line(node)}: {key} {text} is {kind} in YAML: write {plain}"{text}" for text')


def _line(place: Any) -> int:
    return place.start_mark.line + 1
