"""A method's settings, declared once: a row per key of ``TRAINER.<NAME>`` gives its default, its check, and whether a
checkpoint fixes it.

The config node, the checks before a run and what a checkpoint must share with a run all come from the rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from anprompt.utils import strict_yaml
from anprompt.utils.config import add_trainer_node, require, require_number

Check = Callable[[str, Any, CfgNode], None]
"""Gets the key in full, its value and the whole config; raises a ValueError if the value cannot work."""

FIXED = True  # by a checkpoint: a run with another value cannot take it
TABLE = "PER_DATASET"
DEFAULT_ROW = "default"


@dataclass(frozen=True)
class Setting:
    """One row.

    Attributes:
        key: below the method's node; a dot makes a node of its own (``LOSS.ALPHA``).
        default: None leaves it to the method's table of datasets, under the key's last part.
        fixed: by a checkpoint.
        optional: None is a value of its own; no table has it.
    """

    key: str
    default: Any
    check: Check | None = None
    fixed: bool = False
    optional: bool = False


class Settings:
    """All rows of one method.

    Args:
        name: of the node, ``TRAINER.<name>``.
        per_dataset: YAML file of values by ``DATASET.NAME``, where rows leave some open. Its row ``default`` serves all
            other datasets, and whatever a dataset's own row leaves out. The table is part of the config: a protocol or
            a user replaces values as ``TRAINER.<name>.PER_DATASET.<dataset>.<key>``.
    """

    def __init__(self, name: str, *rows: Setting, per_dataset: Path | None = None):
        self.name, self.rows, self.per_dataset = name, rows, per_dataset
        self.prefix = f"TRAINER.{name}"

    @property
    def fixed(self) -> list[str]:
        """Keys that a checkpoint fixes."""
        return [row.key for row in self.rows if row.fixed]

    def extend_cfg(self, cfg: CfgNode) -> None:
        """Add the node, with ``PREC`` and the keys that all methods share. A CoOp-style ``train.py`` calls it."""
        node = add_trainer_node(cfg, self.name)
        for row in self.rows:
            *parents, last = row.key.split(".")
            inner = node
            for parent in parents:
                inner = inner.setdefault(parent, CfgNode())
            inner[last] = row.default
        if self.per_dataset is not None:
            node[TABLE] = CfgNode(self.read_table(), new_allowed=True)

    def read_table(self) -> dict[str, dict[str, Any]]:
        """Rows of the file, each complete; none where it does not exist: nobody may ask for them."""
        assert self.per_dataset is not None
        if not self.per_dataset.is_file():
            return {}
        try:
            rows = strict_yaml.load(self.per_dataset.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.per_dataset}: {error}") from error
        return {name: {**rows[DEFAULT_ROW], **row} for name, row in rows.items()}

    def check(self, cfg: CfgNode) -> None:
        """Raise a ValueError for the first value that cannot work, the dataset's among them."""
        node = cfg.TRAINER[self.name]
        for row in self.rows:
            key, value = f"{self.prefix}.{row.key}", lookup(node, row.key)
            if value is None and row.optional:
                continue
            if row.default is None and value is None:
                key, value = self.from_table(cfg, row.key)
            if row.check is not None:
                row.check(key, value, cfg)

    def values(self, cfg: CfgNode) -> CfgNode:
        """The method's node, with the dataset's values where the config leaves them open."""
        filled = cfg.TRAINER[self.name].clone()
        filled.defrost()
        for key, value in self.per_dataset_values(cfg).items():
            *parents, last = key.split(".")
            functools.reduce(lambda node, part: node[part], parents, filled)[last] = value
        filled.freeze()
        return filled

    def per_dataset_values(self, cfg: CfgNode) -> dict[str, Any]:
        """Keys that the config leaves open, and the dataset's values of them."""
        return {key: self.from_table(cfg, key)[1] for key in self.open_keys(cfg)}

    def open_keys(self, cfg: CfgNode) -> Iterator[str]:
        node = cfg.TRAINER[self.name]
        rows = (row for row in self.rows if row.default is None and not row.optional)
        return (row.key for row in rows if lookup(node, row.key) is None)

    def has_row(self, cfg: CfgNode) -> bool:
        """Whether the dataset has values of its own."""
        return cfg.DATASET.NAME in cfg.TRAINER[self.name].get(TABLE, {})

    def from_table(self, cfg: CfgNode, key: str) -> tuple[str, Any]:
        """Full key and value of the dataset's row, else of the default row.

        Raises:
            ValueError: neither has it.
        """
        table, column = cfg.TRAINER[self.name].get(TABLE, {}), key.split(".")[-1]
        for row in (cfg.DATASET.NAME, DEFAULT_ROW):
            if column in table.get(row, {}):
                return f"{self.prefix}.{TABLE}.{row}.{column}", table[row][column]
        raise ValueError(
            f"{self.prefix}.{key} is None, and there is no value for {cfg.DATASET.NAME} in the table of datasets, "
            f"{self.per_dataset}: put that file there, or set {self.prefix}.{key}"
        )


def lookup(node: CfgNode, key: str) -> Any:
    """Value of a key with dots."""
    return functools.reduce(lambda inner, part: inner[part], key.split("."), node)


# ---------------------------------------------------------------------------------------------- checks


def number(low: float, high: float = math.inf) -> Check:
    """A number in ``low..high``."""
    return lambda key, value, cfg: require_number(key, value, low, high)


def whole(low: int) -> Check:
    """A whole number from ``low`` on."""

    def check(key: str, value: Any, cfg: CfgNode) -> None:
        require_number(key, value, low)
        require(isinstance(value, int), f"{key}: expected a whole number, got {value}")

    return check


def one_of(*options: str) -> Check:
    """One of these words."""

    def check(key: str, value: Any, cfg: CfgNode) -> None:
        require(value in options, f"{key}: expected one of {', '.join(options)}, got {value!r}")

    return check
