"""Your own clips, described by a YAML file alone: lists and label files in the layout of the other data sets of clips.

``docs/video.md`` has an example.
"""

from yacs.config import CfgNode

from anprompt.video.dataset import VideoDataset
from dassl.data.datasets import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class VideoList(VideoDataset):
    """``DATASET.LIST_DIR`` and ``DATASET.VIDEO_DIR``, below ``DATASET.FOLDER`` of the root, or wherever they are."""

    def locate(self, cfg: CfgNode) -> None:
        self.folder = cfg.DATASET.FOLDER
        super().locate(cfg)
