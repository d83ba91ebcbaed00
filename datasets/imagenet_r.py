"""ImageNet-R: paintings, toys and other renditions of 200 ImageNet classes."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetR(ImageNetVariant):
    folder = "imagenet-rendition"
    image_folder = "imagenet-r"
