"""Drop-in folders: every module of ``trainers/`` and ``datasets/`` is imported, so that it can register itself."""

import importlib
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


def import_all(package: str, paths: Iterable[str]) -> list[ModuleType]:
    """Import every module of ``package`` that lies in ``paths`` (its ``__path__``), in alphabetical order.

    Raises:
        ImportError: names the file that cannot be imported and the reason.
    """
    return [_import(package, folder, name) for folder in paths for _, name, _ in pkgutil.iter_modules([folder])]


def import_one(package: str, paths: Iterable[str], name: str) -> ModuleType | None:
    """Import the module of that name; None where there is none.

    Raises:
        ImportError: as :func:`import_all`.
    """
    for folder in paths:
        if any(module.name == name for module in pkgutil.iter_modules([folder])):
            return _import(package, folder, name)
    return None


def _import(package: str, folder: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.{name}")
    except Exception as error:  # a dropped-in file may fail in any way
        place = Path(folder, name)
        file = place if place.is_dir() else place.with_suffix(".py")
        reason = f"{type(error).__name__}: {error}"
        raise ImportError(f"{file} cannot be imported ({reason}): repair the file or take it out") from error


def checkout_package(name: str) -> ModuleType:
    """Import ``trainers`` or ``datasets`` of the checkout in the working directory, else of the one around this file.

    Raises:
        ValueError: there is no checkout, or another package of that name is already imported.
    """
    places = (Path.cwd(), Path(__file__).resolve().parents[2])
    # train.py tells a checkout from a folder of installed packages, where `datasets` would be Hugging Face's.
    root = next((place for place in places if (place / name).is_dir() and (place / "train.py").is_file()), None)
    if root is None:
        raise ValueError(f"this needs the folder {name}/ of a checkout: run it in there, not in {places[0]}")
    sys.path.insert(0, str(root))
    try:
        module = importlib.import_module(name)
    finally:
        sys.path.remove(str(root))
    if not any(Path(place) == root / name for place in module.__path__):
        raise ValueError(f"expected the package {name} of {root}, but {list(module.__path__)} was imported before it")
    return module
