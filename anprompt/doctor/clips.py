"""What may be wrong with a data set of clips on disk: its lists, its label files and the clips. It only looks."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from anprompt.data.split_dataset import same_names
from anprompt.doctor.known_counts import KNOWN_LISTS
from anprompt.doctor.report import Problem, Report
from anprompt.video.dataset import EVALUATED, HOW_TO_GET, SUBSETS, Subset, VideoDataset, label_faults
from anprompt.video.decoding import open_video
from anprompt.video.items import locate
from anprompt.video.lists import Entry, read_list

TRAINED = re.compile(r"(base_)?train|fs_base_s\d+|few_shot_\d+")
OTHER_SPLITS = ("val2", "val3")  # of HMDB-51 and UCF-101; what they test, the first split trains with
MEND = f"put the right file there: {HOW_TO_GET}"

Lists = Mapping[str, Sequence[Entry]]


def examine_clips(reader: VideoDataset, name: str, required: bool = False, quick: bool = False) -> Report:
    """Look at one data set of clips.

    Args:
        reader: the data set, which has read nothing yet.
        name: how the report calls it.
        required: it is an error if there is no such folder.
        quick: do not open the clips, which takes nearly all of the time.
    """
    report = Report(name, reader.dataset_dir, found=Path(reader.dataset_dir).is_dir())
    if not report.found:
        if required:
            report.problems.append(Problem("error", "missing", f"there is no folder {reader.dataset_dir}", HOW_TO_GET))
        return report
    try:
        reader.check_folders()
    except OSError as error:
        report.problems.append(Problem("error", "incomplete", str(error), HOW_TO_GET))
        return report
    lists, damaged = read_all(reader)
    anchors, bad_anchors = read_anchors(reader)
    every = {**lists, **({"anchors": anchors} if anchors else {})}
    report.images = counts(lists)
    report.problems = [
        *damaged,
        *missing_lists(reader, lists),
        *label_problems(reader, lists, report),
        *count_problems(type(reader).__name__, lists),
        *overlap_problems(lists),
        *bad_anchors,
        *leak_problems(reader, anchors),
        *clip_problems(reader, every, name, quick),
    ]
    return report


def subset_of(name: str) -> Subset:
    """Whose classes the labels of a list count."""
    if name.startswith(("base", "fs_base")):
        return SUBSETS["base"]
    return SUBSETS["new" if name.startswith("novel") else "all"]


# ---------------------------------------------------------------------------------------------- lists


def read_all(reader: VideoDataset) -> tuple[dict[str, list[Entry]], list[Problem]]:
    """The lists that a run may read, by name, and what is wrong with those that cannot be read."""
    lists: dict[str, list[Entry]] = {}
    problems = []
    for path in sorted(Path(reader.list_dir).glob("*.txt")):
        if path.stem in EVALUATED or TRAINED.fullmatch(path.stem):
            try:
                entries = read_list(path, reader.video_dir)
                if not entries:
                    raise ValueError(f"the list {path} is empty")
                lists[path.stem] = entries
            except (OSError, ValueError) as error:
                problems.append(Problem("error", "damaged list", str(error), MEND))
    return lists, problems


def read_anchors(reader: VideoDataset) -> tuple[list[Entry], list[Problem]]:
    if not reader.anchor_list:
        return [], []
    try:
        anchors = read_list(reader.anchor_list, reader.anchor_dir)
        if not anchors:
            raise ValueError(f"the list of anchors {reader.anchor_list} is empty")
        return anchors, []
    except (OSError, ValueError) as error:
        return [], [Problem("error", "anchors", str(error), "name their list with DATASET.ANCHOR.LIST")]


def missing_lists(reader: VideoDataset, lists: Lists) -> Iterator[Problem]:
    """Clips to train with, but none to test with or the reverse; or neither, of all classes and of base classes."""
    there = {key for key, subset in SUBSETS.items() if any(name in lists for name in subset.test)}
    if not there:
        what = f"{reader.list_dir} has none of {', '.join(f'{name}.txt' for name in EVALUATED)}"
        yield Problem("error", "missing lists", what, MEND)
    for key in ("all", "base"):
        subset = SUBSETS[key]
        some = any(TRAINED.fullmatch(name) and subset_of(name) is subset for name in lists)
        if some != (key in there):
            use, name = ("test", subset.test[0]) if some else ("train", subset.train)
            what = f"DATASET.SUBSAMPLE_CLASSES {key} has no clips to {use} with: there is no {name}.txt"
            yield Problem("warning", "missing lists", what, f"nothing if you do not use it, else {MEND}")


def label_problems(reader: VideoDataset, lists: Lists, report: Report) -> Iterator[Problem]:
    """Labels that the label files do not have, classes without clips; sets the number of classes."""
    classes = {}
    for key, subset in SUBSETS.items():
        of_these = {name: entries for name, entries in lists.items() if subset_of(name) is subset}
        if not of_these:
            continue
        try:
            names = reader.read_classes(subset)
        except (OSError, ValueError) as error:
            yield Problem("error", "label file", str(error), MEND)
            continue
        classes[key] = len(names)
        for remark in same_names(dict(enumerate(names))):
            what = f"{os.path.basename(reader.label_file(subset))}: {remark.what}"
            yield Problem("warning", remark.kind, what, remark.fix, remark.files)
        for name, entries in of_these.items():
            if faults := list(label_faults(entries, names)):
                what = f"{name}.txt does not fit its label file"
                yield Problem("error", "labels", what, "pair each list with the label file of its classes", faults)
            empty = [names[label] for label in range(len(names)) if label not in {entry.label for entry in entries}]
            if empty and not faults:
                what = f"{name}.txt has no clips of {len(empty):,} of {len(names):,} classes"
                yield Problem("warning", "empty classes", what, "nothing if the list is the published one", empty)
            again = [path for path, count in Counter(entry.path for entry in entries).items() if count > 1]
            if again:
                what = f"{name}.txt lists {len(again):,} clips more than once, where each counts once"
                yield Problem("warning", "duplicates", what, "list each clip once", again)
    report.classes = classes.get("all", sum(classes.values()) if classes else None)


def counts(lists: Lists) -> dict[str, int]:
    """Clips to train and to test with, as the table of the report shows them: of all classes, or of both halves."""
    train = next((len(lists[name]) for name in ("train", "base_train") if name in lists), None)
    halves = [len(lists[name]) for name in ("base_val", "novel_val") if name in lists]
    test = next((len(lists[name]) for name in SUBSETS["all"].test if name in lists), sum(halves) if halves else None)
    return {part: count for part, count in (("train", train), ("test", test)) if count is not None}


def count_problems(registry_name: str, lists: Lists) -> Iterator[Problem]:
    """Lists that are shorter or longer than the published ones."""
    known = KNOWN_LISTS.get(registry_name, {})
    wrong = [
        f"{name}.txt has {len(lists[name]):,} clips, the published one {count:,}"
        for name, count in known.items()
        if name in lists and len(lists[name]) != count
    ]
    if wrong:
        fix = "nothing if the lists are your own, else fetch them again: accuracies would not compare"
        yield Problem("warning", "counts", f"{len(wrong)} lists are not the published ones", fix, wrong)


def overlap_problems(lists: Lists) -> Iterator[Problem]:
    """Clips that are in a list to train with and in one to test with."""
    tested = {entry.path: name for name in EVALUATED if name not in OTHER_SPLITS for entry in lists.get(name, ())}
    for name, entries in lists.items():
        both = [f"{entry.path} ({tested[entry.path]}.txt)" for entry in entries if entry.path in tested]
        if TRAINED.fullmatch(name) and both:
            what = f"{len(both):,} clips of {name}.txt are tested, too"
            yield Problem("error", "overlap", what, "take them out of the list to train with", sorted(set(both)))


def leak_problems(reader: VideoDataset, anchors: Sequence[Entry]) -> Iterator[Problem]:
    """Anchors of a YouTube video that is tested."""
    try:
        found = dict(reader.leaked(anchors))
    except (OSError, ValueError):  # a damaged list, which has been reported
        return
    for name, pairs in found.items():
        what = f"{len(pairs):,} anchors are of the same videos as clips of {name}.txt"
        files = [f"{anchor} = {clip}" for anchor, clip in pairs]
        yield Problem("warning", "leak", what, f"take them out of {reader.anchor_list}", files)


# ---------------------------------------------------------------------------------------------- clips


def clip_problems(reader: VideoDataset, lists: Lists, name: str, quick: bool) -> Iterator[Problem]:
    """Clips that are not there, cannot be decoded, or have no frame."""
    clips = {locate(entry.path, reader.backend): entry.num_frames for entries in lists.values() for entry in entries}
    missing = [path for path in clips if not os.path.exists(path)]
    if missing:
        what = f"{len(missing):,} of {len(clips):,} clips are missing"
        yield Problem("error", "missing clips", what, f"put them there: {HOW_TO_GET}", sorted(missing))
    if quick:
        return
    there = sorted(clips.keys() - set(missing))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = tqdm(
            pool.map(why_unreadable, there, [clips[path] for path in there]),
            desc=f"opening {name}", unit="clip", total=len(there), disable=None,
        )  # fmt: skip
        damaged = [reason for reason in reasons if reason]
    if damaged:
        what = f"{len(damaged):,} of {len(clips):,} clips cannot be decoded"
        fix = "fetch them again; a training draws others in their place, an evaluation ends there"
        yield Problem("error", "unreadable clips", what, fix, damaged)


def why_unreadable(path: str, num_frames: int) -> str:
    """The path and why its first and its last frame cannot be decoded; "" if they can."""
    try:
        with open_video(path, num_frames) as clip:
            clip.read([0, len(clip) - 1])
        return ""
    except Exception as error:  # decoders raise anything
        return str(error) if path in str(error) else f"{path} ({type(error).__name__}: {error})"
