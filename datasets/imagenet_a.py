"""ImageNet-A: photographs of 200 ImageNet classes that mislead classifiers."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetA(ImageNetVariant):
    folder = "imagenet-adversarial"
    image_folder = "imagenet-a"
