"""Oxford-IIIT Pets: 37 breeds of cats and dogs."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset


@DATASET_REGISTRY.register()
class OxfordPets(SplitDataset):
    folder = "oxford_pets"
    image_folder = "images"
    split_file = "split_zhou_OxfordPets.json"
