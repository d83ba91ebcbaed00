"""UCF-101: clips of 101 actions; UCF101 is the data set of their middle frames."""

from anprompt.video.dataset import VideoDataset
from dassl.data.datasets import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class UCF101Video(VideoDataset):
    folder = "ucf101_video"
