"""ImageNet-Sketch: drawings of the 1,000 ImageNet classes."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetSketch(ImageNetVariant):
    folder = "imagenet-sketch"
    image_folder = "images"
