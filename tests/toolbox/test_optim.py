"""Optimisers and learning rates against recorded values, and schedules that continue after a resume."""

import io
import json
from collections import OrderedDict

import pytest
import torch
from torch import nn

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.lr_scheduler import ConstantWarmupScheduler, LinearWarmupScheduler
from tests.toolbox.toy import GOLDEN

LR_TOLERANCE = float(GOLDEN["_meta"]["tolerances"]["lr"].removeprefix("absolute "))


def optim_cfg(**changes):
    cfg = get_cfg_default().OPTIM
    for key, value in changes.items():
        cfg[key] = value
    return cfg


def staged_module():
    """As recorded: children base and head, the bias of the head frozen."""
    module = nn.Sequential(OrderedDict(base=nn.Linear(2, 3), head=nn.Linear(3, 4)))
    module.head.bias.requires_grad_(False)
    return module


def one_parameter(lr=0.0025):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


# ---------------------------------------------------------------------------------------------- optimisers


@pytest.mark.parametrize("key", [key for key in GOLDEN["optimizers"] if not key.startswith("err")])
def test_optimizer_settings(key):
    name, _, staged = key.partition("_staged_new=")
    new_layers = {"": (), "head": ["head"], "'head'(str)": "head"}[staged]
    optimizer = build_optimizer(staged_module(), optim_cfg(NAME=name, STAGED_LR=bool(staged), NEW_LAYERS=new_layers))
    recorded = GOLDEN["optimizers"][key]
    assert type(optimizer).__name__ == recorded["class"].split(".")[1]
    assert len(optimizer.param_groups) == len(recorded["groups"])
    for group, expected in zip(optimizer.param_groups, recorded["groups"], strict=True):
        group = {**group, "n_params": len(group["params"])}
        assert {name: as_json(group[name]) for name in expected} == expected


def as_json(value):
    return list(value) if isinstance(value, tuple) else value


def test_radam_shrinks_the_weights_and_not_the_gradient():
    optimizer = build_optimizer(staged_module(), optim_cfg(NAME="radam"))
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


def test_new_layers_come_last():
    module = staged_module()
    optimizer = build_optimizer(module, optim_cfg(NAME="sgd", STAGED_LR=True, NEW_LAYERS=["head"]))
    assert optimizer.param_groups[1]["params"][0] is module.head.weight


def test_an_iterable_of_parameters_is_optimised_as_it_is():
    parameters = nn.ParameterList([torch.zeros(2), torch.zeros(3)])
    optimizer = build_optimizer(parameters, optim_cfg())
    assert [parameter.numel() for parameter in optimizer.param_groups[0]["params"]] == [2, 3]


def test_given_groups_replace_the_model_and_switch_staging_off():
    module = staged_module()
    with pytest.warns(UserWarning, match="STAGED_LR is ignored"):
        optimizer = build_optimizer(module, optim_cfg(STAGED_LR=True), [{"params": [module.head.weight], "lr": 1.0}])
    assert [(len(group["params"]), group["lr"]) for group in optimizer.param_groups] == [(1, 1.0)]


def test_unknown_optimizer_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'adamw'"):
        build_optimizer(staged_module(), optim_cfg(NAME="adamW"))


def test_staging_needs_a_module():
    with pytest.raises(TypeError, match="got list"):
        build_optimizer(list(staged_module().parameters()), optim_cfg(STAGED_LR=True, NEW_LAYERS=["head"]))


# ---------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("name", GOLDEN["lr_schedules"])
def test_lr_of_every_epoch(name):
    recorded = GOLDEN["lr_schedules"][name]
    cfg = optim_cfg(**recorded["cfg"])
    during = [rates if isinstance(rates, list) else [rates] for rates in recorded["lr_during_epoch"]]
    after = recorded["lr_after_last_step"]
    expected = [*during, after if isinstance(after, list) else [after]]
    shares = (0.1, 1.0) if "two_groups" in name else (1.0,)
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": cfg.LR * s} for s in shares], lr=1.0)
    scheduler = build_lr_scheduler(optimizer, cfg)
    for epoch, rates in enumerate(expected):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates, abs=LR_TOLERANCE), epoch
        assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        scheduler.step()


def test_single_step_takes_a_bare_integer():
    scheduler = build_lr_scheduler(one_parameter(), optim_cfg(STEPSIZE=1))
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.00025])


@pytest.mark.parametrize("milestones", [(-1,), (-1, 30), (30,), ()])
def test_milestones_outside_the_training_change_nothing(milestones):
    """The default, ``(-1,)``, is one; with a warm-up, too."""
    plain = build_lr_scheduler(one_parameter(), optim_cfg(LR_SCHEDULER="multi_step", STEPSIZE=milestones))
    warm = optim_cfg(LR_SCHEDULER="multi_step", STEPSIZE=milestones, WARMUP_EPOCH=1, WARMUP_TYPE="constant")
    warm = build_lr_scheduler(one_parameter(), warm)
    rates = []
    for _ in range(10):
        rates.append((plain.get_last_lr(), warm.get_last_lr()))
        plain.step()
        warm.step()
    assert rates == [([0.0025], [1e-5])] + [([0.0025], [0.0025])] * 9


def of_torch(milestones):
    """PyTorch's schedule, to which Dassl hands these milestones."""
    optimizer = one_parameter()
    return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)


@pytest.mark.parametrize("milestones", [(-1,), (-2, 3), (0, 2), (3, 3, 5), (5, 1)])
def test_milestones_are_those_of_torch(milestones):
    optimizer, expected = of_torch(milestones)
    ours = build_lr_scheduler(one_parameter(), optim_cfg(LR_SCHEDULER="multi_step", STEPSIZE=milestones))
    for epoch in range(8):
        assert ours.get_last_lr() == pytest.approx(expected.get_last_lr(), abs=LR_TOLERANCE), epoch
        optimizer.step()
        expected.step()
        ours.step()


def test_warmup_over_the_whole_training_ends_at_the_full_rate_when_not_recounted():
    cfg = optim_cfg(LR_SCHEDULER="cosine", MAX_EPOCH=1, WARMUP_EPOCH=1, WARMUP_RECOUNT=False)
    scheduler = build_lr_scheduler(one_parameter(), cfg)
    scheduler.step()
    assert scheduler.get_last_lr() == [0.0025]


def test_a_training_of_no_epochs_has_a_rate():
    assert build_lr_scheduler(one_parameter(), optim_cfg(LR_SCHEDULER="cosine", MAX_EPOCH=0)).get_last_lr() == [0.0025]


@pytest.mark.parametrize(
    "changes, error, text",
    [
        ({"LR_SCHEDULER": "cosin"}, ValueError, "did you mean 'cosine'"),
        ({"WARMUP_EPOCH": 1, "WARMUP_TYPE": "quadratic"}, ValueError, "'constant', 'linear'"),
        ({"STEPSIZE": (1.5,)}, TypeError, "needs an integer"),
        ({"STEPSIZE": ()}, ValueError, "OPTIM.STEPSIZE: single_step needs a number of epochs, got an empty list"),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": 3}, TypeError, "needs a list"),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": (2.5,)}, TypeError, "OPTIM.STEPSIZE.*whole epochs.*2.5"),
    ],
)
def test_unknown_schedules_are_refused(changes, error, text):
    with pytest.raises(error, match=text):
        build_lr_scheduler(one_parameter(), optim_cfg(**changes))


# ---------------------------------------------------------------------------------------------- resuming

RESUMED = {
    "no_warmup": {"WARMUP_EPOCH": 0},
    "constant_warmup1": {"WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant"},
    "linear_warmup3": {"WARMUP_EPOCH": 3, "WARMUP_TYPE": "linear"},
}


def cosine6(**changes):
    return optim_cfg(NAME="sgd", LR=0.0025, LR_SCHEDULER="cosine", MAX_EPOCH=6, **changes)


def fresh(cfg):
    optimizer = one_parameter()
    return optimizer, build_lr_scheduler(optimizer, cfg)


def rates_from(scheduler, epoch):
    """Rates of ``epoch`` and all later ones."""
    rates = {}
    for later in range(epoch, 6):
        rates[str(later)] = scheduler.get_last_lr()[0]
        scheduler.step()
    return rates


@pytest.mark.parametrize("kind", RESUMED)
@pytest.mark.parametrize("epoch", range(7))
def test_a_resumed_schedule_equals_the_uninterrupted_one(kind, epoch):
    cfg = cosine6(**RESUMED[kind])
    optimizer, scheduler = fresh(cfg)
    for _ in range(epoch):
        scheduler.step()
    states = json.loads(json.dumps(scheduler.state_dict()))  # flat: survives as plain data
    new_optimizer, new_scheduler = fresh(cfg)
    new_optimizer.load_state_dict(optimizer.state_dict())
    new_scheduler.load_state_dict(states)
    uninterrupted = GOLDEN["resume"][f"{kind}_uninterrupted"]
    expected = {later: rate for later, rate in uninterrupted.items() if int(later) >= epoch}
    assert rates_from(new_scheduler, epoch) == pytest.approx(expected, abs=LR_TOLERANCE)


@pytest.mark.parametrize("recount", [True, False])
@pytest.mark.parametrize("epoch", range(1, 6))
def test_a_state_of_dassl_with_an_inner_scheduler_continues(recount, epoch):
    """Its outer counter stops at the end of the warm-up; without recounting the inner one starts from there."""
    cfg, warmup = cosine6(WARMUP_EPOCH=2, WARMUP_RECOUNT=recount), 2
    inner = max(epoch - warmup, 0) + (0 if recount else warmup)
    state = {"last_epoch": min(epoch, warmup), "warmup_epoch": warmup, "successor": {"last_epoch": inner}}
    _, scheduler = fresh(cfg)
    scheduler.load_state_dict(state)
    _, uninterrupted = fresh(cfg)
    for _ in range(epoch):
        uninterrupted.step()
    assert scheduler.get_last_lr() == uninterrupted.get_last_lr()


def test_a_state_of_torchs_cosine_continues():
    optimizer = one_parameter()
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    for _ in range(3):
        optimizer.step()
        theirs.step()
    _, scheduler = fresh(cosine6())
    scheduler.load_state_dict(theirs.state_dict())
    assert scheduler.get_last_lr() == pytest.approx(theirs.get_last_lr(), abs=LR_TOLERANCE)


def test_the_present_config_rules_a_resumed_schedule():
    _, short = fresh(optim_cfg(LR_SCHEDULER="cosine", MAX_EPOCH=3))
    short.step()
    _, scheduler = fresh(cosine6())
    scheduler.load_state_dict(short.state_dict())
    assert scheduler.get_last_lr()[0] == pytest.approx(
        GOLDEN["resume"]["no_warmup_uninterrupted"]["1"], abs=LR_TOLERANCE
    )


def test_a_second_scheduler_starts_from_the_initial_rate_of_the_first():
    optimizer, first = fresh(cosine6(WARMUP_EPOCH=1))
    assert optimizer.param_groups[0]["lr"] == 1e-5
    assert build_lr_scheduler(optimizer, cosine6()).get_last_lr() == [0.0025]


# ---------------------------------------------------------------------------------------------- warm-ups by hand

WARMUPS = {
    "constant": lambda optimizer, successor, epochs: ConstantWarmupScheduler(optimizer, successor, epochs, 1e-5),
    "linear": lambda optimizer, successor, epochs: LinearWarmupScheduler(optimizer, successor, epochs, 1e-5),
}
RECORDED_WARMUPS = [
    "cosine10_constant_w1_recountTrue",
    "cosine10_constant_w3_recountTrue",
    "cosine10_linear_w3_recountTrue",
    "single_step_4_constant_w1",
    "multi_step_3_6_linear_w2",
]


def warmup_by_hand(cfg):
    """As trainers do that put PyTorch's scheduler and the warm-up together themselves."""
    optimizer = one_parameter(cfg.LR)
    successor = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, float(cfg.MAX_EPOCH)),
        "single_step": lambda: torch.optim.lr_scheduler.StepLR(optimizer, cfg.STEPSIZE[-1], cfg.GAMMA),
        "multi_step": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, cfg.STEPSIZE, cfg.GAMMA),
    }[cfg.LR_SCHEDULER]()
    return optimizer, WARMUPS[cfg.WARMUP_TYPE](optimizer, successor, cfg.WARMUP_EPOCH)


@pytest.mark.parametrize("resumed_at", [None, 0, 1, 2, 5])
@pytest.mark.parametrize("name", RECORDED_WARMUPS)
def test_a_warmup_by_hand_has_the_recorded_rates_and_resumes(name, resumed_at):
    recorded = GOLDEN["lr_schedules"][name]
    cfg = optim_cfg(**recorded["cfg"])
    optimizer, scheduler = warmup_by_hand(cfg)
    for epoch, rate in enumerate([*recorded["lr_during_epoch"], recorded["lr_after_last_step"]]):
        if epoch == resumed_at:
            state = json.loads(json.dumps(optimizer.state_dict()))
            memory = io.BytesIO()
            torch.save(scheduler.state_dict(), memory)
            memory.seek(0)
            optimizer, scheduler = warmup_by_hand(cfg)
            optimizer.load_state_dict(state)
            scheduler.load_state_dict(torch.load(memory, weights_only=True))
        assert scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]]
        assert scheduler.get_last_lr() == pytest.approx([rate], abs=LR_TOLERANCE), epoch
        optimizer.step()
        scheduler.step()
