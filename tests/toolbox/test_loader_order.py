"""Batch order, image sums and remaining randomness of seeded runs against the golden vectors."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from dassl.data import DataManager
from dassl.utils import set_random_seed
from tests.toolbox.toy import GOLDEN, toy_cfg

RESIZE_ONLY = ("INPUT.TRANSFORMS", ("normalize",))
CROP_AND_FLIP = ()
SUM_TOLERANCE = 2.0  # Pillow versions differ by single 8-bit levels


def recorded_run(toy_root, overrides, seed, epochs):
    """Batches of the training loader, and the next number of the global generator after them."""
    set_random_seed(seed)
    loader = DataManager(toy_cfg(toy_root, *overrides)).train_loader_x
    batches = []
    for epoch in range(epochs):
        for batch in loader:
            paths = [Path(path) for path in batch["impath"]]
            batches.append(
                {
                    "epoch": epoch,
                    "index": batch["index"].tolist(),
                    "label": batch["label"].tolist(),
                    "files": [f"{path.parent.name}/{path.name}" for path in paths],
                    "img_sum": float(batch["img"].double().sum()),
                }
            )
    return len(loader), batches, torch.rand(1).item()


CASES = [
    *(("loader_order_no_random_tfm", f"seed{seed}", RESIZE_ONLY, seed, 2) for seed in (1, 2, 3)),
    *(("loader_order_rrc_flip", f"seed{seed}", CROP_AND_FLIP, seed, 2) for seed in (1, 2, 3)),
    ("loader_order_rrc_flip_workers2", "seed1", ("DATALOADER.NUM_WORKERS", 2), 1, 2),
    ("loader_bs8_droplast", None, (*RESIZE_ONLY, "DATALOADER.TRAIN_X.BATCH_SIZE", 8), 1, 1),
    ("loader_bs64_nodrop", None, (*RESIZE_ONLY, "DATALOADER.TRAIN_X.BATCH_SIZE", 64), 1, 1),
]


@pytest.mark.parametrize("key, seed_key, overrides, seed, epochs", CASES)
def test_seeded_batches(key, seed_key, overrides, seed, epochs, toy_root):
    golden = GOLDEN[key][seed_key] if seed_key else GOLDEN[key]
    length, batches, next_draw = recorded_run(toy_root, overrides, seed, epochs)
    assert length == golden["n"]
    assert len(batches) == len(golden["batches"])
    for batch, expected in zip(batches, golden["batches"], strict=True):
        assert batch.pop("img_sum") == pytest.approx(expected["img_sum"], abs=SUM_TOLERANCE)
        assert batch == {name: value for name, value in expected.items() if name != "img_sum"}
    assert next_draw == golden["next_torch_rand"]


def test_an_evaluation_costs_one_draw(toy_root):
    loader = DataManager(toy_cfg(toy_root)).test_loader
    torch.manual_seed(1)
    list(loader)
    after = torch.rand(1)
    torch.manual_seed(1)
    torch.empty((), dtype=torch.int64).random_()
    assert torch.equal(after, torch.rand(1))


def test_building_draws_nothing_beyond_the_shots(toy_root):
    set_random_seed(1)
    DataManager(toy_cfg(toy_root))
    assert torch.rand(1).item() == GOLDEN["set_random_seed"]["1"]["torch_rand"]


def test_spawned_workers_read_the_same_batches(toy_root):
    """Spawned workers unpickle the wrapper, its config and the items by their import path."""
    cfg = toy_cfg(toy_root)
    dataset = DataManager(cfg).test_loader.dataset
    context = multiprocessing.get_context("spawn")
    spawned = DataLoader(dataset, batch_size=15, num_workers=1, multiprocessing_context=context)
    for theirs, ours in zip(spawned, DataLoader(dataset, batch_size=15), strict=True):
        assert torch.equal(theirs["img"], ours["img"])
        assert theirs["impath"] == ours["impath"]
