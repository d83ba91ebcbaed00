"""One draw per clip for all of its frames; the numbers are those of Pillow and NumPy, frame by frame."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from anprompt.utils.config import add_shared_cfg
from anprompt.video.transforms import clip_transform, multiscale
from dassl.config import get_cfg_default
from tests.helpers.clips import pictures

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PLAIN = ["VIDEO.FLIP_P", 0.0, "VIDEO.GRAY_P", 0.0]
LEVEL = 1.01 / 255 / min(STD)  # one level of a picture, normalised


def config(*options):
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = (32, 32), "bicubic"
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(MEAN), list(STD)
    cfg.VIDEO.SHORT_SIDE = 40
    cfg.merge_from_list(list(options))
    return cfg


def smooth(count=4, size=(72, 54)):
    """Frames without hard edges."""
    width, height = size
    return np.stack(
        [np.asarray(Image.fromarray(frame).resize((8, 6)).resize((width, height))) for frame in pictures(count)]
    )


def normalised(image):
    return (np.asarray(image, np.float64) / 255 - MEAN) / STD


def assert_close(tensor, images, levels=1):
    """``[T, 3, H, W]`` is the pictures to so many levels."""
    assert tensor.dtype == torch.float32 and tensor.is_contiguous()
    expected = np.stack([normalised(image) for image in images]).transpose(0, 3, 1, 2)
    assert tensor.shape == expected.shape and np.abs(tensor.numpy() - expected).max() < levels * LEVEL


def scaled(frame, short=40):
    width, height = frame.shape[1], frame.shape[0]
    share = short / min(width, height)
    return Image.fromarray(frame).resize((int(width * share), int(height * share)), Image.Resampling.BICUBIC)


def middle(image, size=32, third=1):
    left, top = image.width - size, image.height - size
    left, top = (left * third // 2, top // 2) if left >= top else (left // 2, top * third // 2)
    return image.crop((left, top, left + size, top + size))


@pytest.mark.parametrize("size", [(72, 54), (54, 72), (40, 40), (30, 90)])
def test_of_a_test_scaled_and_cut_from_the_middle(size):
    frames = smooth(3, size)
    assert_close(clip_transform(config(), False)(frames), [middle(scaled(frame)) for frame in frames])


@pytest.mark.parametrize("size", [(72, 54), (54, 72)])
def test_three_crops_lie_along_the_longer_side(size):
    frames = smooth(3, size)
    crops = clip_transform(config("VIDEO.TEST_CROPS", 3), False)(frames)
    assert crops.shape[0] == 3
    for third, crop in enumerate(crops):
        assert_close(crop.contiguous(), [middle(scaled(frame), third=third) for frame in frames])
    assert not torch.equal(crops[0], crops[1])


@pytest.mark.parametrize("train", [False, True])
def test_the_shape_of_ssv2_whatever_the_clip_has(train):
    options = ["VIDEO.RESIZE", (36, 48), "VIDEO.CROP", "multiscale", *PLAIN]
    frames = smooth(2, (90, 50))
    transform = clip_transform(config(*options), train)
    images = [Image.fromarray(frame).resize((48, 36), Image.Resampling.BICUBIC) for frame in frames]
    if train:
        state = torch.get_rng_state()
        found = transform(frames)
        torch.set_rng_state(state)
        top, left, height, width = multiscale(torch.empty(1, 3, 36, 48))
        images = [image.crop((left, top, left + width, top + height)) for image in images]
        assert_close(found, [image.resize((32, 32), Image.Resampling.BILINEAR) for image in images], levels=2)
    else:
        assert_close(transform(frames), [middle(image) for image in images])


def same_draws(options, frames, count=30):
    """Results of a training transform, and of one with other frames and the same draws."""
    transform = clip_transform(config(*options), True)
    for seed in range(count):
        torch.manual_seed(seed)
        yield seed, transform(frames)


@pytest.mark.parametrize("crop", ["rrc", "multiscale"])
def test_a_clip_of_identical_frames_stays_one(crop):
    frames = np.repeat(smooth(1), 5, axis=0)
    results = [result for _, result in same_draws(["VIDEO.CROP", crop, "VIDEO.GRAY_P", 0.5], frames)]
    for result in results:
        assert result.shape == (5, 3, 32, 32)
        assert all(torch.equal(frame, result[0]) for frame in result)
    assert len({float(result.sum()) for result in results}) > 10  # they are drawn


def test_a_random_crop_is_what_pillow_cuts_there():
    """To two levels, for it is scaled twice."""
    frames = smooth(3)
    for seed, result in same_draws([*PLAIN, "VIDEO.RRC_SCALE", (0.7, 1.0)], frames, count=10):
        torch.manual_seed(seed)
        top, left, height, width = clip_transform(config("VIDEO.RRC_SCALE", (0.7, 1.0)), True).random_resized(
            torch.empty(1, 3, 40, 53)
        )
        assert 0.69 * 40 * 53 < height * width <= 40 * 53 and 0.7 < width / height < 1.36
        images = [scaled(frame).crop((left, top, left + width, top + height)) for frame in frames]
        assert_close(result, [image.resize((32, 32), Image.Resampling.BILINEAR) for image in images], levels=2)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 20, 80), (1.0, 100, 100)])
def test_flips_are_of_whole_clips_and_as_often_as_asked_for(probability, low, high):
    frames = smooth(3)
    whole = ["VIDEO.RRC_SCALE", (1.0, 1.0), "VIDEO.GRAY_P", 0.0, "VIDEO.FLIP_P"]
    plain = dict(same_draws([*whole, 0.0], frames, count=100))
    flipped = 0
    for seed, result in same_draws([*whole, probability], frames, count=100):
        if torch.equal(result, plain[seed].flip(-1)):
            flipped += 1
        else:
            assert torch.equal(result, plain[seed])
    assert low <= flipped <= high


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.2, 5, 45), (1.0, 100, 100)])
def test_gray_is_of_whole_clips_and_as_often_as_asked_for(probability, low, high):
    frames = smooth(3)
    options = ["VIDEO.FLIP_P", 0.0, "VIDEO.GRAY_P"]
    plain, gray = dict(same_draws([*options, 0.0], frames, count=100)), 0
    for seed, result in same_draws([*options, probability], frames, count=100):
        if torch.equal(result, plain[seed]):
            continue
        gray += 1
        levels = [result[:, channel] * STD[channel] + MEAN[channel] for channel in range(3)]
        assert all(torch.allclose(level, levels[0], atol=1e-6) for level in levels)
        colours = plain[seed] * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        luma = (colours * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
        assert (levels[0] - luma).abs().max() < 1.5 / 255
    assert low <= gray <= high


def test_crops_of_several_scales_are_nearly_square_and_within_the_frame():
    frames, boxes = torch.empty(1, 3, 240, 320), set()
    for _ in range(3000):
        boxes.add(multiscale(frames))
    sides = [240, 210, 180, 158]
    assert {(height, width) for _, _, height, width in boxes} == {
        (h, w) for h in sides for w in sides if abs(sides.index(h) - sides.index(w)) <= 1
    }
    assert all(top + height <= 240 and left + width <= 320 for top, left, height, width in boxes)
    places = {(top, left) for top, left, height, width in boxes if (height, width) == (158, 158)}
    down, across = (240 - 158) // 4, (320 - 158) // 4
    expected = {(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (0, 2), (4, 2), (1, 1), (1, 3), (3, 1), (3, 3)}
    assert places == {(down * one, across * other) for one, other in expected}


def test_draws_are_those_of_the_global_generator_alone():
    frames = smooth(2)
    transform = clip_transform(config(), True)
    torch.manual_seed(1)
    first, then = transform(frames), transform(frames)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(1)
    assert torch.equal(transform(frames), first) and torch.equal(transform(frames), then)
    assert not torch.equal(first, then)
    state = torch.get_rng_state()
    clip_transform(config(), False)(frames)
    assert torch.equal(torch.get_rng_state(), state)  # a test draws nothing


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("options", [["VIDEO.SHORT_SIDE", 31], ["VIDEO.RESIZE", (32, 31)]])
def test_frames_smaller_than_the_crop_are_refused(train, options):
    with pytest.raises(ValueError, match=rf"^{options[0]} .*smaller than the crop.*INPUT.SIZE \(32, 32\)$"):
        clip_transform(config(*options), train)


def test_ten_draws_that_do_not_fit_end_in_the_middle():
    """Of a strip, no share of 0.9 has a shape between 3:4 and 4:3."""
    transform = clip_transform(config("VIDEO.RRC_SCALE", (0.9, 1.0)), True)
    top, left, height, width = transform.random_resized(torch.empty(1, 3, 40, 400))
    assert (top, height) == (0, 40) and math.isclose(width, 40 * 4 / 3, abs_tol=1) and left == (400 - width) // 2
