"""Moves: clips of coloured shapes, the embedded default of video. Drawn below the data root on first use."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from anprompt.data.drawn import Drawn, draw_missing, drawn_items, has_content
from anprompt.utils.files import atomic_path
from anprompt.video import moves_world as world
from anprompt.video.dataset import VideoDataset
from anprompt.video.lists import Entry, draw_shots, write_list
from dassl.data.datasets import DATASET_REGISTRY

SHOTS = (1, 2, 4, 8, 16)  # few_shot_K.txt
BASE_SHOTS, BASE_SEEDS = 16, (1, 2, 3)  # fs_base_s1.txt and so on
ANCHORS = "anchors"  # a list, and the folder of its clips


@DATASET_REGISTRY.register()
class Moves(VideoDataset):
    folder = "moves"
    own_anchors = f"{ANCHORS}.txt"

    def prepare(self) -> None:
        draw(Path(self.dataset_dir))


def clips() -> dict[str, Drawn]:
    """All labelled clips by their paths relative to the folder of clips; labels count the classes of both halves."""
    return {f"{item.stem}.mp4": item for item in drawn_items(world.SPLIT_SIZES, world.CLASSNAMES)}


def anchor_path(number: int) -> str:
    return f"{ANCHORS}/empty_table_{number:04d}.mp4"


def draw(folder: Path) -> None:
    """Make whatever is missing of the clips in ``folder/videos``, then of the lists in ``folder/lists``.

    Raises:
        OSError: the folder cannot be written to.
    """
    videos = folder / "videos"
    files = {videos / path: film_of(world.clip, *item[:3]) for path, item in clips().items()}
    files |= {videos / anchor_path(number): film_of(world.anchor, number) for number in range(world.ANCHORS)}
    try:
        draw_missing(files, f"Drawing Moves into {videos}", "clip")
        write_lists(folder / "lists", videos)
    except OSError as error:
        raise OSError(
            f"cannot write the clips of Moves to {folder} ({error}). They are drawn on first use: point --root at a "
            "folder that you can write to, with 20 MB of free space."
        ) from error


def film_of(film: Callable[..., np.ndarray], *arguments: object) -> Callable[[], bytes]:
    return lambda: world.encoded(film(*arguments))


def write_lists(folder: Path, videos: Path) -> None:
    """The lists and label files that are missing."""
    for name, entries in lists(videos).items():
        if not has_content(folder / f"{name}.txt"):
            write_list(folder / f"{name}.txt", entries, videos)
    for name, classes in label_files().items():
        path = folder / "labels" / f"{name}.csv"
        if not has_content(path):
            rows = [f"{label},{classname}\n" for label, classname in enumerate(classes)]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(["id,name\n", *rows]), encoding="utf-8", newline="\n")


def lists(videos: Path) -> dict[str, list[Entry]]:
    """Clips by the name of each list; the labels of both halves begin at 0."""
    train, test = (
        [Entry(str(videos / path), item.label) for path, item in clips().items() if item.split == split]
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
