"""Workers without room in shared memory: one line that says what to do. Other errors pass as they are."""

import pytest
import torch
from torch.utils.data import DataLoader

from anprompt.data.loaders import StayingLoader
from anprompt.data.test_images import CachingLoader
from anprompt.data.workers import name_shortage

BUS_ERROR = (
    "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)
FULL = "unable to write to file </torch_12_345_0>: No space left on device (28)"
UNOPENED = "unable to open shared memory object </torch_12_345_0> in read-write mode: Too many open files (24)"


class Failing(torch.utils.data.Dataset):
    """A dataset whose first item fails as PyTorch does."""

    def __init__(self, words, kind=RuntimeError):
        self.words, self.kind = words, kind

    def prepare(self):
        self.file = None

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise self.kind(self.words)


@pytest.mark.parametrize("loader", [StayingLoader, CachingLoader])
@pytest.mark.parametrize("words", [BUS_ERROR, FULL, UNOPENED])
def test_shared_memory_is_named(loader, words):
    with pytest.raises(OSError, match=r"^shared memory \(/dev/shm\) is too small for the batches of 1 workers: lower"):
        list(loader(Failing(words), num_workers=1))


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="the image /data/torch_1.png"):
        list(StayingLoader(Failing("the image /data/torch_1.png"), num_workers=1))


class Unread(ValueError):
    """As a worker raises it of a file."""


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, Unread])
def test_what_a_worker_cannot_read_is_told_in_its_own_words(kind):
    with pytest.raises(kind, match=r"^a\.mp4 is empty: ValueError: no kidding$"):
        list(StayingLoader(Failing("a.mp4 is empty: ValueError: no kidding", kind), num_workers=1))


def test_batches_are_those_of_the_loader():
    batches = list(name_shortage(iter(DataLoader(range(6), batch_size=2, num_workers=1)), 1))
    assert torch.cat(batches).tolist() == list(range(6))
    loader = iter(DataLoader(range(6)))
    assert name_shortage(loader, 0) is loader
