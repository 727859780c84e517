"""Arrays that hold all images of a split, one a row: what SCAN's, GSMN's and VSE-infinity's layouts and one's own array share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from racg_pl.errors import DataError
from racg_pl.readers.arrays import ArrayFile, real_regions
from racg_pl.readers.captions import CaptionFile
from racg_pl.readers.files import file_sha256
from racg_pl.readers.picture import Picture, scaled

EXTRAS = ("boxes", "objects", "scores", "attributes", "attribute_scores")
PER_IMAGE = 5  # how often an image may stand in an array that goes by captions
PROBES = 32  # images whose repeats are compared


@dataclass
class Stacked:
    """Regions of N images from arrays of N rows, or of 5N where each image stands there five times.

    `features` [N,R,D]; `extras` of EXTRAS, [N,R] or [N,R,4]; where `sizes` [N,2] is given (width, height), boxes are in pixels.
    Regions that are zero throughout at the end of an image are padding.
    """

    layout: str
    ids: list[str]
    features: ArrayFile
    extras: dict[str, ArrayFile]
    sizes: np.ndarray | None = None
    captions: CaptionFile | None = None
    files: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path = self.features.path
        self.regions, self.dim = self.features.shape[1:]
        self.dtype, self.boxes_known = self.features.dtype, "boxes" in self.extras
        self.files += [self.path, *(extra.path for extra in self.extras.values())]
        known: dict[str, int] = {}
        for place, id in enumerate(self.ids):
            if known.setdefault(id, place) != place:
                at = f"{self.path}: record {place} ({id!r})"
                raise DataError(f"{at}: expected unique ids, got one that record {known[id]} has too; rename one")
        for array in (self.features, *self.extras.values()):
            if len(array) not in (len(self.ids), PER_IMAGE * len(self.ids)) or not len(array):
                raise DataError(
                    f"{array.path}: expected {len(self.ids)} rows, one an image of {self.path.name}, got {len(array)}"
                )
            self._expect_repeats(array)

    def read(self, index: int) -> Picture:
        where = f"{self.path}: record {index} ({self.ids[index]!r})"
        features = self._row(self.features, index)
        count = real_regions(features)
        if not count:
            raise DataError(f"{where}: expected features, got only zeros")
        extra = {name: self._row(array, index)[:count] for name, array in self.extras.items()}
        boxes, size = extra.pop("boxes", None), None
        if self.sizes is not None:
            size = (int(self.sizes[index, 0]), int(self.sizes[index, 1]))
            boxes = None if boxes is None else scaled(boxes, *size, where)
        return Picture(where, features[:count], boxes, size=size, **extra)

    def sha256(self) -> str:
        return file_sha256(self.path)

    def _row(self, array: ArrayFile, index: int) -> np.ndarray:
        return array.row(index * (len(array) // len(self.ids)))

    def _expect_repeats(self, array: ArrayFile) -> None:
        """Where every image should stand there five times, compare its rows for images spread over the file."""
        stride = len(array) // len(self.ids)
        for index in np.unique(np.linspace(0, len(self.ids) - 1, PROBES).astype(int)) if stride > 1 else ():
            first = array.row(index * stride)
            for row in range(index * stride + 1, (index + 1) * stride):
                if not np.array_equal(first, array.row(row), equal_nan=array.dtype.kind == "f"):
                    raise DataError(
                        f"{array.path}: expected each image {stride} times ({len(array)} rows, {len(self.ids)} images), "
                        f"got another row {row} than row {index * stride}"
                    )


def open_extras(paths: dict[str, Path], regions: int) -> dict[str, ArrayFile]:
    """Those of the arrays beside the features that exist, held against their kinds and shapes."""
    opened = {}
    for name, path in paths.items():
        if path.exists():
            kinds, shape = "iu" if name in ("objects", "attributes") else "fiu", (regions, 4) if name == "boxes" else (regions,)
            opened[name] = ArrayFile(path, kinds, ("rows", *shape))
    return opened
