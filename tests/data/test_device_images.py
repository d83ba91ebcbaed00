"""Training images kept and augmented on a device: here, the CPU."""

import multiprocessing

import pytest
import torch
from torchvision import transforms as T

from anprompt.data.device_images import for_tensors
from anprompt.data.loaders import with_device_images, with_kept_images
from dassl.data import DataManager
from tests.helpers.runs import finish, weights

CPU = torch.device("cpu")
ON = ("DATALOADER.AUGMENT_ON_GPU", "True")
STEP = 1 / 255 / 0.26  # of a uint8 pixel after CLIP's normalisation


@pytest.fixture
def loader_of(make_cfg):
    def make(*options):
        return DataManager(make_cfg("DATALOADER.TRAIN_X.BATCH_SIZE", "4", *options)).train_loader_x

    return make


def epochs(loader, count=2):
    torch.manual_seed(3)
    batches = [batch for _ in range(count) for batch in loader]
    return batches, torch.get_rng_state()


def test_batches_are_dassls_within_rounding(loader_of):
    (ours, our_state), (expected, state) = epochs(with_device_images(loader_of(), CPU)), epochs(loader_of())
    assert len(ours) == len(expected) == 6 and torch.equal(our_state, state)
    for one, other in zip(ours, expected, strict=True):
        assert one.keys() == other.keys() and torch.equal(one["label"], other["label"])
        assert one["impath"] == other["impath"] and one["img"].dtype == torch.float32
        error = (one["img"] - other["img"]).abs()
        assert error.mean() < 0.5 * STEP and error.quantile(0.99) < 1.5 * STEP and error.max() < 8 * STEP


def test_images_are_decoded_once_and_no_worker_is_started(loader_of, decoded):
    loader = with_device_images(loader_of("DATALOADER.NUM_WORKERS", "2"), CPU)
    assert not decoded
    for _ in range(2):
        for batch in loader:
            assert not multiprocessing.active_children() and batch["img"].device == CPU
    assert len(decoded) == len(set(decoded)) == len(loader.dataset)


def test_images_are_not_changed_by_augmentation(loader_of):
    loader = with_device_images(loader_of(), CPU)
    loader.dataset.prepare()
    before = {path: image.clone() for path, image in loader.dataset.on_device.items()}
    epochs(loader)
    assert all(torch.equal(before[path], image) for path, image in loader.dataset.on_device.items())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("INPUT.TRANSFORMS", "('random_resized_crop', 'colorjitter', 'normalize')"), "not known for ColorJitter"),
        (("DATALOADER.KEEP_TRAIN_GB", "1e-6"), "takes more than the 0.0 MB that DATALOADER.KEEP_TRAIN_GB allows"),
    ],
)
def test_where_it_cannot_be_batches_are_dassls(loader_of, capsys, options, why):
    (ours, our_state), (expected, state) = (
        epochs(with_device_images(loader_of(*options), CPU)),
        epochs(loader_of(*options)),
    )
    assert torch.equal(our_state, state)
    assert all(torch.equal(one["img"], other["img"]) for one, other in zip(ours, expected, strict=True))
    out = capsys.readouterr().out
    assert why in out and out.count("DATALOADER.AUGMENT_ON_GPU has no effect") == 1


def test_a_transform_that_is_no_list_of_steps_is_not_taken_apart():
    with pytest.raises(ValueError, match="not known for RandomErasing"):
        for_tensors(T.RandomErasing())


def test_a_run_takes_it_from_the_config_and_learns_about_the_same(make_cfg):
    usual = finish(make_cfg(output="usual"))
    trainer = finish(make_cfg(*ON, output="device"))
    assert trainer.train_loader_x.dataset.on_device
    for name, tensor in weights(usual).items():
        assert torch.allclose(weights(trainer)[name], tensor, rtol=0, atol=5e-3), name
    assert any(not torch.equal(weights(trainer)[name], tensor) for name, tensor in weights(usual).items())


def test_others_loaders_stay_as_they_are(loader_of):
    kept = with_kept_images(loader_of())
    assert with_device_images(kept, CPU) is kept


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_images_do_not_leave_it(make_cfg):
    trainer = finish(make_cfg(*ON, "DATALOADER.NUM_WORKERS", "2", "OPTIM.MAX_EPOCH", "2"))
    assert next(iter(trainer.train_loader_x))["img"].device.type == "cuda"
