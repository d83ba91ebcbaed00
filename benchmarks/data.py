"""Images per second of the input pipeline alone: its stages, Dassl's loaders, and those that a run has here.

    python -m benchmarks.data                       # Shapes, and synthetic photos of 500x375
    python -m benchmarks.data --workers 0 2 8 --output data.json

The loaders are those of ``vit_b16.yaml`` (224 pixels, training batches of 4). Dassl decodes an image every time and
starts its workers anew in every epoch. Here, training images and workers are kept, and test images come from a cache on
disk once a first pass has filled it. It takes two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm
from yacs.config import CfgNode

from anprompt.data.loaders import with_cached_images, with_kept_images
from benchmarks import measure
from benchmarks.cases import CASES, config
from benchmarks.report import data_table
from dassl.data import DataManager
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import read_image
from datasets.shapes import Shapes

PHOTO_SIZE = (500, 375)  # as most images of Caltech101, Food101 and ImageNet
CLASSES = 8
SHOTS = 16
EPOCHS = 3  # beyond the first


@DATASET_REGISTRY.register()
class SyntheticPhotos(DatasetBase):
    """JPEG files of the size and the weight of photos (50 kB), made on first use below ``DATASET.ROOT``."""

    def __init__(self, cfg: CfgNode):
        folder = Path(cfg.DATASET.ROOT, "synthetic_photos")
        folder.mkdir(parents=True, exist_ok=True)
        items = []
        for index in range(CLASSES * SHOTS):
            path, label = folder / f"{index:04d}.jpg", index % CLASSES
            if not path.is_file():
                photo(index).save(path, quality=90)
            items.append(Datum(impath=str(path), label=label, classname=f"kind {label}"))
        super().__init__(train_x=items, test=items)


def photo(seed: int) -> Image.Image:
    """Coarse and fine random structure; plain noise would make files several times as large as photos are."""
    generator = np.random.default_rng(seed)
    coarse, fine = [
        Image.fromarray(generator.integers(0, 256, (375 // cell + 1, 500 // cell + 1, 3), dtype=np.uint8))
        .resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
        for cell in (64, 4)
    ]  # fmt: skip
    return Image.blend(coarse, fine, alpha=0.25)


def dassls_loaders(dataset: str, root: str, workers: int) -> tuple[DataLoader, DataLoader]:
    """For training and test, as Dassl makes them for a run on ``dataset``."""
    cfg = config(CASES["5x4"], "ViT-B/16", "cpu", "fp32").clone()
    cfg.defrost()
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS = dataset, root, SHOTS
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.VERBOSE = False
    cfg.SEED = 1
    with contextlib.redirect_stdout(io.StringIO()):
        manager = DataManager(cfg)
    return manager.train_loader_x, manager.test_loader


def rate(count: int, action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return count / (time.perf_counter() - started)


def stages(loader: DataLoader) -> dict[str, float]:
    """Images per second of each stage alone, in this process."""
    dataset: Any = loader.dataset
    items, size = dataset.data_source[: 4 * SHOTS], loader.batch_size or 1
    read_image(items[0].impath)
    images = [read_image(item.impath) for item in items]
    tensors = [dataset.transform(image) for image in images]
    batches = [tensors[start : start + size] for start in range(0, len(tensors), size)]
    return {
        "decode": rate(len(items), lambda: [read_image(item.impath) for item in items]),
        "transform": rate(len(items), lambda: [dataset.transform(image) for image in images]),
        "collate": rate(len(items), lambda: [default_collate(batch) for batch in batches]),
    }


def epochs(loader: DataLoader, count: int) -> dict[str, float]:
    """Images per second of the first pass, and of the ``count`` passes after it."""
    dataset: Any = loader.dataset
    images = min(len(loader) * (loader.batch_size or 1), len(dataset))
    first, *later = [rate(images, lambda: deque(loader, maxlen=0)) for _ in range(1 + count)]
    return {"first": first, "later": sum(later) / len(later)}


def measure_loaders(dataset: str, root: str, workers: int) -> dict[str, Any]:
    training, test = dassls_loaders(dataset, root, workers)
    result = {
        "images": "500x375 JPEG" if dataset == SyntheticPhotos.__name__ else dataset,
        "workers": workers,
        **stages(training),
        "training": {"dassl": epochs(training, EPOCHS), "ours": epochs(with_kept_images(training), EPOCHS)},
    }
    with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, XDG_CACHE_HOME=empty):
        with contextlib.redirect_stdout(io.StringIO()):
            ours = epochs(with_cached_images(test), 1)
        result["test"] = {"dassl": epochs(test, 1), "ours": ours}
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2, 8], help="numbers of workers (default: 0 2 8)")
    parser.add_argument("--root", help="folder of the images (default: a temporary one)")
    measure.add_output_options(parser)
    args = parser.parse_args(argv)
    names = (SyntheticPhotos.__name__, Shapes.__name__)
    with tempfile.TemporaryDirectory() as temporary:
        plan = [(name, args.root or temporary, workers) for name in names for workers in args.workers]
        rows = [measure_loaders(*entry) for entry in tqdm(plan, desc="loaders")]
    measure.hand_over(measure.result_of("data", argv, loaders=rows), args, data_table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
