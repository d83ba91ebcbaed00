"""Kinetics-400: 400 actions in clips of YouTube."""

from anprompt.video.dataset import VideoDataset
from dassl.data.datasets import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class Kinetics400Video(VideoDataset):
    folder = "kinetics400_video"
