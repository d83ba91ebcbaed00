"""A loader beside the training's: what it yields follows from (seed, epoch), and no other loader notices it."""

import pytest
import torch

from anprompt.data.loaders import drawing_workers, endless, stop_workers, with_own_draws
from tests.data.test_loaders import Drawing, make, seeded


def rounds(workers=0, seed=1, epoch=0, batches=8):
    """Indices and draws of so many batches of an endless stream."""
    loader = with_own_draws(make(torch.utils.data.DataLoader, workers=workers), seed)
    loader.sampler.begin(epoch)
    stream = endless(loader)
    found = [next(stream) for _ in range(batches)]
    stop_workers(loader)
    return [torch.cat([batch[key] for batch in found]) for key in ("index", "numbers")]


@pytest.mark.parametrize("workers", [0, 2])
def test_neither_the_generators_at_hand_nor_the_number_of_workers_matter(workers):
    seeded(5)
    one = rounds()
    seeded(6)
    other = rounds(workers)
    assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generators_are_left_alone(workers):
    seeded()
    expected = Drawing()[0]["numbers"]
    seeded()
    rounds(workers)
    assert torch.equal(Drawing()[0]["numbers"], expected)  # from all three


def test_every_epoch_and_every_pass_has_an_order_of_its_own():
    (first, draws), (second, others) = rounds(), rounds(epoch=1)
    assert not torch.equal(first, second) and not torch.equal(draws, others)
    assert sorted(first[:20].tolist()) != first[:20].tolist()
    passes = first[:20], first[20:]  # 22 items in batches of 4: each pass leaves two out
    assert all(len(set(part.tolist())) == len(part) for part in passes)
    assert not torch.equal(passes[0][:12], passes[1][:12])
    assert len(draws.unique()) == draws.numel()
    assert not torch.equal(first, rounds(seed=2)[0])


def test_an_epoch_begins_where_it_begins_wherever_the_last_one_was_left():
    loader = with_own_draws(make(torch.utils.data.DataLoader, workers=0), 1)
    for epoch, batches in enumerate((3, 7, 1)):
        loader.sampler.begin(epoch)
        stream = endless(loader)
        found = torch.cat([next(stream)["index"] for _ in range(batches)])
        assert torch.equal(found, rounds(epoch=epoch, batches=batches)[0])


def test_without_a_seed_two_of_them_differ():
    assert not torch.equal(rounds(seed=-1)[1], rounds(seed=-1)[1])


def test_a_checkpoint_does_not_depend_on_its_workers():
    for workers in (0, 2):
        assert drawing_workers(with_own_draws(make(torch.utils.data.DataLoader, workers=workers), 1)) is None
