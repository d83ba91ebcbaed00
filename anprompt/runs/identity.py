"""Which protocol a run belongs to, as its ``results.json`` says it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from anprompt.utils.suggest import require_known

PROTOCOLS = ("base2new", "few_shot", "source", "target")  # the last two: of cross-dataset transfer
VARIABLE = "ANPROMPT_PROTOCOL"  # set by who starts a run for a protocol


def asked_protocol() -> str | None:
    """The protocol that the environment names, None where it names none.

    Raises:
        ValueError: there is no such protocol.
    """
    name = os.environ.get(VARIABLE, "")
    if name:
        require_known(VARIABLE, name, PROTOCOLS)
    return name or None


def protocol_of(classes: str, tested_on: Mapping[str, Any], trained_on: Mapping[str, Any]) -> str | None:
    """The protocol that was asked for, else the one that fits; None where none does.

    Args:
        classes: all, base or new.
        tested_on, trained_on: ``{"dataset": id, "classnames": [...]}``.
    """
    return asked_protocol() or fitting_protocol(classes, tested_on, trained_on)


def fitting_protocol(classes: str, tested_on: Mapping[str, Any], trained_on: Mapping[str, Any]) -> str | None:
    """The source of a transfer is a few-shot run by itself."""
    if tested_on["dataset"] != trained_on["dataset"]:
        return "target" if classes == "all" else None
    if classes != "all":
        return "base2new"
    return "few_shot" if tested_on["classnames"] == trained_on["classnames"] else None
