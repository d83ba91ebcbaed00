"""Something-Something v2: 174 things that hands do to objects, in which left and right matter."""

from anprompt.video.dataset import VideoDataset
from dassl.data.datasets import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class SSv2Video(VideoDataset):
    folder = "ssv2_video"
