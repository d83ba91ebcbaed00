"""Moves: clips of coloured shapes, the embedded default of video. Drawn below the data root on first use."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from anprompt.utils.files import atomic_path, remove_leftovers
from anprompt.video import moves_world as world
from anprompt.video.dataset import VideoDataset
from anprompt.video.lists import Entry, draw_shots, write_list
from dassl.data.datasets import DATASET_REGISTRY

SHOTS = (1, 2, 4, 8, 16)  # few_shot_K.txt
BASE_SHOTS, BASE_SEEDS = 16, (1, 2, 3)  # fs_base_s1.txt and so on
ANCHORS = "anchors"  # a list, and the folder of its clips


class Clip(NamedTuple):
    """One clip of a class; all but the label say what it shows, see `moves_world.clip`."""

    split: str
    classname: str
    number: int
    label: int

    @property
    def path(self) -> str:
        """Relative to the folder of clips, with forward slashes."""
        folder = self.classname.replace(" ", "_")
        return f"{folder}/{folder}_{self.split}_{self.number:04d}.mp4"


@DATASET_REGISTRY.register()
class Moves(VideoDataset):
    folder = "moves"
    own_anchors = f"{ANCHORS}.txt"

    def prepare(self) -> None:
        draw(Path(self.dataset_dir))


def clips() -> Iterator[Clip]:
    """All labelled clips, split by split and class by class; labels count the classes of both halves."""
    for split, count in world.SPLIT_SIZES.items():
        for label, classname in enumerate(world.CLASSNAMES):
            yield from (Clip(split, classname, number, label) for number in range(count))


def anchor_path(number: int) -> str:
    return f"{ANCHORS}/empty_table_{number:04d}.mp4"


def draw(folder: Path) -> None:
    """Make whatever is missing of the clips in ``folder/videos``, then of the lists in ``folder/lists``.

    Every file appears under its name only when it is whole. So an interrupted drawing continues where it was, and two
    processes may draw into one folder at the same time.

    Raises:
        OSError: the folder cannot be written to.
    """
    videos = folder / "videos"
    films: dict[str, Callable[[], np.ndarray]] = {clip.path: partial(world.clip, *clip[:3]) for clip in clips()}
    films |= {anchor_path(number): partial(world.anchor, number) for number in range(world.ANCHORS)}
    try:
        for place in {(videos / path).parent for path in films}:
            remove_leftovers(place)
        missing = [path for path in films if not _is_there(videos / path)]
        for path in tqdm(missing, desc=f"Drawing Moves into {videos}", unit="clip", disable=not missing):
            if not _is_there(videos / path):  # another process may have been here since
                with atomic_path(videos / path) as temporary:
                    temporary.write_bytes(world.encoded(films[path]()))
        write_lists(folder / "lists", videos)
    except OSError as error:
        raise OSError(
            f"cannot write the clips of Moves to {folder} ({error}). They are drawn on first use: point --root at a "
            "folder that you can write to, with 20 MB of free space."
        ) from error


def write_lists(folder: Path, videos: Path) -> None:
    """The lists and label files that are missing."""
    for name, entries in lists(videos).items():
        if not _is_there(folder / f"{name}.txt"):
            write_list(folder / f"{name}.txt", entries, videos)
    for name, classes in label_files().items():
        path = folder / "labels" / f"{name}.csv"
        if not _is_there(path):
            rows = [f"{label},{classname}\n" for label, classname in enumerate(classes)]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(["id,name\n", *rows]), encoding="utf-8", newline="\n")


def lists(videos: Path) -> dict[str, list[Entry]]:
    """Clips by the name of each list; the labels of both halves begin at 0."""
    train, test = (
        [Entry(str(videos / clip.path), clip.label) for clip in clips() if clip.split == split]
        for split in ("train", "test")
    )
    base_train = [entry for entry in train if entry.label < world.HALF]
    return {
        "train": train,
        "val1": test,
        "base_train": base_train,
        "base_val": [entry for entry in test if entry.label < world.HALF],
        "novel_val": [entry._replace(label=entry.label - world.HALF) for entry in test if entry.label >= world.HALF],
        ANCHORS: [Entry(str(videos / anchor_path(number)), 0) for number in range(world.ANCHORS)],
        **{f"few_shot_{shots}": draw_shots(train, shots, seed=1) for shots in SHOTS},
        **{f"fs_base_s{seed}": draw_shots(base_train, BASE_SHOTS, seed) for seed in BASE_SEEDS},
    }


def label_files() -> dict[str, Sequence[str]]:
    return {
        "full": world.CLASSNAMES,
        "base": world.CLASSNAMES[: world.HALF],
        "novel": world.CLASSNAMES[world.HALF :],
    }


def _is_there(path: Path) -> bool:
    """A file with content: a crash of the machine can leave a name without."""
    return path.is_file() and path.stat().st_size > 0
