"""The data card of a prepared corpus: counts and hashes as Markdown, histograms of words and regions, a contact sheet of boxes.

    ROOT/card/README.md  histograms.png  boxes.png

The same files give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from racg_pl.captions import CaptionStore, ParseStore
from racg_pl.errors import writing
from racg_pl.features import RegionStore
from racg_pl.figure import rendered, sheet
from racg_pl.written import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from racg_pl.recipe import Recipe

CELLS = (3, 4)  # rows and columns of the contact sheet
STRONGEST = 12  # boxes of a picture that are drawn
BAR = "#4878a8"


class Held(NamedTuple):
    """The files of one split."""

    name: str
    store: RegionStore
    captions: CaptionStore
    parse: ParseStore

    @property
    def words(self) -> np.ndarray:
        """Of each caption, [C]."""
        return np.diff(self.parse.offsets)


def write_card(recipe: Recipe, root: Path, parser: str) -> Path:
    """Write the card of what `racg prepare` made in `root`; `parser` as its parses are called. Returns: its Markdown."""
    splits = [
        Held(
            name,
            RegionStore(root / f"{name}.h5"),
            CaptionStore(root / f"{name}.captions.h5"),
            ParseStore(root / f"{name}.parse-{parser}.h5"),
        )
        for name in recipe.splits
    ]
    folder = root / "card"
    with writing(folder):
        folder.mkdir(exist_ok=True)
        for name, figure in (("histograms.png", _histograms(splits)), ("boxes.png", _contact_sheet(splits))):
            write_whole(folder / name, rendered(figure, "png", 100))
        write_whole(folder / "README.md", _markdown(recipe, root, splits).encode())
    return folder / "README.md"


def _markdown(recipe: Recipe, root: Path, splits: list[Held]) -> str:
    from racg_pl.text import Vocabulary

    vocabulary = Vocabulary.load(root / "vocab.json")
    lines = [f"# {recipe.name}", "", "Made by `racg prepare`, which validated every file.", ""]
    lines += ["| split | images | regions an image | captions | captions an image | words a caption | unknown words |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for split in splits:
        per_image = np.bincount(split.captions.image, minlength=len(split.store))
        unknown = np.mean(vocabulary.encode(split.parse.words) == 1) if split.parse.words else 0.0
        cells = (len(split.store), _range(split.store.counts), len(split.captions), _range(per_image), _range(split.words))
        lines.append(f"| {split.name} | {' | '.join(map(str, cells))} | {unknown:.1%} |")
    first, parse = splits[0].store, splits[0].parse
    known = all(split.store.boxes_known for split in splits)
    lines += ["", f"- Features: {first.dim} numbers a region, {first.dtype}, by {first.extractor}."]
    lines += ["- Boxes: " + ("known." if known else "not known for every split; where unknown, a region is the whole picture.")]
    lines += [
        f"- Vocabulary: {len(vocabulary.counts)} words in train, {len(vocabulary) - 2} of them at least {vocabulary.threshold} times."
    ]
    lines += [f"- Parses: {parse.parser} {parse.version}, labels of {parse.scheme}, semantic graphs of version {parse.graph}."]
    lines += ["", "![histograms of words a caption and regions an image](histograms.png)", ""]
    lines += ["![boxes of pictures from the first split](boxes.png)", ""]
    lines += ["## Brought", "", *(f"- `{item.path}`: {item.what} ({item.where})" for item in recipe.bring)]
    lines += ["", "## Content, sha256", "", "| file | sha256 |", "|---|---|"]
    for split in splits:
        lines += [f"| {held.path.name} | `{held.sha256}` |" for held in (split.store, split.captions, split.parse)]
    lines += [f"| vocab.json | `{vocabulary.sha256}` |", ""]
    return "\n".join(lines)


def _range(values: np.ndarray) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}, {values.mean():.1f} on average"


def _histograms(splits: list[Held]) -> Figure:
    """A row a split: words a caption, regions an image, share of the picture that a box covers."""
    figure = sheet(11, 0.6 + 2.1 * len(splits))
    grid = figure.subplots(len(splits), 3, squeeze=False)
    for row, split in zip(grid, splits, strict=True):
        _bars(row[0], split.words, f"{split.name}: words a caption")
        _bars(row[1], split.store.counts, f"{split.name}: regions an image")
        if not split.store.boxes_known:
            row[2].axis("off")
            row[2].text(0.5, 0.5, "boxes are unknown", ha="center", va="center", transform=row[2].transAxes)
            continue
        real = np.arange(split.store.regions) < split.store.counts[:, None]
        sides = split.store.boxes[real][:, 2:] - split.store.boxes[real][:, :2]
        row[2].hist(np.sqrt(sides.prod(axis=1)), bins=np.linspace(0, 1, 41), color=BAR)
        row[2].set_title(f"{split.name}: side of a box, √area, pictures are 1", fontsize=9)
    for axes in grid.flat:
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _bars(axes: Axes, values: np.ndarray, title: str) -> None:
    counts = np.bincount(values)
    low = max(int(np.flatnonzero(counts)[0]) - 1, 0)
    axes.bar(np.arange(low, len(counts)), counts[low:], width=0.9, color=BAR)
    axes.set_title(title, fontsize=9)
    axes.set_xlim(low - 0.6, max(len(counts), low + 3) - 0.4)
    axes.locator_params(axis="x", integer=True)


def _contact_sheet(splits: list[Held]) -> Figure:
    """Pictures spread over the first split: their surest boxes, or their first, and a caption each."""
    from textwrap import shorten, wrap

    split = splits[0]
    store, captions = split.store, split.captions
    chosen = np.unique(np.linspace(0, len(store) - 1, CELLS[0] * CELLS[1]).astype(int))
    figure = sheet(3.0 * CELLS[1], 3.3 * CELLS[0])
    grid = figure.subplots(*CELLS, squeeze=False)
    for axes in grid.flat[len(chosen) :]:
        axes.axis("off")
    for axes, image in zip(grid.flat, chosen, strict=False):
        width, height = (1, 1) if store.sizes is None or not store.sizes[image].all() else store.sizes[image]
        boxes = store.boxes[image, : store.counts[image]] * [width, height, width, height]
        order = np.arange(len(boxes))
        if store.scores is not None:
            order = np.argsort(-store.scores[image, : len(boxes)], kind="stable")
        _draw_boxes(axes, boxes[order[:STRONGEST]], width, height)
        told = np.flatnonzero(captions.image == image)
        caption = shorten(captions.texts[told[0]], 100, placeholder=" …") if len(told) else "no caption"
        title = "\n".join([shorten(store.ids[image], 40, placeholder="…"), *wrap(caption, 44)])
        axes.set_title(title.replace("$", r"\$"), fontsize=7, loc="left")
    return figure


def _draw_boxes(axes: Axes, boxes: np.ndarray, width: float, height: float) -> None:
    """The first boxes strongest, in the shape of the picture."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[], facecolor="#f6f6f2")
    for place, (x1, y1, x2, y2) in reversed(list(enumerate(boxes))):
        strength = 1 - place / STRONGEST
        colour = colormaps["viridis"](0.85 * (place / STRONGEST))
        axes.add_patch(
            Rectangle(
                (x1, y1),
                x2 - x1,
                y2 - y1,
                fill=False,
                edgecolor=colour,
                linewidth=0.6 + 1.4 * strength,
                alpha=0.4 + 0.6 * strength,
            )
        )
