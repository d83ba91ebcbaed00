"""Small data sets of clips: the lists and label files of ``docs/video.md``, and empty files in place of clips."""

from anprompt.utils.config import add_shared_cfg
from dassl.config import get_cfg_default

BASE, NEW = ["brush hair", "cartwheel", "catch"], ["chew", "clap"]
NAMES = BASE + NEW
SHOTS, TESTED = 4, 2  # clips of each class


def clip(name, part, number):
    return f"{name.replace(' ', '_')}/{part}_{number}.avi"


def lines(names, part, count):
    """One line for each clip; labels count from 0."""
    return [f"{clip(name, part, number)} {label}" for label, name in enumerate(names) for number in range(count)]


def lists():
    """Lines of every list by its name; no list of few clips is among them."""
    return {
        "train": lines(NAMES, "train", SHOTS),
        "val1": lines(NAMES, "test", TESTED),
        "base_train": lines(BASE, "train", SHOTS),
        "base_val": lines(BASE, "test", TESTED),
        "novel_val": lines(NEW, "test", TESTED),
    }


def write_lines(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")


def make(root, folder="hmdb51_video"):
    """Write the data set; its folder."""
    place = root / folder
    for name, found in lists().items():
        write_lines(place / "lists" / f"{name}.txt", found)
        for line in found:
            path = place / "videos" / line.rpartition(" ")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for name, names in {"full": NAMES, "base": BASE, "novel": NEW}.items():
        rows = [f"{label},{classname}" for label, classname in enumerate(names)]
        write_lines(place / "lists" / "labels" / f"{name}.csv", ["id,name", *rows])
    return place


def config(root, name="HMDB51Video", **data):
    """A config with ``DATASET.<key>`` as given; ``ANCHOR_LIST`` stands for ``DATASET.ANCHOR.LIST``, and so on."""
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    cfg.DATASET.NAME, cfg.DATASET.ROOT = name, str(root)
    for key, value in data.items():
        node = cfg.DATASET
        if key.startswith("ANCHOR_"):
            node, key = node.ANCHOR, key.removeprefix("ANCHOR_")
        assert key in node
        node[key] = value
    return cfg
