"""The one record that every layout is read into, and what a reader of region features is to the converter."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from racg_pl.errors import DataError
from racg_pl.readers.captions import CaptionFile

WHOLE_PICTURE = np.array([0, 0, 1, 1], np.float32)
SLACK = 1.0  # pixels that a box may reach beyond the picture: detectors round, and some count pixels from 1


class Picture(NamedTuple):
    """One image with r regions as a reader gives it; None where the source does not say."""

    where: str  # what messages call it: file, place in the file, id
    features: np.ndarray  # [r,D]
    boxes: np.ndarray | None  # [r,4] x1 y1 x2 y2 in [0,1]
    objects: np.ndarray | None = None  # [r] detected class
    scores: np.ndarray | None = None  # [r] confidence of the class
    attributes: np.ndarray | None = None  # [r] detected attribute
    attribute_scores: np.ndarray | None = None  # [r]
    size: tuple[int, int] | None = None  # width and height in pixels


class Regions(Protocol):
    """The region features of one source, picture by picture in any order; may be sent to another process."""

    layout: str  # what was recognised, in words
    path: Path  # what the store names as its source
    files: list[Path]  # every file that is read, captions of the layout itself included
    ids: list[str]  # [N]
    dim: int  # D
    dtype: np.dtype  # of the features
    boxes_known: bool
    captions: CaptionFile | None  # where they belong to the layout

    @property
    def regions(self) -> int:
        """R, the most that a picture has."""
        ...

    def read(self, index: int) -> Picture: ...

    def sha256(self) -> str:
        """Hash of what holds the features."""
        ...


def scaled(boxes: ArrayLike, width: int, height: int, where: str) -> NDArray[np.float32]:
    """Boxes [r,4] from pixels to [0,1]; what reaches up to a pixel beyond the picture is cut off. A new array.

    Raises: DataError where a box lies outside the picture, is no number, or the picture has no extent, and where all lie in [0,1].
    """
    pixels = np.asarray(boxes, np.float64)
    if width < 1 or height < 1:
        raise DataError(
            f"{where}: expected a width and a height of at least 1, got {width} × {height}; extract this image again"
        )
    if pixels.ndim != 2 or pixels.shape[1] != 4:
        raise DataError(f"{where}: boxes: expected the shape [r, 4], got {list(pixels.shape)}")
    if not (inside := _inside(pixels, width, height)).all():
        row = int(np.argmin(inside))
        mend = "extract this image again"
        if _inside(pixels, height, width).all():
            mend = f"they fit a picture of {height} × {width}: are width and height swapped?"
        elif (pixels >= 0).all() and (pixels[:, 2:] <= max(width, height) + SLACK).all():
            mend = "are x and y swapped?"
        elif (pixels[:, 0] + pixels[:, 2] <= width + SLACK).all():
            mend += ", with corners x1 y1 x2 y2"
        got = [round(float(x), 2) for x in pixels[row]]
        raise DataError(
            f"{where}: expected boxes inside the picture of {width} × {height} pixels, got {got} in region {row}; {mend}"
        )
    if min(width, height) > 2 and len(pixels) and pixels.max() <= 1:
        raise DataError(
            f"{where}: expected boxes in pixels, since width and height stand beside them, got all within [0, 1]; leave the sizes "
            "out, or multiply the boxes by them"
        )
    return np.clip(pixels / [width, height, width, height], 0, 1).astype(np.float32)


def _inside(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Which boxes [r,4] lie in a picture, SLACK allowed; NaN lies nowhere."""
    most = np.array([width, height, width, height])
    return np.all((boxes >= -SLACK) & (boxes <= most + SLACK), axis=1)
