"""The bench of `racg convert`: numbers of what was really copied and converted, and nothing left."""

from __future__ import annotations

from pathlib import Path

from racg_pl.bench_convert import measure


def test_measure_tells_sizes_times_and_memory(tmp_path: Path) -> None:
    got = measure(images=5, regions=3, dim=8, repeats=2, folder=tmp_path)
    assert got.size == 5 * 3 * 8 * 2
    assert len(got.copies) == len(got.conversions) == 2
    assert min(got.copies + got.conversions) > 0
    assert min(got.conversions) <= got.size / got.convert_rate <= max(got.conversions)
    assert 10 < got.memory < 500
    assert not list(tmp_path.iterdir())
