"""EuroSAT: 10 kinds of land use from above. The split file holds CoOp's rewritten class names."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset


@DATASET_REGISTRY.register()
class EuroSAT(SplitDataset):
    folder = "eurosat"
    image_folder = "2750"
    split_file = "split_zhou_EuroSAT.json"
