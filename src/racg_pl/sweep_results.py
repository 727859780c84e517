"""What a sweep found: a table of its runs, the effect of each parameter, and parallel coordinates."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from racg_pl.errors import writing
from racg_pl.figure import ORANGE, QUIET, rendered, sheet, style
from racg_pl.sweep_space import Drawn, Point, Sweep
from racg_pl.tables import _table
from racg_pl.written import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EDGE = 0.06  # of an axis, free above and below


class Trial(NamedTuple):
    """A point of the sweep: the name of its files, its parameters, and its record, or None where it failed."""

    name: str
    point: Point
    record: dict[str, Any] | None

    @property
    def value(self) -> float:
        return math.nan if self.record is None else self.record["value"]


def write_sweep(out: Path, plan: Sweep, trials: Sequence[Trial]) -> str:
    """Write OUT/NAME.{md,csv,png,svg}. Returns: the Markdown."""
    sign = -1 if plan.maximize else 1
    ranked = sorted(trials, key=lambda trial: (trial.record is None, sign * trial.value if trial.record else 0))  # stable
    page = markdown(plan, ranked)
    drawn = figures(plan, [trial for trial in ranked if trial.record])
    with writing(out):
        write_whole(out / f"{plan.name}.md", page.encode())
        write_whole(out / f"{plan.name}.csv", comma_separated(plan, ranked).encode())
        for kind, image in drawn.items():
            write_whole(out / f"{plan.name}.{kind}", image)
    return page


def markdown(plan: Sweep, ranked: Sequence[Trial]) -> str:
    """Runs, best first, and below, the mean of the metric by parameter."""
    names = [name.rpartition(".")[2] for name in plan.varied]
    head = [*names, plan.metric, "parameters", "wall s", "run"]
    body = [[*(str(trial.point[name]) for name in plan.varied), *_numbers(trial), trial.name] for trial in ranked]
    done = [trial for trial in ranked if trial.record]
    failed = "" if len(done) == len(ranked) else f" {len(ranked) - len(done)} failed; racg sweep tries them again."
    seeds = _every("seed", [trial.record["seed"] for trial in done if trial.record])
    commits = _every("commit", [trial.record["commit"] or "none" for trial in done if trial.record])
    page = [
        f"# Sweep {plan.name}",
        f"{len(ranked)} runs, {plan.method}, {seeds}, {commits}. {plan.metric} of the last evaluation, best first.{failed} "
        "Dev chose: the best of many is flattered by it, and a difference within the noise of seeds is none.",
        f"![{plan.metric} by parameter]({plan.name}.png)",
        _table(head, body, left=len(names)),
    ]
    if plan.varied:
        head = ["parameter", "where", "runs", f"mean {plan.metric}", "best"]
        page += ["## By parameter", _table(head, _effects(plan, done), left=2)]
    return "\n\n".join(page) + "\n"


def _effects(plan: Sweep, done: Sequence[Trial]) -> list[list[str]]:
    """For each value of a parameter the mean and the best of its runs; for one that is drawn, those of its lower and upper half."""
    best = max if plan.maximize else min
    body = []
    for name in plan.varied:
        given = plan.parameters[name]
        if isinstance(given, Drawn):
            middle = float(np.median([float(trial.point[name]) for trial in done]))
            parts = {
                f"up to {middle:.3g}": [trial.value for trial in done if float(trial.point[name]) <= middle],
                f"above {middle:.3g}": [trial.value for trial in done if float(trial.point[name]) > middle],
            }
        else:
            parts = {str(value): [trial.value for trial in done if str(trial.point[name]) == str(value)] for value in given}
        body += [
            [name, where, str(len(values)), f"{np.mean(values):.1f}", f"{best(values):.1f}"]
            for where, values in parts.items()
            if values
        ]
    return body


def comma_separated(plan: Sweep, ranked: Sequence[Trial]) -> str:
    """The same for programs, unrounded, every metric of a run."""
    lines = [{"run": trial.name, **trial.point, **(trial.record["metrics"] if trial.record else {})} for trial in ranked]
    buffer = io.StringIO()
    names = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(buffer, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _every(name: str, values: Sequence[Any]) -> str:
    different = sorted(set(values))
    return f"{name}{'s' if len(different) > 1 else ''} {', '.join(map(str, different))}"


def _numbers(trial: Trial) -> list[str]:
    if trial.record is None:
        return ["failed", "–", "–"]
    return [f"{trial.value:.1f}", f"{trial.record['size']:,}", f"{trial.record['wall_time_s']:.0f}"]


# ---- figure ----


class Axis(NamedTuple):
    """A vertical axis: where each trial crosses it, 0 to 1, and its ticks."""

    title: str
    places: list[float]
    ticks: list[tuple[float, str]]


def figures(plan: Sweep, done: Sequence[Trial]) -> dict[str, bytes]:
    """Parallel coordinates as "png" and "svg": an axis a parameter, the metric last, a line a run, the best one thick."""
    axes = [_axis(plan, name, done) for name in plan.varied] + [_metric_axis(plan, done)]
    with style():
        figure = sheet(max(5.0, 1.9 * len(axes)), 4.4)
        _draw(figure.add_subplot(), axes, plan)
        return {kind: rendered(figure, kind) for kind in ("png", "svg")}


def _axis(plan: Sweep, name: str, done: Sequence[Trial]) -> Axis:
    """Listed values at equal distances; drawn ones on their own scale, from min to max."""
    given, title = plan.parameters[name], name.rpartition(".")[2]
    if not isinstance(given, Drawn):
        steps = {str(value): (index + 0.5) / len(given) for index, value in enumerate(given)}
        return Axis(title, [steps[str(trial.point[name])] for trial in done], [(at, words) for words, at in steps.items()])
    scale = math.log if given.distribution == "log_uniform_values" else float

    def place(value: float) -> float:
        return EDGE + (1 - 2 * EDGE) * (scale(value) - scale(given.low)) / (scale(given.high) - scale(given.low))

    middle = math.sqrt(given.low) * math.sqrt(given.high) if scale is math.log else (given.low + given.high) / 2
    marks = [given.low, middle, given.high]
    if given.distribution == "int_uniform":
        marks = [float(number) for number in np.unique(np.linspace(given.low, given.high, 5).astype(int))]
    return Axis(title, [place(float(trial.point[name])) for trial in done], [(place(mark), f"{mark:.2g}") for mark in marks])


def _metric_axis(plan: Sweep, done: Sequence[Trial]) -> Axis:
    values = [trial.value for trial in done]
    low, high = min(values), max(values)
    span = high - low or 1.0
    places = [EDGE + (1 - 2 * EDGE) * (value - low) / span for value in values]
    marks = np.linspace(low, high, 5) if high > low else [low]
    return Axis(plan.metric, places, [(EDGE + (1 - 2 * EDGE) * (mark - low) / span, f"{mark:.1f}") for mark in marks])


def _draw(axes: Axes, columns: Sequence[Axis], plan: Sweep) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    colours = colormaps["cividis_r"] if plan.maximize else colormaps["cividis"]
    worst_first = range(len(columns[-1].places) - 1, -1, -1)
    for run in worst_first:
        crossed = [column.places[run] for column in columns]
        points, codes = [(0.0, crossed[0])], [Curve.MOVETO]
        for x, (left, right) in enumerate(pairwise(crossed)):  # a smooth step from axis to axis
            points += [(x + 0.5, left), (x + 0.5, right), (x + 1.0, right)]
            codes += [Curve.CURVE4] * 3
        best = run == 0
        colour = ORANGE if best else colours(0.1 + 0.75 * columns[-1].places[run])
        axes.add_patch(
            PathPatch(
                Curve(points, codes), fill=False, edgecolor=colour, linewidth=2.6 if best else 1.3, alpha=1 if best else 0.75
            )
        )
    for x, column in enumerate(columns):
        axes.axvline(x, color=QUIET, linewidth=1, zorder=3)
        last = x == len(columns) - 1
        for at, words in column.ticks:
            side: Any = {"ha": "left", "xytext": (5, 0)} if last else {"ha": "right", "xytext": (-5, 0)}
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
            axes.annotate(
                words,
                (x, at),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=QUIET,
                bbox=box,
                zorder=4,
                parse_math=False,
                **side,
            )
            axes.plot(x, at, "_", color=QUIET, markersize=6, zorder=4)
        axes.text(x, 1.03, column.title, ha="center", va="bottom", fontsize=10, fontweight="bold" if last else "normal")
    axes.set(xlim=(-0.45, len(columns) - 0.55), ylim=(0, 1))
    axes.set_title(
        f"{plan.name}: {len(columns[-1].places)} runs, the best in orange",
        loc="left",
        fontsize=11,
        fontweight="bold",
        pad=26,
        parse_math=False,
    )
    axes.axis("off")
