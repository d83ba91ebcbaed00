"""Clips as items of a batch: which frames, which views, and what happens where one cannot be read."""

import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from anprompt.data.loaders import StayingLoader, drawing_workers
from anprompt.video.clips import VideoDatasetWrapper, with_named_clips, with_staying_workers
from anprompt.video.decoding import VideoError
from anprompt.video.items import VideoDatum
from anprompt.video.transforms import clip_transform
from dassl.data.data_manager import build_data_loader
from tests.helpers.clips import decode_all, pictures, write_clip
from tests.video.test_transforms import config

FRAMES = ["VIDEO.NUM_FRAMES", 4]


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Six clips in as many forms."""
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for label, name in enumerate(("v_a_g01_c01.avi", "#1_(b)[c]&d!_+.avi", "c.webm", "d.mp4", "e.npz", "f.mp4")):
        path, frames = folder / name, pictures(12, (72, 54), seed=label)
        np.savez(path, frames) if path.suffix == ".npz" else write_clip(path, frames, gop=6)
        found.append(VideoDatum(str(path), label=label, domain=label % 2, classname=name))
    return found


@pytest.fixture
def with_broken(items, tmp_path):
    """The same, of which the second one and the last but one cannot be read."""
    found = list(items)
    for place in (1, 4):
        (tmp_path / f"{place}.mp4").write_bytes(b"no clip")
        found[place] = VideoDatum(str(tmp_path / f"{place}.mp4"), label=place)
    return found


def transforms(cfg):
    return clip_transform(cfg, True), clip_transform(cfg, False)


def test_items_are_dassls_with_frames_in_place_of_an_image(items):
    cfg = config(*FRAMES)
    train, test = transforms(cfg)
    for is_train, transform in ((True, train), (False, test)):
        clips = VideoDatasetWrapper(cfg, items, transform=transform, is_train=is_train)
        assert len(clips) == 6
        for index, item in enumerate(items):
            found = clips[index]
            assert list(found) == ["label", "domain", "impath", "index", "img"]
            assert [found[key] for key in list(found)[:4]] == [item.label, item.domain, item.impath, index]
            assert found["img"].shape == (4, 3, 32, 32)
    batch = next(iter(DataLoader(clips, batch_size=6)))
    assert batch["img"].shape == (6, 4, 3, 32, 32) and batch["label"].tolist() == list(range(6))


@pytest.mark.parametrize(("sampling", "indices"), [("center", [1, 4, 7, 10]), ("start", [0, 3, 6, 9])])
def test_a_test_takes_the_frames_of_its_sampling(sampling, indices, items):
    cfg = config(*FRAMES, "VIDEO.TEST_SAMPLING", sampling)
    clips = VideoDatasetWrapper(cfg, items, clip_transform(cfg, False))
    expected = decode_all(items[3].impath)[indices]
    assert torch.equal(clips[3]["img"], clip_transform(cfg, False)(expected))
    assert np.array_equal(VideoDatasetWrapper(cfg, items)[3]["img"], expected)


def test_views_are_clips_one_after_the_other_and_their_crops(items):
    cfg = config(*FRAMES, "VIDEO.TEST_CLIPS", 2, "VIDEO.TEST_CROPS", 3)
    found = VideoDatasetWrapper(cfg, items, clip_transform(cfg, False))[3]["img"]
    assert found.shape == (6, 4, 3, 32, 32)
    frames = decode_all(items[3].impath)
    for view, indices in enumerate(([0, 3, 6, 9], [2, 5, 8, 11])):  # of eight segments of 1.5 frames, every other one
        assert torch.equal(found[3 * view : 3 * view + 3], clip_transform(cfg, False)(frames[indices]))
    cfg = config(*FRAMES, "VIDEO.TEST_CLIPS", 2)
    both = VideoDatasetWrapper(cfg, items, clip_transform(cfg, False))[3]["img"]
    assert torch.equal(both, found[[1, 4]])
    cfg = config(*FRAMES, "VIDEO.TEST_CROPS", 3)
    assert VideoDatasetWrapper(cfg, items, clip_transform(cfg, False))[3]["img"].shape == (3, 4, 3, 32, 32)
    cfg = config(*FRAMES, "VIDEO.TEST_CLIPS", 2, "VIDEO.TEST_CROPS", 3)
    assert VideoDatasetWrapper(cfg, items, clip_transform(cfg, True), is_train=True)[3]["img"].shape == (4, 3, 32, 32)


@pytest.mark.parametrize("sampling", ["segment", "segment_vifi"])
def test_a_training_draws_frames_anew(sampling, items):
    cfg = config(*FRAMES, "VIDEO.TRAIN_SAMPLING", sampling)
    clips = VideoDatasetWrapper(cfg, items, is_train=True)
    frames = decode_all(items[3].impath)
    taken = set()
    for _ in range(60):
        found = clips[3]["img"]
        where = [int(np.flatnonzero((frames == frame).all((1, 2, 3)))[0]) for frame in found]
        assert all(3 * i <= index < 3 * i + 3 for i, index in enumerate(where))
        taken |= set(where)
    assert taken == set(range(12))


def test_the_backend_says_in_which_form_a_clip_is_read(items, tmp_path):
    for suffix in (".avi", ".npz"):
        (tmp_path / f"a{suffix}").touch()
    np.savez(tmp_path / "a.npz", pictures(3))
    item = VideoDatum(str(tmp_path / "a.avi"))
    cfg = config("VIDEO.BACKEND", "npz", "VIDEO.NUM_FRAMES", 3)
    assert np.array_equal(VideoDatasetWrapper(cfg, [item])[0]["img"], pictures(3))
    for backend, message in (("frames", "a. does not exist"), ("auto", "is empty")):
        with pytest.raises(VideoError, match=message):
            VideoDatasetWrapper(config("VIDEO.BACKEND", backend), [item])[0]


# ---------------------------------------------------------------------------------------------- broken clips


def test_a_training_draws_another_clip_and_says_so(with_broken, caplog):
    cfg = config(*FRAMES)
    clips = VideoDatasetWrapper(cfg, with_broken, clip_transform(cfg, True), is_train=True)
    seen = set()
    for _ in range(40):
        found = clips[1]
        item = with_broken[found["index"]]
        assert (found["label"], found["impath"]) == (item.label, item.impath) and found["index"] not in (1, 4)
        seen.add(found["index"])
    assert seen == {0, 2, 3, 5}
    failures = clips.broken
    assert failures[with_broken[1].impath] >= 40 and failures.keys() == {with_broken[1].impath, with_broken[4].impath}
    messages = [record.message for record in caplog.records if record.name.startswith("anprompt")]
    assert len(messages) == sum(failures.values())
    assert all("another clip was drawn instead" in message and "\n" not in message for message in messages)
    assert (
        sum(f'the clip "{with_broken[4].impath}"' in message for message in messages) == failures[with_broken[4].impath]
    )


def test_which_clip_is_drawn_is_decided_by_the_seed(with_broken):
    cfg = config(*FRAMES)
    clips = VideoDatasetWrapper(cfg, with_broken, clip_transform(cfg, True), is_train=True)
    torch.manual_seed(5)
    first = clips[1]
    torch.manual_seed(5)
    again = clips[1]
    assert first["index"] == again["index"] and torch.equal(first["img"], again["img"])


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_training_gives_up_after_so_many(retries, tmp_path, caplog):
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    items = [VideoDatum(str(tmp_path / "a.mp4"))]
    clips = VideoDatasetWrapper(config("VIDEO.MAX_RETRIES", retries), items, is_train=True)
    with pytest.raises(ValueError, match=r"a\.mp4.*truncated, damaged or no video") as error:
        clips[0]
    assert clips.broken == {items[0].impath: retries + 1} and len(caplog.records) == retries
    assert (f"{retries + 1} clips in a row" in str(error.value)) == (retries > 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_ends_with_the_name_of_the_file(workers, with_broken, caplog):
    clips = VideoDatasetWrapper(config(*FRAMES), with_broken)
    loader = with_named_clips(DataLoader(clips, batch_size=1, num_workers=workers))
    with pytest.raises(VideoError, match=r"^the clip \".*1\.mp4\" is truncated, damaged or no video") as error:
        list(loader)
    assert "\n" not in str(error.value) and not caplog.records
    assert with_broken[1].impath in clips.broken


def test_what_workers_meet_is_counted(with_broken):
    cfg = config(*FRAMES)
    clips = VideoDatasetWrapper(cfg, with_broken, clip_transform(cfg, True), is_train=True)
    logging.getLogger("anprompt.video.clips").disabled = True
    try:
        list(with_staying_workers(DataLoader(clips, batch_size=2, num_workers=2)))
    finally:
        logging.getLogger("anprompt.video.clips").disabled = False
    assert clips.broken.keys() == {with_broken[1].impath, with_broken[4].impath}


# ---------------------------------------------------------------------------------------------- loaders


def epochs(loader, count=2):
    torch.manual_seed(7)
    return [batch for _ in range(count) for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_dassls_loader_takes_it_and_workers_that_stay_draw_the_same(workers, items):
    cfg = config(*FRAMES, "DATALOADER.NUM_WORKERS", workers)
    options = {"batch_size": 2, "tfm": clip_transform(cfg, True), "dataset_wrapper": VideoDatasetWrapper}
    loader = build_data_loader(cfg, "RandomSampler", items, **options)
    staying = with_staying_workers(loader)
    assert type(staying) is StayingLoader and drawing_workers(loader) == drawing_workers(staying) == workers
    for one, other in zip(epochs(loader), epochs(staying), strict=True):
        assert one["impath"] == other["impath"] and torch.equal(one["img"], other["img"])


def test_other_loaders_are_left_as_they_are():
    loader = DataLoader(range(3), collate_fn=default_collate)
    assert with_staying_workers(loader) is loader
