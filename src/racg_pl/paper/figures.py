"""Sensitivities as figures: a panel an option, rsum by its value, with the interval of the difference to the method as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from racg_pl.figure import BLUE, INK, ORANGE, QUIET, rendered, sheet, style
from racg_pl.paper.declared import Table
from racg_pl.paper.values import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RULE = "#ececec"
FOLLOWS = {
    INK: "currentColor",
    QUIET: "var(--quiet)",
    RULE: "var(--rule)",
    "#ffffff": "var(--page)",
}  # colours that follow the page's
PANEL = (2.9, 2.3)  # inches
HEIGHT = 12  # of rsum that a panel shows at least; over seeds it moves by 2 to 4


def options(rows: Sequence[Measured]) -> list[str]:
    """The options that rows with runs vary, in the order of their declaration."""
    return list(dict.fromkeys(point.option for row in rows if row.records for point in row.line.points))


def panels(table: Table, rows: Sequence[Measured]) -> dict[str, str]:
    """By option, its panel as SVG that stands in a page and takes its colours."""
    return {name: _inline(_render([name], table, rows, name)["svg"].decode(), name) for name in options(rows)}


def figure(table: Table, rows: Sequence[Measured]) -> dict[str, bytes]:
    """All panels as "svg", "png" and "pdf"."""
    names = options(rows)
    return _render(names, table, rows, table.id, ("svg", "png", "pdf")) if names else {}


def _limits(rows: Sequence[Measured], first: Measured | None) -> tuple[float, float]:
    """Of rsum, for a panel of these rows and the line of the reference: not so close that the spread of seeds looks like an effect."""
    values = [end for row in (*rows, *([first] if first else [])) for end in (row.values["rsum"].mean, *_ends(row, first))]
    low, high = min(values), max(values)
    room = max(0.08 * (high - low) + 0.5, (HEIGHT - (high - low)) / 2)
    return low - room, high + room


def _reference(table: Table, rows: Sequence[Measured]) -> Measured | None:
    """The row that the others are compared with, where it has been run."""
    return next((row for row in rows if row.records and row.line.name == table.reference), None)


def _ends(row: Measured, first: Measured | None) -> tuple[float, float]:
    """The interval of the difference to the reference, around the reference's rsum; the row itself where there is none."""
    own = row.values["rsum"].mean
    if (difference := row.differences.get("rsum")) is None or first is None:
        return own, own
    return first.values["rsum"].mean + difference.low, first.values["rsum"].mean + difference.high


def _render(
    names: Sequence[str],
    table: Table,
    rows: Sequence[Measured],
    salt: str,
    kinds: Sequence[str] = ("svg",),
) -> dict[str, bytes]:
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    with style(9):
        figure = sheet(PANEL[0] * columns, PANEL[1] * lines)
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for place, axis in enumerate(axes):
            if place < len(names):
                _panel(axis, names[place], rows, _reference(table, rows))
            else:
                axis.axis("off")
        return {kind: rendered(figure, kind, salt=salt, text=True, clear=kind == "svg") for kind in kinds}


def _panel(axes: Axes, option: str, rows: Sequence[Measured], first: Measured | None) -> None:
    """Values at equal distances; a dot is hollow where the interval does not tell it from the method as it is."""
    placed = [(point.value, row) for row in rows if row.records for point in row.line.points if point.option == option]
    placed.sort(key=lambda item: item[0])
    if first is not None:
        axes.axhline(first.values["rsum"].mean, color=BLUE, linewidth=1, zorder=1)
    axes.plot(range(len(placed)), [row.values["rsum"].mean for _, row in placed], color=QUIET, linewidth=1, zorder=2)
    for place, (_, row) in enumerate(placed):
        mean, own = row.values["rsum"].mean, row is first
        colour = BLUE if own else ORANGE
        axes.plot([place, place], _ends(row, first), color=colour, linewidth=2, solid_capstyle="round", zorder=3)
        face = colour if own or ("rsum" in row.differences and row.differences["rsum"].separated) else "#ffffff"
        axes.plot(place, mean, "o", markersize=6.5, markeredgewidth=1.6, markeredgecolor=colour, markerfacecolor=face, zorder=4)
    axes.set_xticks(range(len(placed)), [f"{value:g}" for value, _ in placed])
    axes.set(xlim=(-0.5, len(placed) - 0.5), ylim=_limits([row for _, row in placed], first))
    axes.set_ylabel("rsum", color=QUIET)
    axes.set_title(option.rpartition(".")[2].replace("_", " "), loc="left", fontsize=10, fontweight="bold")
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=QUIET)


def _inline(svg: str, name: str) -> str:
    """As part of a page: no prologue, no fixed size, the page's colours and fonts."""
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    box = head[head.index("viewBox=") :].split('"')[1]
    for colour, page in FOLLOWS.items():
        body = body.replace(colour, page)
    body = body[: body.index("<metadata>")] + body[body.index("</metadata>") + len("</metadata>") :]
    words = f"rsum by {name.rpartition('.')[2].replace('_', ' ')}"
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {links} viewBox="{box}" role="img" aria-label="{words}">{body.strip()}'
