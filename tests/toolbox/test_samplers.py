"""Samplers against the golden vectors."""

import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
from torch.utils.data import RandomSampler

from dassl.data import DataManager
from dassl.data.samplers import RandomClassSampler, RandomDomainSampler, build_sampler
from dassl.utils import set_random_seed
from tests.toolbox.toy import GOLDEN, toy_cfg

# 5 classes x 4 images, as the 4-shot toy data; item i of the domain samplers has domain i % 3
ITEMS = [SimpleNamespace(label=index // 4, domain=index % 3) for index in range(20)]


def test_sequential_sampler():
    golden = [index for batch in GOLDEN["sampler_SequentialSampler"] for index in batch]
    assert list(build_sampler("SequentialSampler", data_source=ITEMS)) == golden


def test_random_sampler_is_torchs():
    assert type(build_sampler("RandomSampler", data_source=ITEMS)) is RandomSampler


def test_random_class_sampler_draws_the_reference_epochs(toy_class_loader):
    golden = GOLDEN["sampler_RandomClassSampler_bs4_nins2_seed1"]
    assert len(toy_class_loader.sampler) == golden["len_sampler"]
    for epoch in ("epoch0", "epoch1"):
        assert [batch["index"].tolist() for batch in toy_class_loader] == golden[epoch]


@pytest.fixture
def toy_class_loader(toy_root):
    set_random_seed(1)
    cfg = toy_cfg(toy_root, "DATALOADER.TRAIN_X.SAMPLER", "RandomClassSampler", "DATALOADER.TRAIN_X.N_INS", 2)
    return DataManager(cfg).train_loader_x


@pytest.mark.parametrize(
    "key, name, n_domain",
    [
        ("sampler_RandomDomainSampler_20items_3dom_bs6_nd2_seed1", "RandomDomainSampler", 2),
        ("sampler_SeqDomainSampler_20items_3dom_bs6_seed1", "SeqDomainSampler", 0),
    ],
)
def test_domain_samplers_draw_the_reference_epoch(key, name, n_domain):
    golden = GOLDEN[key]
    set_random_seed(1)
    sampler = build_sampler(name, data_source=ITEMS, batch_size=6, n_domain=n_domain)
    assert len(sampler) == golden["len"]
    assert list(sampler) == golden["iter"]


def test_random_domain_sampler_takes_all_domains_by_default():
    order = list(build_sampler("RandomDomainSampler", data_source=ITEMS, batch_size=6, n_domain=0))
    assert Counter(ITEMS[index].domain for index in order[:6]) == {0: 2, 1: 2, 2: 2}


def small_domain(size):
    """Domains 0 and 1 with 6 items each, domain 2 with ``size``."""
    return [SimpleNamespace(domain=domain) for domain in [0, 1] * 6 + [2] * size]


def one_domain_at_a_time(items, seed):
    set_random_seed(seed)
    return build_sampler("RandomDomainSampler", data_source=items, batch_size=3, n_domain=1)


def test_a_domain_too_small_for_a_batch_ends_the_run_only_when_it_is_drawn():
    """An epoch that does not draw it is as if it were large enough."""
    outcomes = set()
    for seed in range(30):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                sampler = one_domain_at_a_time(small_domain(1), seed)
            except ValueError as error:
                assert str(error) == "Domains [2]: they have fewer than the 3 images of one batch; lower BATCH_SIZE"
                outcomes.add("refused")
                continue
        assert "domains [2] ends the run: they have fewer than the 3 images" in str(said[0].message)
        assert len(sampler) == len(one_domain_at_a_time(small_domain(6), seed))
        outcomes.add("ran")
    assert outcomes == {"ran", "refused"}


def test_random_domain_sampler_takes_all_domains_without_a_number():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler = RandomDomainSampler(ITEMS, 6, None)
    assert Counter(ITEMS[index].domain for index in list(sampler)[:6]) == {0: 2, 1: 2, 2: 2}


def test_small_classes_are_filled_by_repetition():
    items = [SimpleNamespace(label=0)] + [SimpleNamespace(label=1)] * 4
    set_random_seed(1)
    order = list(RandomClassSampler(items, batch_size=8, n_ins=4))
    assert order.count(0) == 4
    assert sorted(index for index in order if index) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("RandomClassSampler", {"batch_size": 2, "n_ins": 4}, "at least N_INS"),
        ("RandomClassSampler", {"batch_size": 12, "n_ins": 2}, "needs 6 classes, the data has 5"),
        ("RandomDomainSampler", {"batch_size": 7, "n_domain": 2}, "multiple of N_DOMAIN"),
        ("RandomDomainSampler", {"batch_size": 8, "n_domain": 4}, "4 of 3 domains"),
        ("SeqDomainSampler", {"batch_size": 30}, "fewer than the 10 images"),
        ("NoSampler", {}, "RandomClassSampler"),
    ],
)
def test_impossible_requests_are_explained(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_sampler(name, data_source=ITEMS, **options)
