"""How many classes and images the datasets of the CoOp family have, and how many clips the published lists."""

from typing import NamedTuple

from anprompt.data import shapes_world


class Counts(NamedTuple):
    """Classes, and images per part; None for a part that is another one's list again, or is not kept apart."""

    classes: int
    train: int | None
    val: int | None
    test: int


_CLASSES = len(shapes_world.CLASSNAMES)

# By registry name. Caltech101, OxfordPets, StanfordCars, DescribableTextures and UCF101 were counted in the family's
# split files; the others are as the family reports them.
KNOWN_COUNTS = {
    "Caltech101": Counts(100, 4128, 1649, 2465),
    "OxfordPets": Counts(37, 2944, 736, 3669),
    "StanfordCars": Counts(196, 6509, 1635, 8041),
    "OxfordFlowers": Counts(102, 4093, 1633, 2463),
    "Food101": Counts(101, 50500, 20200, 30300),
    "FGVCAircraft": Counts(100, 3334, 3333, 3333),
    "SUN397": Counts(397, 15880, 3970, 19850),
    "DescribableTextures": Counts(47, 2820, 1128, 1692),
    "EuroSAT": Counts(10, 13500, 5400, 8100),
    "UCF101": Counts(101, 7639, 1898, 3783),
    "ImageNet": Counts(1000, 1281167, None, 50000),
    "ImageNetV2": Counts(1000, None, None, 10000),
    "ImageNetSketch": Counts(1000, None, None, 50889),
    "ImageNetA": Counts(200, None, None, 7500),
    "ImageNetR": Counts(200, None, None, 30000),
    "Shapes": Counts(_CLASSES, *(_CLASSES * shapes_world.SPLIT_SIZES[part] for part in ("train", "val", "test"))),
}

# Clips in the lists of ViFi-CLIP and GA2-CLIP, by registry name and name of the list.
_SEEDS = ("fs_base_s1", "fs_base_s2", "fs_base_s3")
KNOWN_LISTS = {
    "HMDB51Video": {
        **dict.fromkeys(_SEEDS, 416),
        "base_train": 1820, "base_val": 780, "novel_val": 750,
        "few_shot_2": 102, "few_shot_4": 204, "few_shot_8": 408, "few_shot_16": 816,
        "val1": 1530, "val2": 1530, "val3": 1530,
    },
    "UCF101Video": {
        **dict.fromkeys(_SEEDS, 816),
        "base_train": 5385, "base_val": 2088, "novel_val": 1695,
        "few_shot_2": 202, "few_shot_4": 404, "few_shot_8": 808, "few_shot_16": 1616,
        "val1": 3783, "val2": 3734, "val3": 3696,
    },
    "SSv2Video": {
        **dict.fromkeys(_SEEDS, 1392),
        "base_train": 125937, "base_val": 17562, "novel_val": 7215,
        "few_shot_2": 348, "few_shot_4": 696, "few_shot_8": 1392, "few_shot_16": 2784,
        "val1": 24777, "val": 24777,
    },
    "Kinetics400Video": {
        **dict.fromkeys(_SEEDS, 3200),
        "base_val": 9944, "novel_val": 9933, "val1": 19877, "val": 19877,
    },
}  # fmt: skip
