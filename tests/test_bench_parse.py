"""The bench of parsing: parts that were really run, and a rate of processes that really parsed."""

from __future__ import annotations

from racg_pl.bench_parse import measure


def test_measure_tells_each_part_and_the_whole() -> None:
    got = measure(["two dogs run after a ball", "a cat sleeps", "a cat sleeps"] * 20, jobs=1)
    assert (got.captions, got.distinct, got.jobs) == (60, 2, 1)
    assert list(got.parts) == ["words", "tok2vec", "morphologizer", "parser", "graphs, arrays, batches"]
    assert min(got.parts[name] for name in ("words", "tok2vec", "parser")) > 0
    assert max(got.parts.values()) < got.whole
    assert f"= {60 / got.whole:,.0f} captions a processor second" in str(got)
