"""Figures of attention: the regions that the words of a caption, or of a phrase, attend to, on the picture or on an empty canvas.

The shade of a region grows with the root of its weight, and means the same in every panel. Where the first region is small, a corner
shows it enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from racg_pl.data import Split
from racg_pl.errors import DataError
from racg_pl.figure import BLUE, INK, ORANGE, QUIET, sheet
from racg_pl.phrases import words_of
from racg_pl.readers.files import ARRAY_SUFFIXES, PICTURE_SUFFIXES, files_below, stem
from racg_pl.scene_draw import draw_object
from racg_pl.scene_truth import Truth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP = 3  # regions that are shaded
SMALL = 0.02  # share of the picture under which the first region is shown enlarged
COLUMNS = 6  # words in a row


class Panel(NamedTuple):
    """One picture: its row in the split, weights of its regions [R], true boxes [G,4] or none, a title and words below."""

    image: int
    weights: NDArray[np.float32]
    truth: NDArray[np.float64] | None
    title: str
    below: str = ""


class Backdrop:
    """Draws what a picture shows: an image file where there is one, the objects of Scenes, or the outlines of its regions alone."""

    def __init__(self, split: Split, truth: Truth | None = None, pictures: Path | None = None) -> None:
        """pictures: folder of image files, maybe in folders of folders, named by the ids of the store, with or without a suffix.

        Raises: DataError where the truth is that of others, or there is no such folder, or no image of these ids in it.
        """
        if truth is not None:
            truth.require_split(split)
        self.store, self.truth = split.store, truth
        self.files: dict[str, Path] = {}
        if pictures is not None:
            if not pictures.is_dir():
                raise DataError(f"{pictures}: expected a folder of image files, got none; name another or leave out --pictures")
            ids = {stem(name) for name in split.store.ids}
            found = [path for path in files_below(pictures) if path.suffix.lower() in PICTURE_SUFFIXES - ARRAY_SUFFIXES]
            found.sort(key=lambda path: (-len(path.parts), path))  # of equal names the last counts, the one nearest to the top
            self.files = {stem(path.name): path for path in found if stem(path.name) in ids}
            if not self.files:
                raise DataError(
                    f"{pictures}: expected image files named by the ids of {split.store.path.name}, such as {split.store.ids[0]!r}, "
                    f"got none among {len(found)}; name another folder or leave out --pictures"
                )

    def boxes(self, image: int) -> NDArray[np.float32]:
        """Of the real regions, [R,4]."""
        return self.store.boxes[image, : self.store.counts[image]]

    def draw(self, axes: Axes, image: int) -> None:
        from matplotlib.patches import Rectangle

        sizes = self.store.sizes
        width, height = (1, 1) if sizes is None or not sizes[image].all() else sizes[image].tolist()
        axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect=height / width, facecolor="#fbfbf7")
        if (path := self.files.get(stem(self.store.ids[image]))) is not None:
            axes.imshow(_pixels(path), extent=(0, 1, 1, 0), aspect="auto", alpha=0.8)
        elif self.truth is not None:
            for thing in self.truth.objects_of(image):
                draw_object(axes, thing)
        else:
            for x1, y1, x2, y2 in self.boxes(image):
                axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=QUIET, linewidth=0.4, alpha=0.35))


def _pixels(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: expected an image file, got one that cannot be read ({error}); copy it again") from error


def draw_panel(axes: Axes, panel: Panel, backdrop: Backdrop) -> None:
    """A picture with the TOP regions shaded, the first outlined, and true boxes dashed."""
    boxes = backdrop.boxes(panel.image)
    backdrop.draw(axes, panel.image)
    _draw_regions(axes, panel, boxes)
    x1, y1, x2, y2 = boxes[panel.weights[: len(boxes)].argmax()].tolist()
    if (x2 - x1) * (y2 - y1) < SMALL:  # an enlarged view, in the corner away from it
        left, low = 0.02 if x1 + x2 > 1 else 0.53, 0.02 if y1 + y2 < 1 else 0.53
        close = axes.inset_axes((left, low, 0.45, 0.45))
        backdrop.draw(close, panel.image)
        _draw_regions(close, panel, boxes)
        half = 1.1 * max(x2 - x1, y2 - y1)
        close.set(xlim=((x1 + x2) / 2 - half, (x1 + x2) / 2 + half), ylim=((y1 + y2) / 2 + half, (y1 + y2) / 2 - half))
        axes.indicate_inset_zoom(close, edgecolor=INK, linewidth=0.6)
    axes.set_title(panel.title, fontsize=9, color=INK, parse_math=False)
    axes.set_xlabel("\n".join(wrap(panel.below, 44)), fontsize=8, color=QUIET, parse_math=False)


def _draw_regions(axes: Axes, panel: Panel, boxes: NDArray[np.float32]) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    order = np.argsort(-panel.weights[: len(boxes)], kind="stable")[:TOP]
    for place, region in reversed(list(enumerate(order.tolist()))):
        (x1, y1, x2, y2), weight = boxes[region].tolist(), float(panel.weights[region])
        face, edge = (
            to_rgba(ORANGE, min(1.0, 0.7 * weight**0.5)),
            to_rgba(ORANGE, 1.0 if not place else min(1.0, 0.1 + weight**0.5)),
        )
        axes.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor=face, edgecolor=edge, linewidth=0.8 if place else 1.8, zorder=6)
        )
    for x1, y1, x2, y2 in [] if panel.truth is None else panel.truth.tolist():
        box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=BLUE, linewidth=1.5, linestyle=(0, (4, 2)), zorder=7)
        axes.add_patch(box)


def panels_figure(rows: Sequence[tuple[str, Sequence[Panel]]], backdrop: Backdrop) -> Figure:
    """Rows of panels of one width, each row with a heading."""
    columns = max(len(panels) for _, panels in rows)
    side = 3.4 if columns <= 3 else 2.1
    height = sum(
        side + (0.3 if not heading else 0.6) + (0.4 if any(one.below for one in panels) else 0) for heading, panels in rows
    )
    figure = sheet(side * columns, height)
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (heading, panels) in zip(parts, rows, strict=True):
        part.suptitle(heading, fontsize=10, color=INK, x=0.01, ha="left", parse_math=False)
        for axes, panel in zip(part.subplots(1, columns, squeeze=False)[0][: len(panels)], panels, strict=True):
            draw_panel(axes, panel, backdrop)
        for axes in part.axes[len(panels) : columns]:
            axes.axis("off")
    return figure


def word_figure(split: Split, weights: dict[int, NDArray[np.float32]], backdrop: Backdrop) -> Figure:
    """One panel a word, titled by the word and the share of the region that it attends to most.

    Args:
        weights: by caption, [W,R] as `attention` gives them.
    """
    rows: list[tuple[str, list[Panel]]] = []
    for caption, shares in weights.items():
        image, words = int(split.image[caption]), words_of(split, caption)
        panels = [Panel(image, row, None, f"{word}  {row.max():.2f}") for word, row in zip(words, shares, strict=False)]
        for start in range(0, len(panels), COLUMNS):
            heading = "" if start else f"{split.store.ids[image]}: {split.texts[caption]}"
            rows.append((heading, panels[start : start + COLUMNS]))
    return panels_figure(rows, backdrop)
