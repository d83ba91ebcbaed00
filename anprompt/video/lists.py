"""Lists of clips and of classes, as the authors of video benchmarks hand them out.

A line of a list has one of three forms; the first is the one that is written here::

    path label                  brush_hair/a_clip.avi 3
    path number_of_frames label    brush_hair/a_clip 120 3        for folders of frames
    path, label                 a_clip.mp4, 3

Paths hold what file systems allow (HMDB-51 has ``#``, ``&``, ``!`` and brackets), lines may end as those of Windows do,
and the last one may lack its end.
"""

from __future__ import annotations

import csv
import io
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from anprompt.utils.files import atomic_path, require_file
from anprompt.utils.text import printable

LINE = re.compile(
    r"""(?P<path> [^\s,] (?: .*? [^\s,] )?? )  # blanks within it are taken
        (?: \s*,\s* | \s+ (?: (?P<frames> [0-9]{1,9} ) \s+ )? )
        (?P<label> [0-9]{1,9} )""",
    re.VERBOSE,
)
FORMS = '"path label", "path number_of_frames label" or "path, label"'
HEADER = ["id", "name"]
YOUTUBE_ID = re.compile(r"(?P<id>[A-Za-z0-9_-]{11})(?:_\d{6}_\d{6})?")  # Kinetics appends start and end in seconds


class Entry(NamedTuple):
    """One line of a list."""

    path: str
    label: int
    num_frames: int = -1  # -1: the list does not say


def read_list(path: str | Path, folder: str | Path) -> list[Entry]:
    """Entries of a list of clips; empty lines are left out, and an empty file has none.

    Args:
        path: the list.
        folder: what its paths are relative to.

    Raises:
        OSError: it cannot be read.
        ValueError: not UTF-8, or a line of another form, which is named.
    """
    entries = []
    for number, line in enumerate(_text(path, "the list of clips").split("\n"), start=1):
        line = line.strip()
        if not line:
            continue
        fields = LINE.fullmatch(line)
        if fields is None or "\0" in line:
            raise ValueError(f"{path}, line {number}: expected {FORMS}, found '{printable(line):.200}': mend that line")
        frames = fields["frames"]
        entries.append(
            Entry(os.path.join(folder, fields["path"]), int(fields["label"]), -1 if frames is None else int(frames))
        )
    return entries


def write_list(path: str | Path, entries: Iterable[Entry], folder: str | Path) -> None:
    """Write a list that :func:`read_list` reads as the same entries, atomically.

    Raises:
        ValueError: a path that a line would not give back.
    """
    lines = []
    for entry in entries:
        name = os.path.relpath(entry.path, folder).replace(os.sep, "/")
        line = f"{name} {entry.label}" if entry.num_frames < 0 else f"{name} {entry.num_frames} {entry.label}"
        fields = LINE.fullmatch(line)
        if fields is None or fields["path"] != name or (fields["frames"] is None) != (entry.num_frames < 0):
            raise ValueError(f"{entry.path!r} cannot stand in a list of clips ({FORMS}): rename the file")
        lines.append(f"{line}\n")
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")


def draw_shots(entries: Sequence[Entry], shots: int, seed: int) -> list[Entry]:
    """``shots`` random clips of each class, or all where there are fewer, in order of their labels.

    The same list and seed give the same clips, whatever else is drawn.
    """
    by_label = defaultdict(list)
    for entry in entries:
        by_label[entry.label].append(entry)
    draw = random.Random(seed)
    return [entry for label, those in sorted(by_label.items()) for entry in draw.sample(those, min(shots, len(those)))]


# ---------------------------------------------------------------------------------------------- classes


def read_labels(path: str | Path) -> list[str]:
    """Class names by label, from a CSV file ``id,name``; names with commas stand in quotes.

    Raises:
        OSError: it cannot be read.
        ValueError: another header, or ids that are not 0, 1, 2 and so on, each with one name; the line is named.
    """
    rows = csv.reader(io.StringIO(_text(path, "the list of classes"), newline=""), strict=True)
    names: dict[int, str] = {}
    where: dict[int, int] = {}
    try:
        header = [field.strip().lower() for field in next(rows, [])]
        if header != HEADER:
            raise ValueError(f"expected the header id,name, found '{printable(','.join(header)):.200}'")
        for row in rows:
            if not any(row):
                continue
            label, name = _class_of(row)
            if label in names:
                raise ValueError(f"the id {label} stands in line {where[label]} already: each class has one line")
            names[label], where[label] = name, rows.line_num
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {max(rows.line_num, 1)}: {error}") from error
    missing = next((label for label in range(len(names)) if label not in names), None)
    if missing is not None:
        last = max(names)
        raise ValueError(
            f"{path}, line {where[last]}: the id {last} comes without {missing}: ids are 0, 1, 2 and so on"
        )
    if not names:
        raise ValueError(f"{path}: no class below the header id,name")
    return [names[label] for label in range(len(names))]


def _class_of(row: list[str]) -> tuple[int, str]:
    if len(row) != len(HEADER):
        raise ValueError(f"expected id,name, found {len(row)} fields: a name with a comma stands in quotes")
    label, name = (field.strip() for field in row)
    if not re.fullmatch(r"[0-9]{1,9}", label):
        raise ValueError(f"expected a whole number for the id, found '{printable(label):.200}'")
    if not name:
        raise ValueError(f"the id {label} has no name: there would be nothing to write in a prompt")
    return int(label), name


def _text(path: str | Path, what: str) -> str:
    require_file(Path(path), what)
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} {path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error


# ---------------------------------------------------------------------------------------------- leaks


def youtube_id(path: str | Path) -> str | None:
    """The 11 characters by which YouTube knows a clip; None where a file is not named by them.

    The folder, the ending and the seconds of Kinetics (``_000010_000020``) are left out.
    """
    name = str(path).replace("\\", "/").rpartition("/")[2]
    for candidate in (name, os.path.splitext(name)[0]):  # a folder of frames has no ending
        fields = YOUTUBE_ID.fullmatch(candidate)
        if fields is not None:
            return fields["id"]
    return None


def leaks(anchors: Iterable[str | Path], evaluated: Iterable[str | Path]) -> list[tuple[str, str]]:
    """Pairs (anchor, evaluated clip) of one YouTube video, or of one file: training would see what is tested."""
    by_source = defaultdict(list)
    for path in evaluated:
        by_source[_source(path)].append(str(path))
    return [(str(anchor), path) for anchor in anchors for path in by_source.get(_source(anchor), ())]


def _source(path: str | Path) -> str:
    return youtube_id(path) or f"file {os.path.abspath(path)}"
