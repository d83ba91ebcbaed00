from __future__ import annotations

from typing import Any

from torch import nn

from dassl.utils import Registry, check_availability

BACKBONE_REGISTRY = Registry("BACKBONE")
HEAD_REGISTRY = Registry("HEAD")
NETWORK_REGISTRY = Registry("NETWORK")


class Backbone(nn.Module):
    """A feature extractor that says how wide its features are."""

    _out_features: int | None = None  # set by the subclass

    @property
    def out_features(self) -> int | None:
        return self._out_features


def _build(kind: str, registry: Registry, name: str, verbose: bool, options: dict[str, Any]) -> Any:
    check_availability(name, registry.registered_names())
    if verbose:
        print(f"{kind}: {name}")
    return registry.get(name)(**options)


def build_backbone(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    return _build("Backbone", BACKBONE_REGISTRY, name, verbose, kwargs)


def build_head(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    return _build("Head", HEAD_REGISTRY, name, verbose, kwargs)


def build_network(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    return _build("Network", NETWORK_REGISTRY, name, verbose, kwargs)
