"""Stanford Cars: 196 car models. Its split file names images from the dataset folder on."""

from anprompt.data.split_dataset import SplitDataset
from dassl.data.datasets import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class StanfordCars(SplitDataset):
    folder = "stanford_cars"
    split_file = "split_zhou_StanfordCars.json"
