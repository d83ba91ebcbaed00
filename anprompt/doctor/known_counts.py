"""How many classes and images the CoOp family's datasets have when they are complete."""

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
