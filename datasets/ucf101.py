"""UCF101: middle frames of videos of 101 actions."""

from anprompt.data.split_dataset import SplitDataset
from dassl.data.datasets import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class UCF101(SplitDataset):
    folder = "ucf101"
    image_folder = "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
