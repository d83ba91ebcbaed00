"""Miniature datasets in the CoOp family's folder layouts: a few tiny JPEG files per class."""

import csv
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

# Registry name -> (yaml stem, folder, folder of the images in it, split file), independent of what datasets/ says.
SPLIT_LAYOUTS = {
    "Caltech101": ("caltech101", "caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json"),
    "OxfordPets": ("oxford_pets", "oxford_pets", "images", "split_zhou_OxfordPets.json"),
    "StanfordCars": ("stanford_cars", "stanford_cars", ".", "split_zhou_StanfordCars.json"),
    "OxfordFlowers": ("oxford_flowers", "oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json"),
    "Food101": ("food101", "food-101", "images", "split_zhou_Food101.json"),
    "SUN397": ("sun397", "sun397", "SUN397", "split_zhou_SUN397.json"),
    "DescribableTextures": ("dtd", "dtd", "images", "split_zhou_DescribableTextures.json"),
    "EuroSAT": ("eurosat", "eurosat", "2750", "split_zhou_EuroSAT.json"),
    "UCF101": ("ucf101", "ucf101", "UCF-101-midframes", "split_zhou_UCF101.json"),
}
# The same for the test sets of ImageNet classifiers: (yaml stem, folder, folder of the class folders).
VARIANT_LAYOUTS = {
    "ImageNetA": ("imagenet_a", "imagenet-adversarial", "imagenet-a"),
    "ImageNetR": ("imagenet_r", "imagenet-rendition", "imagenet-r"),
    "ImageNetSketch": ("imagenet_sketch", "imagenet-sketch", "images"),
    "ImageNetV2": ("imagenetv2", "imagenetv2", "imagenetv2-matched-frequency-format-val"),
}
WORDNET = {"n01440764": "tench", "n01443537": "goldfish", "n01484850": "great white shark"}
PARTS = {"train": range(6), "val": range(6, 11), "test": range(11, 14)}


def write_image(path: Path) -> None:
    """A JPEG file whose content depends on its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (hashlib.sha512(str(path).encode()).digest() * 3)[: 8 * 8 * 3]
    stream = io.BytesIO()
    Image.frombytes("RGB", (8, 8), pixels).save(stream, "JPEG", quality=95)
    path.write_bytes(stream.getvalue())


def make_split_dataset(root: Path, name: str, classes: int = 5) -> dict[str, list]:
    """Write the dataset; its split, as in the file. Its classes do not come in the order of their labels."""
    _, folder, images, split_file = SPLIT_LAYOUTS[name]
    split = {
        part: [
            [f"kind_{label}/img_{index:02d}.jpg", label, f"kind {label}"]
            for label in sorted(range(classes), key=lambda label: (label * 2) % classes)
            for index in indices
        ]
        for part, indices in PARTS.items()
    }
    for items in split.values():
        for path, _, _ in items:
            write_image(root / folder / images / path)
    (root / folder / split_file).write_text(json.dumps(split))
    return split


def add_flower_labels(root: Path, shift: int = 0) -> None:
    """``imagelabels.mat`` as it comes with the images, which are renamed as there; the split file follows."""
    folder = root / "oxford_flowers"
    split = json.loads((folder / "split_zhou_OxfordFlowers.json").read_text())
    items = sum(split.values(), [])
    for number, item in enumerate(items, start=1):
        (folder / "jpg" / item[0]).rename(folder / "jpg" / f"image_{number:05d}.jpg")
        item[0] = f"image_{number:05d}.jpg"
    (folder / "split_zhou_OxfordFlowers.json").write_text(json.dumps(split))
    labels = [[items[(number + shift) % len(items)][1] + 1 for number in range(len(items))]]
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array(labels, dtype=np.uint8)})


def add_car_annotations(root: Path, shift: int = 0) -> None:
    """The two files of annotations of Stanford Cars, a MATLAB structure array each; images and split follow."""
    folder = root / "stanford_cars"
    split = json.loads((folder / "split_zhou_StanfordCars.json").read_text())
    (folder / "devkit").mkdir()
    for place, file, parts in (
        ("cars_train", "devkit/cars_train_annos.mat", ("train", "val")),
        ("cars_test", "cars_test_annos_withlabels.mat", ("test",)),
    ):
        items = [item for part in parts for item in split[part]]
        entries = np.zeros((1, len(items)), dtype=[("bbox_x1", object), ("class", object), ("fname", object)])
        (folder / place).mkdir()
        for number, item in enumerate(items):
            name = f"{number + 1:05d}.jpg"
            (folder / item[0]).rename(folder / place / name)
            item[0] = f"{place}/{name}"
            entries[0, number] = (np.uint8(30), np.uint8(items[(number + shift) % len(items)][1] + 1), name)
        scipy.io.savemat(folder / file, {"annotations": entries})
    (folder / "split_zhou_StanfordCars.json").write_text(json.dumps(split))


def make_aircraft(root: Path) -> None:
    """Three variants; the lists are not sorted by variant."""
    folder = root / "fgvc_aircraft"
    lines = {
        "train": ["0001 Boeing 707", "0002 A300", "0003 Cessna 172", "0004 A300"],
        "val": ["0005 A300", "0006 Boeing 707", "0007 Cessna 172"],
        "test": ["0008 Cessna 172", "0009 Boeing 707", "0010 A300"],
    }
    for part, items in lines.items():
        for line in items:
            write_image(folder / "images" / f"{line[:4]}.jpg")
        (folder / f"images_variant_{part}.txt").write_text("\n".join(items) + "\n")
    (folder / "variants.txt").write_text("Boeing 707\nA300\nCessna 172\n")


def make_imagenet(root: Path, per_class: int = 3) -> None:
    folder = root / "imagenet"
    for synset in WORDNET:
        for index in range(per_class):
            write_image(folder / "images" / "train" / synset / f"{synset}_{index}.JPEG")
        write_image(folder / "images" / "val" / synset / f"ILSVRC2012_val_{synset}.JPEG")
    write_classnames(folder)


def make_variant(root: Path, name: str, leave_out: str = "") -> None:
    """A test set of an ImageNet classifier, with a stray README, and without the class ``leave_out``."""
    _, folder, images = VARIANT_LAYOUTS[name]
    for number, synset in enumerate(WORDNET):
        if synset != leave_out:
            write_image(root / folder / images / (str(number) if name == "ImageNetV2" else synset) / "a.jpg")
    (root / folder / images / "README.txt").write_text("about")
    write_classnames(root / folder)


def write_classnames(folder: Path) -> None:
    (folder / "classnames.txt").write_text("".join(f"{synset} {name}\n" for synset, name in WORDNET.items()))


def make_folders(root: Path, classes: tuple[str, ...] = ("red_fox", "blue_jay", "ant"), val: bool = True) -> None:
    """Somebody's own images, ``mine/{train,val,test}/<class>/``."""
    for part, indices in PARTS.items():
        for name in classes if val or part != "val" else ():
            for index in indices:
                write_image(root / "mine" / part / name / f"img_{index:02d}.jpg")


def make_table(root: Path, classes: tuple[str, ...] = ("red_fox", "blue_jay", "ant")) -> list[dict[str, str]]:
    """The same in one tree, ``mine/<class>/``, with a ``split.csv``; its rows."""
    rows = [
        {"path": f"{name}/img_{index:02d}.jpg", "label": name, "split": part}
        for part, indices in PARTS.items()
        for name in classes
        for index in indices
    ]
    for row in rows:
        write_image(root / "mine" / row["path"])
    write_table(root, rows)
    return rows


def write_table(root: Path, rows: list[dict[str, str]]) -> None:
    with (root / "mine" / "split.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
