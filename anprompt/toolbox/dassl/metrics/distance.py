from torch import Tensor
from torch.nn.functional import normalize


def compute_distance_matrix(input1: Tensor, input2: Tensor, metric: str = "euclidean") -> Tensor:
    """Distances ``[M, N]`` between the rows of ``[M, D]`` and ``[N, D]``.

    Args:
        metric: ``euclidean`` (squared) or ``cosine``.

    Raises:
        ValueError: another metric.
    """
    if metric == "euclidean":
        return euclidean_squared_distance(input1, input2)
    if metric == "cosine":
        return cosine_distance(input1, input2)
    raise ValueError(f"metric: expected euclidean or cosine, got {metric!r}")


def euclidean_squared_distance(input1: Tensor, input2: Tensor) -> Tensor:
    """``|a - b|^2`` of all pairs of rows, ``[M, N]``."""
    return (input1[:, None] - input2[None]).square().sum(dim=-1)


def cosine_distance(input1: Tensor, input2: Tensor) -> Tensor:
    """``1 - cos(a, b)`` of all pairs of rows, ``[M, N]``."""
    return 1 - normalize(input1, dim=1) @ normalize(input2, dim=1).T
