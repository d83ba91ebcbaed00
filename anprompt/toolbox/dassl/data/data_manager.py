"""From a dataset to batches: the item wrapper, the loaders, and the manager that holds them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision.transforms as T
from torch.utils.data import DataLoader, Dataset

from dassl.data.datasets import build_dataset
from dassl.data.samplers import build_sampler
from dassl.data.transforms import INTERPOLATION_MODES, build_transform
from dassl.utils import read_image


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
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ValueError(f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform to apply repeatedly")
        self.to_tensor = self._plain_transform(cfg)

    @staticmethod
    def _plain_transform(cfg: Any) -> T.Compose:
        """What ``img0`` goes through: resized to exactly ``INPUT.SIZE``, no augmentation."""
        steps = [
            T.Resize(tuple(cfg.INPUT.SIZE), interpolation=INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]),
            T.ToTensor(),
        ]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            steps.append(T.Normalize(mean=cfg.INPUT.PIXEL_MEAN, std=cfg.INPUT.PIXEL_STD))
        return T.Compose(steps)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.data_source[index]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": index}
        image = read_image(item.impath)
        if isinstance(self.transform, (list, tuple)):
            for number, transform in enumerate(self.transform, start=1):
                output["img" if number == 1 else f"img{number}"] = self._views(transform, image)
        elif self.transform is not None:
            output["img"] = self._views(self.transform, image)
        else:
            output["img"] = image
        if self.return_img0:
            output["img0"] = self.to_tensor(image)
        return output

    def _views(self, transform: Callable[[Any], Any], image: Any) -> Any:
        """One result, or a list of ``k_tfm`` results drawn one after the other."""
        if self.k_tfm == 1:
            return transform(image)
        return [transform(image) for _ in range(self.k_tfm)]


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
    purpose = "training" if is_train else "evaluation"
    if not data_source:
        raise ValueError(
            f"No images for the {purpose} loader of dataset {cfg.DATASET.NAME!r}. If they are under DATASET.ROOT "
            f"({cfg.DATASET.ROOT!r}), a stale cache is the likely cause: delete split_fewshot/ and preprocessed.pkl."
        )
    loader = DataLoader(
        (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=build_sampler(
            sampler_type, cfg=cfg, data_source=data_source, batch_size=batch_size, n_domain=n_domain, n_ins=n_ins
        ),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=cfg.USE_CUDA and torch.cuda.is_available(),
    )
    if len(loader) == 0:
        raise ValueError(
            f"{sampler_type} yields no full batch of {batch_size} from {len(data_source)} images: lower BATCH_SIZE"
        )
    return loader


class DataManager:
    """Builds the dataset, both transforms and all loaders of a config, in the order that fixes the log's lines.

    Args:
        cfg: the config.
        custom_tfm_train: replaces the training transform of the config.
        custom_tfm_test: replaces the test transform of the config.
        dataset_wrapper: replaces :class:`DatasetWrapper`.
    """

    def __init__(
        self,
        cfg: Any,
        custom_tfm_train: Any = None,
        custom_tfm_test: Any = None,
        dataset_wrapper: type | None = None,
    ) -> None:
        dataset = build_dataset(cfg)
        if custom_tfm_train is None:
            tfm_train = build_transform(cfg, is_train=True)
        else:
            print("* Using custom transform for training")
            tfm_train = custom_tfm_train
        if custom_tfm_test is None:
            tfm_test = build_transform(cfg, is_train=False)
        else:
            print("* Using custom transform for testing")
            tfm_test = custom_tfm_test

        def train_loader(items: Sequence[Any], options: Any) -> DataLoader:
            return build_data_loader(
                cfg,
                sampler_type=options.SAMPLER,
                data_source=items,
                batch_size=options.BATCH_SIZE,
                n_domain=options.N_DOMAIN,
                n_ins=options.N_INS,
                tfm=tfm_train,
                is_train=True,
                dataset_wrapper=dataset_wrapper,
            )

        def test_loader(items: Sequence[Any]) -> DataLoader:
            return build_data_loader(
                cfg,
                sampler_type=cfg.DATALOADER.TEST.SAMPLER,
                data_source=items,
                batch_size=cfg.DATALOADER.TEST.BATCH_SIZE,
                tfm=tfm_test,
                is_train=False,
                dataset_wrapper=dataset_wrapper,
            )

        options_x = cfg.DATALOADER.TRAIN_X
        options_u = options_x if cfg.DATALOADER.TRAIN_U.SAME_AS_X else cfg.DATALOADER.TRAIN_U
        self.dataset = dataset
        self.train_loader_x = train_loader(dataset.train_x, options_x)
        self.train_loader_u = train_loader(dataset.train_u, options_u) if dataset.train_u else None
        self.val_loader = test_loader(dataset.val) if dataset.val else None
        self.test_loader = test_loader(dataset.test)
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @property
    def num_classes(self) -> int:
        return self.dataset.num_classes

    @property
    def num_source_domains(self) -> int:
        return self._num_source_domains

    @property
    def lab2cname(self) -> dict[int, str]:
        return self.dataset.lab2cname

    def show_dataset_summary(self, cfg: Any) -> None:
        """Print the table of names and counts."""
        dataset = self.dataset
        rows = [("Dataset", cfg.DATASET.NAME)]
        if cfg.DATASET.SOURCE_DOMAINS:
            rows.append(("Source", str(cfg.DATASET.SOURCE_DOMAINS)))
        if cfg.DATASET.TARGET_DOMAINS:
            rows.append(("Target", str(cfg.DATASET.TARGET_DOMAINS)))
        rows.append(("# classes", f"{self.num_classes:,}"))
        rows.append(("# train_x", f"{len(dataset.train_x):,}"))
        if dataset.train_u:
            rows.append(("# train_u", f"{len(dataset.train_u):,}"))
        if dataset.val:
            rows.append(("# val", f"{len(dataset.val):,}"))
        rows.append(("# test", f"{len(dataset.test):,}"))
        print(_plain_table(rows))


def _plain_table(rows: list[tuple[str, str]]) -> str:
    """Two left-aligned columns, two spaces apart, between dashed rules."""
    left, right = (max(len(row[column]) for row in rows) for column in (0, 1))
    rule = f"{'-' * left}  {'-' * right}"
    lines = [f"{name:<{left}}  {value}" for name, value in rows]
    return "\n".join([rule, *lines, rule])
