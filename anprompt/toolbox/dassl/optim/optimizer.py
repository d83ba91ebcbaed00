"""Optimisers by name, with the settings of ``cfg.OPTIM``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from yacs.config import CfgNode

from dassl.utils import check_availability

BUILDERS: dict[str, Callable[[Any, CfgNode], Optimizer]] = {
    "adam": lambda params, optim: torch.optim.Adam(params, **_adam_settings(optim)),
    "amsgrad": lambda params, optim: torch.optim.Adam(params, amsgrad=True, **_adam_settings(optim)),
    "sgd": lambda params, optim: torch.optim.SGD(
        params,
        lr=optim.LR,
        momentum=optim.MOMENTUM,
        weight_decay=optim.WEIGHT_DECAY,
        dampening=optim.SGD_DAMPNING,
        nesterov=optim.SGD_NESTEROV,
    ),
    "rmsprop": lambda params, optim: torch.optim.RMSprop(
        params, lr=optim.LR, momentum=optim.MOMENTUM, weight_decay=optim.WEIGHT_DECAY, alpha=optim.RMSPROP_ALPHA
    ),
    # Dassl's own RAdam shrinks the weights themselves, as AdamW does
    "radam": lambda params, optim: torch.optim.RAdam(params, decoupled_weight_decay=True, **_adam_settings(optim)),
    "adamw": lambda params, optim: torch.optim.AdamW(params, **_adam_settings(optim)),
}


def _adam_settings(optim: CfgNode) -> dict[str, Any]:
    return {"lr": optim.LR, "weight_decay": optim.WEIGHT_DECAY, "betas": (optim.ADAM_BETA1, optim.ADAM_BETA2)}


def build_optimizer(model: nn.Module | Iterable, optim_cfg: CfgNode, param_groups: Iterable | None = None) -> Optimizer:
    """The optimiser ``optim_cfg.NAME``.

    Args:
        model: all parameters of a module (frozen ones have no gradient and stay as they are), or any iterable of
            parameters or groups that torch accepts.
        param_groups: groups to optimise instead of ``model``.

    Raises:
        ValueError: unknown ``NAME``.
        TypeError: ``STAGED_LR`` needs a module and got something else.
    """
    check_availability(optim_cfg.NAME, list(BUILDERS))
    if param_groups is not None:
        if optim_cfg.STAGED_LR:
            warnings.warn("OPTIM.STAGED_LR is ignored: the parameter groups were given", stacklevel=2)
        params = param_groups
    elif optim_cfg.STAGED_LR:
        params = _staged_groups(model, optim_cfg)
    else:
        params = model.parameters() if isinstance(model, nn.Module) else model
    return BUILDERS[optim_cfg.NAME](params, optim_cfg)


def _staged_groups(model: Any, optim_cfg: CfgNode) -> list[dict[str, Any]]:
    """Two groups: the children of ``model`` that are not in ``NEW_LAYERS``, at a reduced rate, and those that are."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"OPTIM.STAGED_LR: expected a module, whose children are staged, got {type(model).__name__}")
    if isinstance(model, nn.DataParallel):
        model = model.module
    new_layers = [optim_cfg.NEW_LAYERS] if isinstance(optim_cfg.NEW_LAYERS, str) else optim_cfg.NEW_LAYERS
    if not new_layers:
        warnings.warn("OPTIM.NEW_LAYERS is empty: every layer gets the reduced rate", stacklevel=3)
    base: list[nn.Parameter] = []
    new: list[nn.Parameter] = []
    for name, child in model.named_children():
        (new if name in new_layers else base).extend(child.parameters())
    return [{"params": base, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": new}]
