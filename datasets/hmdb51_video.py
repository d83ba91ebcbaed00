"""HMDB-51: 51 actions in clips of films and the web."""

from anprompt.video.dataset import VideoDataset
from dassl.data.datasets import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class HMDB51Video(VideoDataset):
    folder = "hmdb51_video"
