"""The numbers of a table: means and deviations over seeds, and what a paired bootstrap over the queries says of their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from racg_pl.bootstrap import Difference, difference, drawn_recalls
from racg_pl.errors import DataError
from racg_pl.paper.declared import Line, Table
from racg_pl.paper.state import UNFOLDED, Ground, State, in_folds
from racg_pl.tables import KS, RECALLS, unpacked

OTHERS = "it was run on other data"
COLUMNS = (*RECALLS, "rsum")
COSTS = {  # of a record
    "parameters": lambda record: record["parameters"],
    "fit_s": lambda record: record["wall_time_s"]["fit"],
    "pairs_per_s": lambda record: record.get("cost", {}).get("test_pairs_per_s") or None,
    "fit_peak_mb": lambda record: record.get("cost", {}).get("fit_peak_mb"),
    "test_peak_mb": lambda record: record.get("cost", {}).get("test_peak_mb"),
}


class Value(NamedTuple):
    """A mean over seeds and its deviation, which one seed has none of."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Value:
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


@dataclass
class Measured:
    """A row of a table with the runs that are there.  left_out: by seed, why one of them does not count in it."""

    line: Line
    states: list[State]
    left_out: dict[int, str] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    best: set[str] = field(default_factory=set)  # columns in which every other row lies below, by the interval
    differences: dict[str, Difference] = field(default_factory=dict)  # to the reference, by column
    groundings: dict[int, dict[str, Any]] = field(default_factory=dict)  # by seed what racg ground found, see grounded.py
    others: list[int] = field(default_factory=list)  # seeds of these that are of another training, or of other phrases

    @property
    def records(self) -> list[dict[str, Any]]:
        return [state.record for state in self.counted if state.record]

    @property
    def counted(self) -> list[State]:
        return [state for state in self.states if state.record and state.spec.seed not in self.left_out]

    @property
    def stale(self) -> list[State]:
        return [state for state in self.counted if state.kind == "stale"]


def measure(ground: Ground, table: Table, seeds: Sequence[int]) -> list[Measured]:
    """The rows of a table in their order, those without a run too. seeds: besides those declared, where they have run."""
    rows = declared_rows(ground, table, seeds)
    _leave_out(rows, ground, table)
    for row in rows:
        if row.records and table.kind == "cost":
            every = {name: [get(record) for record in row.records] for name, get in COSTS.items()}
            row.values = {name: Value.of(values) for name, values in every.items() if None not in values}
        elif row.records:
            metrics = [_metrics(record, table.folds) for record in row.records]
            row.values = {name: Value.of([metric[name] for metric in metrics]) for name in COLUMNS}
    if table.kind != "cost":
        _compare([row for row in rows if row.records], table)
    return rows


def declared_rows(ground: Ground, table: Table, seeds: Sequence[int]) -> list[Measured]:
    """The rows of a table in their order with what is known of their runs, and nothing measured."""
    rows = []
    for line in table.lines:
        states = [ground.state(table, line, seed) for seed in dict.fromkeys((*line.seeds, *seeds))]
        rows.append(Measured(line, [state for state in states if state.record or state.spec.seed in line.seeds]))
    return rows


def _leave_out(rows: Sequence[Measured], ground: Ground, table: Table) -> None:
    """Runs without the folds of the table, and those of other data than the rest of their row.

    Of a row's runs those on the data of now stay where there are any, else those on the data that most runs of the table had.
    """
    for row in rows:
        row.left_out = {s.spec.seed: UNFOLDED for s in row.counted if s.record and not in_folds(s.record, table.folds)}
    every = [_queries(record) for row in rows for record in row.records]
    try:
        now = set(map(str, ground.plan(table.data).hashes.values()))
    except DataError:  # not here
        now = set()
    for row in rows:
        chosen = max(map(_queries, row.records), key=lambda one: (one[1] in now, every.count(one)), default=None)
        row.left_out |= {s.spec.seed: OTHERS for s in row.counted if s.record and _queries(s.record) != chosen}


def _queries(record: Mapping[str, Any]) -> tuple[int, str]:
    """To what a run's recalls are answers: the number of images, and the hashes of the split."""
    return len(record["found"]["i2t"]), str(record["hashes"].get(record["split"]))


def _part(record: Mapping[str, Any], folds: int) -> Mapping[str, Any]:
    return record["folds"] if folds > 1 else record


def _metrics(record: Mapping[str, Any], folds: int) -> Mapping[str, float]:
    return _part(record, folds)["metrics"]


def _compare(rows: Sequence[Measured], table: Table) -> None:
    """Set differences to the reference, and the best of each column where its interval to every other row leaves zero out."""
    asked = {_queries(record) for row in rows for record in row.records}
    if len(rows) < 2 or len(asked) > 1:  # answers to other queries are not compared
        return
    hits, image = [], np.zeros(0, np.int64)
    for row in rows:
        levels, image = _hits([_part(record, table.folds)["found"] for record in row.records])
        hits.append(levels)
    drawn = drawn_recalls(hits, image)
    for row, own in zip(rows, drawn, strict=True):
        for other, theirs in zip(rows, drawn, strict=True):
            if other.line.name == table.reference and row is not other:
                row.differences["rsum"] = difference(own[:, -1], theirs[:, -1])
    for column, name in enumerate(COLUMNS):
        first = int(np.argmax(drawn[:, 0, column]))
        others = [difference(drawn[first, :, column], drawn[k, :, column]) for k in range(len(rows)) if k != first]
        if all(other.low > 0 for other in others):
            rows[first].best.add(name)


def _hits(found: Sequence[Mapping[str, str]]) -> tuple[tuple[NDArray, NDArray], NDArray]:
    """Hits of images [B,K] and captions [C,K], the mean over seeds, and each caption's image."""
    arrays = [unpacked(one) for one in found]
    i2t, t2i = (np.mean([array[d][:, None] < np.array(KS) for array in arrays], 0) for d in ("i2t", "t2i"))
    return (i2t, t2i), arrays[0]["image"]
