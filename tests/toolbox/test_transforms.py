"""Transforms against the golden vectors: steps, printed lines and pixels."""

import pickle

import pytest
import torch
import torchvision.transforms as T
from PIL import Image

from dassl.data.transforms import build_transform
from dassl.data.transforms.transforms import AVAILABLE_CHOICES, Cutout
from dassl.utils import read_image, set_random_seed
from tests.toolbox.toy import GOLDEN, image_path, toy_cfg

DETERMINISTIC = [key for key in GOLDEN["transforms"] if key.count("_") == 3 and "x" in key]
RANDOM = {
    "rrc_flip_norm": ("random_resized_crop", "random_flip", "normalize"),
    "randcrop": ("random_crop", "normalize"),
    "translation": ("random_translation", "normalize"),
    "order_test": (
        # deliberately not in the order of application
        *("instance_norm", "gaussian_noise", "normalize", "cutout", "gaussian_blur", "randomgrayscale", "colorjitter"),
        *("random_flip", "random_resized_crop"),
    ),
    "center_crop_only": ("center_crop",),
}


@pytest.fixture(scope="module")
def image(toy_root):
    return read_image(str(image_path(toy_root, 2, 3)))


def names(compose):
    return [type(step).__name__ for step in compose.transforms]


def assert_equals_golden(tensor, golden):
    assert list(tensor.shape) == golden["shape"]
    assert str(tensor.dtype) == golden["dtype"]
    assert tensor[:, 0, 0].tolist() == pytest.approx(golden["px_0_0"], abs=1e-6)
    assert tensor[:, -1, -1].tolist() == pytest.approx(golden["px_last"], abs=1e-6)
    assert tensor.abs().max().item() == pytest.approx(golden["absmax"], abs=1e-6)
    assert tensor.double().sum().item() == pytest.approx(golden["sum"], abs=1e-3)


@pytest.mark.parametrize("key", DETERMINISTIC)
def test_without_augmentation(key, toy_root, image):
    interpolation, size, normalize, split = key.split("_")
    height, width = map(int, size.split("x"))
    cfg = toy_cfg(toy_root, "INPUT.INTERPOLATION", interpolation, "INPUT.SIZE", (height, width))
    cfg.INPUT.TRANSFORMS = ["normalize"] if normalize == "norm" else []
    compose = build_transform(cfg, is_train=split == "train")
    golden = GOLDEN["transforms"][key]
    assert names(compose) == golden["repr"]
    assert_equals_golden(compose(image), golden)


@pytest.mark.parametrize("key", RANDOM)
def test_with_augmentation(key, toy_root, image, capsys):
    golden = GOLDEN["transforms"][key]
    cfg = toy_cfg(toy_root, "INPUT.TRANSFORMS", RANDOM[key])
    compose = build_transform(cfg, is_train=True)
    assert names(compose) == golden["compose"]
    assert capsys.readouterr().out == golden["printed"]
    for seed in (1, 2):
        set_random_seed(seed)
        assert_equals_golden(compose(image), golden[f"seed{seed}"])


@pytest.mark.parametrize("key", RANDOM)
def test_augmentation_is_for_training_only(key, toy_root, capsys):
    golden = GOLDEN["transforms"][key]
    compose = build_transform(toy_cfg(toy_root, "INPUT.TRANSFORMS", RANDOM[key]), is_train=False)
    assert names(compose) == golden["test_compose"]
    assert capsys.readouterr().out == golden["test_printed"]


def test_choices_replace_the_config(toy_root):
    compose = build_transform(toy_cfg(toy_root), choices=["random_flip"])
    assert names(compose) == GOLDEN["transforms"]["choices_override"]


def test_no_transform(toy_root, capsys):
    golden = GOLDEN["transforms"]["no_transform"]
    assert build_transform(toy_cfg(toy_root, "INPUT.NO_TRANSFORM", True)) is None
    assert capsys.readouterr().out == golden["printed"]


def test_unknown_names_are_listed(toy_root):
    with pytest.raises(AssertionError, match="random_flop.*random_flip"):
        build_transform(toy_cfg(toy_root, "INPUT.TRANSFORMS", ("random_flop", "normalize")))


@pytest.mark.parametrize("choice", AVAILABLE_CHOICES)
def test_every_choice_makes_a_picklable_transform(choice, toy_root, image):
    """Spawned workers receive the transform as a pickle."""
    compose = pickle.loads(pickle.dumps(build_transform(toy_cfg(toy_root, "INPUT.TRANSFORMS", (choice,)))))
    assert compose(image).shape == (3, 32, 32)


@pytest.mark.parametrize(
    "choice, line, policy",
    [
        ("imagenet_policy", "+ imagenet policy\n", T.AutoAugmentPolicy.IMAGENET),
        ("cifar10_policy", "+ cifar10 policy\n", T.AutoAugmentPolicy.CIFAR10),
        ("svhn_policy", "+ svhn policy\n", T.AutoAugmentPolicy.SVHN),
    ],
)
def test_autoaugment_policies(choice, line, policy, toy_root, capsys):
    compose = build_transform(toy_cfg(toy_root, "INPUT.TRANSFORMS", (choice,)))
    assert compose.transforms[1].policy == policy
    assert line in capsys.readouterr().out


def test_randaugment_lines(toy_root, capsys):
    choices = ("randaugment", "randaugment_fixmatch", "randaugment2")
    build_transform(toy_cfg(toy_root, "INPUT.TRANSFORMS", choices))
    expected = "+ randaugment (n=2, m=10)\n+ randaugment_fixmatch (n=2)\n+ randaugment2 (n=2)\n"
    assert expected in capsys.readouterr().out


def test_test_transform_keeps_the_aspect_ratio(toy_root):
    """A wide image: its shorter edge fills the larger side of SIZE, and the centre survives."""
    wide = Image.new("RGB", (300, 100), "black")
    wide.paste("white", (100, 0, 200, 100))
    compose = build_transform(toy_cfg(toy_root, "INPUT.TRANSFORMS", (), "INPUT.SIZE", (20, 40)), is_train=False)
    result = compose(wide)
    assert result.shape == (3, 20, 40)
    assert result.min() > 0.9


def test_cutout_zeroes_square_holes_inside_the_image():
    set_random_seed(3)
    ones = torch.ones(3, 10, 12)
    result = Cutout(n_holes=1, length=4)(ones)
    holes = (result == 0).sum(dim=(1, 2))
    assert ones.min() == 1, "the input must stay as it was"
    assert holes.unique().numel() == 1
    assert 4 <= holes[0] <= 16
