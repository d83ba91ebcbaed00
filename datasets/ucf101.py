"""UCF101: middle frames of videos of 101 actions."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset


@DATASET_REGISTRY.register()
class UCF101(SplitDataset):
    folder = "ucf101"
    image_folder = "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
