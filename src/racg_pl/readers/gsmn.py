"""GSMN's boxes beside SCAN's features: {split}_ims_bbx.npy [N,R,4] in pixels, {split}_ims_size.npy with each picture's size.

The sizes that GSMN published are a pickled list of dictionaries. Pickles are never loaded: saved plainly they are an array [N,2]
of width and height, or one with the named fields image_w and image_h.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from racg_pl.errors import DataError
from racg_pl.readers.arrays import ArrayFile, expect, load

PLAIN = (
    "save them plainly, once, where you trust the file: "
    "np.save(path, [[size['image_w'], size['image_h']] for size in np.load(path, allow_pickle=True)])"
)


def box_files(folder: Path, split: str) -> tuple[Path, Path]:
    return folder / f"{split}_ims_bbx.npy", folder / f"{split}_ims_size.npy"


def open_boxes(folder: Path, split: str, regions: int) -> tuple[ArrayFile, np.ndarray]:
    """Boxes in pixels, and the sizes int64 [N,2] (width, height). Raises: DataError."""
    boxes, sizes = box_files(folder, split)
    return ArrayFile(boxes, "fiu", ("rows", regions, 4)), read_sizes(sizes)


def read_sizes(path: Path) -> np.ndarray:
    try:
        sizes = load(path)
    except DataError as error:
        raise (
            DataError(f"{path}: expected sizes, got pickled dictionaries; {PLAIN}") if "pickled" in str(error) else error
        ) from None
    if {"image_w", "image_h"} <= set(sizes.dtype.names or ()):
        sizes = np.stack([sizes["image_w"], sizes["image_h"]], axis=-1)
    expect(sizes, "iu", ("rows", 2), str(path))
    return sizes.astype(np.int64)
