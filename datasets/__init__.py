"""One file per dataset. A file dropped in here is found; it registers its class with ``DATASET_REGISTRY``."""

from types import ModuleType

from anprompt.utils.drop_in import import_all


def register_all() -> list[ModuleType]:
    """Import every dataset module of this folder; ImportError names the file that fails."""
    return import_all(__name__, __path__)
