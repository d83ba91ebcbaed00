"""Images per second of the input pipeline alone: its stages, and the training loader as a run would have it.

    python -m benchmarks.data                       # Shapes, and synthetic photos of 500x375
    python -m benchmarks.data --workers 0 2 8 --output data.json

The loader is the one that a training run gets from ``vit_b16.yaml`` (224 pixels, batches of 4). The toolbox starts its
workers anew in every epoch; the last column shows the same loader with workers that stay. It takes a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm
from yacs.config import CfgNode

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
    layers = [
        Image.fromarray(generator.integers(0, 256, (375 // cell + 1, 500 // cell + 1, 3), dtype=np.uint8))
        .resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
        for cell in (64, 4)
    ]  # fmt: skip
    return Image.blend(*layers, alpha=0.25)


def loader_of(dataset: str, root: str, workers: int) -> DataLoader:
    """The training loader that a run on ``dataset`` gets."""
    cfg = config(CASES["5x4"], "ViT-B/16", "cpu", "fp32").clone()
    cfg.defrost()
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS = dataset, root, SHOTS
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.VERBOSE = False
    cfg.SEED = 1
    with contextlib.redirect_stdout(io.StringIO()):
        return DataManager(cfg).train_loader_x


def with_kept_workers(loader: DataLoader) -> DataLoader:
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=loader.sampler,
        num_workers=loader.num_workers,
        drop_last=loader.drop_last,
        pin_memory=loader.pin_memory,
        persistent_workers=loader.num_workers > 0,
    )


def rate(count: int, action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return count / (time.perf_counter() - started)


def stages(loader: DataLoader) -> dict[str, float]:
    """Images per second of each stage alone, in this process."""
    dataset, items = loader.dataset, loader.dataset.data_source[: 4 * SHOTS]
    read_image(items[0].impath)
    images = [read_image(item.impath) for item in items]
    tensors = [dataset.transform(image) for image in images]
    batches = [tensors[start : start + loader.batch_size] for start in range(0, len(tensors), loader.batch_size)]
    return {
        "decode": rate(len(items), lambda: [read_image(item.impath) for item in items]),
        "transform": rate(len(items), lambda: [dataset.transform(image) for image in images]),
        "collate": rate(len(items), lambda: [default_collate(batch) for batch in batches]),
    }


def epochs(loader: DataLoader, count: int) -> list[float]:
    """Images per second of ``count`` passes."""
    images = len(loader) * loader.batch_size
    return [rate(images, lambda: list(loader)) for _ in range(count)]


def measure_loader(dataset: str, root: str, workers: int) -> dict[str, Any]:
    loader = loader_of(dataset, root, workers)
    first, *later = epochs(loader, 1 + EPOCHS)
    kept = epochs(with_kept_workers(loader), 1 + EPOCHS)[1:]
    return {
        "images": "500x375 JPEG" if dataset == SyntheticPhotos.__name__ else dataset,
        "workers": workers,
        **stages(loader),
        "first_epoch": first,
        "later_epochs": sum(later) / len(later),
        "persistent": sum(kept) / len(kept),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2, 8], help="numbers of workers (default: 0 2 8)")
    parser.add_argument("--root", help="folder of the images (default: a temporary one)")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/performance.md")
    args = parser.parse_args(argv)
    names = (SyntheticPhotos.__name__, Shapes.__name__)
    with tempfile.TemporaryDirectory() as temporary:
        plan = [(name, args.root or temporary, workers) for name in names for workers in args.workers]
        rows = [measure_loader(*entry) for entry in tqdm(plan, desc="loaders")]
    result = {
        "benchmark": "data",
        "command": "python -m benchmarks.data " + " ".join(sys.argv[1:] if argv is None else argv),
        "machine": measure.machine("cpu"),
        "loaders": rows,
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(data_table(result) if args.markdown else json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
