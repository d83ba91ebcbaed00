"""Workers that stay: the same batches and the same draws as workers started anew, and none of them left behind."""

import json
import multiprocessing
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

import train
from anprompt.data import loaders
from anprompt.data.loaders import StayingLoader, arguments, with_cached_images, with_kept_images
from anprompt.data.test_images import CachingLoader
from dassl.data import DataManager, DatasetWrapper
from tests.helpers import REPOSITORY
from tests.helpers.runs import QUICK, finish


class Drawing(Dataset):
    """Items that draw from all three global generators, and say who made them."""

    def __len__(self):
        return 22

    def __getitem__(self, index):
        if index == 100:
            raise OSError("broken")
        numbers = [torch.rand(()).item(), random.random(), np.random.rand()]  # noqa: NPY002
        return {"index": index, "numbers": torch.tensor(numbers, dtype=torch.float64), "pid": os.getpid()}


def make(kind, workers=2, **options):
    dataset = Drawing()
    return kind(dataset, batch_size=4, sampler=RandomSampler(dataset), num_workers=workers, drop_last=True, **options)


def seeded(seed=3):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def collect(loader, epochs=3, batches=None):
    """Per epoch: indices, numbers, and the state of the global generator afterwards."""
    seeded()
    found = []
    for _ in range(epochs):
        taken = [batch for batch, _ in zip(loader, range(batches or len(loader)), strict=False)]
        found.append([torch.cat([batch[key] for batch in taken]) for key in ("index", "numbers")])
        found[-1].append(torch.get_rng_state())
        torch.rand(())  # as training does
    return found


def pids(loader):
    return {pid for batch in list(loader) for pid in batch["pid"].tolist()}


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_draws_are_those_of_workers_started_anew(workers):
    plain, staying = (collect(make(kind, workers)) for kind in (DataLoader, StayingLoader))
    assert_same(plain, staying)
    assert not torch.equal(plain[1][1], plain[2][1])  # epochs differ


def test_also_after_epochs_that_were_left_early():
    assert_same(*(collect(make(kind), batches=2) for kind in (DataLoader, StayingLoader)))


def test_also_where_epochs_were_begun_and_never_read():
    def run(kind):
        loader = make(kind)
        seeded()
        list(loader)
        iter(loader)
        return [[batch["numbers"] for batch in loader], [torch.get_rng_state()]]

    assert_same(run(DataLoader), run(StayingLoader))


def test_also_where_one_epoch_runs_inside_another():
    def run(kind):
        loader = make(kind)
        list(loader)
        seeded()
        outer = iter(loader)
        found = [next(outer)["numbers"], *(batch["numbers"] for batch in loader), *(b["numbers"] for b in outer)]
        return [found, [torch.get_rng_state()]]

    assert_same(run(DataLoader), run(StayingLoader))


def test_workers_stay():
    loader = make(StayingLoader)
    first = pids(loader)
    assert len(first) == 2 and os.getpid() not in first and pids(loader) == pids(loader) == first
    loader.stop()
    assert not multiprocessing.active_children()
    assert not pids(loader) & first


def test_without_pytorchs_private_helper_workers_are_started_anew(monkeypatch):
    monkeypatch.setattr(loaders, "numpy_seed", None)
    loader = make(StayingLoader)
    assert not pids(loader) & pids(loader)


def test_workers_go_with_their_loader():
    loader = make(StayingLoader)
    list(loader)
    assert len(multiprocessing.active_children()) == 2
    del loader
    assert not multiprocessing.active_children()


def test_an_error_is_passed_on_and_the_next_epoch_works():
    order = [0, 1, 2, 3]
    loader = StayingLoader(Drawing(), batch_size=2, sampler=order, num_workers=1)
    list(loader)
    order[2] = 100
    with pytest.raises(OSError, match="broken"):
        list(loader)
    order[2] = 5
    assert [batch["index"].tolist() for batch in loader] == [[0, 1], [5, 3]]


# ---------------------------------------------------------------------------------------------- loaders of a run


@pytest.fixture
def manager(make_cfg):
    return DataManager(make_cfg("DATALOADER.NUM_WORKERS", "1"))


def test_what_dassl_chose_is_kept(manager):
    for plain, changed, kind in (
        (manager.train_loader_x, with_kept_images(manager.train_loader_x), StayingLoader),
        (manager.test_loader, with_cached_images(manager.test_loader), CachingLoader),
    ):
        assert type(changed) is kind and len(changed) == len(plain)
        assert arguments(changed) == arguments(plain)
        assert isinstance(changed.dataset, DatasetWrapper)
        assert (
            vars(changed.dataset).items()
            >= {key: value for key, value in vars(plain.dataset).items() if key != "to_tensor"}.items()
        )


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # without a GPU nothing is pinned
def test_memory_stays_pinned():
    loader = make(StayingLoader, pin_memory=True)
    list(loader)
    assert loader.pin_memory and loader._staying.pin_memory


def test_loaders_of_others_stay_as_they_are(manager):
    class OwnDataset(DatasetWrapper): ...

    own_dataset = DataManager(manager.train_loader_x.dataset.cfg, dataset_wrapper=OwnDataset)
    own_collate = DataLoader(manager.test_loader.dataset, batch_size=2, collate_fn=list)
    for loader in (None, [1, 2], make(StayingLoader), own_dataset.train_loader_x):
        assert with_kept_images(loader) is loader and with_cached_images(loader) is loader
    assert with_cached_images(own_collate) is own_collate


# ---------------------------------------------------------------------------------------------- whole runs


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_computes_what_it_would_with_dassls_own_loaders(workers, make_cfg, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))

    def outcome(name, *options):
        options = ("DATALOADER.NUM_WORKERS", workers, "TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", "2", *options)
        cfg = make_cfg(*options, trainer="CoOp", classes="new", output=name)
        trainer = finish(cfg, all_test_images=True)
        (folder,) = Path(cfg.OUTPUT_DIR).glob("prompt_learner")
        saved = torch.load(folder / "model.pth.tar-2", weights_only=True)
        results = json.loads(Path(cfg.OUTPUT_DIR, "results.json").read_text())
        timed = ("cost", "config", "train_seconds")
        return trainer, *({k: v for k, v in record.items() if k not in timed} for record in (saved, results))

    filling, weights, results = outcome("filling")
    reading = outcome("reading")
    off = outcome("off", "DATALOADER.KEEP_TRAIN_GB", "0.0", "DATALOADER.CACHE_TEST", "False")
    monkeypatch.undo()
    for name in ("with_kept_images", "with_cached_images"):
        monkeypatch.setattr(f"anprompt.engine.trainer.{name}", lambda loader: loader)
    plain = outcome("plain")
    assert filling.train_loader_x.dataset.kept and filling.test_loader.dataset.images is not None
    assert filling.val_loader.dataset.images is not None
    assert not off[0].train_loader_x.dataset.kept and off[0].test_loader.dataset.images is None
    assert type(plain[0].train_loader_x) is type(plain[0].test_loader) is DataLoader
    for _, other_weights, other_results in (reading, off, plain):
        assert equal(weights, other_weights)
        assert results == other_results


def arguments_of_a_run(data_root, folder):
    yaml = ["--dataset-config-file", "configs/datasets/shapes.yaml", "--config-file", "configs/trainers/CoOp/tiny.yaml"]
    flags = ["--trainer", "CoOp", "--seed", "1", "--root", str(data_root), "--output-dir", str(folder)]
    return [*flags, *yaml, *QUICK, "DATALOADER.NUM_WORKERS", "2", "DATASET.SUBSAMPLE_CLASSES", "new"]


@pytest.mark.parametrize("ends", ["well", "with an error", "by Ctrl-C", "within an epoch"])
def test_no_worker_outlives_a_run(ends, data_root, tmp_path, monkeypatch):
    """Neither into the evaluation nor into the next run of the same process."""
    monkeypatch.chdir(REPOSITORY)
    error = {"with an error": ValueError, "by Ctrl-C": KeyboardInterrupt}.get(ends)
    seen = []

    def test(trainer, *args, **kwargs):
        seen.append(multiprocessing.active_children())
        return 0.0

    def after_epoch(trainer):
        seen.append(len(multiprocessing.active_children()))
        if error:
            raise error("enough")

    def forward_backward(trainer, batch):
        seen.append(len(multiprocessing.active_children()))
        raise ValueError("enough")

    monkeypatch.setattr("anprompt.engine.trainer.PromptTrainer.test", test)
    if ends == "within an epoch":
        monkeypatch.setattr("anprompt.engine.trainer.PromptTrainer.forward_backward", forward_backward)
    monkeypatch.setattr("anprompt.engine.resumable.ResumableTrainer.after_epoch", after_epoch)
    status = train.main(arguments_of_a_run(data_root, tmp_path))
    assert (status, seen) == {
        "well": (0, [2, 2, 2, []]),
        "with an error": (2, [2]),
        "by Ctrl-C": (130, [2]),
        "within an epoch": (2, [2]),
    }[ends]
    assert not multiprocessing.active_children()
