"""Running averages, as they appear in the progress line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def _number(value: Any) -> float:
    return value.item() if isinstance(value, Tensor) else value


class AverageMeter:
    """Last value and average of a series.

    Args:
        ema: exponential average with momentum 0.9 that starts at 0, instead of the mean.
    """

    def __init__(self, ema: bool = False) -> None:
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        self.val: float = 0
        self.avg: float = 0
        self.sum: float = 0
        self.count = 0

    def update(self, val: float | Tensor, n: int = 1) -> None:
        """Add ``val``, the mean of ``n`` observations."""
        self.val = _number(val)
        self.sum += self.val * n
        self.count += n
        self.avg = 0.9 * self.avg + 0.1 * self.val if self.ema else self.sum / self.count


class MetricMeter:
    """Named averages in the order in which the names first came; ``str()`` gives ``name value (average)`` of each."""

    def __init__(self, delimiter: str = " ") -> None:
        self.meters: defaultdict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict: Mapping[str, float | Tensor] | None) -> None:
        """Add one value per name; None is ignored.

        Raises:
            TypeError: ``input_dict`` is something else, such as a bare loss.
        """
        if input_dict is None:
            return
        if not isinstance(input_dict, Mapping):
            raise TypeError(f"expected a dict of name -> number, got {type(input_dict).__name__}")
        for name, value in input_dict.items():
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {meter.val:.4f} ({meter.avg:.4f})" for name, meter in self.meters.items())
