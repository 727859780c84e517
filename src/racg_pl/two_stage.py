"""Retrieval from galleries too large to score whole: pooled embeddings find candidates, the cross graph scores those alone.

Not exact: what the first stage misses cannot come back. Its recall at k is the ceiling of what follows, and is reported apart.
Needs the extra `search` (FAISS). Letters: Q queries, G items of the gallery, P width of a pooled embedding, k candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from racg_pl.errors import DataError
from racg_pl.method import Encoded, Method

CANDIDATES = 128


class PooledIndex:
    """Pooled embeddings by inner product, every one compared, held in half precision: 2 P bytes an item."""

    def __init__(self, dim: int) -> None:
        try:
            import faiss
        except ImportError as error:
            raise DataError(
                "two-stage retrieval: expected FAISS, which is not installed; pip install 'racg_pl[search]'"
            ) from error
        if dim < 1:
            raise DataError(
                f"two-stage retrieval: expected pooled embeddings, got width {dim}; use a model with aggregation on"
            )
        self.index: Any = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self.index.train(np.zeros((1, dim), np.float32))

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def add(self, pooled: Tensor) -> None:
        """Items in order, [n,P]."""
        self.index.add(pooled.detach().float().cpu().numpy())

    def search(self, pooled: Tensor, k: int = CANDIDATES) -> Tensor:
        """The k nearest of each query [Q,P], best first: int64 [Q,k], fewer where the gallery is smaller."""
        return torch.from_numpy(self.index.search(pooled.detach().float().cpu().numpy(), min(k, len(self)))[1])


@torch.inference_mode()
def rerank(
    model: Method, query: Encoded, candidates: Tensor, nodes: Callable[[Tensor], Encoded], *, image: bool
) -> tuple[Tensor, Tensor]:
    """Candidates of one query by the whole score, best first: scores [k] and candidates [k].

    Args:
        query: one encoded item.  candidates: [k], of the gallery.  nodes: gives the encoded items of such an index, from memory or read
            and encoded on demand.  image: whether the query is an image and the gallery holds captions.
    """
    found = nodes(candidates)
    scores = (model.score(query, found) if image else model.score(found, query)).flatten().float().cpu()
    best = scores.argsort(descending=True, stable=True)
    return scores[best], candidates[best]


def first_stage_recall(found: Tensor, right: list[set[int]]) -> float:
    """Percent of the queries whose candidates [Q,k] hold a right one: what the second stage can reach at most."""
    hits = [bool(wanted.intersection(row)) for row, wanted in zip(found.tolist(), right, strict=True)]
    return 100 * sum(hits) / len(hits)
