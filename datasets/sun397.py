"""SUN397: 397 kinds of scenes."""

from anprompt.data.split_dataset import SplitDataset
from dassl.data.datasets import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class SUN397(SplitDataset):
    folder = "sun397"
    image_folder = "SUN397"
    split_file = "split_zhou_SUN397.json"
