"""Food-101: 101 dishes."""

from anprompt.data.split_dataset import SplitDataset
from dassl.data.datasets import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class Food101(SplitDataset):
    folder = "food-101"
    image_folder = "images"
    split_file = "split_zhou_Food101.json"
