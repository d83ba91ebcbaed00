"""Notice where the host would wait for the device."""

from torch.utils._python_dispatch import TorchDispatchMode


class NoFetching(TorchDispatchMode):
    """Raises where a value or a shape would have to come from the device before the host can go on."""

    FETCHING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(name in str(function) for name in self.FETCHING), function
        return function(*args, **(kwargs or {}))
