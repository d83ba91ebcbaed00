"""Oxford-IIIT Pets: 37 breeds of cats and dogs."""

from anprompt.data.split_dataset import SplitDataset
from dassl.data.datasets import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class OxfordPets(SplitDataset):
    folder = "oxford_pets"
    image_folder = "images"
    split_file = "split_zhou_OxfordPets.json"
