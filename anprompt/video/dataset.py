"""What the data sets of clips share: lists and label files in the layout of ViFi-CLIP and GA2-CLIP.

A data set lies in one folder below ``DATASET.ROOT``::

    videos/                 the clips, as the lists name them (frames/ where VIDEO.BACKEND is frames)
    lists/
      train.txt             all classes: clips to train with, ...
      few_shot_16.txt       ... 16 of each class (2, 4 and 8 likewise), ...
      val1.txt              ... and those to test with (or val.txt)
      base_train.txt        base classes: clips to train with, ...
      fs_base_s1.txt        ... 16 of each class, drawn once (s2 and s3 likewise), ...
      base_val.txt          ... and those to test with
      novel_val.txt         new classes: clips to test with
      labels/full.csv       id,name of the classes, and base.csv and novel.csv: the labels of both begin at 0

A published label file keeps its name, as long as there is one whose name holds ``base``, one that holds ``novel`` and
one that holds neither.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from yacs.config import CfgNode

from anprompt.data.split_dataset import same_names
from anprompt.utils.files import at_home, remove_leftovers
from anprompt.utils.suggest import require_known
from anprompt.video.items import VideoDatum, locate
from anprompt.video.lists import Entry, draw_shots, leaks, read_labels, read_list
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

logger = logging.getLogger(__name__)

HOW_TO_GET = "docs/video.md tells what lies where"
WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # where the words of CamelCase meet


class Subset(NamedTuple):
    """The lists behind one value of ``DATASET.SUBSAMPLE_CLASSES``; names without their ending."""

    train: str  # "": there is none
    few: str
    test: tuple[str, ...]  # the first that is there
    labels: str


SUBSETS = {
    "all": Subset("train", "few_shot_{shots}", ("val1", "val"), "full"),
    "base": Subset("base_train", "fs_base_s{seed}", ("base_val",), "base"),
    "new": Subset("", "", ("novel_val",), "novel"),
}
EVALUATED = ("base_val", "novel_val", "val", "val1", "val2", "val3")  # lists whose clips nothing may have seen


class VideoDataset(DatasetBase):
    """A data set whose items are :class:`~anprompt.video.items.VideoDatum`.

    Its classes are the rows of a label file, whether or not they have clips to train with. The clips to test with are
    ``val``, too: there are no others. New classes have none to train with; their ``train_x`` is the test list again,
    because Dassl wants one. ``train_u`` holds the irrelevant clips of ``DATASET.ANCHOR``.

    Attributes:
        folder: the data set's folder below the root.
        own_anchors: its list of anchors, in the folder of the lists; "" if it has none.

    Raises:
        FileNotFoundError: a folder, a list or clips are missing.
        ValueError: a list is damaged or does not fit its label file; an anchor is tested and CHECK_LEAK is error.
    """

    folder = ""
    own_anchors = ""

    def __init__(self, cfg: CfgNode):
        require_known("DATASET.SUBSAMPLE_CLASSES", cfg.DATASET.SUBSAMPLE_CLASSES, SUBSETS)
        self.locate(cfg)
        self.prepare()
        self.check_folders()
        remove_leftovers(self.list_dir)
        subset = SUBSETS[cfg.DATASET.SUBSAMPLE_CLASSES]
        self.names = self.read_classes(subset)
        test_list = self.test_list(subset)
        test = self.place(self.read_entries(test_list), test_list)
        train, anchors = test, None
        if subset.train:
            train = self.place(*self.training_entries(subset, cfg.DATASET.NUM_SHOTS), left_out=True)
            anchors = self.read_anchors(cfg.DATASET.ANCHOR.CHECK_LEAK)
            self.remark(train, test)
        for remark in same_names(dict(enumerate(self.names))):
            logger.warning("%s", remark)
        if cfg.TEST.FINAL_MODEL == "best_val":
            logger.warning("Warning: val is %s, too: the kept epoch is chosen on the clips of the test", test_list)
        super().__init__(train_x=train, train_u=anchors, val=test, test=test)

    @classmethod
    def located(cls, cfg: CfgNode) -> VideoDataset:
        """An instance that knows its places but has read and made nothing: for ``python -m anprompt doctor``."""
        dataset = cls.__new__(cls)
        dataset.locate(cfg)
        return dataset

    def locate(self, cfg: CfgNode) -> None:
        """Set the paths. Relative ones begin at the data set's folder, but for the list of anchors: at the lists."""
        data = cfg.DATASET
        if not data.ROOT:
            raise ValueError("DATASET.ROOT is empty: give the folder that holds the data sets with --root")
        self.root = os.path.abspath(at_home(data.ROOT))
        self.dataset_dir = os.path.join(self.root, self.folder) if self.folder else self.root
        self.backend, self.seed, self.style = cfg.VIDEO.BACKEND, split_seed(cfg), data.CLASSNAME_STYLE
        self.list_dir = self.below(data.LIST_DIR or "lists")
        self.video_dir = self.below(data.VIDEO_DIR or ("frames" if self.backend == "frames" else "videos"))
        anchors = data.ANCHOR.LIST or self.own_anchors
        self.anchor_list = os.path.join(self.list_dir, at_home(anchors)) if anchors else ""
        self.anchor_dir = self.below(data.ANCHOR.VIDEO_DIR) if data.ANCHOR.VIDEO_DIR else self.video_dir

    def below(self, place: str) -> str:
        return os.path.join(self.dataset_dir, at_home(place))

    def prepare(self) -> None:
        """Hook for data sets that make their own files; the paths above are set, nothing has been read yet."""

    def check_folders(self) -> None:
        """The folders are there; FileNotFoundError names the first that is not, and the key that names another."""
        keys = {
            self.root: "--root",
            self.dataset_dir: "--root",
            self.list_dir: "DATASET.LIST_DIR",
            self.video_dir: "DATASET.VIDEO_DIR",
        }
        for place, key in keys.items():
            if not os.path.isdir(place):
                raise FileNotFoundError(
                    f"{type(self).__name__} expects its lists in {self.list_dir} and its clips in {self.video_dir}, "
                    f"but there is no folder {place}: name another with {key}; {HOW_TO_GET}"
                )

    # ------------------------------------------------------------------ classes

    def get_num_classes(self, data_source: Sequence[VideoDatum]) -> int:  # type: ignore[override]
        """Rows of the label file; Dassl counts the labels of ``train_x``, where a class may have no clip."""
        return len(self.names)

    def get_lab2cname(self, data_source: Sequence[VideoDatum]) -> tuple[dict[int, str], list[str]]:  # type: ignore[override]
        """The same for their names."""
        return dict(enumerate(self.names)), list(self.names)

    def read_classes(self, subset: Subset) -> list[str]:
        """Class names by label, written as ``DATASET.CLASSNAME_STYLE`` says."""
        names = read_labels(self.label_file(subset))
        return [split_words(name) for name in names] if self.style == "split" else names

    def label_file(self, subset: Subset) -> str:
        folder = os.path.join(self.list_dir, "labels")
        path = os.path.join(folder, f"{subset.labels}.csv")
        others = [str(file) for file in sorted(Path(folder).glob("*.csv")) if kind_of(file.stem) == subset.labels]
        if os.path.isfile(path) or not others:
            return self.required(path, f"it has the lines id,name of the classes; {HOW_TO_GET}")
        if len(others) > 1:
            raise ValueError(f"{others[0]} and {others[1]} may both name the classes: call the right one {path}")
        return others[0]

    # ------------------------------------------------------------------ lists

    def list_path(self, name: str) -> str:
        return os.path.join(self.list_dir, f"{name}.txt")

    def test_list(self, subset: Subset) -> str:
        paths = [self.list_path(name) for name in subset.test]
        there = [path for path in paths if os.path.isfile(path)]
        return there[0] if there else self.required(paths[0], f"it lists the clips to test with; {HOW_TO_GET}")

    def required(self, path: str, hint: str) -> str:
        """``path`` if there is such a file."""
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"{type(self).__name__} misses {os.path.basename(path)}: looked for {path} (DATASET.LIST_DIR); {hint}"
            )
        return path

    def training_entries(self, subset: Subset, shots: int) -> tuple[list[Entry], str]:
        """Clips to train with, and the list that they are from.

        ``shots`` of each class are those of a list that has so many, else drawn from all by :func:`split_seed`.
        """
        every = self.list_path(subset.train)
        if shots < 1:
            return self.read_entries(self.required(every, f"it lists the clips to train with; {HOW_TO_GET}")), every
        few = self.list_path(subset.few.format(shots=shots, seed=self.seed))
        given = self.read_entries(few) if os.path.isfile(few) else []
        most = most_per_class(given)
        if most == shots:
            return given, few
        if os.path.isfile(every):
            given = self.read_entries(every)
        elif most > shots:
            every = few
        else:
            hint = f"`python -m anprompt video-lists {self.list_dir} --shots {shots}` makes it from {subset.train}.txt"
            found = f"; it has at most {most} clips of a class" if given else ""
            raise FileNotFoundError(
                f"{type(self).__name__} misses a list of {shots} clips per class: looked for {few} (DATASET.LIST_DIR)"
                f"{found}, and for {every} to draw them from; {hint}"
            )
        logger.info("%d clips of each class drawn from %s by seed %d (DATASET.SPLIT_SEED)", shots, every, self.seed)
        counts = Counter(entry.label for entry in given)
        if scarce := [self.names[label] for label, count in sorted(counts.items()) if count < shots]:
            logger.warning(
                "Warning: %d classes have fewer clips in it, such as %r: all are taken", len(scarce), scarce[0]
            )
        return draw_shots(given, shots, self.seed), every

    def read_entries(self, path: str) -> list[Entry]:
        """Clips of a list, each once; ValueError where one has a label without a class, or two labels."""
        entries = read_list(path, self.video_dir)
        if not entries:
            raise ValueError(f"the list {path} is empty: expected a clip and its label in each line")
        for fault in label_faults(entries, self.names):
            raise ValueError(f"{path}: {fault}")
        once = list({entry.path: entry for entry in entries}.values())
        if len(once) < len(entries):
            logger.warning("Warning: %s lists %d clips again, which count once", path, len(entries) - len(once))
        return once

    def place(self, entries: Sequence[Entry], source: str, left_out: bool = False) -> list[VideoDatum]:
        """Items of the clips that are there.

        Args:
            source: the list that names them.
            left_out: those that are not there are, with a line in the log; but not the last one.
        """
        located = [entry._replace(path=locate(entry.path, self.backend)) for entry in entries]
        there = [entry for entry in located if os.path.exists(entry.path)]
        if len(there) < len(located):
            missing = next(entry.path for entry in located if not os.path.exists(entry.path))
            count = f"{len(located) - len(there):,} of {len(located):,}"
            found = f"{count} clips of {source} are missing, such as {missing}"
            if not there or not left_out:
                raise FileNotFoundError(f"{found}: put them there, or name their folder with DATASET.VIDEO_DIR")
            logger.warning("Warning: %s: the training goes without them", found)
        return [VideoDatum(path, label, 0, self.names[label], frames) for path, label, frames in there]

    def remark(self, train: Sequence[VideoDatum], test: Sequence[VideoDatum]) -> None:
        """One line in the log where classes have no clip to train with, and where clips are trained with and tested."""
        if empty := [name for label, name in enumerate(self.names) if label not in {item.label for item in train}]:
            logger.warning("Warning: %d classes have no clip to train with, such as %r", len(empty), empty[0])
        if both := {item.impath for item in train} & {item.impath for item in test}:
            logger.warning("Warning: %d clips are trained with and tested, such as %s", len(both), min(both))

    # ------------------------------------------------------------------ anchors

    def read_anchors(self, check: str) -> list[VideoDatum] | None:
        """Irrelevant clips, all with the label 0 and without a name; None where the config names none."""
        if not self.anchor_list:
            return None
        entries = read_list(self.required(self.anchor_list, "DATASET.ANCHOR.LIST names it"), self.anchor_dir)
        if not entries:
            raise ValueError(f"the list of anchors {self.anchor_list} is empty: fill it, or name another")
        if check != "off" and (message := self.leak_message(entries)):
            if check == "error":
                raise ValueError(message)
            logger.warning("Warning: %s", message)
        items = []
        for path, _, frames in entries:
            path = locate(path, self.backend)
            if not os.path.exists(path):
                raise FileNotFoundError(
                    f"no clip at {path}, which {self.anchor_list} names: put it there, or name the folder of the "
                    "anchors with DATASET.ANCHOR.VIDEO_DIR"
                )
            items.append(VideoDatum(path, num_frames=frames))
        return items

    def leaked(self, anchors: Sequence[Entry]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Pairs (anchor, clip of the list) of one video, by the name of each list of tested clips that has any."""
        paths = [entry.path for entry in anchors]
        for name in EVALUATED:
            if os.path.isfile(self.list_path(name)):
                evaluated = read_list(self.list_path(name), self.video_dir)
                if pairs := leaks(paths, [entry.path for entry in evaluated]):
                    yield name, pairs

    def leak_message(self, anchors: Sequence[Entry]) -> str:
        """What :meth:`leaked` found, in one line; "" if nothing."""
        found = dict(self.leaked(anchors))
        if not found:
            return ""
        counts = ", ".join(f"{len(pairs)} in {name}.txt" for name, pairs in found.items())
        anchor, clip = next(iter(found.values()))[0]
        return (
            f"anchors of {self.anchor_list} are of the same videos as clips that are tested ({counts}), such as "
            f"{anchor} and {clip}: take them out of the anchors (DATASET.ANCHOR.CHECK_LEAK says what is done about it)"
        )


def is_video_data(name: str) -> bool:
    """Whether ``DATASET.NAME`` is registered as a data set of clips."""
    known = name in DATASET_REGISTRY.registered_names()
    found = DATASET_REGISTRY.get(name) if known else None  # a function may be registered, too
    return isinstance(found, type) and issubclass(found, VideoDataset)


def split_seed(cfg: CfgNode) -> int:
    """Which training clips are drawn: ``DATASET.SPLIT_SEED``, or the run's seed where that is 0."""
    return cfg.DATASET.SPLIT_SEED or max(1, cfg.SEED)


def split_words(name: str) -> str:
    """``basketball dunk`` of ``BasketballDunk`` or ``Basketball_dunk``."""
    return " ".join(WORDS.sub(" ", name.replace("_", " ")).lower().split())


def kind_of(stem: str) -> str:
    """Which classes a label file names: base, novel or full."""
    return next((kind for kind in ("base", "novel") if kind in stem.lower()), "full")


def label_faults(entries: Sequence[Entry], names: Sequence[str]) -> Iterator[str]:
    """Clips whose label is outside the label file, or that have two labels."""
    labels: dict[str, int] = {}
    for entry in entries:
        if entry.label >= len(names):
            yield (
                f"{entry.path} has the label {entry.label}, but its label file names {len(names)} classes (0 to "
                f"{len(names) - 1}): lists of base classes go with labels/base.csv, those of new ones with novel.csv"
            )
        elif labels.setdefault(entry.path, entry.label) != entry.label:
            yield f"{entry.path} has the labels {labels[entry.path]} and {entry.label}: keep the right line"


def most_per_class(entries: Sequence[Entry]) -> int:
    return max(Counter(entry.label for entry in entries).values(), default=0)
