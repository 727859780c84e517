"""The semantic graph of one sentence for people to look at: as lines of text, and as a figure.

    print(view("a man rides a horse"))             →  man  object  man —acts on→ horse …
    save_figure(draw(view("a man rides a horse")), path)

What a word is to the graph, its kind, is read off its edges: whatever stands in a role to others is a relation, and so on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from racg_pl.errors import DataError
from racg_pl.figure import INK, QUIET, sheet, style
from racg_pl.hdf5 import storable
from racg_pl.semantics import ROLES, TYPES, Edge
from racg_pl.text import LONGEST, parse_captions
from racg_pl.trees import NOMINAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {  # with face and edge colours: light and dark of Okabe and Ito's palette, told apart by the colour-blind
    "object": ("#d6e9f5", "#0072B2"),
    "attribute": ("#d3efe5", "#009E73"),
    "relation": ("#fbe3d1", "#D55E00"),
    "negation": ("#f4dfeb", "#CC79A7"),
    "word": ("#eeeeee", "#666666"),  # of a chain, which says nothing of kinds
    "function": ("none", "none"),
}
DIRECT = frozenset(("acts on", "relative to"))  # say what two others say already, and are drawn below the words
MADE = frozenset(ROLES[name] for name in ("agent", "patient", "recipient", "figure", "ground"))  # by a relation
SAID = frozenset(ROLES[name] for name in ("attribute", "manner"))  # by an attribute
SMALL, LARGE = 9.0, 13.0  # points: labels of arcs, words
STEP, PAD, GAP = 19.0, 6.0, 15.0  # points: between two heights of arcs, around a word, between two words


class View(NamedTuple):
    """A sentence as read: its words as written, the kind of each, its edges, and in words what parsed it."""

    words: list[str]
    kinds: list[str]
    edges: list[Edge]
    parser: str

    def __str__(self) -> str:
        """A line an edge, by the words that it starts from; words without relation to others on one line at the end."""
        names, rows = numbered(self.words), list[tuple[str, str, str]]()
        shown = [edge for edge in self.edges if self._is_shown(edge)]
        for i, kind in enumerate(self.kinds):
            if kind != "function" or any(i in edge[:2] for edge in shown):
                lines = [f"{names[s]} —{TYPES[t]}→ {names[o]}" for s, o, t in shown if s == i]
                rows += [(names[i], kind, lines[0] if lines else ""), *(("", "", line) for line in lines[1:])]
        wide = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
        lines = [f"{word:<{wide[0]}}  {kind:<{wide[1]}}  {edge}".rstrip() for word, kind, edge in rows]
        told = {row[0] for row in rows}
        if rest := [word for word, name in zip(self.words, names, strict=True) if name not in told]:
            lines += ["", f"function words: {' '.join(rest)}"]
        return "\n".join([f"{' '.join(self.words)}   ({self.parser})", "", *lines])

    def _is_shown(self, edge: Edge) -> bool:
        return TYPES[edge.type] != "function" or "function" not in (self.kinds[edge.source], self.kinds[edge.target])


def view(sentence: str, parser: str = "bundled") -> View:
    """Parse a sentence and read its graph. Raises: DataError where it has no word, or there is no such parser."""
    require_sentence(sentence, "parse")
    parse = parse_captions([sentence], parser)
    edges = [Edge(*edge) for edge in parse.edges.tolist()]
    tags = [parse.tag_names[tag] for tag in parse.tags]
    return View(parse.words, word_kinds(tags, edges), edges, f"parser {parse.parser} {parse.version}")


def require_sentence(sentence: str, verb: str) -> None:
    """Raises: DataError unless a sentence that a user typed has words, is Unicode, and no book."""
    if not sentence.split():
        raise DataError(f"{verb}: expected a sentence of at least one word, got {sentence!r}; give one in quotes")
    if len(sentence) > LONGEST:
        raise DataError(f"{verb}: expected a sentence of at most {LONGEST:,} characters, got {len(sentence):,}; shorten it")
    if not storable(sentence):
        raise DataError(f"{verb}: expected Unicode text without null characters, got {sentence!r}; give it in UTF-8")


def word_kinds(tags: Sequence[str], edges: Sequence[Edge]) -> list[str]:
    """One of KINDS for each word, from its universal tag and its edges."""
    kinds = []
    for i, tag in enumerate(tags):
        out, into = ({edge.type for edge in edges if edge[end] == i} for end in (0, 1))
        if ROLES["next"] in out | into:
            kinds.append("word")
        elif ROLES["negation"] in into:
            kinds.append("negation")
        elif out & MADE or (tag == "VERB" and not into & SAID):
            kinds.append("relation")
        elif into & SAID:
            kinds.append("attribute")
        elif (tag in NOMINAL and tag != "PRON") or (out | into) - {ROLES["function"]}:
            kinds.append("object")
        else:
            kinds.append("function")
    return kinds


def numbered(words: Sequence[str]) -> list[str]:
    """Words that occur more than once get a number each: dog₁ … dog₂."""
    counts, seen, names = Counter(word.lower() for word in words), Counter[str](), []
    for word in words:
        seen[word.lower()] += 1
        number = "".join(chr(0x2080 + int(digit)) for digit in str(seen[word.lower()]))
        names.append(word + number if counts[word.lower()] > 1 and word[0].isalnum() else word)
    return names


# ---- the figure ----


class Arc(NamedTuple):
    """One edge on the page, in points: from x1 (source) to x2 (target) at `height` steps, below the words where `below`."""

    x1: float
    x2: float
    height: int
    below: bool
    label: str
    colour: str


def draw(shown: View) -> Figure:
    """A graph as a figure, as large as it needs to be."""
    with style():
        widths = [_width(word, LARGE if kind != "function" else LARGE - 2) for word, kind in zip(*shown[:2], strict=True)]
        edges = [edge for edge in shown.edges if shown._is_shown(edge)]
        centres = _centres(widths, edges)
        arcs = _arcs(centres, edges, shown.kinds)
        above, below = (max((arc.height for arc in arcs if arc.below == side), default=0) for side in (False, True))
        right = centres[-1] + widths[-1] / 2 + 2 * PAD
        left = centres[0] - widths[0] / 2 - 2 * PAD
        legend = [kind for kind in KINDS if kind in shown.kinds and kind not in ("word", "function")]
        top, bottom = 16 + STEP * (above + 0.8), -16 - STEP * (below + 0.6) - 22
        size = (max(right - left, 74 * len(legend) + PAD) / 72, (top - bottom) / 72)
        figure = sheet(*size, layout=None)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(left, left + 72 * size[0]), ylim=(bottom, top))
        axes.axis("off")
        for word, what, x, width in zip(shown.words, shown.kinds, centres, widths, strict=True):
            _draw_word(axes, word, what, x, width)
        for arc in sorted(arcs, key=lambda arc: -arc.height):
            _draw_arc(axes, arc)
        x = left + PAD
        for what in legend:
            _draw_box(axes, what, x + 6, bottom + 11, 6, 4)
            axes.text(x + 19, bottom + 11, what, fontsize=SMALL, color=QUIET, va="center_baseline")
            x += 74
    return figure


def _width(text: str, size: float) -> float:
    """Of a text in points."""
    from matplotlib.textpath import TextPath

    try:
        width = TextPath((0, 0), text.replace("$", r"\$"), size=size).get_extents().width
    except AttributeError:  # by matplotlib where no sign has an outline, such as zero-width ones
        width = 0
    return float(max(width, size / 3))


def _centres(widths: Sequence[float], edges: Sequence[Edge]) -> list[float]:
    """Where the words stand, so far apart that the label of each arc has room between its ends."""
    centres = [widths[0] / 2]
    for i in range(1, len(widths)):
        x = centres[-1] + (widths[i - 1] + widths[i]) / 2 + GAP
        for source, target, kind in edges:
            if max(source, target) == i:
                x = max(x, centres[min(source, target)] + _width(TYPES[kind], SMALL) + 38)
        centres.append(x)
    return centres


def _arcs(centres: Sequence[float], edges: Sequence[Edge], kinds: Sequence[str]) -> list[Arc]:
    """Arcs side by side or one above the other, the short ones innermost; at a word, the wider arc starts nearer its middle."""
    arcs, taken = list[Arc](), {False: list[tuple[int, int, int]](), True: list[tuple[int, int, int]]()}
    ends: dict[tuple[int, bool, bool], int] = {}  # (word, below, to the right) → arcs there so far
    by_length = sorted(edges, key=lambda edge: (abs(edge.source - edge.target), edge))
    total = Counter((end, TYPES[e.type] in DIRECT, end == min(e[:2])) for e in edges for end in e[:2])
    for source, target, kind in by_length:
        first, last, below = min(source, target), max(source, target), TYPES[kind] in DIRECT
        height = 1 + max((h for a, b, h in taken[below] if a < last and first < b), default=0)
        taken[below].append((first, last, height))
        at = {}
        for end, rightwards in ((first, True), (last, False)):
            place = ends[(end, below, rightwards)] = ends.get((end, below, rightwards), 0) + 1
            shift = 3.0 + 6.0 * (total[(end, below, rightwards)] - place)
            at[end] = centres[end] + (shift if rightwards else -shift)
        colour = KINDS[kinds[source] if TYPES[kind] != "attribute" else "attribute"][1]
        arcs.append(Arc(at[source], at[target], height, below, TYPES[kind], QUIET if colour == "none" else colour))
    return arcs


def _draw_word(axes: Axes, word: str, kind: str, x: float, width: float) -> None:
    if kind != "function":
        _draw_box(axes, kind, x, 0, width / 2 + PAD - 1, 11)
    size, colour = (LARGE, INK) if kind != "function" else (LARGE - 2, QUIET)
    axes.text(x, -4.6, word, fontsize=size, color=colour, ha="center", va="baseline", parse_math=False, zorder=3)


def _draw_box(axes: Axes, kind: str, x: float, y: float, half: float, height: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    face, edge = KINDS[kind]
    style = f"round,pad=0,rounding_size={min(4, height)}"
    axes.add_patch(
        FancyBboxPatch((x - half, y - height), 2 * half, 2 * height, boxstyle=style, fc=face, ec=edge, lw=1, zorder=2)
    )


def _draw_arc(axes: Axes, arc: Arc) -> None:
    """Up, along and down, with round corners, an arrow at the target and the type in the middle."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Line

    sign = -1 if arc.below else 1
    start, level, turn = 12.0 * sign, (14.0 + STEP * arc.height) * sign, 6.0 * (1 if arc.x2 > arc.x1 else -1)
    points = [(arc.x1, start), (arc.x1, level - 6 * sign), (arc.x1, level), (arc.x1 + turn, level)]
    points += [(arc.x2 - turn, level), (arc.x2, level), (arc.x2, level - 6 * sign), (arc.x2, start)]
    codes = [Line.MOVETO, Line.LINETO, Line.CURVE3, Line.CURVE3, Line.LINETO, Line.CURVE3, Line.CURVE3, Line.LINETO]
    head = "-|>,head_length=3.2,head_width=1.8"
    axes.add_patch(
        FancyArrowPatch(path=Line(points, codes), arrowstyle=head, color=arc.colour, lw=1.1, joinstyle="miter", zorder=1)
    )
    box = {"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none"}
    middle = (arc.x1 + arc.x2) / 2
    axes.text(middle, level, arc.label, fontsize=SMALL, color=INK, ha="center", va="center_baseline", bbox=box, zorder=4)
