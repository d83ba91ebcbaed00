"""Registries: name -> class or function, so that a config can name what to build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Registry:
    """Objects by their ``__name__``.

    Use ``@REGISTRY.register()`` above a class, or ``REGISTRY.register(cls)``; then ``REGISTRY.get("Name")``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._objects: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Add ``obj``, or return a decorator that does; either way the object comes back unchanged.

        Raises:
            KeyError: the name is taken and ``force`` is not set.
        """
        if obj is None:
            return self._decorator(force)
        name = obj.__name__
        if name in self._objects and not force:
            raise KeyError(f"{name!r} is already registered in {self._name}: rename it, or register with force=True")
        self._objects[name] = obj
        return obj

    def _decorator(self, force: bool) -> Callable[[Any], Any]:
        return lambda obj: self.register(obj, force=force)

    def get(self, name: str) -> Any:
        """The object called ``name``.

        Raises:
            KeyError: lists what is registered.
        """
        if name not in self._objects:
            raise KeyError(f"{name!r} is not registered in {self._name}; there are: {self.registered_names()}")
        return self._objects[name]

    def registered_names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._objects)
