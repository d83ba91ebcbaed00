"""Training images kept in memory: decoded once, the same items, and within the limit."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from anprompt.data import train_images as images
from anprompt.data.loaders import with_kept_images
from anprompt.data.train_images import KeptImages, size_of
from dassl.data import DataManager, DatasetWrapper
from dassl.data.datasets import Datum
from dassl.utils import read_image


@pytest.fixture
def items(tmp_path):
    """Files of different sizes and modes; the last item shows the first file again."""
    generator = np.random.default_rng(1)
    found = []
    for index, (mode, name) in enumerate([("RGB", "a.jpg"), ("L", "b.png"), ("P", "c.png"), ("CMYK", "d.jpg")]):
        pixels = generator.integers(0, 256, (20 + index, 31, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / name)
        found.append(Datum(impath=str(tmp_path / name), label=index, domain=index, classname=name))
    return [*found, found[0]]


def as_array(image):
    assert image.mode == "RGB"
    return torch.from_numpy(np.array(image))


def draws(image):
    return as_array(image)[:16, :16] + int(random.random() * 9)


def assert_same_items(one, other):
    assert len(one) == len(other)
    for index in range(len(one)):
        random.seed(index)
        left = one[index]
        random.seed(index)
        right = other[index]
        assert left.keys() == right.keys() and list(left) == list(right)
        assert all(torch.equal(left[k], right[k]) if k == "img" else left[k] == right[k] for k in left)


def test_items_are_dassls_and_decoded_once(make_cfg, items, decoded):
    kept = KeptImages(make_cfg(), items, draws, is_train=True)
    assert not decoded
    for _ in range(2):
        kept.prepare()
    for _ in range(3):
        assert len([kept[index] for index in range(len(items))]) == 5
    assert sorted(decoded) == sorted(item.impath for item in items[:4])
    assert_same_items(kept, DatasetWrapper(make_cfg(), items, draws, is_train=True))


def test_a_transform_may_paint_on_its_image(make_cfg, items):
    def paint(image):
        before = as_array(image)
        image.paste((1, 2, 3), (0, 0, *image.size))
        return before

    kept = KeptImages(make_cfg(), items, paint, is_train=True)
    kept.prepare()
    first = kept[0]["img"]
    assert torch.equal(kept[0]["img"], first) and first.float().std() > 1


@pytest.mark.parametrize(
    "options",
    [
        ["DATALOADER.KEEP_TRAIN_GB", "0.0"],
        ["DATALOADER.K_TRANSFORMS", "2"],
        ["DATALOADER.RETURN_IMG0", "True"],
        ["OPTIM.MAX_EPOCH", "1"],
    ],
)
def test_nothing_is_kept_where_that_is_not_wanted_or_of_no_use(options, make_cfg, items, decoded):
    kept = KeptImages(make_cfg(*options), items, draws, is_train=True)
    kept.prepare()
    assert kept.kept is None and not decoded
    first = kept[0]
    assert decoded and (len(first["img"]) == 2 or options[0] != "DATALOADER.K_TRANSFORMS")
    assert ("img0" in first) == (options[0] == "DATALOADER.RETURN_IMG0")


@pytest.mark.parametrize("transform", [None, [draws, draws]])
def test_other_transforms_are_dassls_business(transform, make_cfg, items):
    kept = KeptImages(make_cfg(), items, transform, is_train=True)
    kept.prepare()
    assert kept.kept is None and kept[0].keys() >= ({"img", "img2"} if transform else {"img"})


def test_beyond_the_limit_nothing_is_kept_and_that_is_said(make_cfg, items, capsys):
    needed = sum(3 * 31 * height for height in (20, 21, 22, 23))
    for limit, fits in ((needed, True), (needed - 1, False)):
        kept = KeptImages(make_cfg("DATALOADER.KEEP_TRAIN_GB", f"{limit / 10**9:.12f}"), items, draws, is_train=True)
        kept.prepare()
        assert (kept.kept is not None) == fits
        said = capsys.readouterr().out
        assert not said if fits else said.count("\n") == 1 and "DATALOADER.KEEP_TRAIN_GB" in said


def test_workers_that_are_not_forked_get_no_copies(make_cfg, items, monkeypatch):
    kept = KeptImages(make_cfg(), items, draws, is_train=True)
    kept.prepare()
    copy = pickle.loads(pickle.dumps(kept))
    assert kept.kept and copy.kept is None
    assert_same_items(copy, kept)
    monkeypatch.setattr(images.multiprocessing, "get_start_method", lambda: "spawn")
    for workers, keeps in (("2", False), ("0", True)):
        kept = KeptImages(make_cfg("DATALOADER.NUM_WORKERS", workers), items, draws, is_train=True)
        kept.prepare()
        assert (kept.kept is not None) == keeps


@pytest.mark.parametrize("damage", ["missing", "no image", "cut off"])
def test_bad_files_are_named_as_ever(damage, make_cfg, items, tmp_path):
    file = tmp_path / "b.png"
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(b"text" if damage == "no image" else content[:-40])
    kept = KeptImages(make_cfg(), items, draws, is_train=True)

    def use():
        kept.prepare()
        return kept[1]

    with pytest.raises(OSError, match=r"b\.png") as raised:
        use()
    with pytest.raises(OSError) as expected:
        read_image(str(file))
    assert str(raised.value) == str(expected.value)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_training_loader_decodes_at_its_first_epoch(workers, make_cfg, decoded):
    cfg = make_cfg("DATALOADER.NUM_WORKERS", workers)
    plain, changed = (DataManager(cfg).train_loader_x for _ in range(2))
    changed = with_kept_images(changed)
    assert not decoded

    def epochs(loader):
        torch.manual_seed(7)
        return [(batch["impath"], batch["img"]) for _ in range(3) for batch in loader], torch.get_rng_state()

    (batches, state), count = epochs(changed), len(changed.dataset)
    assert sorted(decoded) == sorted({item.impath for item in changed.dataset.data_source}) and len(decoded) == count
    expected, expected_state = epochs(plain)
    assert torch.equal(state, expected_state)
    for (paths, pixels), (expected_paths, expected_pixels) in zip(batches, expected, strict=True):
        assert paths == expected_paths and torch.equal(pixels, expected_pixels)


def test_sizes_are_readable():
    assert [size_of(count) for count in (3_140_000_000, 11_796_480, 99_999_999)] == ["3.1 GB", "11.8 MB", "100.0 MB"]
