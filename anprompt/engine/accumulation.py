"""One update with the gradients of several batches, as if they had been one."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


class GradientMean:
    """The mean of the gradients of several batches, each counted as often as it has images.

    For a loss that is a mean over images it is the gradient of the batches taken as one.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self.parameters = list(parameters)
        self.clear()

    def clear(self) -> None:
        self.batches = self.images = 0
        self.totals: list[Tensor | None] = [None] * len(self.parameters)

    def add(self, images: int) -> None:
        """Take what is in the parameters now, the gradient of a batch of that many images."""
        self.batches += 1
        self.images += images
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                total, share = self.totals[index], images * parameter.grad
                self.totals[index] = share if total is None else total + share

    def hand_over(self) -> None:
        """Leave the mean in the parameters and begin anew."""
        for parameter, total in zip(self.parameters, self.totals, strict=True):
            parameter.grad = None if total is None else total / self.images
        self.clear()
