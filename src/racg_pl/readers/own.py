"""One's own pictures in a folder: captions as a table, region features in one array, or a file an image (folder.py).

captions.csv or captions.jsonl   see table.py
features.npy     [N,R,D], a row an image; zero regions at its end are padding
ids.txt          N names of the rows; without it they are the images of the captions, in their order
boxes.npy        [N,R,4] in [0,1]; or in pixels, with sizes.npy [N,2], width and height; objects.npy, scores.npy,
                 attributes.npy, attribute_scores.npy [N,R]; all optional
"""

from __future__ import annotations

from pathlib import Path

from racg_pl.errors import DataError
from racg_pl.readers.arrays import ArrayFile
from racg_pl.readers.captions import CaptionFile
from racg_pl.readers.files import read_lines
from racg_pl.readers.gsmn import read_sizes
from racg_pl.readers.stacked import EXTRAS, Stacked, open_extras

FEATURES = "features.npy"
TABLES = ("captions.csv", "captions.jsonl")


def table_of(folder: Path) -> Path | None:
    """The captions that lie in a folder."""
    found = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder}: expected one table of captions, got {' and '.join(TABLES)}; name one with --captions")
    return found[0] if found else None


def open_own(folder: Path, captions: CaptionFile | None) -> Stacked:
    """Open the one array. Raises: DataError."""
    features, listed = ArrayFile(folder / FEATURES, "f", ("rows", "R", "D")), folder / "ids.txt"
    if listed.exists():
        ids, names = read_lines(listed), listed
    elif captions is not None:
        ids, names = [image.names[0] for image in captions.images], captions.path
    else:
        raise DataError(
            f"{listed}: no such file, and there are no captions to name the rows of {FEATURES}; write a name a line"
        )
    if len(ids) != len(features):
        raise DataError(f"{names}: expected a name for each of {len(features)} rows of {folder / FEATURES}, got {len(ids)}")
    extras = open_extras({extra: folder / f"{extra}.npy" for extra in EXTRAS}, features.shape[1])
    sizes = read_sizes(folder / "sizes.npy") if (folder / "sizes.npy").exists() else None
    if sizes is not None and len(sizes) != len(ids):
        raise DataError(f"{folder / 'sizes.npy'}: expected {len(ids)} rows, one an image of {FEATURES}, got {len(sizes)}")
    files = [path for path in (listed, folder / "sizes.npy") if path.exists()]
    return Stacked("own pictures in one array", ids, features, extras, sizes, None, files)
