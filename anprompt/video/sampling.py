"""Which frames of a clip are taken: indices from 0, of ``n`` frames, for ``T`` that a model sees."""

from __future__ import annotations

import torch


def train_indices(n: int, T: int, generator: torch.Generator | None = None) -> list[int]:
    """One frame at random of each of ``T`` equal segments, ``[i*n//T, (i+1)*n//T)``.

    A clip of fewer frames gives all of them, and random ones again; in order.

    Args:
        generator: draws; None: PyTorch's global one, which loaders seed in their workers.
    """
    _require_frames(n)
    if n <= T:
        return sorted([*range(n), *_below(n, T - n, generator)])
    bounds = [i * n // T for i in range(T + 1)]
    share = torch.rand(T, generator=generator, dtype=torch.float64).tolist()
    return [low + int(u * (high - low)) for low, high, u in zip(bounds, bounds[1:], share, strict=False)]


def train_indices_vifi(n: int, T: int, generator: torch.Generator | None = None) -> list[int]:
    """ViFi-CLIP's: intervals of ``n//T`` frames from the first on, one frame at random of each.

    The last ``n % T`` frames are never taken; a clip of fewer frames gives the starts of ``T`` equal segments.
    """
    _require_frames(n)
    interval = n // T
    if not interval:
        return [i * n // T for i in range(T)]
    return [i * interval + offset for i, offset in enumerate(_below(interval, T, generator))]


def test_indices(n: int, T: int, sampling: str = "center", clips: int = 1) -> list[list[int]]:
    """Frames of ``clips`` views: of ``T * clips`` equal segments, view ``v`` takes every ``clips``-th from ``v`` on.

    Args:
        sampling: of each segment the frame at its ``center`` (ViFi-CLIP) or its ``start`` (GA2-CLIP's release).

    Returns:
        ``clips`` lists of ``T`` indices.
    """
    _require_frames(n)
    half = {"start": 0, "center": 1}[sampling]
    segments = T * clips
    return [[(2 * i + half) * n // (2 * segments) for i in range(view, segments, clips)] for view in range(clips)]


test_indices.__test__ = False  # type: ignore[attr-defined]  # no test, for all its name


def _below(bound: int, count: int, generator: torch.Generator | None) -> list[int]:
    return torch.randint(bound, (count,), generator=generator).tolist()


def _require_frames(n: int) -> None:
    if n < 1:
        raise ValueError(f"expected a clip of at least one frame, got {n}")
