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
from racg_pl.gallery import Gallery
from racg_pl.method import Encoded, Method
from racg_pl.metrics import KS, NO_QUERY, recalls_of_ranks
from racg_pl.scoring import Progress

CANDIDATES = 128
BLOCK = 128  # candidates that are encoded and scored at a time


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
                "two-stage retrieval: expected a method with pooled embeddings, got one without; "
                "use RACG with aggregation on, VSE∞, SAF or SGR"
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
    found = (nodes(block) for block in candidates.split(BLOCK))
    scores = torch.cat(
        [(model.score(query, some) if image else model.score(some, query)).flatten().float().cpu() for some in found]
    )
    best = scores.argsort(descending=True, stable=True)
    return scores[best], candidates[best]


def first_stage_recall(found: Tensor, right: list[set[int]]) -> float:
    """Percent of the queries whose candidates [Q,k] hold a right one: what the second stage can reach at most."""
    hits = [bool(wanted.intersection(row)) for row, wanted in zip(found.tolist(), right, strict=True)]
    return 100 * sum(hits) / len(hits)


@torch.inference_mode()
def evaluate(
    model: Method, images: Gallery, texts: Gallery, image: Tensor, k: int = CANDIDATES, progress: Progress | None = None
) -> dict[str, Any]:
    """Recalls of both directions when only k candidates of a query are scored, and their ceilings, the first stage's recalls at k.

    An item that the first stage misses ranks behind the whole gallery, where no recall counts it.

    Args:
        images, texts: of a split, in its order.  image: int [C], each caption's image.  progress: called with queries just answered.
    Raises: DataError without FAISS or pooled embeddings.
    """
    ranks, ceilings = [], {}
    for name, queries, gallery in (("i2t", images, texts), ("t2i", texts, images)):
        index = PooledIndex(gallery.pooled.shape[1])
        index.add(gallery.pooled)
        found = index.search(queries.pooled, k)
        rank = torch.full((len(queries),), len(gallery) + max(KS))
        right = [set[int]() for _ in range(len(queries))]
        for caption, row in enumerate(image.tolist()):
            right[row if name == "i2t" else caption].add(caption if name == "i2t" else row)
        for query, wanted in enumerate(right):
            one = queries.take(slice(query, query + 1))
            scores, candidates = rerank(model, one, found[query], gallery.take, image=name == "i2t")
            own = torch.tensor([candidate in wanted for candidate in candidates.tolist()])
            if own.any():
                rank[query] = (scores[~own] >= scores[own].max()).sum()
            if not wanted:
                rank[query] = NO_QUERY
            if progress:
                progress(1)
        asked = [query for query, wanted in enumerate(right) if wanted]
        ranks.append(rank)
        ceilings[f"{name}_ceiling"] = first_stage_recall(found[asked], [right[query] for query in asked])
    return {"candidates": k, **ceilings, "metrics": recalls_of_ranks(*ranks)}
