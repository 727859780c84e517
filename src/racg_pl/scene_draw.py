"""A picture of Scenes as people see it: glyphs, boxes, proposals and captions, the twin beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from racg_pl.captions import CaptionStore
from racg_pl.errors import DataError
from racg_pl.features import RegionStore
from racg_pl.figure import figure_path, save_figure, sheet
from racg_pl.scene_truth import SceneObject, Truth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PEOPLE = {"man", "woman", "boy", "girl", "baby", "robot"}
ANIMALS = {"dog", "cat", "horse", "cow", "sheep", "goat", "pig", "bear", "lion", "tiger", "monkey", "rabbit", "duck", "hen"}
ANIMALS |= {"parrot", "turtle", "frog", "snake", "camel", "zebra"}
FACES = {"pink": "hotpink", "purple": "mediumorchid", "brown": "saddlebrown", "black": "#222222", "green": "limegreen"}
TEXTURES = {  # attributes that are no colour: face and hatching
    "striped": ("#f4f4f4", "//////"),
    "spotted": ("#f4f4f4", "oo"),
    "wooden": ("burlywood", "---"),
    "shiny": ("#cfe8ff", "**"),
    "fluffy": ("#efe6d8", "...."),
    "rusty": ("#b7410e", "xxx"),
}
KINDS = ("no twin", "its twin has two attributes exchanged", "its twin has the roles of a relation exchanged")


def draw(out: str | Path, image_id: str, path: str | Path) -> None:
    """Draw one picture of the Scenes in folder `out`, and its twin if it has one, into an image file (.png, .pdf, .svg).

    Glyphs stand for people, animals and things, filled with the attribute's colour or pattern. Solid boxes are the truth,
    faint ones the 36 proposals (coloured where made for an object); below, each object or related pair at large, and the
    captions, those that tell the picture from its twin with a filled mark.

    Raises: DataError if there is no such picture, or a file is missing or cannot be written.
    """
    path = figure_path(path)
    split, dash, _ = image_id.rpartition("-")
    if not dash:
        raise DataError(f"{out}: expected an id such as test-00000, got {image_id!r}; choose one of SPLIT.h5")
    truth = Truth(Path(out) / f"{split}.truth.h5")
    store = RegionStore(Path(out) / f"{split}.h5")
    captions = CaptionStore(Path(out) / f"{split}.captions.h5")
    truth.require(captions)
    captions.require(store)
    if image_id not in store.ids:
        raise DataError(f"{store.path}: expected an id in it ({store.ids[0]} … {store.ids[-1]}), got {image_id!r}; choose one")
    image = store.ids.index(image_id)
    images = [image] if truth.twin[image] < 0 else [image, int(truth.twin[image])]

    figure = sheet(6.4 * len(images), 9.8)
    grid = figure.add_gridspec(3, len(images), height_ratios=[6.2, 2.2, 1.5])
    figure.suptitle(f"{image_id}: {KINDS[truth.twin_kind[image]]}", fontsize=12)
    for column, shown in enumerate(images):
        axes = figure.add_subplot(grid[0, column])
        _draw_picture(axes, truth, shown, store.boxes[shown])
        axes.set_title(store.ids[shown], fontsize=10)
        row = grid[1, column].subgridspec(1, 4)
        for place, (things, title) in enumerate(_close_ups(truth, shown)):
            _draw_close_up(figure.add_subplot(row[0, place]), things, title)
        below = figure.add_subplot(grid[2, column])
        below.axis("off")
        lines = []
        for caption in np.flatnonzero(captions.image == shown):
            lines.append(("● " if truth.decisive[caption] else "○ ") + _wrap(captions.texts[caption]))
        below.text(0, 1, "\n".join(lines), va="top", fontsize=8.5, linespacing=1.25, transform=below.transAxes)
    save_figure(figure, path)


def small(truth: Truth, image: int) -> Figure:
    """One picture alone, 1.9 inches wide: the square that holds its objects, with glyphs, boxes and names."""
    figure = sheet(1.9, 1.9, layout=None)
    axes = figure.add_axes((0, 0, 1, 1))
    _draw_picture(axes, truth, image, np.zeros((0, 4)))
    boxes = np.array([thing.box for thing in truth.objects_of(image)])
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    (x, y), half = (low + high) / 2, (high - low).max() / 2 + 0.1
    axes.set(xlim=(x - half, x + half), ylim=(y + half, y - half))
    axes.axis("off")
    return figure


def _wrap(text: str) -> str:
    from textwrap import wrap

    return "\n    ".join(wrap(text, 82))


def _draw_picture(axes: Axes, truth: Truth, image: int, proposals: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[], facecolor="#fbfbf7")
    for owner, (x1, y1, x2, y2) in zip(truth.proposals[image][: len(proposals)], proposals, strict=True):
        colour = "tab:blue" if owner >= 0 else "gray"
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=0.5, alpha=0.4))
    objects = truth.objects_of(image)
    lower = {max(s, o, key=lambda k: objects[k].box[3]) for s, _, o in truth.relations_of(image)}
    for place, thing in enumerate(objects):  # of two that overlap, the lower one has its name below
        draw_object(axes, thing)
        x1, y1, x2, y2 = thing.box
        at, side = (y2 + 0.006, "top") if place in lower else (y1 - 0.006, "bottom")
        axes.text((x1 + x2) / 2, at, f"{thing.attribute} {thing.name}", ha="center", va=side, fontsize=7, zorder=5)


def _close_ups(truth: Truth, image: int) -> list[tuple[list[SceneObject], str]]:
    """What to show at large, with titles: the ends of each relation, the subject last (in front), and the other objects."""
    objects, alone = truth.objects_of(image), set(range(len(truth.objects_of(image))))
    shown = []
    for subject, name, other in truth.relations_of(image):
        one, two = objects[subject], objects[other]
        shown.append(([two, one], f"{one.attribute} {one.name}\n{name}\n{two.attribute} {two.name}"))
        alone -= {subject, other}
    return shown + [([objects[k]], f"{objects[k].attribute} {objects[k].name}") for k in sorted(alone)]


def _draw_close_up(axes: Axes, things: list[SceneObject], title: str) -> None:
    low = np.min([thing.box[:2] for thing in things], axis=0)
    high = np.max([thing.box[2:] for thing in things], axis=0)
    middle, half = (low + high) / 2, 0.57 * (high - low).max()
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] + half, middle[1] - half), xticks=[], yticks=[])
    axes.set(aspect="equal", facecolor="#fbfbf7")
    for thing in things:
        draw_object(axes, thing, 0.85)
    axes.set_title(title, fontsize=8.5)


def draw_object(axes: Axes, thing: SceneObject, alpha: float = 0.95) -> None:
    """A glyph that fills the box: a head over shoulders, a body with a head and legs, or a slab; and the box itself."""
    from matplotlib.patches import Ellipse, FancyBboxPatch, Patch, Rectangle

    x1, y1, x2, y2 = thing.box
    w, h = x2 - x1, y2 - y1
    face, hatch = TEXTURES.get(thing.attribute, (FACES.get(thing.attribute, thing.attribute), ""))
    shapes: list[Patch]
    if thing.name in PEOPLE:
        body = FancyBboxPatch((x1 + 0.28 * w, y1 + 0.48 * h), 0.44 * w, 0.42 * h, boxstyle=f"round,pad={0.08 * w}")
        shapes = [body, Ellipse((x1 + 0.5 * w, y1 + 0.22 * h), 0.42 * w, 0.4 * h)]
    elif thing.name in ANIMALS:
        legs = [Rectangle((x1 + at * w, y1 + 0.6 * h), 0.1 * w, 0.38 * h) for at in (0.2, 0.6)]
        shapes = [*legs, Ellipse((x1 + 0.43 * w, y1 + 0.55 * h), 0.8 * w, 0.45 * h)]
        shapes.append(Ellipse((x1 + 0.8 * w, y1 + 0.27 * h), 0.36 * w, 0.4 * h))
    else:
        shapes = [FancyBboxPatch((x1 + 0.14 * w, y1 + 0.14 * h), 0.72 * w, 0.72 * h, boxstyle=f"round,pad={0.08 * w}")]
    for shape in shapes:
        shape.set(facecolor=face, edgecolor="#444444", hatch=hatch, linewidth=0.8, alpha=alpha, zorder=3)
        axes.add_patch(shape)
    axes.add_patch(Rectangle((x1, y1), w, h, fill=False, edgecolor="black", linewidth=1, zorder=4))
