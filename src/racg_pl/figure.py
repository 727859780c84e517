"""What all figures share: their colours, an empty sheet, and how a finished one becomes a file, the same bytes for the same figure.

Matplotlib takes a second to import, and is imported where a figure is drawn.
"""

from __future__ import annotations

import io
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from racg_pl.errors import FILE, DataError, writing
from racg_pl.written import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, INK, QUIET = "#0072B2", "#D55E00", "#222222", "#666666"  # Okabe and Ito's, told apart by the colour-blind
SUFFIXES = (".png", ".svg", ".pdf")
STAMPS: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
SALT = "racg_pl"  # of the names inside an SVG, which matplotlib draws by chance otherwise


def figure_path(path: str | Path) -> Path:
    """Raises: DataError unless it names a figure of a kind that can be drawn."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}, got {path.suffix or 'no ending'!r}")
    return path


def style(size: float = 10) -> AbstractContextManager[None]:
    """The font of figures, of so many points, and their ink, in force while one is drawn."""
    import matplotlib

    return matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": size, "text.color": INK})


def sheet(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure in inches, which no window shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def rendered(
    figure: Figure, kind: str, dpi: float = 180, *, salt: str = SALT, text: bool = False, clear: bool = False
) -> bytes:
    """A figure as png, svg or pdf.

    Args:
        salt: one of its own for each SVG of a page.  text: whether an SVG holds words as words, in a font of the reader's, not as
            outlines.  clear: whether the sheet is left out.
    """
    import matplotlib

    content = io.BytesIO()
    with (
        matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none" if text else "path"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box stands for a sign that the font lacks
        figure.savefig(content, format=kind, dpi=dpi, metadata=STAMPS[kind], transparent=clear)
    return content.getvalue()


def save_figure(figure: Figure, path: str | Path, dpi: float = 110, *, text: bool = False) -> None:
    """Into .png, .svg or .pdf; text: see `rendered`. Raises: DataError where it cannot be written."""
    path = figure_path(path)
    with writing(path, FILE):
        write_whole(path, rendered(figure, path.suffix.lower().removeprefix("."), dpi, text=text))
