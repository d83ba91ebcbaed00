"""Describable Textures: 47 textures."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset


@DATASET_REGISTRY.register()
class DescribableTextures(SplitDataset):
    folder = "dtd"
    image_folder = "images"
    split_file = "split_zhou_DescribableTextures.json"
