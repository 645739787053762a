"""How tokens are compared, in float32, for the methods of other papers.

Decisions follow bit-equal tokens: equal tokens get equal similarities, and the earliest of equals
wins wherever something is best, highest or lowest. Products of whole sets are summed in float64 and
rounded once, because a float32 product of equal rows can differ by the tile that they fall into,
and a user may allow TF32 for it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cosine(a: Tensor, b: Tensor, least: float = 1e-8) -> Tensor:
    """[...] float32: the cosine of a and b [..., C]; the product of norms divides, each at least
    ``least``."""
    a, b = a.float(), b.float()
    norms = a.norm(dim=-1).clamp(min=least) * b.norm(dim=-1).clamp(min=least)
    return (a * b).sum(dim=-1) / norms


def cosines(a: Tensor, b: Tensor, least: float = 1e-8) -> Tensor:
    """[..., I, J] float32: the cosine of each of a [..., I, C] with each of b [..., J, C]."""
    a, b = unit(a, least).double(), unit(b, least).double()
    return (a @ b.transpose(-1, -2)).float()


def unit(x: Tensor, least: float = 1e-12) -> Tensor:
    """x [..., C] in float32 divided by its norms, each at least ``least``."""
    x = x.float()
    return x / x.norm(dim=-1, keepdim=True).clamp(min=least)


def lowest_in_rows(scores: Tensor, counts: Tensor) -> Tensor:
    """[R, S] bool: in each row of ``scores`` [R, S] its ``counts`` [R] lowest, of equals the
    earlier ones."""
    order = torch.sort(scores, dim=-1, stable=True).indices
    ranks = torch.empty_like(order)
    ranks.scatter_(-1, order, torch.arange(scores.shape[-1], device=scores.device).expand_as(order))
    return ranks < counts[:, None]


def density_scores(points: Tensor, num_neighbors: int) -> tuple[Tensor, Tensor]:
    """Density-peak clustering (Du et al., 2016) up to its scores, as the papers that are compared
    with here have it.

    It is :func:`prunevid_kernels.dpc_knn` but for points of equal density: there the earlier one
    counts as denser, here neither does, so that each of them keeps its distance to a denser one.

    Args:
        points: [..., n, C].
        num_neighbors: of which the density is the mean, the point itself included; at most n.

    Returns:
        scores [..., n] float32, and distances [..., n, n] float32: Euclidean, divided by
        ``sqrt(C)``.
    """
    x = points.float()
    # Lengths of differences, so that equal points are at distance 0 exactly.
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / x.shape[-1] ** 0.5
    nearest = distance.topk(min(num_neighbors, x.shape[-2]), dim=-1, largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()
    is_denser = density[..., None, :] > density[..., :, None]  # [i, j]: j is denser than i
    nearest_denser = distance.masked_fill(~is_denser, torch.inf).amin(dim=-1)
    farthest = distance.amax(dim=(-2, -1))[..., None].expand_as(density)
    return density * torch.where(is_denser.any(dim=-1), nearest_denser, farthest), distance


def group_means(x: Tensor, labels: Tensor, count: int) -> Tensor:
    """[count, C] float32: the mean of the rows of x [M, C] with each label; 0 where there is none.

    Args:
        x: [M, C].
        labels: [M] int64 in [-1, count); -1: of no group.
        count: groups.
    """
    rows = torch.where(labels < 0, count, labels)
    sums = torch.zeros(count + 1, x.shape[-1], dtype=torch.float64, device=x.device)
    sums.index_add_(0, rows, x.double())
    sizes = torch.bincount(rows, minlength=count + 1)[:, None]
    return (sums / sizes.clamp(min=1))[:count].float()


def frame_similarity(frames: Tensor) -> Tensor:
    """[T - 1] float32: the cosine of each frame's descriptor [T, C] with the next one's."""
    return cosine(frames[:-1], frames[1:])


def runs(is_cut: Tensor) -> list[tuple[int, int]]:
    """(start, stop) of the segments of a video, cut behind the frames where ``is_cut`` [T - 1]."""
    cuts = (is_cut.nonzero()[:, 0] + 1).tolist()
    return list(zip([0, *cuts], [*cuts, len(is_cut) + 1], strict=True))
