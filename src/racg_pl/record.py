"""One image of a region store and the rules that it keeps: the writer and the validator share them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# the whole number that has a dtype's bits, and infinity read as one
BITS: dict[np.dtype, tuple[type, int]] = {
    np.dtype(np.float16): (np.uint16, 0x7C00),
    np.dtype(np.float32): (np.uint32, 0x7F800000),
}


class Record(NamedTuple):
    """One image as stored, padded to R regions; None where the store has no such data set. Named as in `REGIONS`."""

    ids: str
    counts: np.int32
    features: np.ndarray
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32] | None
    scores: NDArray[np.float32] | None
    sizes: NDArray[np.int32] | None
    groups: np.int32 | None
    attributes: NDArray[np.int32] | None = None
    attribute_scores: NDArray[np.float32] | None = None

    def fault(self) -> str | None:
        """What is wrong with this record ("expected …, got …; mend"), or None."""
        count, regions = int(self.counts), len(self.features)
        if not 1 <= count <= regions:
            return f"expected a count of 1 to {regions} real regions, got {count}"
        real, padding = slice(count), slice(count, None)
        if not all_finite(self.features):
            row, column = np.argwhere(~np.isfinite(self.features))[0]
            value = self.features[row, column]
            return f"expected finite features, got {value} in region {row}, dimension {column}; extract this image again"
        if count < regions and (self.features[padding].any() or self.boxes[padding].any()):
            return f"expected zeros behind its {count} real regions, got other numbers; pad with zeros"
        boxes = self.boxes[real]
        if not (boxes.min() >= 0 and boxes.max() <= 1 and (boxes[:, :2] < boxes[:, 2:]).all()):  # of NaN, nothing holds
            return self._box_fault(boxes)
        for name, ids in (("labels", self.labels), ("attributes", self.attributes)):
            if ids is not None and ids.min() < -1:
                return f"expected {name} of −1 (unknown) or more, got {ids.min()}"
        for name, scores in (("scores", self.scores), ("attribute scores", self.attribute_scores)):
            if scores is not None and not np.isfinite(scores).all():
                return f"expected finite {name}, got {scores[~np.isfinite(scores)][0]}"
        if self.sizes is not None and self.sizes.min() < 0:
            return f"expected a width and a height (0 unknown), got {self.sizes.tolist()}"
        if self.groups is not None and self.groups < -1:
            return f"expected a group of −1 (none) or more, got {self.groups}"
        return None

    def _box_fault(self, boxes: NDArray[np.float32]) -> str:
        """What is wrong with the first bad one of [n,4]."""
        checks = (
            (np.isfinite(boxes).all(1), "finite numbers", "extract this image again"),
            ((boxes >= 0).all(1) & (boxes <= 1).all(1), "within [0, 1]", "divide by width and height"),
            (
                (boxes[:, :2] < boxes[:, 2:]).all(1),
                "with x1 < x2 and y1 < y2",
                "give corners, not width and height, and no empty box",
            ),
        )
        good, want, mend = next(check for check in checks if not check[0].all())
        row = int(np.argmin(good))
        return f"expected boxes {want}, got {[round(float(x), 5) for x in boxes[row]]} in region {row}; {mend}"


def all_finite(features: np.ndarray) -> bool:
    """Whether no number is infinite or NaN, by the bits: several times as fast as numpy's own test.

    Read as whole numbers, finite ones that are not negative (a detector's features) lie below infinity, and all others above it:
    one pass. Only where some are negative, a second one leaves out the sign.
    """
    if features.dtype not in BITS:
        return bool(np.isfinite(features).all())
    unsigned, infinity = BITS[features.dtype]
    bits: np.ndarray = features.view(unsigned)
    return bool(bits.max(initial=0) < infinity or (bits & (infinity | infinity - 1)).max() < infinity)
