"""The house of the library: a room imports only from rooms below it, inside functions, too."""

import ast

import pytest

from tests.helpers import REPOSITORY

LIBRARY = REPOSITORY / "anprompt"
# From the ground up. `dassl` and `clip` stand for what answers to these names.
ROOMS = (
    "_version", "assets", "utils", "toolbox", "dassl", "compat", "clip_room", "toolbox_clip", "clip", "prompts", "data",
    "video", "runs", "engine", "protocols", "robustness", "doctor", "table", "report", "predict", "commands", "cli",
    "api", "__main__",
)  # fmt: skip
MODULES = sorted(LIBRARY.rglob("*.py"))
MOST_FLAT_MODULES = 8


def room_of(name):
    """Room that an imported module lies in, None where it is no part of the project."""
    first, _, rest = name.partition(".")
    if first == "anprompt":
        second = rest.partition(".")[0]
        return "clip_room" if second == "clip" else second
    return first if first in ("dassl", "clip") else None


def imported(file):
    """Names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            # `from anprompt import X` names a room, or what the package itself offers
            yield from (
                (f"anprompt.{alias.name}" for alias in node.names) if node.module == "anprompt" else [node.module]
            )


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(LIBRARY)))
def test_a_room_imports_only_from_rooms_below(file):
    where = room_of(f"anprompt.{file.relative_to(LIBRARY).with_suffix('').as_posix().replace('/', '.')}")
    if where == "__init__":
        assert {room_of(name) for name in imported(file)} <= {"_version", "compat"}
        return
    for name in imported(file):
        assert name.partition(".")[0] not in ("trainers", "datasets", "tests", "benchmarks", "train"), f"{file}: {name}"
        room = room_of(name)
        # the bundled toolbox calls itself dassl, the adapter clip
        own = {"toolbox": "dassl", "toolbox_clip": "clip"}.get(where)
        if room is None or room in (where, own, "__version__"):
            continue
        assert where != "toolbox", f"{file}: the toolbox may be installed without the library, it imports {name}"
        assert ROOMS.index(room) < ROOMS.index(where), f"{file.relative_to(REPOSITORY)} imports {name}"


def test_few_modules_lie_outside_the_rooms():
    assert len(list(LIBRARY.glob("*.py"))) <= MOST_FLAT_MODULES


def test_the_map_names_the_rooms_that_exist():
    there = {path.name for path in LIBRARY.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {"clip_room" if name == "clip" else name for name in there} <= set(ROOMS)
