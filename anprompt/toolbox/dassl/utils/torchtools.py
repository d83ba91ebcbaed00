"""Parameters and pretrained weights of modules."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from dassl.utils.checkpoints import load_checkpoint, without_module


def count_num_param(model: nn.Module | None = None, params: Iterable[Tensor | Mapping[str, Any]] | None = None) -> int:
    """Number of elements of all parameters of ``model`` (frozen ones too), or of ``params``.

    Args:
        params: tensors, or dicts with a tensor under ``"params"``.

    Raises:
        ValueError: neither was given.
    """
    if model is not None:
        return sum(parameter.numel() for parameter in model.parameters())
    if params is None:
        raise ValueError("expected a model or parameters, got neither")
    return sum((entry["params"] if isinstance(entry, Mapping) else entry).numel() for entry in params)


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Copy what fits: entries whose name is in the model and whose shape is the same. The rest of the model stays.

    Warns if nothing fits.
    """
    checkpoint = load_checkpoint(weight_path)
    loaded = without_module(checkpoint.get("state_dict", checkpoint))
    state = model.state_dict()
    fitting = {name: value for name, value in loaded.items() if name in state and value.shape == state[name].shape}
    if not fitting:
        warnings.warn(
            f'nothing in "{weight_path}" fits the model, which is left as it was: names and shapes must be the same',
            stacklevel=2,
        )
        return
    model.load_state_dict(state | fitting)
    print(f"Successfully loaded pretrained weights from {weight_path}")
    skipped = [name for name in loaded if name not in fitting]
    if skipped:
        print(f"Layers skipped, their names or shapes do not fit: {skipped}")


def open_all_layers(model: nn.Module) -> None:
    """Train everything."""
    model.train()
    model.requires_grad_(True)


def open_specified_layers(model: nn.Module, open_layers: str | Iterable[str]) -> None:
    """Train the named direct children; freeze the others and put them in evaluation mode.

    Raises:
        AssertionError: ``model`` has no attribute of that name.
    """
    if isinstance(model, nn.DataParallel):
        model = model.module
    names = [open_layers] if isinstance(open_layers, str) else list(open_layers)
    children = dict(model.named_children())
    for name in names:
        assert hasattr(model, name), f"the model has no layer {name!r}; there are: {list(children)}"
    for name, child in children.items():
        child.train(name in names)
        child.requires_grad_(name in names)


def init_network_weights(model: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Draw the weights of convolutions and linear layers anew; biases become 0, normalisations the identity.

    Args:
        init_type: ``normal`` (deviation ``gain``), ``xavier`` or ``orthogonal`` (with ``gain``), or ``kaiming``.

    Raises:
        ValueError: another ``init_type``.
    """
    draw = {
        "normal": lambda weight: nn.init.normal_(weight, 0.0, gain),
        "xavier": lambda weight: nn.init.xavier_normal_(weight, gain=gain),
        "kaiming": lambda weight: nn.init.kaiming_normal_(weight, a=0, mode="fan_in"),
        "orthogonal": lambda weight: nn.init.orthogonal_(weight, gain=gain),
    }
    if init_type not in draw:
        raise ValueError(f"init_type: expected one of {', '.join(draw)}, got {init_type!r}")
    weighted = (nn.modules.conv._ConvNd, nn.Linear)
    normalising = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    for module in model.modules():
        if isinstance(module, weighted):
            draw[init_type](module.weight)
        elif isinstance(module, normalising) and module.weight is not None:
            nn.init.ones_(module.weight)
        if isinstance(module, weighted + normalising) and module.bias is not None:
            nn.init.zeros_(module.bias)
