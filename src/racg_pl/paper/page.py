"""One HTML page with all tables, figures and pictures, and an appendix of the runs under them. It needs nothing but itself."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from racg_pl.errors import writing
from racg_pl.paper.appendix import LEFT, appendix
from racg_pl.paper.declared import Line, Table
from racg_pl.paper.figures import figure, panels
from racg_pl.paper.grid import Cell, Grid, anchor, grid
from racg_pl.paper.grounded import measure_grounding
from racg_pl.paper.markup import comma_separated, latex, markdown
from racg_pl.paper.pictures import pictures
from racg_pl.paper.state import Ground, State
from racg_pl.paper.values import Measured, measure
from racg_pl.written import write_whole

STYLE = Path(__file__).with_name("style.css")


def write_page(ground: Ground, seeds: Sequence[int]) -> list[Path]:
    """Write OUT/tables/ID.{md,tex,csv}, figures of sensitivities, and OUT/tables.html. Returns: the paths.

    seeds: shown where they have run, beside those declared.
    """
    folder, sections, contents, written = ground.out / "tables", list[str](), list[str](), list[Path]()
    with writing(ground.out):
        folder.mkdir(parents=True, exist_ok=True)
    shown: dict[str, tuple[Table, Line, list[State]]] = {}

    def write(path: Path, content: bytes) -> None:
        with writing(path):
            write_whole(path, content)
        written.append(path)

    for table in ground.tables:
        rows = (measure_grounding if table.kind == "grounding" else measure)(ground, table, seeds)
        for row in rows:
            if row.records:
                shown.setdefault(anchor(table, row.line), (table, row.line, row.states))
        if table.kind == "pictures":
            body = pictures(ground, table, rows)
        else:
            made = grid(table, rows)
            for kind, text in (
                ("md", markdown(table, made)),
                ("tex", latex(table, made)),
                ("csv", comma_separated(table, rows)),
            ):
                write(folder / f"{table.id}.{kind}", text.encode())
            body = table_html(made) + "".join(f'<p class="note">{html.escape(note)}</p>' for note in made.notes)
            if table.kind == "sensitivity":
                for kind, image in figure(table, rows).items():
                    write(folder / f"{table.id}.{kind}", image)
                body = _figure(table, rows) + body
        title = f'<span class="number">Table {table.number}</span>{html.escape(table.title)}'
        where = f' <span class="number">{html.escape(table.data)}</span>' if table.split else ""
        sections.append(f'<section id="table-{table.id}">\n<h2>{title}{where}</h2>\n{body}\n</section>')
        contents.append(_entry(table, rows))
    write(ground.out / "tables.html", _page(contents, sections, appendix(shown)).encode())
    return written


def _page(contents: Sequence[str], sections: Sequence[str], runs: str) -> str:
    lead = (
        "Each figure leads to the runs that it comes from: command, configuration, seed, commit and data, in the appendix. "
        "† marks runs whose code, configuration or data have changed since, unless a short training has confirmed them, which the "
        "appendix then says."
    )
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<title>RACG and its peers: tables</title>",
            f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>",
            "</head>",
            "<body>",
            "<header>",
            "<h1>RACG and its peers: tables</h1>",
            f'<p class="lead">{lead}</p>',
            f'<nav><ul>\n{chr(10).join(contents)}\n<li><b>A</b><a href="#runs">Appendix: runs and data</a></li></ul></nav>',
            "</header>",
            "<main>",
            *sections,
            runs,
            "</main>",
            "</body>",
            "</html>",
            "",
        )
    )


def _entry(table: Table, rows: Sequence[Measured]) -> str:
    """A line of the contents, with how many of the runs are there."""
    states = [state for row in rows for state in row.states]
    done, stale = sum(len(row.records) for row in rows), sum(len(row.stale) for row in rows)
    words = f"{done} of {len(states)} runs" + (f', <span class="stale">{stale} stale</span>' if stale else "")
    where = f" ({table.data})" if table.split else ""
    link = f'<a href="#table-{table.id}">{html.escape(table.title + where)}</a>'
    return f"<li><b>{table.number}</b>{link}<span>{words}</span></li>"


def table_html(grid: Grid) -> str:
    head = "".join(f'<th scope="col"{_left(place, grid)}>{html.escape(name)}</th>' for place, name in enumerate(grid.head))
    lines = []
    for place, row in enumerate(grid.rows):
        turn = place and grid.rows[place - 1].published != row.published
        names = " ".join(name for name, holds in (("ours", not row.published), ("turn", turn)) if holds)
        cells = "".join(_cell(cell, column, grid) for column, cell in enumerate(row.cells))
        if row.words:
            cells += f'<td class="words" colspan="{len(grid.head) - len(row.cells)}">{html.escape(row.words)}</td>'
        lines.append(f'<tr class="{names}">{cells}</tr>')
    body = "\n".join(lines)
    return f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _left(place: int, grid: Grid) -> str:
    return LEFT if place < grid.left else ""


def _cell(cell: Cell, column: int, grid: Grid) -> str:
    text = html.escape(cell.text) + (f"<small>{html.escape(cell.small)}</small>" if cell.small else "")
    if cell.run:
        text = f'<a href="#run-{html.escape(cell.run)}">{text}</a>'
    if column == 0:
        return f'<th scope="row" class="w">{text}</th>'
    names = " ".join(name for name, holds in (("w", column < grid.left), ("best", cell.bold)) if holds)
    return f"<td{f' class={chr(34)}{names}{chr(34)}' if names else ''}>{text}</td>"


def _figure(table: Table, rows: Sequence[Measured]) -> str:
    if not any(row.records for row in rows):
        return ""
    drawn = "\n".join(f"<div>{svg}</div>" for svg in panels(table, rows).values())
    words = (
        "rsum by the value of an option, the others as they are; each panel has a range of its own. Blue: the method as it is. Bars: "
        "95 % interval of the difference to it, over images; hollow where that holds zero."
    )
    return f'<figure><div class="panels">\n{drawn}\n</div><figcaption class="note">{words}</figcaption></figure>\n'
