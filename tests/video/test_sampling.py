"""Which frames of a clip are taken: numbers worked out by hand, and loops that say it slowly."""

import math

import pytest
import torch

from anprompt.video.sampling import test_indices as indices_of_test
from anprompt.video.sampling import train_indices, train_indices_vifi

LENGTHS = [(1, 1), (1, 4), (3, 4), (4, 4), (5, 4), (10, 4), (64, 8), (101, 32), (33, 32)]


@pytest.mark.parametrize(
    ("n", "T", "start", "center"),
    [
        (10, 4, [0, 2, 5, 7], [1, 3, 6, 8]),
        (64, 8, [*range(0, 64, 8)], [*range(4, 64, 8)]),
        (3, 4, [0, 0, 1, 2], [0, 1, 1, 2]),
        (1, 4, [0] * 4, [0] * 4),
    ],
)
def test_of_a_test(n, T, start, center):
    assert indices_of_test(n, T, "start") == [start]
    assert indices_of_test(n, T, "center") == [center] == indices_of_test(n, T)


@pytest.mark.parametrize(("n", "T"), LENGTHS)
@pytest.mark.parametrize("clips", [1, 3])
def test_views_of_a_test_lie_between_each_other(n, T, clips):
    for sampling, offset in (("start", 0), ("center", 0.5)):
        views = indices_of_test(n, T, sampling, clips)
        slow = [[math.floor((i + (view + offset) / clips) * n / T + 1e-9) for i in range(T)] for view in range(clips)]
        assert views == slow
        assert all(0 <= index < n for view in views for index in view)


@pytest.mark.parametrize(("n", "T"), LENGTHS)
def test_of_a_training_one_frame_of_each_segment_and_all_of_a_short_clip(n, T):
    drawn = [train_indices(n, T) for _ in range(300)]
    for indices in drawn:
        assert len(indices) == T and indices == sorted(indices)
        if n <= T:
            assert set(indices) == set(range(n))
        else:
            assert all(i * n // T <= index < (i + 1) * n // T for i, index in enumerate(indices))
    if n > T:
        assert {index for indices in drawn for index in indices} == set(range(n))  # no frame is out of reach
    if n == T:
        assert drawn[0] == list(range(n))


def test_segments_of_ten_frames_in_four():
    drawn = [train_indices(10, 4) for _ in range(300)]
    assert [sorted({indices[i] for indices in drawn}) for i in range(4)] == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]


def test_of_a_training_as_vifi_clip_does():
    drawn = [train_indices_vifi(11, 4) for _ in range(300)]
    assert [sorted({indices[i] for indices in drawn}) for i in range(4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert train_indices_vifi(3, 4) == [0, 0, 1, 2] and train_indices_vifi(4, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("sample", [train_indices, train_indices_vifi])
def test_draws_come_from_the_generator_or_the_global_one(sample):
    torch.manual_seed(3)
    first = sample(100, 8)
    torch.manual_seed(3)
    assert sample(100, 8) == first == sample(100, 8, torch.Generator().manual_seed(3))
    assert sample(100, 8) != first


@pytest.mark.parametrize("sample", [train_indices, train_indices_vifi, indices_of_test])
def test_a_clip_without_frames_is_refused(sample):
    with pytest.raises(ValueError, match="at least one frame, got 0"):
        sample(0, 4)
