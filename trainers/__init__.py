"""One file per method. A file dropped in here is found; it registers its class with ``TRAINER_REGISTRY``.

A module that needs config keys of its own adds them in a function ``extend_cfg(cfg)``.
"""

from types import ModuleType

from yacs.config import CfgNode

from anprompt.utils.drop_in import import_all


def register_all() -> list[ModuleType]:
    """Import every trainer module of this folder; ImportError names the file that fails."""
    return import_all(__name__, __path__)


def extend_cfg(cfg: CfgNode) -> None:
    """Let every trainer module that offers ``extend_cfg`` add its node to ``cfg``."""
    for module in register_all():
        extend = getattr(module, "extend_cfg", None)
        if extend is not None:
            extend(cfg)
