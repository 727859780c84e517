"""Paired bootstrap over the test queries: is one run above another, or could the choice of test images have done it?

Both runs answer the same queries, so a draw resamples queries and takes both runs' answers to them. Captions of one image are
no independent queries (a picture that is hard to find is hard for all five), so what is resampled, with replacement, is images,
each with all of its queries. Resampling captions one by one would print intervals that are too narrow. Seeds of training are
another source of spread, which these intervals do not cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from racg_pl.metrics import KS

BLOCK = 1 << 20  # images drawn at once


class Difference(NamedTuple):
    """A minus B: over the test set as it is, and the central 95 % of the draws."""

    mean: float
    low: float
    high: float

    @property
    def separated(self) -> bool:
        """Whether zero lies outside the interval."""
        return not self.low <= 0 <= self.high


def paired_bootstrap(
    hits_a: ArrayLike, hits_b: ArrayLike, draws: int = 2000, seed: int = 0, clusters: ArrayLike | None = None
) -> Difference:
    """Difference of the mean, over queries, of the hits' sum over columns, in the hits' unit.

    Args:
        hits_a, hits_b: [Q] or [Q,K], bool or float; row q of both belongs to query q, columns are levels such as R@1, R@5.
        clusters: int [Q], queries of equal number are drawn together, such as captions by their image; by default each alone.
    """
    a, b = (np.asarray(hits, np.float64) for hits in (hits_a, hits_b))
    if a.shape != b.shape or a.ndim not in (1, 2) or not a.size:
        raise ValueError(f"expected hits [Q] or [Q,K] of the same queries, got {list(a.shape)} and {list(b.shape)}")
    gain = (a - b).reshape(len(a), -1).sum(1)
    _, cluster = np.unique(np.arange(len(a)) if clusters is None else np.asarray(clusters), return_inverse=True)
    return _bootstrap(np.bincount(cluster, gain)[:, None], np.bincount(cluster)[:, None], draws, seed)


def rsum_bootstrap(
    ranks_a: tuple[ArrayLike, ArrayLike],
    ranks_b: tuple[ArrayLike, ArrayLike],
    image: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """Difference of rsum; a draw resamples images as queries, each with its captions as queries, among the whole gallery.

    Args:
        ranks_a, ranks_b: of one run each, `ranks_i2t` [B] and `ranks_t2i` [C].
        image: int [C], each caption's image.
    """
    images = np.asarray(image)
    captions = np.bincount(images, minlength=np.size(ranks_a[0]))
    queries = captions > 0  # an image without captions asks nothing, and is asked for by nobody
    wanted, totals = ((len(captions),), (len(images),)), []
    for i2t, t2i in (ranks_a, ranks_b):
        given = np.shape(i2t), np.shape(t2i)
        if given != wanted:
            raise ValueError(f"expected ranks of shapes {wanted[0]} and {wanted[1]}, got {given[0]} and {given[1]}")
        found_images, found_captions = ((np.asarray(ranks)[:, None] < np.array(KS)).sum(1) for ranks in (i2t, t2i))
        totals.append(np.stack([found_images, np.bincount(images, found_captions, len(captions))], 1)[queries])
    sizes = np.stack([np.ones(len(captions)), captions], 1)[queries]
    return _bootstrap(100 * (totals[0] - totals[1]), sizes, draws, seed)


def drawn_recalls(
    hits: Sequence[tuple[ArrayLike, ArrayLike]], image: ArrayLike, draws: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """Recalls of several runs over the test set as it is, and over draws that all of them share: [runs, 1 + draws, 2 K + 1].

    The last axis holds the K recalls of i2t, those of t2i, and their sum, in percent. The difference of any two runs in any of them,
    with its interval, is `difference` of two slices.

    Args:
        hits: of each run, those of images [B,K] and of captions [C,K]: bool, or the mean over seeds.  image: int [C].
    """
    images = np.asarray(image)
    captions = np.bincount(images, minlength=len(np.asarray(hits[0][0])))
    queries, columns = captions > 0, []
    for i2t, t2i in hits:
        of_captions = np.stack([np.bincount(images, column, len(captions)) for column in np.asarray(t2i, np.float64).T], 1)
        columns.append(np.concatenate([np.asarray(i2t, np.float64), of_captions], 1)[queries])
    sizes = np.stack([np.ones(len(captions)), captions], 1)[queries]
    rows, levels, random, values = len(sizes), columns[0].shape[1] // 2, np.random.default_rng(seed), []
    every = np.concatenate([sizes, *columns], 1)
    for start in range(0, draws, step := max(1, BLOCK // rows)):
        drawn = random.integers(rows, size=(min(step, draws - start), rows))
        drawn += rows * np.arange(len(drawn))[:, None]
        values.append(np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape) @ every)
    totals = np.concatenate([every.sum(0)[None], *values])
    recalls = 100 * totals[:, 2:].reshape(len(totals), len(columns), 2, levels) / totals[:, None, :2, None]
    recalls = recalls.reshape(len(totals), len(columns), 2 * levels).swapaxes(0, 1)
    return np.concatenate([recalls, recalls.sum(2, keepdims=True)], 2)


def difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> Difference:
    """a − b of two runs' values of one kind by `drawn_recalls`, [1 + draws] each."""
    low, high = np.quantile(a[1:] - b[1:], [0.025, 0.975])
    return Difference(float(a[0] - b[0]), float(low), float(high))


def _bootstrap(gains: NDArray[np.number], sizes: NDArray[np.number], draws: int, seed: int) -> Difference:
    """Of Σ_s (Σ gains[:, s] / Σ sizes[:, s]) with rows drawn with replacement; gains and sizes [G,S], sizes positive."""
    both = np.concatenate([gains, sizes], 1)
    rows, random, values = len(both), np.random.default_rng(seed), []
    for start in range(0, draws, step := max(1, BLOCK // rows)):
        drawn = random.integers(rows, size=(min(step, draws - start), rows))
        drawn += rows * np.arange(len(drawn))[:, None]  # one bincount for all draws
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        gain, size = np.split(times @ both, 2, axis=1)
        values.append((gain / size).sum(1))
    low, high = np.quantile(np.concatenate(values), [0.025, 0.975])
    gain, size = np.split(both.sum(0), 2)
    return Difference(float((gain / size).sum()), float(low), float(high))
