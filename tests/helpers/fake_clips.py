"""A small data set of clips for tests: plain frames in a class's colour, as ``.npz`` files, with anchors in grey."""

from pathlib import Path

import numpy as np

from anprompt.video.dataset import VideoDataset
from anprompt.video.items import VideoDatum
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

COLOURS = {"red": (215, 40, 40), "blue": (45, 85, 205), "green": (50, 160, 70), "yellow": (240, 215, 50)}
CLASSES = [f"{colour} square" for colour in COLOURS]
FRAMES, SIDE = 6, 72
CLIPS = {"train": 6, "test": 2}  # per class
ANCHORS = 5
OPTIONS = [
    "DATASET.NAME", "FakeClips", "VIDEO.NUM_FRAMES", "3", "VIDEO.SHORT_SIDE", "72",
    "DATALOADER.TRAIN_X.BATCH_SIZE", "4",
]  # fmt: skip


def write_clip(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """Frames of one colour on grey, with grain, so that no two are alike."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    frames = rng.integers(120, 160, (FRAMES, SIDE, SIDE, 3)).astype(np.uint8)
    frames[:, 16:56, 16:56] = np.clip(np.array(colour) + rng.integers(-20, 20, (FRAMES, 40, 40, 3)), 0, 255)
    np.savez(path, frames=frames)


@DATASET_REGISTRY.register()
class FakeClips(VideoDataset):
    """Its ``train_u`` are the anchors, unless ``DATASET.ANCHOR.LIST`` is ``none``."""

    def __init__(self, cfg):
        half, names = len(CLASSES) // 2, CLASSES
        names = {"base": names[:half], "new": names[half:], "all": names}[cfg.DATASET.SUBSAMPLE_CLASSES]
        self.names = names
        root = Path(cfg.DATASET.ROOT) / "fake_clips"

        def items(split):
            for label, name in enumerate(names):
                for index in range(CLIPS[split]):
                    seed = [CLASSES.index(name), index, len(split)]
                    path = root / split / name / f"{index}.npz"
                    write_clip(path, COLOURS[name.split()[0]], seed)
                    yield VideoDatum(str(path), label, classname=name)

        anchors = [root / "anchors" / f"{index}.npz" for index in range(ANCHORS)]
        for index, path in enumerate(anchors):
            write_clip(path, (140, 140, 140), [index])
        anchors = [] if cfg.DATASET.ANCHOR.LIST == "none" else [VideoDatum(str(path)) for path in anchors]
        DatasetBase.__init__(self, train_x=[*items("train")], train_u=anchors or None, test=[*items("test")])
