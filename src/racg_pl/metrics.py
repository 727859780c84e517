"""The metric of image-text retrieval, defined once: ranks, recalls at 1, 5 and 10, median ranks, rsum, the folds of COCO 1K.

Letters: B images, C captions. `scores` [B,C] is high where image and caption belong together; `image` [C] holds each caption's
image, in any order, any number an image. The rank of a query is the number of wrong items that score at least as high as its
best right one: 0 is first, ties count against the query, and a scorer that says the same of every pair gets 0 %.

i2t: an image asks for its captions and counts as found by the best placed of them; an image without captions is no query.
t2i: a caption asks for its image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

KS = (1, 5, 10)
NO_QUERY = -1  # the i2t "rank" of an image without captions
CHUNK = 1 << 22  # pairs compared at once: the only temporary of that size


class NotFinite(ValueError):
    """A score is not a number, or infinite."""


def ranks_i2t(scores: Tensor, image: Tensor, first: int = 0) -> Tensor:
    """Ranks of images as queries, int64 [b]; `NO_QUERY` for an image without captions.

    Args:
        scores: [b,C], images `first` to `first + b - 1` against all captions: a large matrix may be ranked in blocks of rows.
        image: int [C], numbered over all images.
    Raises: NotFinite.
    """
    _check(scores, image)
    row = image - first
    own = ((row >= 0) & (row < len(scores))).nonzero()[:, 0]  # captions of an image of this block
    row = row[own]
    right = scores[row, own]
    best = scores.new_full((len(scores),), -torch.inf).scatter_reduce(0, row, right, "amax")
    ranks = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    for rows in _chunks(scores, first):
        ranks[rows] = (scores[rows] >= best[rows, None]).sum(1)
    ranks -= torch.bincount(row[right == best[row]], minlength=len(scores))  # the right ones among them
    return ranks.masked_fill_(best == -torch.inf, NO_QUERY)


def ranks_t2i(scores: Tensor, image: Tensor) -> Tensor:
    """Ranks of captions as queries, int64 [C]. A block of columns may be ranked alone, with its part of `image`.

    Args:
        scores: [B,C], all images.
        image: int [C] in 0..B-1.
    Raises: NotFinite; ValueError at a caption whose image has no row.
    """
    _check(scores, image)
    if len(image) and (image.min() < 0 or image.max() >= len(scores)):
        raise ValueError(f"expected images of captions in 0..{len(scores) - 1}, got {image.min()}..{image.max()}")
    right = scores[image, torch.arange(len(image), device=image.device)]
    ranks = torch.full_like(image, -1, dtype=torch.int64)  # the right one reaches its own score
    for rows in _chunks(scores):
        ranks += (scores[rows] >= right).sum(0)
    return ranks


def recalls_of_ranks(i2t: Tensor, t2i: Tensor) -> dict[str, float]:
    """Recalls in percent, rsum their sum, and median ranks (1 is first; of two middle ones the mean, rounded down).

    Args: ranks as `ranks_i2t` and `ranks_t2i` give them, any number of each.
    Returns: i2t_r1, i2t_r5, i2t_r10, i2t_median, the same of t2i, and rsum.
    Raises: ValueError where a direction has no query.
    """
    table: dict[str, float] = {}
    for direction, ranks in (("i2t", i2t[i2t != NO_QUERY]), ("t2i", t2i)):
        if not len(ranks):
            raise ValueError(f"{direction}: expected at least one query, got none: there are no captions")
        table |= {f"{direction}_r{k}": 100 * int((ranks < k).sum()) / len(ranks) for k in KS}
        ordered = ranks.sort().values
        table[f"{direction}_median"] = float((ordered[(len(ranks) - 1) // 2] + ordered[len(ranks) // 2]) // 2 + 1)
    table["rsum"] = sum(table[f"{direction}_r{k}"] for direction in ("i2t", "t2i") for k in KS)
    return table


def recalls(scores: Tensor, image: Tensor) -> dict[str, float]:
    """`recalls_of_ranks` of both directions of a whole matrix: scores [B,C], image int [C]."""
    return recalls_of_ranks(ranks_i2t(scores, image), ranks_t2i(scores, image))


def coco_folds(scores: Tensor, image: Tensor, folds: int = 5) -> dict[str, float]:
    """Means of `recalls` over consecutive folds of B / `folds` images, each among its own captions: COCO 1K from the 5K set.

    Raises: ValueError where B is not divisible by `folds`.
    """
    size, rest = divmod(len(scores), folds)
    if rest or not size:
        raise ValueError(f"expected a number of images that {folds} folds divide, got {len(scores)}")
    tables = []
    for first in range(0, len(scores), size):
        own = ((image >= first) & (image < first + size)).nonzero()[:, 0]
        tables.append(recalls(scores[first : first + size, own], image[own] - first))
    return {key: sum(table[key] for table in tables) / folds for key in tables[0]}


def _check(scores: Tensor, image: Tensor) -> None:
    if scores.dim() != 2 or not scores.is_floating_point():
        raise ValueError(f"expected scores [images, captions] of a float type, got {list(scores.shape)} {scores.dtype}")
    if image.shape != scores.shape[1:] or image.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"expected one integer a caption, [{scores.shape[1]}], got {list(image.shape)} {image.dtype}")


def _chunks(scores: Tensor, first: int = 0) -> Iterator[slice]:
    """Slices over the rows, each chunk checked to be finite. The error counts the bad scores of the whole matrix."""
    step = max(1, CHUNK // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        rows = slice(start, start + step)
        if not scores[rows].isfinite().all():
            bad = sum(int((~row.isfinite()).sum()) for row in scores)
            row, column = (~scores[rows].isfinite()).nonzero()[0].tolist()
            raise NotFinite(
                f"{bad} of {scores.numel()} scores are not finite; the first is {scores[start + row, column]}"
                f" for image {first + start + row} and caption {column}"
            )
        yield rows


def whole(state: Tensor | list[Tensor]) -> Tensor:
    """A state of a metric, synchronised or not; of one part no copy."""
    return state[0] if isinstance(state, list) and len(state) == 1 else dim_zero_cat(state)


class RetrievalRecalls(Metric):
    """`recalls` of a set whose images are spread over batches and processes; each scores its images against all captions.

    A distributed sampler repeats images to even out the processes; scores carry the index of their image, and repeats are
    dropped, so that any number of processes gives the number that one gives. A process without images updates with zero rows.

    Args:
        image: int [C], each caption's image.
        images: how many images there are, captions or not.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    image: Tensor
    rows: list[Tensor]
    scores: list[Tensor]

    def __init__(self, image: Tensor, images: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.images = images
        self.register_buffer("image", image, persistent=False)
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("scores", [], dist_reduce_fx="cat")

    def update(self, rows: Tensor, scores: Tensor) -> None:
        """Add images `rows`, int [b], with their scores [b,C]."""
        if scores.shape != (len(rows), len(self.image)):
            raise ValueError(f"expected scores of shape {[len(rows), len(self.image)]}, got {list(scores.shape)}")
        self.rows.append(rows.to(self.device, torch.int64))
        self.scores.append(scores.to(self.device))

    def matrix(self) -> Tensor:
        """Scores [B,C] in the order of the images: of this process; inside `compute` and `with metric.sync_context():` of all.

        Raises: ValueError where an image was not seen or does not exist. (In `update` one process would raise alone and leave
            the others waiting for it.)
        """
        rows, scores = whole(self.rows), whole(self.scores)
        order = rows.argsort(stable=True)
        rows = rows[order]
        new = torch.ones_like(rows, dtype=torch.bool)
        new[1:] = rows[1:] != rows[:-1]
        seen = rows[new]
        every = torch.arange(self.images, device=rows.device)
        if missing := every[~torch.isin(every, seen)].tolist():
            some = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
            raise ValueError(f"expected scores of all {self.images} images, {len(missing)} are missing: {some}")
        if len(seen) != self.images:
            raise ValueError(f"expected images in 0..{self.images - 1}, got {seen[0]}..{seen[-1]}")
        kept = order[new]
        return scores if len(scores) == len(kept) and torch.equal(kept, every) else scores[kept]  # a copy is as large again

    def compute(self) -> dict[str, float]:
        """`recalls` of the whole set."""
        return recalls(self.matrix(), self.image)
