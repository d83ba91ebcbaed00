"""ImageNetV2 (matched frequency): the classes' folders are called 0 to 999, in the order of ``classnames.txt``."""

import os

from anprompt.data.image_files import LeftOut
from anprompt.data.split_dataset import make_datum
from dassl.data.datasets import DATASET_REGISTRY, Datum
from datasets.imagenet import ImageNetVariant, image_paths


@DATASET_REGISTRY.register()
class ImageNetV2(ImageNetVariant):
    folder = "imagenetv2"
    image_folder = "imagenetv2-matched-frequency-format-val"

    def class_images(self, names: dict[str, str], left_out: LeftOut) -> list[Datum]:
        unnamed = os.path.join(self.image_dir, str(len(names)))
        if os.path.isdir(unnamed):
            raise ValueError(f"there is a folder {unnamed}, but classnames.txt ends after {len(names)} classes")
        items = []
        for label, name in enumerate(names.values()):
            place = os.path.join(self.image_dir, str(label))
            if not os.path.isdir(place):
                raise FileNotFoundError(f"the folder {place} of class {name!r} is missing: unpack the archive again")
            items += [make_datum(path, label, name) for path in image_paths(place, left_out)]
        return items
