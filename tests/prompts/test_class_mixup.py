"""Class-wise mixup: values, who becomes whose partner, and the queue, against one image after the other."""

from collections import Counter

import pytest
import torch
from scipy import stats

from anprompt.prompts.class_mixup import (
    ClassQueue,
    MixupDraws,
    class_means,
    draw_mixup,
    find_partners,
    mix,
    mix_features,
    mixed_labels,
)
from tests.helpers import mi_oracle
from tests.helpers.no_fetching import NoFetching


def doubles(rows):
    return torch.tensor(rows, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(start, count):
    """Items ``[count, 1]`` that can be told apart."""
    return torch.arange(start, start + count, dtype=torch.float64)[:, None]


# ------------------------------------------------------------------ mixing


def test_mixed_features_without_a_new_length_would_only_mix_logits():
    """[9]"""
    features = torch.nn.functional.normalize(torch.randn(6, 8, dtype=torch.float64, generator=generator()), dim=1)
    one, other, text, share = features[:2], features[2:4], features[4:], doubles([0.3, 0.8])
    straight = mix(one, other, share) @ text.T
    assert torch.allclose(straight, share[:, None] * one @ text.T + (1 - share)[:, None] * other @ text.T)
    unit = mix_features(one, other, share)
    assert torch.allclose(unit.norm(dim=1), torch.ones(2, dtype=torch.float64))
    assert (mix(one, other, share).norm(dim=1) < 0.99).all()
    assert not torch.allclose(unit @ text.T, straight, atol=1e-2)
    half = mix(doubles([[1, 0]]), doubles([[0, 1]]), doubles([0.5]))
    assert half.norm().item() == pytest.approx(0.7071, abs=5e-5)


def test_mixing_values():
    """[10, first part]"""
    image, partner = torch.rand(3, 3, 4, 4, generator=generator()), torch.rand(3, 3, 4, 4, generator=generator(1))
    assert torch.equal(mix(image, partner, torch.ones(3)), image)
    assert torch.equal(mix(image, image, torch.tensor([0.1, 0.5, 0.7])), image)
    assert torch.equal(mix(doubles([[1, 0]]), doubles([[0, 1]]), doubles([0.25])), doubles([[0.25, 0.75]]))
    mixed = mix(image, partner, doubles([0.25, 0.5, 1.0]))  # one share per image
    for n, share in enumerate((0.25, 0.5, 1.0)):
        assert torch.allclose(mixed[n], share * image[n] + (1 - share) * partner[n])


def test_labels_across_classes():
    shares = mixed_labels(torch.tensor([0, 2]), torch.tensor([1, 2]), doubles([0.25, 0.6]), classes=4)
    assert torch.allclose(shares, doubles([[0.25, 0.75, 0, 0], [0, 0, 1, 0]]))


def test_class_means():
    """[12] The second class has one image, the third none."""
    rows = torch.nn.functional.normalize(doubles([[1, 0], [0, 1], [1, 1]]), dim=1)
    means, counts = class_means(rows, torch.tensor([0, 1, 0]), classes=3)
    assert torch.allclose(means[0], doubles([0.9239, 0.3827]), atol=5e-5)
    assert torch.equal(means[1:], doubles([[0, 1], [0, 0]]))
    assert counts.tolist() == [2, 1, 0]


# ------------------------------------------------------------------ draws


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(beta):
    share = draw_mixup(4000, 0, beta, 1.0, generator()).share[:2000]
    assert stats.kstest(share.numpy(), stats.beta(beta, beta).cdf).pvalue > 0.01


def test_some_images_stay_as_they_are():
    share = draw_mixup(2000, 0, 1.0, 0.3, generator()).share
    assert 0.65 < (share == 1).double().mean().item() < 0.75
    assert (draw_mixup(100, 0, 1.0, 0.0, generator()).share == 1).all()
    assert (draw_mixup(100, 0, 1.0, 1.0, generator()).share < 1).all()


def test_draws_come_from_their_generator_alone():
    before, own = torch.get_rng_state(), generator(3)
    first = draw_mixup(4, 2, 1.0, 1.0, own)
    again = draw_mixup(4, 2, 1.0, 1.0, generator(3))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(draw_mixup(4, 2, 1.0, 1.0, own).share, first.share)
    assert torch.equal(torch.get_rng_state(), before)
    assert [tensor.shape for tensor in first] == [(4,), (4, 4), (4, 2)]
    columns = torch.cat([first.share[:, None], first.among_batch, first.among_queue], dim=1)
    assert columns.unique().numel() == columns.numel()  # no number serves twice
    half = draw_mixup(64, 2, 1.0, 0.5, own)
    for numbers in (*half.among_batch.T, *half.among_queue.T):
        assert ((numbers < 0.5) != (half.share < 1)).any()


# ------------------------------------------------------------------ partners


@pytest.mark.parametrize("length", [0, 1, 2, 3])
@pytest.mark.parametrize("mode", ["intra", "inter"])
def test_partners_are_those_of_the_slow_search(mode, length):
    """[10, second part] Twenty batches, some with more images of a class than the queue holds."""
    own, classes = generator(), 6
    queue, slow = ClassQueue(classes, length), mi_oracle.SlowQueue(classes, length) if length else None
    kinds = Counter()
    for step in range(20):
        items = numbered(100 * step, 5)
        labels = torch.randint(classes if step % 4 else 1, (5,), generator=own)
        draws = draw_mixup(5, length, 1.0, 1.0, own)
        partners, partner_labels = find_partners(items, labels, draws, mode, queue)
        for i in range(5):
            item, label = mi_oracle.partner(i, items, labels, draws, mode, slow)
            assert (partners[i].item(), partner_labels[i].item()) == (item.item(), label)
            here = items.min() <= item <= items.max()
            kinds["itself" if item == items[i] else "batch" if here else "queue"] += 1
            assert (label == labels[i]) == (mode == "intra" or len(labels.unique()) == 1)
        queue.push(items, labels)
        if slow is not None:
            slow.push(items, labels)
    assert kinds["itself"] and kinds["batch"]
    assert bool(kinds["queue"]) == (mode == "intra" and length > 0)


def test_an_image_without_a_partner_stays_as_it_is():
    """[10, third part]"""
    items, labels = torch.rand(3, 3, 4, 4, generator=generator()), torch.tensor([0, 1, 2])
    draws = draw_mixup(3, 2, 1.0, 1.0, generator())
    partners, partner_labels = find_partners(items, labels, draws, "intra", ClassQueue(3, 2))
    assert torch.equal(partners, items) and torch.equal(partner_labels, labels)
    assert torch.equal(mix(items, partners, draws.share), items)


@pytest.mark.parametrize("mode", ["intra", "inter"])
def test_all_candidates_are_equally_likely(mode):
    labels = torch.tensor([0, 0, 1, 0, 1])
    counts, own = Counter(), generator()
    for _ in range(600):
        partners, _ = find_partners(numbered(0, 5), labels, draw_mixup(5, 0, 1.0, 1.0, own), mode)
        counts[int(partners[0])] += 1
    assert set(counts) == ({1, 3} if mode == "intra" else {2, 4})
    assert all(240 < count < 360 for count in counts.values())


# ------------------------------------------------------------------ queue


def held(queue, label):
    """Items of a class, as far as ``pick`` can reach them."""
    slots = torch.eye(queue.length, dtype=torch.float64)
    items, labels = torch.full((queue.length, 1), -7.0, dtype=torch.float64), torch.full((queue.length,), label)
    return sorted({item for item in queue.pick(items, labels, slots).flatten().tolist() if item != -7})


def test_first_in_first_out():
    queue = ClassQueue(3, 2)
    assert held(queue, 0) == []
    queue.push(numbered(0, 3), torch.tensor([0, 1, 0]))
    assert (held(queue, 0), held(queue, 1), held(queue, 2)) == ([0, 2], [1], [])
    queue.push(numbered(10, 1), torch.tensor([0]))
    assert (held(queue, 0), held(queue, 1), held(queue, 2)) == ([2, 10], [1], [])
    queue.push(numbered(20, 5), torch.tensor([1, 1, 1, 2, 1]))  # more than it holds
    assert (held(queue, 0), held(queue, 1), held(queue, 2)) == ([2, 10], [22, 24], [23])
    queue.push(numbered(30, 1), torch.tensor([1]))
    assert held(queue, 1) == [24, 30]


def test_a_cleared_queue_is_empty_and_keeps_its_memory():
    queue = ClassQueue(3, 2)
    queue.clear()  # before anything came
    queue.push(numbered(0, 3), torch.tensor([0, 1, 0]))
    memory = queue.items.data_ptr()
    queue.clear()
    assert held(queue, 0) == held(queue, 1) == []
    queue.push(numbered(5, 1), torch.tensor([0]))
    assert held(queue, 0) == [5] and queue.items.data_ptr() == memory


def test_a_queue_of_no_length_keeps_nothing():
    queue = ClassQueue(3, 0)
    queue.push(numbered(0, 3), torch.tensor([0, 1, 0]))
    assert queue.items is None


def test_the_host_fetches_nothing():
    """On a GPU it would wait: the search has fixed shapes."""
    queue, labels = ClassQueue(3, 2), torch.tensor([0, 1, 0])
    with NoFetching():
        for start in (0, 10):
            items, draws = numbered(start, 3), draw_mixup(3, 2, 1.0, 0.5, generator())
            partners, partner_labels = find_partners(items, labels, draws, "intra", queue)
            mix_features(items, partners, draws.share)
            mixed_labels(labels, partner_labels, draws.share, 3)
            class_means(items, labels, 3)
            queue.push(items, labels)
            queue.clear()


def test_draws_decide_and_nothing_else():
    draws = MixupDraws(doubles([1.0, 1.0, 1.0]), doubles([[9, 1, 2], [1, 9, 2], [2, 1, 9]]), doubles([[1], [1], [1]]))
    partners, _ = find_partners(numbered(0, 3), torch.tensor([0, 0, 0]), draws)
    assert partners.flatten().tolist() == [2, 2, 0]
