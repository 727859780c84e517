"""A table as it is to be shown, whatever shows it: a head, rows of cells, and the words around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from racg_pl.ground_record import MEASURES
from racg_pl.paper.declared import Line, Table
from racg_pl.paper.grounded import baselines
from racg_pl.paper.values import COLUMNS, Measured, Value

HEADS = {f"{d}_r{k}": f"{d} R@{k}" for d in ("i2t", "t2i") for k in (1, 5, 10)} | {"rsum": "rsum"}
COST_HEADS = {
    "parameters": "parameters",
    "fit_s": "training, min",
    "pairs_per_s": "pairs a second",
    "fit_peak_mb": "training, MB",
    "test_peak_mb": "evaluation, MB",
}
NONE = "–"


class Cell(NamedTuple):
    """What stands in a cell: a text, its deviation in small, whether it is the best, and the row whose runs it comes from."""

    text: str
    small: str = ""
    bold: bool = False
    run: str = ""


class GridRow(NamedTuple):
    """The cells of a row, or, where there are none, what is to be said in their place.  published: it is of no run of ours."""

    cells: list[Cell]
    words: str = ""
    published: bool = False


@dataclass
class Grid:
    """left: how many columns are words, to the left."""

    head: list[str]
    left: int
    rows: list[GridRow]
    notes: list[str]


def anchor(table: Table, line: Line) -> str:
    """The place of a row's runs in the appendix."""
    return f"{table.data}-{line.name}"


def grid(table: Table, rows: Sequence[Measured]) -> Grid:
    if table.kind == "cost":
        return _costs(table, rows)
    if table.kind == "grounding":
        return _groundings(table, rows)
    without = any(row.line.without for row in rows)
    compared = len(rows) > 1
    words = ["method", *(["without"] if without else []), *(["text", "models", "source"] if table.published else [])]
    head = [*words, *(["parameters"] if without else []), *HEADS.values(), *(["Δ rsum [95 %]"] if compared else []), "seeds"]
    marks = _sources(table)
    shown = [_published(figures, head, marks) for figures in table.figures]
    for row in rows:
        link = anchor(table, row.line)
        named = [Cell(row.line.label + _mark(row), run=link if row.records else "")]
        named += [Cell(row.line.without or NONE)] if without else []
        named += [Cell(""), Cell("single"), Cell("")] if table.published else []
        if not row.records:
            shown.append(GridRow(named, _absent(row)))
            continue
        cells = [Cell(f"{row.records[0]['parameters']:,}", run=link)] if without else []
        cells += [_figure(row.values[name], 1, name in row.best, link) for name in COLUMNS]
        cells += [_delta(row, "rsum", link)] if compared else []
        shown.append(GridRow([*named, *cells, Cell(str(len(row.records)), run=link)]))
    return Grid(head, len(words), shown, _notes(table, rows, compared))


def _costs(table: Table, rows: Sequence[Measured]) -> Grid:
    shown = []
    for row in rows:
        link = anchor(table, row.line)
        named = [Cell(row.line.label + _mark(row), run=link if row.records else "")]
        if not row.records:
            shown.append(GridRow(named, _absent(row)))
            continue
        cells = []
        for name in COST_HEADS:
            value, scale = row.values.get(name), 60 if name == "fit_s" else 1
            if value is None:
                cells.append(Cell(NONE, run=link))
            elif name == "parameters":
                cells.append(Cell(f"{value.mean:,.0f}", run=link))
            else:
                scaled = Value(value.mean / scale, value.deviation and value.deviation / scale)
                cells.append(_figure(scaled, 1 if name == "fit_s" else 0, False, link))
        shown.append(GridRow([*named, *cells, Cell(str(len(row.records)), run=link)]))
    return Grid(["method", *COST_HEADS.values(), "seeds"], 1, shown, _notes(table, rows, False))


def _groundings(table: Table, rows: Sequence[Measured]) -> Grid:
    without, compared = any(row.line.without for row in rows), len(rows) > 1
    words = ["method", *(["without"] if without else [])]
    head, shown = [*words], []
    for name in MEASURES.values():
        head += [name, *(["Δ [95 %]"] if compared else [])]
    for row in rows:
        link = anchor(table, row.line)
        mark = _mark(row) + ("‡" if row.others else "")
        named = [Cell(row.line.label + mark, run=link if row.records else "")]
        named += [Cell(row.line.without or NONE)] if without else []
        if not row.groundings:
            shown.append(GridRow(named, _absent(row)))
            continue
        cells = []
        for name in MEASURES:
            cells += [_figure(row.values[name], 1, False, link), *([_delta(row, name, link)] if compared else [])]
        shown.append(GridRow([*named, *cells, Cell(str(len(row.groundings)), run=link)]))
    for label, values in baselines(rows).items():
        cells = [Cell(label), *([Cell(NONE)] if without else [])]
        for name in MEASURES:
            cells += [Cell(f"{values[name]:.1f}"), *([Cell(NONE)] if compared else [])]
        shown.append(GridRow([*cells, Cell(NONE)], published=True))
    return Grid([*head, "seeds"], len(words), shown, _grounding_notes(table, rows))


def _grounding_notes(table: Table, rows: Sequence[Measured]) -> list[str]:
    notes = [table.note] if table.note else []
    measured = [row for row in rows if row.groundings]
    if not measured:
        return notes + _remarks(rows)
    record = next(iter(measured[0].groundings.values()))
    label = next(row.line.label for row in rows if row.line.name == table.reference)
    commits = dict.fromkeys(record["commit"] or "none" for row in measured for record in row.groundings.values())
    notes.append(
        f"Percent of the {record['metrics']['phrases']:,} phrases of the {record['split']} split, mean ± standard deviation over "
        "seeds: the region that a phrase's words attend to most has its centre in a box of the phrase, or overlaps one."
        + (
            f" Δ: difference to {label}, with its 95 % interval by a paired bootstrap over images."
            if any(row.differences for row in rows)
            else ""
        )
    )
    notes.append(
        f"By racg ground at commit {', '.join(commits)}, of {Path(record['phrases']['file']).name} (sha256 "
        f"{record['phrases']['sha256'][:12]}); each record is ground/{table.data}/[seedN/]ROW.json in the folder of the results."
    )
    notes += _single({row.line.title: len(row.groundings) for row in measured})
    for row in measured:
        if row.others:
            of = f"seed{'s' if len(row.others) > 1 else ''} {', '.join(map(str, row.others))}"
            notes.append(
                f"‡ {row.line.title}: {of} measured on another training of this row than the one under the other tables, or on other "
                "phrases than are here now."
            )
    return notes + _remarks(rows)


def _figure(value: Value, digits: int, bold: bool, link: str) -> Cell:
    small = "" if value.deviation is None else f"±{value.deviation:,.{digits}f}"
    return Cell(f"{value.mean:,.{digits}f}", small, bold, link)


def _delta(row: Measured, name: str, link: str) -> Cell:
    if name not in row.differences:
        return Cell(NONE)
    mean, low, high = (f"{value + 0.0:+.1f}".replace("-", "−") for value in row.differences[name])
    return Cell(mean, f"[{low}, {high}]", run=link)


def _sources(table: Table) -> dict[str, str]:
    """Where published figures were read, each with its number."""
    read = dict.fromkeys(figures["read_from"] for figures in table.figures if figures["rsum"])
    return {source: f"[{place}]" for place, source in enumerate(read, start=1)}


def _published(figures: Mapping[str, str], head: Sequence[str], marks: Mapping[str, str]) -> GridRow:
    named = [Cell(figures["method"]), Cell(figures["text_encoder"]), Cell(figures["models"])]
    if not figures["rsum"]:
        return GridRow([*named, Cell("")], figures["read_from"], True)
    cells = [Cell(marks[figures["read_from"]]), *(Cell(figures[name]) for name in COLUMNS)]
    return GridRow([*named, *cells, *([Cell("")] * (len(head) - len(named) - len(cells)))], published=True)


def _mark(row: Measured) -> str:
    return "†" if row.stale else ""


def _absent(row: Measured) -> str:
    needs = next((state.why for state in row.states if state.kind == "needs"), "")
    if needs or not row.left_out:
        return f"not run: needs {needs}" if needs else "not run yet"
    return f"left out, since {next(iter(row.left_out.values()))}"


def _notes(table: Table, rows: Sequence[Measured], compared: bool) -> list[str]:
    """How to read the figures, said only where there is something to read."""
    notes = [table.note] if table.note else []
    if sources := _sources(table):
        notes.append("Sources: " + "; ".join(f"{mark} {source}" for source, mark in sources.items()) + ".")
    measured = [row for row in rows if row.records]
    if not measured:
        return notes
    first = measured[0].records[0]
    if table.kind == "cost":
        threads = sorted({record["threads"] for row in measured for record in row.records})
        each = f"{' or '.join(map(str, threads))} thread{'s' if threads != [1] else ''}"
        notes.append(
            "Mean ± standard deviation over seeds. Training time by the wall, evaluation not included; pairs scored a second; the most "
            f"memory that a process had resident. Each run had {each}. Parameters are exact; times and memory hang on the "
            "machine and on what ran beside, which differ by run."
        )
    else:
        dev = "; there is no test split here, and the checkpoint was chosen on this one" if first["split"] == "dev" else ""
        notes.append(
            f"The {first['split']} split: {first['images']:,} images and {first['captions']:,} captions{dev}. Recalls in percent, mean ± "
            "standard deviation over seeds."
        )
        if compared and len(measured) > 1:
            label = next(row.line.label for row in rows if row.line.name == table.reference)
            notes.append(
                f"Δ: difference to {label}, with its 95 % interval by a paired bootstrap over the images of the split, of hits averaged "
                "over seeds. Bold: the best of its column, where that interval leaves zero out against every other row here."
            )
    return notes + _single({row.line.title: len(row.records) for row in measured}) + _remarks(measured)


def _single(seeds: Mapping[str, int]) -> list[str]:
    """On rows, by how many seeds each has, that have one beside others that have more."""
    single = [title for title, number in seeds.items() if number == 1]
    return [f"One seed only: {', '.join(single)}."] if single and max(seeds.values()) > 1 else []


def _remarks(rows: Sequence[Measured]) -> list[str]:
    """On runs that are stale, and those that do not count."""
    notes = [f"† {row.line.title}: stale, since {stale[0].why}." for row in rows if (stale := row.stale)]
    counted = [row for row in rows if row.records]
    return notes + [
        f"Left out: {row.line.title}, seed {seed}, since {why}." for row in counted for seed, why in row.left_out.items()
    ]
