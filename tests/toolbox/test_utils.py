"""Registries, files, seeds, the log, meters, parameters; and what importing the toolbox does not do."""

import importlib
import os
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dassl
from dassl import utils
from dassl.utils import AverageMeter, Logger, MetricMeter, Registry, setup_logger
from tests.toolbox.toy import GOLDEN

RECORDED = GOLDEN["utils"]


# ---------------------------------------------------------------------------------------------- import


def in_fresh_python(code):
    toolbox = os.path.dirname(os.path.dirname(dassl.__file__))
    environment = os.environ | {"PYTHONPATH": toolbox}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


def test_import_needs_no_optional_package_and_leaves_logging_alone():
    optional = ["tensorboard", "torch.utils.tensorboard", "wilds", "gdown", "tabulate", "sklearn", "scipy", "pandas"]
    code = f"""
import logging, random, sys
sys.modules.update(dict.fromkeys({optional}))  # None: importing it fails
state = random.getstate()
import dassl.engine, dassl.config, dassl.modeling, dassl.optim.optimizer, dassl.evaluation.evaluator
assert logging.root.manager.disable == 0 and logging.root.level == logging.WARNING and not logging.root.handlers
assert random.getstate() == state
"""
    run = in_fresh_python(code)
    assert (run.stdout, run.stderr) == ("", "")


MODULES = [
    "config",
    "utils",
    "data",
    "data.data_manager",
    "data.samplers",
    "data.datasets",
    "data.datasets.base_dataset",
    "data.datasets.build",
    "data.transforms",
    "data.transforms.transforms",
    "engine",
    "engine.trainer",
    "engine.build",
    "evaluation",
    "evaluation.evaluator",
    "evaluation.build",
    "metrics",
    "optim",
    "optim.optimizer",
    "optim.lr_scheduler",
    "modeling",
    "modeling.ops",
    "modeling.ops.utils",
]


@pytest.mark.parametrize("module", MODULES)
def test_module_path_exists(module):
    importlib.import_module(f"dassl.{module}")


# Of each module, what the contract lists and what trainers beyond the family import.
NAMES = {
    "config": "get_cfg_default clean_cfg cfg_default",
    "utils": "mkdir_if_missing check_isfile read_json write_json set_random_seed download_url read_image "
    "collect_env_info listdir_nohidden get_most_similar_str_to_a_from_b check_availability tolist_if_not Logger "
    "setup_logger AverageMeter MetricMeter Registry save_checkpoint load_checkpoint resume_from_checkpoint "
    "open_all_layers open_specified_layers count_num_param load_pretrained_weights init_network_weights",
    "data": "DataManager DatasetWrapper",
    "data.data_manager": "DataManager DatasetWrapper build_data_loader build_transform",
    "data.samplers": "build_sampler",
    "data.datasets": "DATASET_REGISTRY build_dataset Datum DatasetBase",
    "data.datasets.build": "DATASET_REGISTRY build_dataset",
    "data.datasets.base_dataset": "Datum DatasetBase",
    "data.transforms": "INTERPOLATION_MODES build_transform",
    "data.transforms.transforms": "INTERPOLATION_MODES build_transform",
    "engine": "TRAINER_REGISTRY build_trainer TrainerBase SimpleTrainer TrainerX TrainerXU SimpleNet",
    "engine.build": "TRAINER_REGISTRY build_trainer",
    "engine.trainer": "TrainerBase SimpleTrainer TrainerX TrainerXU SimpleNet",
    "evaluation": "EVALUATOR_REGISTRY build_evaluator EvaluatorBase Classification",
    "evaluation.evaluator": "EvaluatorBase Classification",
    "metrics": "compute_accuracy compute_distance_matrix cosine_distance euclidean_squared_distance",
    "modeling": "BACKBONE_REGISTRY HEAD_REGISTRY NETWORK_REGISTRY Backbone build_backbone build_head build_network",
    "modeling.ops.utils": "sharpen_prob create_onehot linear_rampup sigmoid_rampup ema_model_update",
    "optim": "build_optimizer build_lr_scheduler",
    "optim.optimizer": "build_optimizer",
    "optim.lr_scheduler": "build_lr_scheduler ConstantWarmupScheduler LinearWarmupScheduler",
}


@pytest.mark.parametrize("package", NAMES)
def test_public_names_exist(package):
    module = importlib.import_module(f"dassl.{package}")
    assert [name for name in NAMES[package].split() if not hasattr(module, name)] == []


# ---------------------------------------------------------------------------------------------- registry and names


def test_registry_decorator_returns_the_class():
    registry = Registry("R")

    @registry.register()
    class Foo:
        pass

    assert registry.get("Foo") is Foo
    assert registry.registered_names() == RECORDED["registry_names"]


def test_registry_takes_an_object_and_replaces_only_by_force():
    registry = Registry("R")
    registry.register(abs)
    with pytest.raises(KeyError, match="'abs' is already registered in R"):
        registry.register(abs)
    registry.register(abs, force=True)
    assert registry.registered_names() == ["abs"]


def test_registry_names_what_it_has():
    registry = Registry("R")
    registry.register(abs)
    with pytest.raises(KeyError, match=r"'sum' is not registered in R; there are: \['abs'\]"):
        registry.get("sum")


def test_check_availability_accepts_what_is_there():
    assert utils.check_availability("a", ["a", "b"]) is None


@pytest.mark.parametrize("requested, nearest", [("Cop", "CoOp"), ("coop", "CoOp"), ("ZeroshotCLIP2", "ZeroshotCLIP")])
def test_check_availability_suggests(requested, nearest):
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'.*'MaPLe'"):
        utils.check_availability(requested, ["CoOp", "ZeroshotCLIP", "MaPLe", "Coo"])


def test_the_last_of_equally_similar_names_wins():
    assert utils.get_most_similar_str_to_a_from_b("abc", ["abd", "xyz", "abe"]) == "abe"
    assert utils.get_most_similar_str_to_a_from_b("abc", []) is None


def test_tolist_if_not_wraps_tuples_too():
    assert [utils.tolist_if_not(value) for value in (1, [1], (1, 2))] == [[1], [1], [(1, 2)]]


# ---------------------------------------------------------------------------------------------- files


def test_the_empty_folder_name_is_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    utils.mkdir_if_missing("")
    utils.write_json({"a": 1}, "bare.json")
    assert utils.read_json("bare.json") == {"a": 1}


def test_mkdir_if_missing_makes_parents_and_repeats(tmp_path):
    utils.mkdir_if_missing(str(tmp_path / "a" / "b"))
    utils.mkdir_if_missing(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()


def test_json_text(tmp_path):
    utils.write_json({"a": [1, 2], "b": "é"}, str(tmp_path / "new" / "x.json"))
    assert (tmp_path / "new" / "x.json").read_text() == RECORDED["write_json_text"]


def test_check_isfile(tmp_path, recwarn):
    (tmp_path / "there").touch()
    assert utils.check_isfile(str(tmp_path / "there")) is True
    assert not recwarn.list
    with pytest.warns(UserWarning, match="absent"):
        assert utils.check_isfile(str(tmp_path / "absent")) is False


def test_listdir_nohidden_keeps_the_order_of_the_file_system(monkeypatch):
    monkeypatch.setattr(os, "listdir", lambda path: ["sub", ".hidden", "cmat.pt"])
    assert utils.listdir_nohidden("any") == ["sub", "cmat.pt"]
    assert utils.listdir_nohidden("any", sort=True) == ["cmat.pt", "sub"]


def test_read_image_is_rgb(tmp_path):
    Image.new("LA", (3, 2), (7, 0)).save(tmp_path / "gray.png")
    image = utils.read_image(str(tmp_path / "gray.png"))
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (3, 2), (7, 7, 7))


def test_download_url(tmp_path):
    (tmp_path / "source").write_text("content")
    utils.download_url((tmp_path / "source").as_uri(), str(tmp_path / "new" / "copy"))
    assert [(file.name, file.read_text()) for file in (tmp_path / "new").iterdir()] == [("copy", "content")]


# ---------------------------------------------------------------------------------------------- seeds, environment


@pytest.mark.parametrize("seed", GOLDEN["set_random_seed"])
def test_set_random_seed(seed):
    utils.set_random_seed(int(seed))
    draws = {
        "random": random.random(),
        "numpy": np.random.rand(),  # noqa: NPY002
        "torch_rand": torch.rand(1).item(),
        "torch_randperm10": torch.randperm(10).tolist(),
    }
    assert draws == GOLDEN["set_random_seed"][seed]


def test_env_info_is_fast_and_needs_no_tools(monkeypatch):
    monkeypatch.setenv("PATH", "")
    began = time.perf_counter()
    *lines, last = utils.collect_env_info().split("\n")
    assert time.perf_counter() - began < 2
    assert re.fullmatch(r" {8}Pillow \(\d.*\)", last)
    assert any(line.startswith(f"PyTorch: {torch.__version__}") for line in lines)


def test_env_info_survives_a_broken_driver(monkeypatch):
    def broken(index):
        raise RuntimeError("driver too old")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", broken)
    assert "GPUs: not usable (driver too old)" in utils.collect_env_info()


# ---------------------------------------------------------------------------------------------- the log


@pytest.mark.parametrize("name", ["run", "run/x.txt", "run/x.log"])
def test_the_log_holds_what_is_printed_afterwards(name, tmp_path, capsys):
    print("before")
    setup_logger(str(tmp_path / name))
    print("after é")
    file = tmp_path / name
    file = file if file.suffix else file / "log.txt"
    assert file.read_text(encoding="utf-8") == "after é\n"  # without any flush: line by line
    assert capsys.readouterr().out == "before\nafter é\n"


def test_no_output_no_log():
    console = sys.stdout
    setup_logger(None)
    assert sys.stdout is console


def test_an_earlier_log_is_kept(tmp_path, capsys):
    (tmp_path / "log.txt").write_text("earlier\n")
    setup_logger(str(tmp_path))
    print("later")
    assert (tmp_path / "log.txt").read_text() == "earlier\n"
    (new,) = tmp_path.glob("log.txt-*")
    assert re.fullmatch(r"log\.txt-\d{4}(-\d\d){5}", new.name)
    assert new.read_text() == "later\n"


def test_a_second_log_ends_the_first(tmp_path, capsys):
    for run in ("one", "two"):
        setup_logger(str(tmp_path / run))
        print(run)
    assert (tmp_path / "one" / "log.txt").read_text() == "one\n"
    assert capsys.readouterr().out == "one\ntwo\n"


def test_standard_error_is_not_logged(tmp_path, capsys):
    setup_logger(str(tmp_path))
    print("progress", file=sys.stderr)
    assert (tmp_path / "log.txt").read_text() == ""


def test_the_logger_leaves_the_console_open(tmp_path, capsys):
    with Logger(str(tmp_path / "log.txt")) as logger:
        logger.write("inside\n")
    del logger
    assert not sys.stdout.closed
    assert (tmp_path / "log.txt").read_text() == "inside\n"


def test_a_closed_logger_still_reaches_the_console(tmp_path, capsys):
    logger = Logger(str(tmp_path / "log.txt"))
    logger.close()
    logger.close()
    logger.write("late")
    logger.flush()
    assert capsys.readouterr().out == "late"


def test_write_counts_characters():
    assert Logger().write("abc") == 3


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A process that ends without any clean-up after its last line; its output, and the folder of its log."""
    folder = tmp_path_factory.mktemp("killed")
    code = f"""
import os, subprocess, sys
from dassl.utils import setup_logger
setup_logger({str(folder)!r})
print(sys.stdout.isatty(), sys.stdout.encoding is not None, sys.stdout.buffer.writable(), flush=True)
subprocess.run([sys.executable, "-c", "print('child')"], stdout=sys.stdout, check=True)
print("* accuracy: 50.0%")
os._exit(0)
"""
    return in_fresh_python(code).stdout, folder


def test_the_logger_is_a_real_stream(killed):
    """What other programs ask of a standard output: a file descriptor, a terminal or not, an encoding."""
    assert killed[0].startswith("False True True\nchild\n")


def test_the_log_of_a_killed_process_is_complete(killed):
    assert (killed[1] / "log.txt").read_text() == "False True True\n* accuracy: 50.0%\n"


# ---------------------------------------------------------------------------------------------- meters


def meter_values(meter):
    return [meter.val, meter.avg, meter.sum, meter.count]


def test_average_meter():
    meter = AverageMeter()
    meter.update(2.0, n=3)
    meter.update(torch.tensor(5.0))
    assert meter_values(meter) == GOLDEN["meters"]["avg"]


def test_average_meter_with_momentum():
    meter = AverageMeter(ema=True)
    meter.update(1.0)
    meter.update(2.0)
    assert [meter.val, meter.avg] == GOLDEN["meters"]["ema"]


def test_average_meter_reset():
    meter = AverageMeter()
    meter.update(2.0)
    meter.reset()
    assert meter_values(meter) == [0, 0, 0, 0]


def test_metric_meter_text():
    meter = MetricMeter()
    meter.update({"loss": torch.tensor(1.5), "acc": 25.0})
    meter.update(None)
    meter.update({"loss": 0.5, "acc": 75.0})
    assert str(meter) == GOLDEN["meters"]["str"]


def test_metric_meter_delimiter():
    meter = MetricMeter(delimiter="\t")
    meter.update({"a": 1, "b": 2})
    assert str(meter) == GOLDEN["meters"]["delim_tab"]


def test_metric_meter_refuses_a_bare_loss():
    with pytest.raises(TypeError, match="dict of name -> number, got Tensor"):
        MetricMeter().update(torch.tensor(1.0))


# ---------------------------------------------------------------------------------------------- modules


def small_net():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    net[0].requires_grad_(False)
    return net


def test_count_num_param():
    assert utils.count_num_param(small_net()) == 16 + 8 + 5  # frozen ones, too
    assert (
        utils.count_num_param(params=[torch.zeros(2, 3), {"params": torch.zeros(1)}]) == RECORDED["count_num_param"][1]
    )
    with pytest.raises(ValueError, match="got neither"):
        utils.count_num_param()


def test_open_all_layers():
    net = small_net().eval()
    utils.open_all_layers(net)
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("names", ["0", ["0"]])
def test_open_specified_layers(names):
    net = small_net()
    utils.open_specified_layers(net, names)
    assert [child.training for child in net] == [True, False, False]
    assert [child.weight.requires_grad for child in net] == [True, False, False]


def test_open_specified_layers_names_what_there_is():
    with pytest.raises(AssertionError, match=r"no layer 'head'; there are: \['0', '1', '2'\]"):
        utils.open_specified_layers(small_net(), "head")


@pytest.mark.parametrize("wrapped", [False, True])
def test_pretrained_weights_copy_what_fits(wrapped, tmp_path, capsys):
    target, before = small_net(), small_net()[2].weight.clone()
    target[2].weight.data.copy_(before)
    state = {"module.0.weight": torch.ones(4, 3), "2.weight": torch.ones(9, 4), "other": torch.ones(1)}
    path = str(tmp_path / "weights.pt")
    torch.save({"state_dict": state} if wrapped else state, path)
    utils.load_pretrained_weights(target, path)
    assert torch.equal(target[0].weight, torch.ones(4, 3))
    assert torch.equal(target[2].weight, before)
    loaded, skipped = capsys.readouterr().out.splitlines()
    assert loaded == f"Successfully loaded pretrained weights from {path}"
    assert "['2.weight', 'other']" in skipped


def test_pretrained_weights_that_do_not_fit_at_all(tmp_path):
    net = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.save({"other": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.warns(UserWarning, match="nothing in .* fits"):
        utils.load_pretrained_weights(net, str(tmp_path / "weights.pt"))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("init_type", ["normal", "xavier", "kaiming", "orthogonal"])
def test_init_network_weights(init_type):
    net = small_net()
    before = net[0].weight.clone()
    net[1].weight.data.fill_(3.0)
    utils.init_network_weights(net, init_type)
    assert not torch.equal(net[0].weight, before)
    assert torch.equal(net[1].weight, torch.ones(4))
    assert not any(child.bias.any() for child in net)


def test_init_network_weights_unknown_type():
    with pytest.raises(ValueError, match="got 'zeros'"):
        utils.init_network_weights(small_net(), "zeros")


def test_a_damaged_image_is_named(tmp_path):
    path = tmp_path / "broken.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(OSError, match=r"cannot read the image .*broken\.jpg"):
        utils.read_image(str(path))
