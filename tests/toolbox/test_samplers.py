"""Samplers against the golden vectors."""

from collections import Counter
from types import SimpleNamespace

import pytest
from torch.utils.data import RandomSampler

from dassl.data import DataManager
from dassl.data.samplers import RandomClassSampler, build_sampler
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
