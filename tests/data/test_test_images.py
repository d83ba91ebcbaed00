"""The cache of test images: the same items, never stale, and whatever goes wrong with it costs time only."""

import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from anprompt.data import test_images as image_cache
from anprompt.data.loaders import with_cached_images
from anprompt.data.test_images import CachedImages, CachingLoader, cache_folder, split_transform
from dassl.data import DataManager, DatasetWrapper
from dassl.data.datasets import Datum
from dassl.utils import read_image

CROP = [T.Resize(12, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop((12, 12))]
PLAIN = T.Compose([*CROP, T.ToTensor(), T.Normalize([0.4, 0.5, 0.6], [0.2, 0.2, 0.3])])
COUNT = 5


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return cache_folder()


@pytest.fixture
def items(tmp_path):
    generator = np.random.default_rng(2)
    found = []
    for index in range(COUNT):
        path = tmp_path / f"{index}.png"
        Image.fromarray(generator.integers(0, 256, (20 + index, 31, 3), dtype=np.uint8)).save(path)
        found.append(Datum(impath=str(path), label=index, domain=0, classname=str(index)))
    return found


@pytest.fixture
def make_loader(make_cfg, items):
    def make(transform=PLAIN, workers=0, items=items, options=(), **arguments):
        dataset = CachedImages(make_cfg(*options), items, transform)
        return CachingLoader(dataset, batch_size=2, num_workers=workers, **arguments)

    return make


def same(one, other):
    pairs = list(zip(one, other, strict=True))
    return all(a.keys() == b.keys() and torch.equal(a["img"], b["img"]) for a, b in pairs) and all(
        a["impath"] == b["impath"] and torch.equal(a["index"], b["index"]) for a, b in pairs
    )


def uncached(loader):
    dataset = loader.dataset
    plain = DatasetWrapper(dataset.cfg, dataset.data_source, dataset.transform)
    return list(torch.utils.data.DataLoader(plain, batch_size=2))


def files(folder):
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


# ---------------------------------------------------------------------------------------------- what it is for


@pytest.mark.parametrize("workers", [0, 2])
def test_filled_by_the_first_pass_and_read_by_all_others(workers, make_loader, folder, decoded, capsys):
    first = make_loader(workers=workers)
    expected = uncached(first)
    decoded.clear()
    assert same(first, expected)
    assert len(decoded) == (0 if workers else COUNT)  # once; workers decode elsewhere
    (name,) = files(folder)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and str(folder / name) in said and "CACHE_TEST" in said and " MB" in said
    decoded.clear()
    second = make_loader(workers=workers)
    assert same(first, expected) and same(second, expected)
    assert same(torch.utils.data.DataLoader(second.dataset, batch_size=2), expected)
    for loader in (first, second):
        assert loader.dataset.images is not None and not loader.dataset.images.flags.writeable
    assert not decoded and files(folder) == [name]
    assert str(folder / name) in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, 2])
def test_the_random_stream_is_dassls(workers, make_cfg):
    manager = DataManager(make_cfg("DATALOADER.NUM_WORKERS", str(workers)))
    states = []
    for loader in (manager.test_loader, with_cached_images(manager.test_loader)):
        torch.manual_seed(4)
        states.append([(len(list(loader)), torch.get_rng_state()) for _ in range(2)])
    for (count, plain), (other_count, cached) in zip(*states, strict=True):
        assert count == other_count and torch.equal(plain, cached)


def test_a_run_may_shuffle_its_test_set(make_loader):
    for _ in range(2):
        loader = make_loader(shuffle=True)
        by_path = {path: image for batch in loader for path, image in zip(batch["impath"], batch["img"], strict=True)}
        for batch in uncached(loader):
            assert all(torch.equal(by_path[p], img) for p, img in zip(batch["impath"], batch["img"], strict=True))
    assert loader.dataset.images is not None


def test_steps_after_the_cached_ones_run_every_time(make_loader, items):
    torch.manual_seed(1)
    loader = make_loader(T.Compose([*CROP, T.RandomHorizontalFlip(), T.ToTensor()]))
    list(loader)
    shown = {tuple(batch["img"].sum(dim=(1, 2)).argmax(dim=1).tolist()) for batch in loader}
    passes = [torch.cat([batch["img"] for batch in loader]) for _ in range(4)]
    assert shown and not all(torch.equal(passes[0], other) for other in passes[1:])


@pytest.mark.parametrize(
    "transform, size",
    [
        (PLAIN, (12, 12)),
        (T.Compose([T.Resize((9, 7)), T.ToTensor()]), (9, 7)),
        (T.Compose([T.CenterCrop(8)]), (8, 8)),
        (T.Compose([T.Resize(12), T.ToTensor()]), None),  # images of different sizes
        (T.Compose([T.RandomResizedCrop(8), T.ToTensor()]), None),
        (T.Compose([T.ToTensor(), T.CenterCrop(8)]), None),
        (T.Compose([]), None),
        (T.CenterCrop(8), None),
        (lambda image: image, None),
        (None, None),
        ([PLAIN, PLAIN], None),
    ],
)
def test_only_a_known_beginning_of_fixed_size_is_cached(transform, size):
    steps = split_transform(transform)
    assert (steps and steps.size) == size
    if steps:
        image = Image.new("RGB", (30, 20), (9, 8, 7))
        assert steps.fixed(image).size == size[::-1]
        assert len(steps.fixed.transforms) + len(steps.rest.transforms) == len(transform.transforms)


def test_a_subclass_of_a_known_step_may_do_anything(make_loader, folder):
    class Jittered(T.CenterCrop): ...

    loader = make_loader(T.Compose([Jittered(8), T.ToTensor()]))
    assert same(loader, uncached(loader)) and not files(folder)


@pytest.mark.parametrize("options", [["DATALOADER.CACHE_TEST", "False"], ["DATALOADER.RETURN_IMG0", "True"]])
def test_switched_off_or_not_the_usual_items(options, make_loader, folder, capsys):
    loader = make_loader(options=options)
    assert same(loader, uncached(loader)) and not files(folder) and not capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- never stale


def test_changed_images_lists_and_transforms_are_other_files(make_loader, items, folder, monkeypatch):
    def fill(count, *arguments, **options):
        loader = make_loader(*arguments, **options)
        assert same(loader, uncached(loader)) and len(files(folder)) == count

    fill(1)
    os.utime(items[0].impath)
    fill(1)
    shutil.copy(items[1].impath, items[0].impath)
    os.utime(items[0].impath, (1, 1))
    fill(2)
    fill(3, items=items[::-1])
    fill(4, T.Compose([T.Resize(12), CROP[1], T.ToTensor()]))
    fill(4, T.Compose([*CROP, T.ToTensor()]))  # the normalisation is not in the file
    fill(5, items=items[:3])
    monkeypatch.setattr(image_cache.PIL, "__version__", "0")
    fill(6)


def test_an_image_that_changes_while_the_cache_is_filled_spoils_it(make_loader, items, folder, capsys):
    for _ in (loader := make_loader()):
        shutil.copy(items[0].impath, items[4].impath)
        os.utime(items[4].impath, (1, 1))
    assert not files(folder) and "changed meanwhile" in capsys.readouterr().out
    assert same(loader, uncached(loader))


@pytest.mark.parametrize("content", [b"", b"text", "cut", "longer", "fewer", "shape", "dtype", "order"])
def test_a_file_that_is_not_as_it_has_to_be_is_written_anew(content, make_loader, folder):
    list(make_loader())
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    images = np.load(path)
    other = {"fewer": images[:4], "shape": images.reshape(COUNT, 6, 24, 3)}
    other |= {"dtype": images.astype(np.int8), "order": np.asfortranarray(images)}
    if content in other:
        np.save(path, other[content])
    else:
        path.write_bytes({"cut": whole[:-9], "longer": whole + b"0"}.get(content, content))
    loader = make_loader()
    assert same(loader, uncached(loader))
    assert path.read_bytes() == whole


# ---------------------------------------------------------------------------------------------- when things go wrong


def test_a_pass_left_early_leaves_nothing_and_the_next_one_fills(make_loader, folder):
    loader = make_loader()
    for _ in loader:
        assert len(files(folder)) == 1
        break
    assert not files(folder)
    assert same(loader, uncached(loader)) and len(files(folder)) == 1
    assert "cache problem" not in loader.dataset[0]


def test_a_pass_that_misses_images_does_not_count(make_loader, folder):
    loader = make_loader(drop_last=True)
    for _ in range(2):
        assert len(list(loader)) == COUNT // 2
    assert not files(folder) and loader.dataset.images is None


@pytest.mark.parametrize("late", [False, True])
def test_two_at_once_do_no_harm(make_loader, folder, late, monkeypatch):
    """The second decodes and stores nothing. If both began at the same moment, both store."""
    if late:
        monkeypatch.setattr(image_cache.CacheFile, "is_being_written", lambda self: False)
    one, other = make_loader(), make_loader()
    parts = []
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left["img"], right["img"])
        parts.append(len(files(folder)))
    assert parts == [1 + late] * 3
    assert other.dataset.images is None or late
    assert same(other, uncached(one)) and other.dataset.images is not None  # it looks again
    (name,) = files(folder)
    assert name.endswith(".npy")
    assert same(one, uncached(one)) and same(make_loader(), uncached(one))


def fill_in_another_process(cfg, items, home):
    os.environ["XDG_CACHE_HOME"] = home
    loader = CachingLoader(CachedImages(cfg, items, PLAIN), batch_size=2)
    return [batch["img"].sum().item() for _ in range(2) for batch in loader]


def test_two_processes_at_once(make_cfg, make_loader, items, folder):
    home = str(folder.parent.parent)
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(fill_in_another_process, [make_cfg()] * 4, [items] * 4, [home] * 4))
    expected = [batch["img"].sum().item() for batch in uncached(make_loader())]
    assert found == [expected * 2] * 4 and len(files(folder)) == 1


def test_a_file_removed_by_hand_is_missed_by_nobody(make_loader, folder):
    loader = make_loader(workers=1)
    expected = list(loader)
    (path,) = folder.iterdir()
    copy = pickle.loads(pickle.dumps(loader.dataset))
    assert loader.dataset.__getstate__()["images"] is None and copy.images is not None
    path.unlink()
    assert same(loader, expected)
    fresh = pickle.loads(pickle.dumps(loader.dataset))  # a worker that is not forked
    assert fresh.images is None and torch.equal(fresh[1]["img"], copy[1]["img"])


def test_a_living_writer_is_waited_for_and_what_a_killed_one_left_is_removed(make_loader, folder):
    loader = make_loader()
    batches = iter(loader)
    next(batches)
    (name,) = files(folder)
    assert name.endswith(".part")
    list(make_loader())
    assert files(folder) == [name]
    loader.dataset.file.part = None
    loader.dataset.file.hold.close()  # as it ends with the process
    list(make_loader())
    (stored,) = files(folder)
    assert stored.endswith(".npy")
    batches.close()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot")
def test_room_is_taken_at_once(make_loader, folder):
    """Sparse files would let others believe that there is room."""
    batches = iter(make_loader())
    next(batches)
    (part,) = folder.glob("*.part")
    assert part.stat().st_blocks * 512 >= part.stat().st_size
    batches.close()


def test_leftovers_of_killed_writers_of_other_images_go_and_files_of_others_stay(make_loader, folder):
    folder.mkdir(parents=True)
    left = folder / f"{'0a' * 20}.{'1b' * 16}.part"
    others = [folder / "film.part", folder / "c.npy", folder / f"{'0a' * 20}.part"]
    for file in (left, *others):
        file.write_bytes(b"")
    list(make_loader())
    assert not left.exists() and all(file.exists() for file in others)


def refuse_to_write(monkeypatch, folder, how):
    if how == "no room":
        monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * COUNT * 3 * 144 - 1))
    elif how == "no folder":
        folder.parent.mkdir(parents=True)
        folder.write_text("a file where the folder should be")
    elif how == "full while writing":

        def full(self, index, image):
            if index == 3:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(image_cache.CacheFile, "write", full)
    else:
        monkeypatch.setattr(image_cache.os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError("no")))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["no room", "no folder", "full while writing", "cannot be moved"])
def test_without_a_place_to_write_images_are_decoded(how, workers, make_loader, folder, monkeypatch, capsys):
    refuse_to_write(monkeypatch, folder, how)
    loader = make_loader(workers=workers)
    expected = uncached(loader)
    for _ in range(2):
        assert same(loader, expected)
    said = capsys.readouterr().out
    assert said.startswith("Test images are not kept in ") and said.count("\n") == 1
    assert how == "no folder" or not files(folder)


def test_without_a_home_folder_images_are_decoded(make_loader, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(image_cache.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    loader = make_loader()
    assert same(loader, uncached(loader))


@pytest.mark.parametrize("damage", ["missing", "no image"])
def test_bad_files_are_named_as_ever(damage, make_loader, items, folder):
    if damage == "missing":
        os.unlink(items[3].impath)
    else:
        open(items[3].impath, "wb").close()  # noqa: PTH123
    with pytest.raises(OSError, match=r"3\.png") as raised:
        list(make_loader())
    with pytest.raises(OSError) as expected:
        read_image(items[3].impath)
    assert str(raised.value) == str(expected.value)
    del raised
    assert not files(folder)
