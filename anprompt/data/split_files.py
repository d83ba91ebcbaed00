"""Lists of images on disk: split files and few-shot subsets, as JSON and as CoOp's pickles.

A file that is damaged or hostile is one ValueError that names it, and nothing in it runs.
"""

import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from anprompt.data.image_files import is_utf8
from anprompt.prompts.templates import class_text
from anprompt.utils import strict_json
from anprompt.utils.files import atomic_path

Entry = tuple[str, int, str]  # path, label, class name
LARGE = 2**24  # bytes; a few-shot subset is smaller
DELETE_IT = "Delete it to have it written again"
# What a wrong content makes Python's own functions raise, the standard json module included.
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)

Item = TypeVar("Item")


def entry(path: Any, label: Any, classname: Any) -> Entry:
    """The three fields of one image, checked.

    Raises:
        ValueError, TypeError: another type, text that no file system or terminal takes, or no whole number.
    """
    if not (isinstance(path, str) and isinstance(classname, str) and isinstance(label, int | str)):
        # The types only: a hostile pickle can hold values that would take forever to print.
        types = ", ".join(type(value).__name__ for value in (path, label, classname))
        raise TypeError(f"expected a path, a label and a class name for each image, found {types}")
    if not is_utf8(path + classname):
        raise ValueError(f"{path!r} or its class name {classname!r} is not UTF-8: rename the file or folder")
    if int(label) < 0:
        raise ValueError(f"the label of {path!r} is {label}, expected 0, 1, 2 and so on")
    return path, int(label), classname


def label_faults(parts: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """What is wrong with the labels of the items (with ``impath, label, classname``) in "train" and the other parts.

    There are images to train and to test. Labels count from zero without a gap and have one name each; what is tested
    has training images; an image has one label. Otherwise class names and classes would silently part company.
    """
    empty = [part for part in ("train", "test") if not parts[part]]
    if empty:
        yield f"there are no {empty[0]} images"
        return
    labels = {item.label for item in parts["train"]}
    # Only as far as there are labels: a damaged file may hold a very large one.
    gaps = sorted(set(range(len(labels))) - labels)
    if gaps:
        more = f" (nor {', '.join(map(str, gaps[1:10]))}{', ...' if len(gaps) > 10 else ''})" if gaps[1:] else ""
        yield f"no training image has the label {gaps[0]}{more}; labels must be 0, 1, 2 and so on"
    names: dict[int, str] = {}
    reported = set()
    for part, items in parts.items():
        for item in items:
            if item.label in reported:
                continue
            if item.label not in labels:
                reported.add(item.label)
                yield f"{item.impath} ({part}) has the label {item.label} without training images"
            elif names.setdefault(item.label, item.classname) != item.classname:
                reported.add(item.label)
                yield _two_names(item.label, names[item.label], item.classname, part)
    for label, name in names.items():
        if not class_text(name).strip():
            yield f"the label {label} has an empty name, {name!r}: there would be nothing to write in a prompt"
    yield from _two_labels(parts)


def _two_names(label: int, first: str, second: str, part: str) -> str:
    blanks = first.split() == second.split()
    cause = "they differ in blanks only" if blanks else "a class folder is missing or the split mixes two versions"
    return f"the label {label} has two names, {first!r} and {second!r} (in {part}): {cause}"


def _two_labels(parts: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    if not repeated(parts):
        return
    first: dict[str, Any] = {}
    for part, item in distinct(parts):
        other = first.setdefault(item.impath, item)
        if other.label != item.label:
            yield (
                f"{item.impath} (in {part}) has two labels, {other.label} ({other.classname!r}) and "
                f"{item.label} ({item.classname!r}): an image belongs to one class"
            )


def repeated(parts: Mapping[str, Sequence[Any]]) -> set[str]:
    """Paths of the images that are listed more than once, in one part or in several."""
    paths = [item.impath for _, item in distinct(parts)]
    if len(set(paths)) == len(paths):  # nearly always, and quick for a million
        return set()
    return {path for path, count in Counter(paths).items() if count > 1}


def distinct(parts: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, Any]]:
    """``(part, item)`` of all images; a part that is another one's list again (ImageNet tests on val) counts once."""
    seen: list[int] = []
    for part, items in parts.items():
        if id(items) not in seen:
            seen.append(id(items))
            yield from ((part, item) for item in items)


# ---------------------------------------------------------------------------------------------- JSON


def read_json(path: Path, parts: Sequence[str] | None = None) -> dict[str, list[Entry]]:
    """Entries by part, of ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``.

    Args:
        path: the file; paths in it are relative to the image folder.
        parts: the parts to read; all of them must be there. None: those that are.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else; the message tells what is wrong, not what to do.
    """
    try:
        content = strict_json.loads(path.read_text(encoding="utf-8-sig"))
        return {part: [entry(*item) for item in content[part]] for part in (content.keys() if parts is None else parts)}
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged or something else ({type(error).__name__}: {error})") from error


# ---------------------------------------------------------------------------------------------- pickles


def read_pickle(path: Path) -> dict[str, list[Entry]]:
    """Entries of one of CoOp's pickles of ``{part: [Datum, ...]}``, by part, with the paths as they were then.

    A pickle can carry code. Only Dassl's Datum may appear in it, and not even that is built.

    Raises:
        ValueError: truncated, another content, or not harmless.
    """
    try:
        unpickler = _CarefulUnpickler if path.stat().st_size < LARGE else _FastUnpickler
        with path.open("rb") as file:
            parts = unpickler(file).load()
        return {str(part): [_entry_of(item) for item in items] for part, items in parts.items()}
    except _NotOnlyDatum as error:
        raise ValueError(f"cannot read {path}: {error}. {error.mend or DELETE_IT}.") from error
    except OSError:  # names the file itself: no permission, a disk that fails
        raise
    except Exception as error:  # damaged pickles raise anything
        raise ValueError(f"cannot read {path} ({type(error).__name__}: {error}). {DELETE_IT}.") from error


def _entry_of(item: Any) -> Entry:
    state = vars(item)
    return entry(state["_impath"], state["_label"], state["_classname"])


class _NotOnlyDatum(pickle.UnpicklingError):
    """The pickle names something else; ``mend``: what to do, where deleting it is not the first thing to think of."""

    def __init__(self, module: str, name: str):
        super().__init__(f"it names {module}.{name}, where only Dassl's Datum is expected")
        self.mend = ""
        if module.partition(".")[0] == "numpy":
            self.mend = (
                "Its labels or paths are NumPy's, which are not read from pickles: write it again with int(label) and "
                "str(path), or delete it to have the images drawn or listed anew"
            )


class _OnlyDatum:
    def __init__(self, file: BinaryIO):
        super().__init__(file)  # type: ignore[call-arg]  # the unpickler's
        self.stand_in = type("Datum", (), {})  # a new one each time: a pickle can write to the classes it names

    def find_class(self, module: str, name: str) -> type:
        if (module, name) == ("dassl.data.datasets.base_dataset", "Datum"):
            return self.stand_in
        raise _NotOnlyDatum(module, name)


class _CarefulUnpickler(_OnlyDatum, pickle._Unpickler):  # type: ignore[misc, name-defined]
    """In Python: a damaged number cannot make it reserve memory for billions of objects, as the one in C does."""


class _FastUnpickler(_OnlyDatum, pickle.Unpickler):
    """In C: for ImageNet's list of 1.3 million images."""


def write_pickle(parts: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Write lists of Datum as CoOp does, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps(parts, protocol=pickle.HIGHEST_PROTOCOL))


# ---------------------------------------------------------------------------------------------- few-shot subsets


def subset_file(path: Path) -> Path | None:
    """The file that a few-shot subset is read from: the pickle, else the JSON beside it; None without either."""
    return next((file for file in (path, path.with_suffix(".json")) if file.is_file()), None)


def read_subset(source: Path) -> dict[str, list[Entry]]:
    """Entries of the one file of a few-shot subset, by part."""
    return read_twin(source) if source.suffix == ".json" else read_pickle(source)


def read_twin(path: Path) -> dict[str, list[Entry]]:
    """Entries of a few-shot subset in JSON."""
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path} ({error}). {DELETE_IT}.") from error


def by_suffix(path: str, items: Mapping[str, Item]) -> Item | None:
    """The item whose relative path ends ``path``; the longest match wins."""
    pieces = PurePosixPath(path.replace("\\", "/")).parts
    candidates = ("/".join(pieces[start:]) for start in range(len(pieces)))
    return next((items[name] for name in candidates if name in items), None)
