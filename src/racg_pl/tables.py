"""The results of `racg reproduce` for people and for programs: Markdown and CSV tables, a figure, a summary over all data sets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from racg_pl.errors import DataError, writing
from racg_pl.figure import BLUE, INK, ORANGE, QUIET, rendered, sheet, style
from racg_pl.hdf5 import one_line
from racg_pl.written import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from racg_pl.bootstrap import Difference

RESULT = "racg_pl.result/2"
KS = (1, 5, 10)  # metrics.py has its own, whose import takes seconds
RECALLS = tuple(f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in KS)
TWINS = tuple(f"{kind}_{direction}" for kind in ("attribute", "relation") for direction in ("i2t", "t2i"))
CEILINGS = {"bag_of_words": "best bag of words", "relations": "best with relations"}
KIND_RELATION = 2  # in `twin_kind`, see scene_truth.py


class Finished(NamedTuple):
    """A finished row: its record, and what it found, see `unpacked`."""

    record: dict[str, Any]
    found: dict[str, np.ndarray]


class Compared(NamedTuple):
    """A row beside the first one: rsum, and R@1 on relation twins i2t and t2i where there are twins. The first: nothing."""

    rsum: Difference | None = None
    relation_i2t: Difference | None = None
    relation_t2i: Difference | None = None


def write_results(out: Path, data: str, rows: Sequence[Finished]) -> str:
    """Write OUT/DATA.{md,csv,png,svg} and OUT/summary.json. Returns: the Markdown. Raises: DataError at a damaged record."""
    differences = [Compared(), *(compare(row, rows[0]) for row in rows[1:])]
    text = markdown(rows, differences)
    drawn = figures(rows, differences)
    with writing(out):
        write_whole(out / f"{data}.md", text.encode())
        write_whole(out / f"{data}.csv", comma_separated(rows, differences).encode())
        for kind, image in drawn.items():
            write_whole(out / f"{data}.{kind}", image)
    write_summary(out, [row.record["name"] for row in rows])
    return text


def write_summary(out: Path, order: Sequence[str]) -> Path:
    """Write OUT/summary.json, see `summary`. Returns: its path. Raises: DataError at a damaged record."""
    path = out / "summary.json"
    content = json.dumps(summary(out, order), indent=1) + "\n"
    with writing(out):
        write_whole(path, content.encode())
    return path


def packed(i2t: NDArray, t2i: NDArray, image: NDArray, twins: Mapping[str, NDArray] | None = None) -> dict[str, str]:
    """What a run found, query by query, as short texts: all that a bootstrap of recalls needs, small enough to be kept for good.

    A digit a query, the number of recall levels that it misses: 0 is first, 1 among 5, 2 among 10, 3 not; "-" no query. Those of
    captions stand in groups, a group an image. Of twins: hits as 1 and 0, and kinds.

    Args: i2t [B] and t2i [C] ranks, image [C] each caption's, and of twins `twin_kind` [B] and hits, captions in order of images.
    """
    found = {"i2t": _digits(i2t), "t2i": " ".join(_digits(t2i[image == row]) for row in range(len(i2t)))}
    return found | {name: "".join(str(int(value)) for value in values) for name, values in (twins or {}).items()}


def _digits(ranks: NDArray) -> str:
    return "".join("-" if rank < 0 else str(int(np.searchsorted(KS, rank, side="right"))) for rank in ranks)


def unpacked(found: Mapping[str, str]) -> dict[str, NDArray]:
    """What `packed` has packed: i2t [B] and t2i [C] as the least ranks of their levels, image [C], captions in order of images,
    and with twins: twin_kind [B] and the hits on twins."""
    groups = found["t2i"].split(" ")
    least = {"-": -1, "0": 0} | {str(level): k for level, k in enumerate(KS, start=1)}
    digits = {"i2t": found["i2t"], "t2i": "".join(groups)}
    arrays = {name: np.array([least[digit] for digit in text], np.int64) for name, text in digits.items()}
    arrays["image"] = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    others = {name: np.array(list(text), np.int64) for name, text in found.items() if name not in arrays}
    return arrays | {name: values if name == "twin_kind" else values.astype(bool) for name, values in others.items()}


def compare(row: Finished, first: Finished) -> Compared:
    """`row` minus `first`, in points, with paired bootstraps over the images of the split."""
    from racg_pl.bootstrap import paired_bootstrap, rsum_bootstrap

    a, b = row.found, first.found
    rsum = rsum_bootstrap((a["i2t"], a["t2i"]), (b["i2t"], b["t2i"]), a["image"])
    if "twin_kind" not in a:
        return Compared(rsum)
    owner = a["image"][a["twin_kind"][a["image"]] == KIND_RELATION]  # captions of one image are drawn together
    i2t, t2i = ((100.0 * a[name], 100.0 * b[name]) for name in ("relation_i2t", "relation_t2i"))
    return Compared(rsum, paired_bootstrap(*i2t), paired_bootstrap(*t2i, clusters=owner))


# ---- tables ----


def markdown(rows: Sequence[Finished], differences: Sequence[Compared]) -> str:
    """The whole page. Rows in the order given, differences to the first."""
    first = rows[0].record
    split, images, captions = first["split"], f"{first['images']:,}", f"{first['captions']:,}"
    asked = "" if split != "dev" else "; there is no test split, and the checkpoint was chosen on this one"
    head = [
        "method",
        "without",
        "parameters",
        *(f"{d} R@{k}" for d in ("i2t", "t2i") for k in (1, 5, 10)),
        "rsum",
        "Δ rsum [95 %]",
    ]
    body = [
        [
            *_name(row),
            f"{row.record['parameters']:,}",
            *_numbers(row.record["metrics"], (*RECALLS, "rsum")),
            _delta(difference.rsum),
        ]
        for row, difference in zip(rows, differences, strict=True)
    ]
    page = [
        f"# Ablations on {first['data']}",
        f"The {split} split, {images} images and {captions} captions{asked}. One training run a row, seed {first['seed']}. Recalls in "
        f"percent; Δ is the difference to {first['method']}, with its 95 % interval by a paired bootstrap over the images of the split "
        "(which says nothing of other seeds); *not separated* where the interval holds zero.",
        _table(head, body, left=2),
    ]
    if "twins" in first:
        head = ["method", "without", *(f"{kind} {d}" for kind in ("attribute", "relation") for d in ("i2t", "t2i"))]
        head += [f"Δ relation {d} [95 %]" for d in ("i2t", "t2i")]
        body = [
            [
                *_name(row),
                *_numbers(row.record["twins"], TWINS),
                _delta(difference.relation_i2t),
                _delta(difference.relation_t2i),
            ]
            for row, difference in zip(rows, differences, strict=True)
        ]
        body += [[f"*ceiling: {name}*", "", *_numbers(ceiling, TWINS), "", ""] for name, ceiling in _ceilings(first).items()]
        page += [
            "## Twins",
            "R@1 among all items of the split, of images (i2t) and captions (t2i) whose image has a twin that differs only in which "
            "object has which attribute, or in who stands in a relation to whom. The ceilings are the expected R@1 of the best "
            "scorers that see a caption as a bag of words, and in whole.",
            _table(head, body, left=2),
        ]
    return "\n\n".join(page) + "\n"


def comma_separated(rows: Sequence[Finished], differences: Sequence[Compared]) -> str:
    """The same numbers for programs, unrounded; with twins the ceilings are the last two lines."""
    names = {"rsum": "delta_rsum", "relation_i2t": "delta_relation_i2t", "relation_t2i": "delta_relation_t2i"}
    lines: list[dict[str, Any]] = []
    for (record, _), difference in zip(rows, differences, strict=True):
        line = {key: record[key] for key in ("name", "method", "without", "seed", "parameters")}
        line |= record["metrics"] | {name: record["twins"][name] for name in TWINS if "twins" in record}
        for (key, name), value in zip(names.items(), difference, strict=True):
            if "twins" in record or key == "rsum":
                parts = ("", "", "", "") if value is None else (value.mean, value.low, value.high, value.separated)
                line |= dict(zip((name, f"{name}_low", f"{name}_high", f"{name}_separated"), parts, strict=True))
        lines.append(line)
    lines += [{"name": name, "method": "ceiling", **ceiling} for name, ceiling in _ceilings(rows[0].record).items()]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def summary(out: Path, order: Sequence[str] = ()) -> dict[str, Any]:
    """Every run in OUT/DATA/[seedN/]*.json by data set, rows as in `order` and then by name, and by seed; and the ceilings of data
    sets that have some."""
    runs, ceilings = [], {}
    place = {name: index for index, name in enumerate(order)}
    for path in sorted((*out.glob("*/*.json"), *out.glob("*/seed[0-9]*/*.json"))):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(record, dict) or record.get("schema") != RESULT:
                continue  # somebody else's
            metrics = {key: record["metrics"][key] for key in (*RECALLS, "rsum")}
            command = " && ".join(record["commands"])
            runs.append({key: record[key] for key in ("data", "name", "seed", "split")} | metrics | {"command": command})
        except (ValueError, KeyError) as error:
            raise DataError(f"{path}: expected the record of a run, got: {one_line(error)}; delete it and run again") from error
        if record.get("ceilings"):
            ceilings[record["data"]] = _by_scorer(record["ceilings"])
    runs.sort(key=lambda run: (run["data"], place.get(run["name"], len(place)), run["name"], run["seed"]))
    return {"runs": runs, "ceilings": ceilings}


def _by_scorer(ceilings: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """{kind: {scorer_direction: x}} as {scorer: {kind_direction: x}}, the names of TWINS."""
    return {
        scorer: {f"{kind}_{d}": row[f"{scorer}_{d}"] for kind, row in ceilings.items() for d in ("i2t", "t2i")}
        for scorer in CEILINGS
    }


def _ceilings(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By the scorer's name in words; empty where the data set has none."""
    stored = record.get("ceilings")
    return {CEILINGS[scorer]: row for scorer, row in _by_scorer(stored).items()} if stored else {}


def _name(row: Finished) -> list[str]:
    return [row.record["method"], row.record["without"] or "–"]


def _numbers(values: dict[str, float], names: Sequence[str]) -> list[str]:
    return [f"{values[name]:.1f}" for name in names]


def _delta(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    mean, low, high = (f"{value + 0.0:+.1f}".replace("-", "−") for value in difference)
    return f"{mean} [{low}, {high}]" + ("" if difference.separated else " *not separated*")


def _table(head: Sequence[str], body: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table that is a table as plain text too; all but the first `left` columns to the right."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    rule = ["-" * width if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, (head, rule, *body)))


# ---- figure ----


def figures(rows: Sequence[Finished], differences: Sequence[Compared]) -> dict[str, bytes]:
    """The figure as "png" and "svg": rsum by row, and on twins R@1 by row with the ceiling of a bag of words."""
    panels = 2 if "twins" in rows[0].record else 1
    with style(11):
        figure = sheet(7.0 + 2.2 * (panels - 1), 1.7 + 0.36 * len(rows))
        axes = figure.subplots(1, panels, sharey=True, squeeze=False, width_ratios=(5, 4)[:panels])[0]
        _draw_rsum(axes[0], rows, [difference.rsum for difference in differences])
        if panels == 2:
            _draw_twins(axes[1], rows)
        return {kind: rendered(figure, kind) for kind in ("png", "svg")}


def _draw_rsum(axes: Axes, rows: Sequence[Finished], differences: Sequence[Difference | None]) -> None:
    """A dot a row, hollow where it is not separated from the first, within the interval of the difference; rsum in figures."""
    first = rows[0].record
    best = first["metrics"]["rsum"]
    axes.axvline(best, color=BLUE, linewidth=1.2, zorder=1)
    for y, (row, difference) in enumerate(zip(rows, differences, strict=True)):
        rsum, colour, face = row.record["metrics"]["rsum"], BLUE, BLUE
        if difference is not None:
            colour, face = ORANGE, ORANGE if difference.separated else "white"
            ends = [best + difference.low, best + difference.high]
            axes.plot(ends, [y, y], color=ORANGE, linewidth=2, solid_capstyle="round", zorder=2)
        axes.plot(rsum, y, "o", markersize=8, markeredgewidth=1.8, markeredgecolor=colour, markerfacecolor=face, zorder=3)
        axes.annotate(
            f"{rsum:.1f}", (1, y), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center_baseline"
        )
    labels = [
        "− " + row.record["without"] if row.record["method"] == "RACG" and y else row.record["method"]
        for y, row in enumerate(rows)
    ]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    hollow = any(difference is not None and not difference.separated for difference in differences)
    note = f"bars: 95 % interval of the difference to {first['method']}" + ("\nhollow: not separated from it" if hollow else "")
    axes.set_xlabel(note, fontsize=9.5, color=QUIET, loc="left", linespacing=1.4)
    _dress(axes, f"rsum, {first['split']} split of {first['data']}")


def _draw_twins(axes: Axes, rows: Sequence[Finished]) -> None:
    """R@1 on relation twins, both directions of a row joined, and the ceilings of a bag of words."""
    for direction, marker, size, colour in (("i2t", "o", 9, BLUE), ("t2i", "D", 6, ORANGE)):
        values = [row.record["twins"][f"relation_{direction}"] for row in rows]
        axes.plot(values, range(len(rows)), marker, color=colour, markersize=size, zorder=3, clip_on=False, label=direction)
    if rows[0].record["ceilings"]:
        ceiling, label = _by_scorer(rows[0].record["ceilings"])["bag_of_words"], "best bag of words"
        for value in sorted({round(ceiling["relation_i2t"], 1), round(ceiling["relation_t2i"], 1)}):
            axes.axvline(value, color=INK, linewidth=1.4, linestyle=(0, (4, 3)), zorder=1, label=label)
            label = ""
    axes.set_xlim(0, 100)
    spacing = {"handletextpad": 0.3, "columnspacing": 1.0, "handlelength": 1.4, "borderaxespad": 0.0, "borderpad": 0.0}
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.095), ncols=3, frameon=False, fontsize=9.5, labelcolor=QUIET, **spacing)
    _dress(axes, "R@1 on relation twins")


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", pad=10, parse_math=False)
    axes.grid(axis="x", color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.tick_params(axis="x", length=0, labelcolor=QUIET, labelsize=10)
