"""Drop-in folders: every module of ``trainers/`` and ``datasets/`` is imported, so that it can register itself."""

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


def import_all(package: str, paths: Iterable[str]) -> list[ModuleType]:
    """Import every module of ``package`` that lies in ``paths`` (its ``__path__``), in alphabetical order.

    Raises:
        ImportError: names the file that cannot be imported and the reason.
    """
    return [_import(package, folder, name) for folder in paths for _, name, _ in pkgutil.iter_modules([folder])]


def _import(package: str, folder: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.{name}")
    except Exception as error:  # a dropped-in file may fail in any way
        place = Path(folder, name)
        file = place if place.is_dir() else place.with_suffix(".py")
        reason = f"{type(error).__name__}: {error}"
        raise ImportError(f"{file} cannot be imported ({reason}): repair the file or take it out") from error
