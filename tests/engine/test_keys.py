"""Every key of the config is read by something, or refused; values that cannot work are named by their key."""

import re
from types import SimpleNamespace

import pytest
from yacs.config import CfgNode

import datasets
import train
import trainers
from anprompt.engine.keys import UNREAD, UNREAD_DATA, VALUES, check_read, check_values, unread
from anprompt.utils.config import add_shared_cfg, leaves
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase
from dassl.data.transforms.transforms import AVAILABLE_CHOICES, build_transform
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.lr_scheduler import FACTORS, WARMUPS
from dassl.optim.optimizer import BUILDERS
from tests.helpers import REPOSITORY, fakes
from tests.helpers.runs import fewer_test_images, start

datasets.register_all()


def keys():
    """Of the whole tree, but for the nodes of methods."""
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    cfg.DATASET.NAME = "Shapes"
    names = [key for key, _ in leaves(cfg) if not key.startswith("TRAINER.") or key == "TRAINER.NAME"]
    return names, cfg


def other(value):
    """A value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return value + 1 if isinstance(value, int | float) else [*value, "x"]


def changed(cfg, key, value):
    *parents, last = key.split(".")
    node = cfg
    for parent in parents:
        node = node[parent]
    node[last] = value
    return cfg


# ---------------------------------------------------------------------------------------------- read or refused


@pytest.fixture
def seen(monkeypatch):
    """Full names of the keys that are looked up from here on, of configs that went through ``told``."""
    found, look_up = set(), CfgNode.__getitem__

    def noted(node, name):
        if "_place" in node.__dict__ and not isinstance(look_up(node, name), CfgNode):
            found.add(node.__dict__["_place"] + name)
        return look_up(node, name)

    monkeypatch.setattr(CfgNode, "__getitem__", noted)
    return found


def told(cfg, place=""):
    """``cfg``, whose nodes know where they are, also in copies."""
    cfg.__dict__["_place"] = place
    for name, node in cfg.items():
        if isinstance(node, CfgNode):
            told(node, f"{place}{name}.")
    return cfg


def test_every_key_is_read_or_refused(make_cfg, seen, tmp_path):
    cfg = make_cfg("OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0", "TEST.TARGET_SETTINGS", "True")
    trainer = start(told(cfg))
    next(iter(trainer.test_loader))  # a pass begins with the question whether its images are kept
    fewer_test_images(trainer).train()
    trainer.setting_of_test("X", 1, 2)
    cfg.defrost()
    cfg.OPTIM.MOMENTUM, cfg.OPTIM.STEPSIZE = 0.9, (1,)
    for name in BUILDERS:
        cfg.OPTIM.NAME, cfg.OPTIM.STAGED_LR = name, True
        optimizer = build_optimizer(trainer.model.learner, cfg.OPTIM)
    for cfg.OPTIM.LR_SCHEDULER in FACTORS:
        for cfg.OPTIM.WARMUP_TYPE in WARMUPS:
            build_lr_scheduler(optimizer, cfg.OPTIM)
    build_transform(cfg, choices=AVAILABLE_CHOICES)
    fakes.make_folders(tmp_path)
    cfg.DATASET.ROOT, cfg.DATASET.NAME, cfg.DATASET.FOLDER = str(tmp_path), "ImageFolder", "mine"
    DATASET_REGISTRY.get("ImageFolder")(cfg)
    names, plain = keys()
    assert not [name for name in names if name not in seen and unread(name, plain) is None]


def test_every_setting_of_a_method_is_named_by_its_code():
    files = [*REPOSITORY.glob("trainers/*.py"), *REPOSITORY.glob("anprompt/**/*.py")]
    code = "\n".join(file.read_text() for file in files)
    cfg = get_cfg_default()
    theirs = set(cfg.TRAINER)
    trainers.extend_cfg(cfg)
    own = {key for name in set(cfg.TRAINER) - theirs for key, _ in leaves(cfg.TRAINER[name])}
    own = {key for key in own if not key.startswith("PER_DATASET.")}
    assert len(own) > 20
    assert not [key for key in own if not re.search(rf"\.{key.split('.')[-1]}\b", code)]


REFUSED = [key for key in keys()[0] if unread(key, keys()[1])]


def test_the_tables_of_refused_keys_name_keys_that_exist():
    assert all(any(key.startswith(start) for key in REFUSED) for start in UNREAD | UNREAD_DATA)


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_nobody_reads_is_refused_in_one_line(key, make_cfg):
    cfg = make_cfg()
    cfg.defrost()
    default = dict(leaves(cfg))[key]
    changed(cfg, key, list(default) if isinstance(default, tuple) else default)
    check_read(cfg)  # a list in place of a tuple is the same
    with pytest.raises(ValueError, match=rf"^{re.escape(key)} .* has no effect: .*Leave it out$") as error:
        start(changed(cfg, key, other(default)))
    assert "\n" not in str(error.value)


def test_a_trainer_that_says_so_and_the_users_data_read_what_they_like(make_cfg, monkeypatch):
    cfg = make_cfg("DATALOADER.K_TRANSFORMS", "2", "DATASET.STL10_FOLD", "3")
    with pytest.raises(ValueError, match="DATASET.STL10_FOLD"):
        check_read(cfg, also=["DATALOADER.K_TRANSFORMS"])
    known = {"registered_names": lambda: ["Theirs"], "get": lambda name: type(name, (DatasetBase,), {})}
    monkeypatch.setattr("anprompt.engine.keys.DATASET_REGISTRY", SimpleNamespace(**known))
    cfg.defrost()
    cfg.DATASET.NAME = "Theirs"
    check_read(cfg, also=["DATALOADER.K_TRANSFORMS"])
    with pytest.raises(ValueError, match="DATALOADER.K_TRANSFORMS"):
        check_read(cfg)


def test_nodes_of_other_methods_are_left_alone(make_cfg):
    check_read(make_cfg("TRAINER.MCD.N_STEP_F", "7"))


# ---------------------------------------------------------------------------------------------- values

ODD = {
    "INPUT.SIZE": [(64,), (64.0, 64.0), (0, 64), None, 64],
    "INPUT.TRANSFORMS": [(1,), "normalize"],
    "INPUT.NO_TRANSFORM": [True],
    "INPUT.PIXEL_MEAN": [[0.5], [0.5, 0.5, "x"]],
    "INPUT.RRCROP_SCALE": [(0.5,), (0.5, 0.1), (0.0, 1.0), (float("nan"), 1.0)],
    "INPUT.GB_K": [4, 0],
    "DATALOADER.TRAIN_X.BATCH_SIZE": [0, None],
    "DATALOADER.TEST.SAMPLER": ["Other"],
    "OPTIM.LR": [None, float("nan"), float("inf"), -1.0],
    "OPTIM.ADAM_BETA1": [1.0],
    "OPTIM.SGD_NESTEROV": [True],
    "OPTIM.MAX_EPOCH": [0, 10**12],
    "OPTIM.LR_SCHEDULER": ["linear"],
    "OPTIM.STEPSIZE": [(), (1.5,), ("x",), None],
    "TRAIN.ACCUMULATE": [0],
    "DATASET.NUM_SHOTS": [None],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ODD.items() for value in values])
def test_a_value_that_cannot_work_is_named_before_anything_is_read(key, value, make_cfg):
    """As a train.py of the user's may have merged it."""
    cfg = make_cfg("OPTIM.MOMENTUM", "0.0", "OPTIM.LR_SCHEDULER", "single_step")
    check_values(cfg)
    cfg.defrost()
    with pytest.raises(ValueError, match=rf"^{re.escape(key)}\b") as error:
        start(changed(cfg, key, value))
    assert "\n" not in str(error.value)


def test_the_checks_are_of_keys_that_exist_and_let_the_defaults_pass():
    names, cfg = keys()
    assert set(VALUES) <= set(names)
    check_values(cfg)


@pytest.mark.parametrize("value", ["(1.5,)", "()", "('x',)"])
def test_steps_are_checked_for_every_trainer(value, tmp_path):
    """Dassl's schedules answer with a TypeError, which is no mistake of the user's to train.py."""
    words = ["--root", str(tmp_path), "--trainer", "ANPrompt", "OPTIM.STEPSIZE", value]
    with pytest.raises(ValueError, match=r"^OPTIM\.STEPSIZE takes whole epochs"):
        train.setup_cfg(train.build_parser().parse_args(words))
