"""SCAN's precomp layout, by which the field passes features on; GSMN and VSE-infinity add boxes and names to it.

{split}_ims.npy      [N,R,D], or [5N,R,D] with each image five times
{split}_caps.txt     5N captions in image order, UTF-8, one a line
{split}_ids.txt      N or 5N ids, one a line; without it the row numbers
{split}_boxes.npy    [N,R,4] x1 y1 x2 y2 in [0,1]; or GSMN's {split}_ims_bbx.npy and {split}_ims_size.npy, see gsmn.py;
                     without either every region is the whole picture
{split}_objects.npy  [N,R] labels, −1 unknown; {split}_scores.npy, {split}_attributes.npy, {split}_attribute_scores.npy [N,R]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from racg_pl.errors import DataError
from racg_pl.hdf5 import storable
from racg_pl.readers import gsmn
from racg_pl.readers.arrays import ArrayFile
from racg_pl.readers.captions import Captioned, CaptionFile
from racg_pl.readers.files import read_lines
from racg_pl.readers.stacked import EXTRAS, PER_IMAGE, Stacked, open_extras

FEATURES, CAPTIONS = "_ims.npy", "_caps.txt"


def splits(folder: Path) -> list[str]:
    """The splits of a folder: whatever stands before _ims.npy or _caps.txt."""
    return sorted({path.name.removesuffix(end) for end in (FEATURES, CAPTIONS) for path in folder.glob(f"*{end}")})


def open_precomp(folder: Path, split: str | None, name: Callable[[str], str] = str, layout: str = "SCAN's precomp") -> Stacked:
    """Open one split with its captions.

    Args:
        name: from an id of the layout to the image's name.  layout: what it is called.
    Raises: DataError naming the file and the row or line.
    """
    if split is None:
        raise DataError(
            f"{folder}: expected the name of a split, got none; give one of {', '.join(splits(folder)) or 'train, dev'}"
        )
    if not folder.is_dir():
        raise DataError(f"{folder}: expected the folder of {split}{FEATURES}, got {'a file' if folder.exists() else 'nothing'}")
    source, captions = folder / f"{split}{FEATURES}", folder / f"{split}{CAPTIONS}"
    features = ArrayFile(source, "f", ("rows", "R", "D"))
    texts = _read_texts(captions, features)
    images = len(texts) // PER_IMAGE
    ids_file = folder / f"{split}_ids.txt"
    ids = [name(id) for id in _read_ids(ids_file, images)] if ids_file.exists() else [str(index) for index in range(images)]
    extras = open_extras({extra: folder / f"{split}_{extra}.npy" for extra in EXTRAS}, features.shape[1])
    sizes, pixels = None, gsmn.box_files(folder, split)
    if any(path.exists() for path in pixels):
        if "boxes" in extras:
            raise DataError(f"{pixels[0]}: expected one file of boxes, got {extras['boxes'].path.name} too; remove one")
        extras["boxes"], sizes = gsmn.open_boxes(folder, split, features.shape[1])
        layout += " with GSMN's boxes"
        if len(sizes) not in (images, PER_IMAGE * images):
            raise DataError(f"{pixels[1]}: expected {images} rows, one an image of {source.name}, got {len(sizes)}")
        sizes = sizes[:: len(sizes) // images]
    captioned = [Captioned((id,), texts[k * PER_IMAGE : (k + 1) * PER_IMAGE]) for k, id in enumerate(ids)]
    files = [captions, *([ids_file] if ids_file.exists() else []), *(pixels[1:] if sizes is not None else [])]
    return Stacked(layout, ids, features, extras, sizes, CaptionFile(layout, captions, captioned), files)


def _read_texts(path: Path, features: ArrayFile) -> list[str]:
    texts = read_lines(path)
    for number, text in enumerate(texts):
        if not storable(text):
            raise DataError(f"{path}: record {number}: expected Unicode text without null characters, got {text[:60]!r}")
    rows = len(features)
    if len(texts) not in (rows, PER_IMAGE * rows) or len(texts) % PER_IMAGE or not texts:
        raise DataError(
            f"{path}: expected {PER_IMAGE * rows} captions for the {rows} rows of {features.path.name} "
            f"({rows} if every image stands there {PER_IMAGE} times), got {len(texts)}"
        )
    return texts


def _read_ids(path: Path, images: int) -> list[str]:
    ids = read_lines(path)
    if len(ids) not in (images, PER_IMAGE * images):
        raise DataError(f"{path}: expected {images} ids, or each {PER_IMAGE} times, got {len(ids)}")
    stride = len(ids) // images
    for number, id in enumerate(ids):
        if id != ids[number - number % stride]:
            raise DataError(
                f"{path}: line {number + 1}: expected each id {stride} times, got {id!r}; remove the file to use numbers"
            )
    return ids[::stride]
