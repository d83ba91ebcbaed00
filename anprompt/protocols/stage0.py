"""Stage 0 of a trainer that starts from what was learned on other data: GA2-CLIP's hard prompts.

``configs/trainers/<Trainer>/protocols/stage0.yaml`` says so::

    key: TRAINER.GA2CLIP.HARD.SOURCE    # names the folder of that run, in the config of those that start from it
    takers: [tiny, vit_b16]             # the YAML files that do
    source: kinetics400_video           # data set to learn on, and the YAML file to learn with
    file: vit_b16_stage0
    embedded: {source: shapes, file: tiny_stage0}   # in place of both where the data is embedded

A run that names a source itself, or switches the section of ``key`` off (``ENABLED False``), needs no stage 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anprompt.protocols.trainer_files import read

STAGE0 = "stage0.yaml"
KEYS = {"key", "takers", "source", "file", "embedded"}


@dataclass(frozen=True)
class Stage0:
    """What a trainer needs beforehand.

    Attributes:
        key: of the config, for the folder of the run.
        takers: stems of the YAML files that start from it.
        source: data set to learn on.
        stem: of the YAML file to learn with.
    """

    key: str
    takers: Sequence[str]
    source: str
    stem: str

    def needed(self, stem: str, pairs: Sequence[str]) -> bool:
        """Whether a run with this YAML file and these ``KEY VALUE`` pairs waits for it."""
        given = dict(zip(pairs[::2], pairs[1::2], strict=False))
        switch = f"{self.key.rpartition('.')[0]}.ENABLED"
        return stem in self.takers and self.key not in given and given.get(switch, "True") != "False"


def stage0_of(trainer: Path, embedded: bool, source: str = "") -> Stage0 | None:
    """What the trainer whose folder this is needs; None where it starts from CLIP alone.

    Args:
        embedded: the data that it will be tuned on is.
        source: the user's choice of data to learn on.

    Raises:
        ValueError: the file lacks a line, or has one that nothing reads.
    """
    file = trainer / f"protocols/{STAGE0}"
    if not file.is_file():
        return None
    table = read(file)
    if (
        table.keys() != KEYS
        or not isinstance(table["embedded"], dict)
        or table["embedded"].keys() != {"source", "file"}
    ):
        raise ValueError(f"{file}: expected the lines {', '.join(sorted(KEYS))}, got {', '.join(sorted(table))}")
    small = table["embedded"]
    use_small = source == small["source"] or (embedded and not source)
    chosen = small if use_small else table
    return Stage0(table["key"], table["takers"], source or chosen["source"], chosen["file"])
