"""Measures over several results."""


def harmonic_mean(base: float, new: float) -> float:
    """HM, the harmonic mean of the accuracies on base and on new classes: ``2 b n / (b + n)``, 0 where both are."""
    return 2 * base * new / (base + new) if base + new else 0.0
