"""A grid as Markdown, as LaTeX (booktabs), and the numbers under it as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from racg_pl.paper.declared import PUBLISHED, Table
from racg_pl.paper.grid import Cell, Grid, GridRow
from racg_pl.paper.grounded import baselines
from racg_pl.paper.values import Measured
from racg_pl.tables import _table

DIGITS = 6  # of numbers in CSV, after the point: what further ones say changes with the machine
LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "…": r"\ldots{}",
    "–": "--",
    "—": "---",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "\u00a0": "~",
}
MATHS = {"±": "pm", "∞": "infty", "Δ": "Delta", "Γ": "Gamma", "α": "alpha", "β": "beta", "γ": "gamma", "λ": "lambda", "π": "pi"}
MATHS |= {"σ": "sigma", "τ": "tau", "×": "times", "≥": "geq", "≤": "leq", "→": "to"}
LATEX |= {letter: f"$\\{name}$" for letter, name in MATHS.items()} | {"−": "$-$"}


def markdown(table: Table, grid: Grid) -> str:
    body = [_padded([_marked(cell) for cell in row.cells], row, len(grid.head)) for row in grid.rows]
    page = [f"# Table {table.number}: {table.title} ({table.data})", _table(grid.head, body, grid.left), *grid.notes]
    return "\n\n".join(page) + "\n"


def _padded(cells: list[str], row: GridRow, columns: int) -> list[str]:
    """As long as the head, with the words of a row without figures in its first free column."""
    words = [f"*{row.words}*"] if row.words else []
    return (cells + words + [""] * columns)[:columns]


def _marked(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.bold else cell.text
    return f"{text} {cell.small}".strip().replace("|", "\\|")


def latex(table: Table, grid: Grid) -> str:
    """A table of booktabs to \\input; its notes stand in the caption."""
    columns = "l" * grid.left + "r" * (len(grid.head) - grid.left)
    caption = " ".join((f"{table.title}.".replace("..", "."), *grid.notes))
    lines = [
        f"% written by racg tables: table {table.number} on {table.data}; needs \\usepackage{{booktabs}} and \\usepackage{{graphicx}}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(caption)}}}",
        rf"\label{{tab:{table.id.replace('_', '-')}}}",
        r"\smallskip",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(escaped, grid.head)) + r" \\",
        r"\midrule",
    ]
    for place, row in enumerate(grid.rows):
        if place and grid.rows[place - 1].published != row.published:
            lines.append(r"\midrule")
        cells = [_latex(cell) for cell in row.cells]
        if row.words:
            cells.append(rf"\multicolumn{{{len(grid.head) - len(cells)}}}{{l}}{{\emph{{{escaped(row.words)}}}}}")
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"


def _latex(cell: Cell) -> str:
    text = rf"\textbf{{{escaped(cell.text)}}}" if cell.bold else escaped(cell.text)
    return text + (rf" {{\scriptsize {escaped(cell.small)}}}" if cell.small else "")


def escaped(text: str) -> str:
    """Words as LaTeX prints them, with pdflatex too."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def comma_separated(table: Table, rows: Sequence[Measured]) -> str:
    """The numbers, to DIGITS places: published ones first, then a line a row with means, deviations and the interval of Δ rsum."""
    lines: list[dict[str, object]] = []
    for figures in table.figures:
        words = {name: figures[name] for name in ("method", "text_encoder", "models", "read_from")}
        lines.append({**words, **{f"{name}_mean": figures[name] for name in PUBLISHED[4:]}})
    for row in rows:
        line: dict[str, object] = {"name": row.line.name, "method": row.line.label, "without": row.line.without}
        line |= {point.option: point.value for point in row.line.points}
        line["seeds"] = " ".join(str(record["seed"]) for record in row.records)
        line["commits"] = " ".join(dict.fromkeys(record["commit"] for record in row.records))
        line["state"] = "; ".join(dict.fromkeys(state.kind + (f": {state.why}" if state.why else "") for state in row.states))
        for name, value in row.values.items():
            deviation = "" if value.deviation is None else round(value.deviation, DIGITS)
            line |= {f"{name}_mean": round(value.mean, DIGITS), f"{name}_sd": deviation}
        for name, difference in row.differences.items():
            line |= {
                f"delta_{name}{part}": round(value, DIGITS)
                for part, value in zip(("", "_low", "_high"), difference, strict=True)
            }
        line["best"] = " ".join(sorted(row.best))
        lines.append(line)
    lines += [
        {"method": label, **{f"{name}_mean": round(value, DIGITS) for name, value in values.items()}}
        for label, values in baselines(rows).items()
    ]
    names = dict.fromkeys(name for line in lines for name in line)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()
