"""DatasetWrapper, loaders and DataManager: golden vectors, switches and errors."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import RandomSampler, SequentialSampler, default_collate

from dassl.data import DataManager, DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase
from dassl.data.transforms import build_transform
from dassl.utils import set_random_seed
from tests.toolbox.toy import GOLDEN, image_path, toy_cfg, toy_items

WRAPPER = GOLDEN["dataset_wrapper"]
TWO_VIEWS_AND_PLAIN = ("DATALOADER.K_TRANSFORMS", 2, "DATALOADER.RETURN_IMG0", True)


@pytest.fixture
def items(toy_root):
    return toy_items(toy_root, 0, 10)


def described(entry):
    """The golden file's short form of an item: shapes, list lengths, and the base name of the path."""
    output = dict(entry, impath=entry["impath"].rpartition("/")[2])
    for name, value in entry.items():
        if isinstance(value, torch.Tensor):
            output[name] = list(value.shape)
        elif isinstance(value, list):
            output[name] = ["list", len(value)]
    return output


@pytest.mark.parametrize(
    "key, overrides, transforms, is_train",
    [
        ("single", (), 1, True),
        ("two_tfms", (), [1, 1], True),
        ("three_tfms_tuple", (), (1, 1, 1), True),
        ("k2_img0_train", TWO_VIEWS_AND_PLAIN, 1, True),
        ("k2_img0_test", TWO_VIEWS_AND_PLAIN, 1, False),
        ("k2_two_tfms", TWO_VIEWS_AND_PLAIN, [1, 1], True),
    ],
)
def test_wrapped_item(key, overrides, transforms, is_train, toy_root, items):
    cfg = toy_cfg(toy_root, *overrides)
    transform = build_transform(cfg)
    if transforms != 1:
        transform = type(transforms)([transform] * len(transforms))
    entry = DatasetWrapper(cfg, items, transform=transform, is_train=is_train)[13]
    assert described(entry) == WRAPPER[key]
    assert list(entry) == list(WRAPPER[key])


def test_without_transform_the_image_is_a_pil_image(toy_root, items):
    entry = DatasetWrapper(toy_cfg(toy_root), items)[13]
    assert type(entry["img"]).__name__ == WRAPPER["none"]["img"]
    assert list(entry) == list(WRAPPER["none"])


def test_several_views_need_a_transform(toy_root, items):
    with pytest.raises(ValueError, match="K_TRANSFORMS is 2"):
        DatasetWrapper(toy_cfg(toy_root, "DATALOADER.K_TRANSFORMS", 2), items, is_train=True)


def test_batch_of_two_views(toy_root, items):
    def kind(value):
        if isinstance(value, torch.Tensor):
            return f"Tensor {value.dtype} {list(value.shape)}"
        if isinstance(value[0], torch.Tensor):
            return f"list[{len(value)}] of Tensor {list(value[0].shape)}"
        return f"list[{len(value)}] of {type(value[0]).__name__} "

    cfg = toy_cfg(toy_root, *TWO_VIEWS_AND_PLAIN)
    wrapper = DatasetWrapper(cfg, items, transform=build_transform(cfg), is_train=True)
    batch = default_collate([wrapper[index] for index in range(3)])
    assert {name: kind(value) for name, value in batch.items()} == WRAPPER["k2_batch_types"]


def test_views_are_drawn_one_after_the_other(toy_root, items):
    cfg = toy_cfg(toy_root, "DATALOADER.K_TRANSFORMS", 3)
    transform = build_transform(cfg)
    set_random_seed(1)
    views = DatasetWrapper(cfg, items, transform=transform, is_train=True)[13]["img"]
    set_random_seed(1)
    singles = [DatasetWrapper(toy_cfg(toy_root), items, transform=transform)[13]["img"] for _ in range(3)]
    assert all(torch.equal(view, single) for view, single in zip(views, singles, strict=True))
    assert not torch.equal(views[0], views[1])


def test_plain_image_is_resized_and_normalised_only(toy_root, items):
    cfg = toy_cfg(toy_root, "DATALOADER.RETURN_IMG0", True)
    plain = DatasetWrapper(cfg, items, transform=build_transform(cfg))[13]["img0"]
    resize_only = build_transform(toy_cfg(toy_root, "INPUT.TRANSFORMS", ("normalize",)))
    assert torch.equal(plain, DatasetWrapper(cfg, items, transform=resize_only)[13]["img"])


def test_manager_prints_in_order_and_shows_the_table(toy_root, capsys):
    manager = DataManager(toy_cfg(toy_root))
    printed = capsys.readouterr().out
    reference = GOLDEN["runs"]["A"]["log_after_env_info"]
    start, end = reference.index("Loading dataset"), reference.index("Loading evaluator")
    assert printed == reference[start:end]
    assert GOLDEN["dataset_summary_tables"]["toy"] in printed
    assert manager.num_classes == 5
    assert manager.num_source_domains == 0
    assert manager.lab2cname[3] == "gold_fish"


@pytest.mark.parametrize(
    "key, name, domains, counts",
    [
        ("imagenet_like", "ImageNet", ((), ()), {"classes": 1000, "train_x": 16000, "val": 50000, "test": 50000}),
        ("with_domains", "PACS", (["a", "b"], ("c",)), {"classes": 7, "train_x": 20, "train_u": 1234, "test": 50}),
    ],
)
def test_summary_tables(key, name, domains, counts, toy_root, capsys):
    cfg = toy_cfg(toy_root, "DATASET.NAME", name)
    cfg.DATASET.SOURCE_DOMAINS, cfg.DATASET.TARGET_DOMAINS = domains
    sizes = {part: range(counts.get(part, 0)) for part in ("train_x", "train_u", "val", "test")}
    manager = DataManager.__new__(DataManager)
    manager.dataset = SimpleNamespace(num_classes=counts["classes"], **sizes)
    manager.show_dataset_summary(cfg)
    assert capsys.readouterr().out == GOLDEN["dataset_summary_tables"][key] + "\n"


def test_verbose_off_hides_the_table(toy_root, capsys):
    DataManager(toy_cfg(toy_root, "VERBOSE", False))
    printed = capsys.readouterr().out
    assert "# classes" not in printed
    assert "Loading dataset" not in printed


def test_custom_transforms(toy_root, capsys):
    manager = DataManager(toy_cfg(toy_root), custom_tfm_train=lambda _: 1, custom_tfm_test=lambda _: 2)
    assert set(next(iter(manager.train_loader_x))["img"].tolist()) == {1}
    assert set(next(iter(manager.test_loader))["img"].tolist()) == {2}
    printed = capsys.readouterr().out
    assert "* Using custom transform for training\n* Using custom transform for testing\n" in printed


def test_custom_wrapper(toy_root):
    class Wrapper(DatasetWrapper):
        pass

    manager = DataManager(toy_cfg(toy_root), dataset_wrapper=Wrapper)
    assert isinstance(manager.train_loader_x.dataset, Wrapper)
    assert isinstance(manager.test_loader.dataset, Wrapper)


def test_loaders_and_their_options(toy_root):
    manager = DataManager(toy_cfg(toy_root))
    assert manager.train_loader_u is None
    assert isinstance(manager.train_loader_x.sampler, RandomSampler)
    assert isinstance(manager.val_loader.sampler, SequentialSampler)
    assert manager.train_loader_x.dataset.is_train
    assert not manager.val_loader.dataset.is_train
    assert not manager.train_loader_x.persistent_workers
    # 30 test images in batches of 7: the incomplete last batch counts
    assert [len(batch["label"]) for batch in manager.test_loader] == [7, 7, 7, 7, 2]


class ToyUnlabelled(DatasetBase):
    def __init__(self, cfg):
        items = toy_items(cfg.DATASET.ROOT, 0, 4)
        super().__init__(train_x=items, train_u=items, test=items)


@pytest.fixture
def unlabelled_dataset():
    DATASET_REGISTRY.register(ToyUnlabelled, force=True)


@pytest.mark.usefixtures("unlabelled_dataset")
@pytest.mark.parametrize("same, batch_size", [(True, 4), (False, 3)])
def test_unlabelled_loader_follows_its_own_options_or_those_of_x(same, batch_size, toy_root):
    options = ("DATALOADER.TRAIN_U.SAME_AS_X", same, "DATALOADER.TRAIN_U.BATCH_SIZE", 3)
    manager = DataManager(toy_cfg(toy_root, "DATASET.NAME", "ToyUnlabelled", *options))
    assert manager.train_loader_u.batch_size == batch_size
    assert manager.train_loader_u.dataset.is_train
    assert manager.val_loader is None


@pytest.mark.parametrize("nothing", [None, []])
def test_empty_loader_names_dataset_and_likely_cause(nothing, toy_root):
    with pytest.raises(ValueError, match="evaluation loader of dataset 'Toy'.*preprocessed.pkl"):
        build_data_loader(toy_cfg(toy_root), data_source=nothing, is_train=False)


def test_sampler_without_a_full_batch(toy_root, items):
    """2 images of each of 2 classes never fill a batch of 5."""
    few = [item for item in items if item.label < 2 and item.impath.endswith(("00.png", "01.png", "02.png"))]
    cfg = toy_cfg(toy_root)
    with pytest.raises(ValueError, match="no full batch of 5 from 6 images"):
        build_data_loader(cfg, "RandomClassSampler", few, batch_size=5, n_ins=2, tfm=build_transform(cfg))


def test_missing_image_at_read_time_names_the_file(toy_root, items, tmp_path):
    cfg = toy_cfg(toy_root)
    items[0]._impath = str(image_path(tmp_path, 0, 0))  # as in a few-shot cache written on another machine
    with pytest.raises(FileNotFoundError, match="img_00.png"):
        DatasetWrapper(cfg, items, transform=build_transform(cfg))[0]
