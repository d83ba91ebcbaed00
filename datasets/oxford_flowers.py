"""Oxford Flowers: 102 species."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset


@DATASET_REGISTRY.register()
class OxfordFlowers(SplitDataset):
    folder = "oxford_flowers"
    image_folder = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
