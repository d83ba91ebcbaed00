"""Read checkpoints that hold pickled objects of torch's and Dassl's optimisers, without running any of their code.

Dassl stores, after a warm-up, a whole scheduler object with its optimizer. ``torch.load`` rightly refuses such a file.
Here those objects become inert records of their attributes; tensors, numbers and containers load as usual; any other
name in the file is an error.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

RECORDED = ("torch.optim.", "dassl.optim.")

_ALLOWED: dict[tuple[str, str], Any] = {
    ("builtins", "dict"): dict,
    ("__builtin__", "dict"): dict,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("collections", "Counter"): collections.Counter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("_codecs", "encode"): str.encode,  # pickles of old protocols write bytes as text to encode
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    # NumPy 2 moved the helpers; files of either version name them as its writer did
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0],
    ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numpy._core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
}


class Record:
    """Stands for an object of a class that is not loaded: its attributes, and nothing that could run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)


class RestrictedUnpickler(pickle.Unpickler):
    """Finds only what a checkpoint needs."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.".startswith(RECORDED):
            return Record
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the file wants to use {module}.{name}, which no checkpoint needs")
        return _ALLOWED[module, name]


_PICKLE = SimpleNamespace(
    __name__="restricted_pickle",
    Unpickler=RestrictedUnpickler,
    load=lambda file, **options: RestrictedUnpickler(file, **options).load(),
)


def load_legacy(fpath: str, map_location: Any = None) -> Any:
    """Content of the file, with a Dassl scheduler turned into a dict of plain data.

    Raises:
        pickle.UnpicklingError: the file is no pickle, or uses names outside the list above.
    """
    content = torch.load(fpath, map_location=map_location, pickle_module=_PICKLE, weights_only=False)
    if isinstance(content, dict) and isinstance(content.get("scheduler"), dict):
        content["scheduler"] = {key: _plain(value) for key, value in content["scheduler"].items()}
    return content


def _plain(value: Any) -> Any:
    """The attributes of a recorded scheduler; those that are objects themselves (its optimizer) are dropped."""
    if not isinstance(value, Record):
        return value
    return {key: item for key, item in vars(value).items() if not isinstance(item, Record)}
