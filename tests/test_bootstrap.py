"""bootstrap.py against the exact distribution of all resamples, and against what theory says of its width."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from racg_pl.bootstrap import difference, drawn_recalls, paired_bootstrap, rsum_bootstrap
from racg_pl.metrics import KS, NO_QUERY


def test_interval_is_that_of_all_resamples() -> None:
    random = np.random.default_rng(0)
    a, b = random.random((2, 6, 3))
    means = [np.mean([(a[q] - b[q]).sum() for q in draw]) for draw in itertools.product(range(6), repeat=6)]
    got = paired_bootstrap(a, b, draws=40000)
    assert got.mean == pytest.approx((a - b).sum() / 6)
    assert (got.low, got.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


def rsum_of(i2t: list[int], t2i: list[int]) -> float:
    return sum(100 * np.mean([rank < k for rank in ranks]) for ranks in (i2t, t2i) for k in (1, 5, 10))


def test_rsum_interval_is_that_of_all_resamples_of_images_with_their_captions() -> None:
    image = [0, 3, 0, 1, 3, 3, 4, 2, 0]  # nobody speaks of image 5; unequal counts, no order
    a = ([0, 12, 3, 0, 5, NO_QUERY], [0, 7, 2, 0, 15, 0, 9, 3, 1])
    b = ([0, 2, 30, 6, 0, NO_QUERY], [4, 7, 0, 0, 11, 6, 30, 0, 0])
    values = []
    for draw in itertools.product(range(5), repeat=5):
        captions = [c for i in draw for c, owner in enumerate(image) if owner == i]
        rsums = [rsum_of([run[0][i] for i in draw], [run[1][c] for c in captions]) for run in (a, b)]
        values.append(rsums[0] - rsums[1])
    got = rsum_bootstrap(a, b, image, draws=40000)
    assert got.mean == pytest.approx(rsum_of(a[0][:5], a[1]) - rsum_of(b[0][:5], b[1]))
    assert (got.low, got.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=4)  # of an interval 450 wide


def test_width_is_the_normal_one_and_pairing_makes_it_narrow() -> None:
    random = np.random.default_rng(1)
    a = random.random(4000) < 0.6
    b = a ^ (random.random(4000) < 0.05)  # differs on one query in twenty
    got = paired_bootstrap(a, b, draws=4000)
    error = np.std(a.astype(float) - b) / np.sqrt(4000)
    assert got.high - got.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    unpaired = np.sqrt((a.var() + b.var()) / 4000)
    assert error < unpaired / 2


def test_captions_of_an_image_are_no_independent_queries() -> None:
    random = np.random.default_rng(2)
    a, b = random.random((2, 300)) < 0.5
    once = paired_bootstrap(a, b)
    cluster = np.repeat(np.arange(300), 5)
    assert paired_bootstrap(a[cluster], b[cluster], clusters=cluster) == pytest.approx(once)
    order = random.permutation(1500)
    assert paired_bootstrap(a[cluster][order], b[cluster][order], clusters=cluster[order]) == pytest.approx(once)
    alone = paired_bootstrap(a[cluster], b[cluster])
    assert (alone.high - alone.low) * 2 < once.high - once.low  # √5 too narrow


def test_equal_runs_are_not_separated_and_swapping_changes_the_sign() -> None:
    random = np.random.default_rng(3)
    image = np.repeat(np.arange(200), 5)
    a, b = ((random.integers(0, top, 200), random.integers(0, top, 1000)) for top in (20, 50))
    same = rsum_bootstrap(a, a, image)
    assert same == (0, 0, 0)
    assert not same.separated
    forth, back = rsum_bootstrap(a, b, image), rsum_bootstrap(b, a, image)
    assert forth == pytest.approx((-back.mean, -back.high, -back.low))
    assert forth.separated
    assert forth.low < forth.mean < forth.high
    assert forth == rsum_bootstrap(a, b, image)
    assert forth != rsum_bootstrap(a, b, image, seed=1)


def test_two_thousand_draws_take_under_two_seconds() -> None:
    random = np.random.default_rng(4)
    runs = [(random.integers(0, 50, 1000), random.integers(0, 50, 5000)) for _ in range(2)]
    start = time.process_time()
    rsum_bootstrap(*runs, np.repeat(np.arange(1000), 5))
    assert time.process_time() - start < 2


def test_queries_must_be_the_same() -> None:
    with pytest.raises(ValueError, match=r"same queries, got \[3\] and \[4\]"):
        paired_bootstrap(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(4,\), got \(2,\) and \(3,\)"):
        rsum_bootstrap(([0, 0], [0] * 4), ([0, 0], [0] * 3), [0, 0, 1, 1])


def test_many_runs_at_once_differ_as_two_do():
    random = np.random.default_rng(3)
    image = np.repeat(np.arange(40), random.integers(0, 6, size=40))
    runs = [(random.integers(15, size=40), random.integers(15, size=len(image))) for _ in range(3)]
    hits = [tuple(ranks[:, None] < np.array(KS) for ranks in run) for run in runs]
    drawn = drawn_recalls(hits, image, draws=500)
    assert drawn.shape == (3, 501, 7)
    for a, b in ((0, 1), (2, 0)):
        want = rsum_bootstrap(runs[a], runs[b], image, draws=500)
        np.testing.assert_allclose(difference(drawn[a, :, 6], drawn[b, :, 6]), want)
    np.testing.assert_allclose(drawn[1, 0, 4], 100 * (runs[1][1] < 5).mean())
