"""From a dataset to batches: the item wrapper, the loaders, and the manager that holds them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
import torchvision.transforms as T
from torch.utils.data import DataLoader, Dataset

from dassl.data.datasets import build_dataset
from dassl.data.samplers import build_sampler
from dassl.data.transforms import INTERPOLATION_MODES, build_transform
from dassl.utils import read_image

FACTS = ("label", "domain", "impath")  # of an item, that its batch has, too


class DatasetWrapper(Dataset):
    """Turns a list of items into the dictionaries that are collated to batches.

    Item ``i`` has the keys ``label``, ``domain``, ``impath``, ``index`` (= ``i``) and ``img``; a sequence of transforms
    adds ``img2``, ``img3``, ...; ``DATALOADER.RETURN_IMG0`` adds the un-augmented ``img0``. With
    ``DATALOADER.K_TRANSFORMS`` > 1 each augmented image is, in training only, a list of that many independent views.

    Args:
        cfg: the config.
        data_source: list of items.
        transform: callable from a PIL image, or a list or tuple of them, or None for the PIL image itself.
        is_train: whether ``K_TRANSFORMS`` applies.

    Raises:
        ValueError: several views are asked for without a transform.
    """

    def __init__(self, cfg: Any, data_source: Sequence[Any], transform: Any = None, is_train: bool = False) -> None:
        views = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        if views > 1 and transform is None:
            raise ValueError(f"DATALOADER.K_TRANSFORMS is {views}, but there is no transform to apply repeatedly")
        self.cfg, self.data_source = cfg, data_source
        self.is_train, self.transform, self.to_tensor = is_train, transform, plain_transform(cfg.INPUT)
        self.k_tfm, self.return_img0 = views, cfg.DATALOADER.RETURN_IMG0

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.data_source[index]
        facts = {name: getattr(item, name) for name in FACTS}
        return {**facts, "index": index, **self._images(read_image(item.impath))}

    def _images(self, image: Any) -> dict[str, Any]:
        """Everything that is made of one image, by its name in the batch, in the order in which it is drawn."""
        transforms = self.transform if isinstance(self.transform, (list, tuple)) else [self.transform]
        made = {f"img{number}": self._views(transform, image) for number, transform in enumerate(transforms, start=1)}
        if self.return_img0:
            made["img0"] = self.to_tensor(image)
        return {"img" if name == "img1" else name: value for name, value in made.items()}

    def _views(self, transform: Callable[[Any], Any] | None, image: Any) -> Any:
        """One result, or a list of ``k_tfm`` drawn one after the other; without a transform the image itself."""
        if transform is None:
            return image
        return transform(image) if self.k_tfm == 1 else [transform(image) for _ in range(self.k_tfm)]


def plain_transform(opts: Any) -> T.Compose:
    """What ``img0`` goes through: resized to exactly ``INPUT.SIZE``, no augmentation."""
    normalize = [T.Normalize(opts.PIXEL_MEAN, opts.PIXEL_STD)] if "normalize" in opts.TRANSFORMS else []
    resize = T.Resize(tuple(opts.SIZE), INTERPOLATION_MODES[opts.INTERPOLATION])
    return T.Compose([resize, T.ToTensor(), *normalize])


def build_data_loader(
    cfg: Any,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Any] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Any = None,
    is_train: bool = True,
    dataset_wrapper: type | None = None,
) -> DataLoader:
    """Build a loader over ``data_source``.

    A training loader drops an incomplete last batch, unless it would be the only one. Workers are not kept alive
    between epochs: that would change what an epoch draws from the global generator, and so the batch order.

    Raises:
        ValueError: there is nothing to load.
    """
    if not data_source:
        raise ValueError(
            f"No images for the {'training' if is_train else 'evaluation'} loader of dataset {cfg.DATASET.NAME!r}. If "
            f"they are under DATASET.ROOT ({cfg.DATASET.ROOT!r}), a stale cache is the likely cause: delete "
            "split_fewshot/ and preprocessed.pkl."
        )
    wrap = dataset_wrapper or DatasetWrapper
    loader = DataLoader(
        wrap(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size,
        sampler=build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins),
        drop_last=is_train and batch_size <= len(data_source),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )
    if not len(loader):
        raise ValueError(
            f"{sampler_type} yields no full batch of {batch_size} from {len(data_source)} images: lower BATCH_SIZE"
        )
    return loader


# Keys of a node under DATALOADER, and what build_data_loader calls them. TEST has the first two only.
LOADER_OPTIONS = {"SAMPLER": "sampler_type", "BATCH_SIZE": "batch_size", "N_DOMAIN": "n_domain", "N_INS": "n_ins"}


class Split(NamedTuple):
    """One of the four loaders, and what it is made of."""

    loader: str  # attribute of the manager
    items: str  # attribute of the dataset
    options: str  # node under DATALOADER
    is_train: bool
    optional: bool  # None where the dataset has no such items


SPLITS = (
    Split("train_loader_x", "train_x", "TRAIN_X", is_train=True, optional=False),
    Split("train_loader_u", "train_u", "TRAIN_U", is_train=True, optional=True),
    Split("val_loader", "val", "TEST", is_train=False, optional=True),
    Split("test_loader", "test", "TEST", is_train=False, optional=False),
)


class DataManager:
    """Builds the dataset, both transforms and all loaders of a config, in the order that fixes the log's lines.

    Args:
        cfg: the config.
        custom_tfm_train: replaces the training transform of the config.
        custom_tfm_test: replaces the test transform of the config.
        dataset_wrapper: replaces :class:`DatasetWrapper`.
    """

    train_loader_x: DataLoader
    train_loader_u: DataLoader | None
    val_loader: DataLoader | None
    test_loader: DataLoader

    num_classes = property(attrgetter("dataset.num_classes"), doc="Of the labelled training items.")
    lab2cname = property(attrgetter("dataset.lab2cname"), doc="Class name of each label.")

    def __init__(
        self, cfg: Any, custom_tfm_train: Any = None, custom_tfm_test: Any = None, dataset_wrapper: type | None = None
    ) -> None:
        self.dataset = build_dataset(cfg)
        self.num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        transforms = {
            True: _transform(cfg, custom_tfm_train, is_train=True),
            False: _transform(cfg, custom_tfm_test, is_train=False),
        }
        for split in SPLITS:
            items, loader = getattr(self.dataset, split.items), None
            if items or not split.optional:
                loader = build_data_loader(
                    cfg,
                    data_source=items,
                    tfm=transforms[split.is_train],
                    is_train=split.is_train,
                    dataset_wrapper=dataset_wrapper,
                    **_loader_options(cfg.DATALOADER, split.options),
                )
            setattr(self, split.loader, loader)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    def show_dataset_summary(self, cfg: Any) -> None:
        """Print the table of names and counts, without rows of what the dataset does not have."""
        domains = {"Source": cfg.DATASET.SOURCE_DOMAINS, "Target": cfg.DATASET.TARGET_DOMAINS}
        counts = {split.items: len(getattr(self.dataset, split.items) or ()) for split in SPLITS}
        rows = [("Dataset", cfg.DATASET.NAME)]
        rows += [(name, str(value)) for name, value in domains.items() if value]
        rows += [("# classes", f"{self.num_classes:,}")]
        rows += [(f"# {name}", f"{count:,}") for name, count in counts.items() if count]
        print(_plain_table(rows))


def _transform(cfg: Any, custom: Any, is_train: bool) -> Any:
    """The caller's transform, else the config's; one or more printed lines."""
    if custom is None:
        return build_transform(cfg, is_train=is_train)
    print(f"* Using custom transform for {'training' if is_train else 'testing'}")
    return custom


def _loader_options(dataloader: Any, node: str) -> dict[str, Any]:
    """Arguments of :func:`build_data_loader` from ``DATALOADER.<node>``."""
    options = dataloader["TRAIN_X" if node == "TRAIN_U" and dataloader.TRAIN_U.SAME_AS_X else node]
    return {argument: options[key] for key, argument in LOADER_OPTIONS.items() if key in options}


def _plain_table(rows: list[tuple[str, str]]) -> str:
    """Two left-aligned columns, two spaces apart, between dashed rules."""
    left, right = (max(len(row[column]) for row in rows) for column in (0, 1))
    rule = f"{'-' * left}  {'-' * right}"
    lines = [f"{name:<{left}}  {value}" for name, value in rows]
    return "\n".join([rule, *lines, rule])
