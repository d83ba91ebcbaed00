"""What may be wrong with a dataset on disk. Everything here only looks; :func:`move_aside` is what ``--repair`` calls.

A *reader* is a dataset class of ``datasets/`` that knows its places and has read nothing yet; a *part* is train, val or
test.
"""

import hashlib
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from anprompt.data.image_files import Remark
from anprompt.data.split_files import Entry, distinct, label_faults, read_pickle, read_subset, read_twin, subset_file
from anprompt.doctor.annotations import annotated_labels
from anprompt.doctor.known_counts import KNOWN_COUNTS
from anprompt.doctor.report import DELETE, FETCH, Problem, Report
from dassl.utils import read_image

WHOLE = ("DecompressionBombError", "UnknownWhite")  # why an image that is not damaged cannot be decoded
CHUNK = 2048  # images that wait for a thread at one time

Parts = Mapping[str, Sequence[Any]]  # lists of items with impath, label and classname


class Reader(Protocol):
    """What is asked of a dataset class."""

    dataset_dir: str
    image_dir: str
    listing: str
    sampled: tuple[str, ...]
    mend: str
    noticed: Iterable[Remark]

    def check_folders(self) -> None: ...
    def read(self) -> Any: ...
    def list_images(self) -> Any: ...
    def remarks(self, parts: Any) -> Iterable[Remark]: ...
    def kept_subset(self, parts: Any, shots: int, cache: Path) -> Any: ...
    def relative(self, item: Any) -> str: ...


def examine(reader: Reader, name: str, required: bool = False, quick: bool = False) -> Report:
    """Look at one dataset.

    Args:
        reader: the dataset, which has read nothing yet.
        name: how the report calls it.
        required: it is an error if there is no such folder.
        quick: do not open the images, which takes nearly all of the time.
    """
    report = Report(name, reader.dataset_dir, found=Path(reader.dataset_dir).is_dir())
    if not report.found:
        if required:
            report.problems.append(Problem("error", "missing", f"there is no folder {reader.dataset_dir}", reader.mend))
        return report
    try:
        reader.check_folders()
        parts = reader.list_images()
    except OSError as error:
        report.problems.append(Problem("error", "incomplete", str(error), reader.mend))
        return report
    except ValueError as error:
        report.problems.append(Problem("error", "damaged", str(error), reader.mend))
        return report
    report.classes = len({item.label for items in parts.values() for item in items})
    report.images = {part: len(items) for part, items in parts.items()}
    report.problems = [
        *label_problems(reader, parts),
        *remark_problems(reader.remarks(parts)),
        *count_problems(type(reader).__name__, report),
        *annotation_problems(reader, parts),
        *listing_problems(reader, parts),
        *cache_problems(reader, parts),
        *image_problems(reader, parts, name, quick),
    ]
    return report


# ---------------------------------------------------------------------------------------------- labels and counts


def label_problems(reader: Reader, parts: Parts) -> Iterator[Problem]:
    """Gaps, classes with two names or none, classes that are tested but not trained, images with two labels."""
    faults = list(label_faults(parts))
    if faults:
        yield Problem("error", "labels", "labels and classes do not fit", reader.mend, files=faults)


def remark_problems(remarks: Iterable[Remark]) -> Iterator[Problem]:
    """What a run says in its log."""
    for kind, what, fix, files in remarks:
        yield Problem("warning", kind, what, fix, files=files)


def count_problems(registry_name: str, report: Report) -> Iterator[Problem]:
    """Numbers of classes and images that are not those of the complete dataset, if it is a known one."""
    known = KNOWN_COUNTS.get(registry_name)
    if known is None:
        return
    found = {"classes": report.classes, **report.images}
    wrong = [
        f"{found[key]:,} {key if key == 'classes' else f'{key} images'}, expected {expected:,}"
        for key, expected in known._asdict().items()
        if expected is not None and found[key] != expected
    ]
    if wrong:
        yield Problem("error", "counts", f"found {'; '.join(wrong)}", f"accuracies would not compare: {FETCH}")


def annotation_problems(reader: Reader, parts: Parts) -> Iterator[Problem]:
    """Images whose label is not that of the annotations which came with them: copies that renumber the images."""
    try:
        labels = annotated_labels(type(reader).__name__, Path(reader.dataset_dir))
    except ValueError as error:
        yield Problem("warning", "annotations", str(error), f"nothing reads it but this check; {FETCH}")
        return
    images = {reader.relative(item): item.label for _, item in distinct(parts)}
    other = sorted(path for path, label in images.items() if labels.get(path, label) != label)
    if other:
        yield Problem(
            "error",
            "annotations",
            f"{len(other):,} of {len(images):,} images have another label in the split file than in their annotations",
            f"the files bear other names than in the original: look for another copy; {reader.mend}",
            files=other,
        )


# ---------------------------------------------------------------------------------------------- images


def image_problems(reader: Reader, parts: Parts, name: str, quick: bool) -> Iterator[Problem]:
    """Files that are not there, that do not decode, and pictures that are in two parts under different names."""
    paths = sorted({item.impath for _, item in distinct(parts)})
    missing = {path for path in paths if not os.path.isfile(path)}
    if missing:
        what = f"{len(missing):,} of {len(paths):,} images are missing"
        windows = os.sep == "/" and any("\\" in reader.relative(item) for _, item in distinct(parts))
        fix = "their list was written on Windows: put / for every \\ in it" if windows else reader.mend
        yield Problem("error", "missing images", what, fix, files=sorted(missing))
    if quick:
        return
    digests, damaged = open_images([path for path in paths if path not in missing], name)
    if damaged:
        # What is too large, or of numbers that may mean anything, is whole: another copy would be no better.
        whole = any(reason.startswith(WHOLE) for reason in damaged.values())
        yield Problem(
            "error",
            "unreadable images",
            f"{len(damaged):,} of {len(paths):,} images cannot be decoded",
            f"store those that are whole in a size and form that can be read; {reader.mend}" if whole else reader.mend,
            files=[f"{path} ({reason})" for path, reason in sorted(damaged.items())],
        )
    yield from content_duplicates(parts, digests)


def open_images(paths: Sequence[str], name: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """Hash of every image by path, and the reason why not for those that cannot be decoded."""
    digests, damaged = {}, {}
    waiting = iter(tqdm(paths, desc=f"opening {name}", unit="image", disable=None))
    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata, which does no harm
        while chunk := list(islice(waiting, CHUNK)):
            for path, (digest, reason) in zip(chunk, pool.map(open_image, chunk), strict=True):
                if reason:
                    damaged[path] = reason
                else:
                    digests[path] = digest
    return digests, damaged


def open_image(path: str) -> tuple[bytes, str]:
    """Hash of the file, and why it cannot be decoded ("" if it can)."""
    try:
        read_image(path)
        return hashlib.sha256(Path(path).read_bytes()).digest(), ""
    except Exception as error:  # decoders raise anything
        cause = error.__cause__ or error
        return b"", f"{type(cause).__name__}: {cause}"


def content_duplicates(parts: Parts, digests: Mapping[str, bytes]) -> Iterator[Problem]:
    """The same bytes in two parts, in different files."""
    places: dict[bytes, dict[str, str]] = defaultdict(dict)
    for part, item in distinct(parts):
        if item.impath in digests:
            places[digests[item.impath]].setdefault(part, item.impath)
    twice = [
        " = ".join(f"{path} ({part})" for part, path in found.items())
        for found in places.values()
        if len(set(found.values())) > 1
    ]
    if twice:
        yield Problem(
            "warning",
            "duplicates",
            f"pictures that are in two parts under different names: {len(twice):,}",
            "nothing, if this is a public dataset: several have some; in your own, keep one of each",
            files=sorted(twice),
        )


# ---------------------------------------------------------------------------------------------- caches


def listing_problems(reader: Reader, parts: Parts) -> Iterator[Problem]:
    """A kept list of all images that is damaged or names other images than the folders hold."""
    kept = Path(reader.dataset_dir, reader.listing)
    if not kept.is_file():
        return
    try:
        listed = reader.read()
    except (OSError, ValueError) as error:
        yield stale(str(error), kept)
        return
    yield from remark_problems(remark for remark in reader.noticed if remark.kind == "renamed classes")
    there, named = (
        {(item.impath, item.label, item.classname) for _, item in distinct(images)} for images in (parts, listed)
    )
    if there != named:
        numbers = f"{len(named - there):,} images that are not there so and lacks {len(there - named):,}"
        yield stale(f"{kept} names {numbers}", kept)
    elif is_moved(reader, read_pickle(kept)):
        yield moved(kept)


def cache_problems(reader: Reader, parts: Parts) -> Iterator[Problem]:
    """Few-shot subsets that a run would refuse, or that were written elsewhere; JSON twins that differ."""
    folder = Path(reader.dataset_dir, "split_fewshot")
    caches = {file.with_suffix(".pkl") for file in folder.glob("shot_*-seed_*") if file.suffix in (".pkl", ".json")}
    for cache in sorted(caches) if reader.sampled else ():
        twin = cache.with_suffix(".json")
        try:
            found = reader.kept_subset(parts, shots_of(cache), cache) or {}
        except (OSError, ValueError) as error:
            yield stale(str(error), cache, twin)
            continue
        if cache.is_file() and is_moved(reader, read_subset(cache)):
            yield moved(cache)
        if cache.is_file() and twin.is_file() and not is_twin(reader, found, twin):
            what = f"{twin} differs from the pickle, which is used"
            yield Problem("warning", "stale cache", what, DELETE, stale=[twin])


def shots_of(cache: Path) -> int:
    """Images per class of a few-shot subset, from its name."""
    shots = re.match(r"shot_(\d+)-", cache.name)
    if shots is None:
        raise ValueError(
            f"{subset_file(cache)} has no number in its name, expected shot_<images per class>-seed_<seed>"
        )
    return int(shots[1])


def is_twin(reader: Reader, found: Parts, twin: Path) -> bool:
    """The JSON names the same images with the same labels in the same order."""
    try:
        portable = read_twin(twin)
    except ValueError:
        return False
    return {part: [entry[:2] for entry in entries] for part, entries in portable.items()} == {
        part: [(reader.relative(item), item.label) for item in items] for part, items in found.items()
    }


def is_moved(reader: Reader, entries: Mapping[str, Iterable[Entry]]) -> bool:
    """The paths in a pickle lead elsewhere than to the present image folder."""
    return any(not path.startswith(reader.image_dir) for listed in entries.values() for path, _, _ in listed)


def stale(what: str, *caches: Path) -> Problem:
    return Problem("error", "stale cache", what, DELETE, stale=[cache for cache in caches if cache.is_file()])


def moved(cache: Path) -> Problem:
    what = f"{cache} was written for another place"
    return Problem("note", "moved cache", what, "nothing: its paths are mended when they are read")


def move_aside(problem: Problem) -> None:
    """Rename the stale caches of a problem to ``<name>.bak`` (or ``.bak2``, ...): nothing is lost or overwritten."""
    try:
        for cache in problem.stale:
            names = (cache.with_name(f"{cache.name}.bak{number}") for number in ("", *range(2, 1000)))
            cache.rename(next(name for name in names if not name.exists()))
        problem.repaired = bool(problem.stale)
    except OSError as error:
        problem.fix = f"it could not be moved aside ({error}): {DELETE}"
