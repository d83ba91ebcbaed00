"""Your own clips, described by a YAML file alone: lists and label files in the layout of the other data sets of clips.

    DATASET:
      NAME: VideoList
      FOLDER: dogs          # DATASET.ROOT/dogs/lists/train.txt, .../labels/full.csv and so on
      VIDEO_DIR: clips      # DATASET.ROOT/dogs/clips; without it, videos

``anprompt/video/dataset.py`` says which lists there are.
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
