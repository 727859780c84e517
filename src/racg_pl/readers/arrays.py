"""Numpy files: checked by their header, read row by row, never unpickled and never whole in memory."""

from __future__ import annotations

import os
import pickle
import warnings
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from racg_pl.errors import DataError
from racg_pl.hdf5 import done_with, one_line

AHEAD = 1 << 21  # bytes that are read at once where rows are asked for in their order
KINDS = {"f": "floating-point numbers", "iu": "integers", "fiu": "numbers"}


class ArrayFile:
    """A .npy file whose rows are read with plain reads: what a memory map touched would count as memory of the process.

    Rows asked for in their order are read by blocks of AHEAD bytes; a row is never written to again.

    Args:
        kinds: of its dtype, one of KINDS.  axes: its axes in words; a number is a fixed length.
    Raises: DataError if it is missing, truncated, pickled, or not as said.
    """

    def __init__(self, path: Path, kinds: str, axes: tuple[str | int, ...]) -> None:
        self.path = path
        mapped = load(path, mapped=True)
        expect(mapped, kinds, axes, str(path))
        if mapped.ndim > 1 and not mapped.flags.c_contiguous:
            raise DataError(f"{path}: expected an array in C order, got Fortran order; save np.ascontiguousarray(array)")
        self.shape, self.dtype = mapped.shape, mapped.dtype
        self._offset = int(getattr(mapped, "offset", 0))
        self._first, self._block = (
            0,
            np.empty((0, *self.shape[1:]), self.dtype),
        )  # rows read last: from which on, and themselves

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def _file(self) -> IO[bytes]:
        return self.path.open("rb", buffering=0)

    def __getstate__(self) -> dict[str, object]:
        here = {name: value for name, value in self.__dict__.items() if name != "_file"}  # another process opens its own
        return here | {"_first": 0, "_block": self._block[:0].copy()}

    def row(self, index: int) -> np.ndarray:
        """Row `index` in memory."""
        if not 0 <= index - self._first < len(self._block):
            row_bytes = max(1, int(np.prod(self.shape[1:])) * self.dtype.itemsize)
            follows = index == self._first + len(self._block)
            rows = min(max(1, AHEAD // row_bytes), len(self) - index) if follows else 1
            block = np.empty((rows, *self.shape[1:]), self.dtype)
            try:
                got = os.preadv(self._file.fileno(), [block.reshape(-1).view(np.uint8).data], self._offset + index * row_bytes)
            except OSError as error:
                raise DataError(f"{self.path}: row {index} cannot be read ({one_line(error)}); copy the file again") from error
            if got < row_bytes:
                raise DataError(
                    f"{self.path}: row {index}: expected {row_bytes} bytes, got {got}: a truncated file; copy it again"
                )
            self._first, self._block = index, block[: got // row_bytes]
            if follows:  # what was read is not read again, and new memory costs more than memory that serves again
                done_with(self._file.fileno(), 0, self._offset + index * row_bytes)
        return self._block[index - self._first]


def load(path: Path, *, mapped: bool = False) -> np.ndarray:
    """An array from a .npy file. Raises: DataError in one line, also for pickles, which are never loaded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that Python 2 wrote a header
            array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the folder and the split") from error
    except Exception as error:  # whatever a damaged header makes numpy raise
        raise DataError(f"{path}: expected an array of numbers, got {reason(error)}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path}: expected one array, got an .npz archive; save it with np.save")
    return array


def reason(error: Exception) -> str:
    """Why numpy could not read an array, and the mend."""
    said = one_line(error)
    if isinstance(error, IsADirectoryError):
        return "a folder; name the file"
    if isinstance(error, pickle.PickleError) or "ickle" in said or "bject" in said:
        return (
            "pickled Python objects, which are never loaded; save numbers: np.save(path, np.stack(list_of_arrays)), "
            "rows of unequal length padded with zeros"
        )
    if any(sign in said for sign in ("mmap length", "No data left", "EOF", "cannot reshape", "Expected to read")):
        return "a truncated file; copy it again"
    return f"a file that numpy cannot read ({said}); save it again with np.save"


def expect(array: np.ndarray, kinds: str, axes: tuple[str | int, ...], where: str) -> None:
    """Hold an array against the kinds of its dtype and its axes. Raises: DataError."""
    if array.dtype.kind not in kinds:
        raise DataError(f"{where}: expected {KINDS[kinds]}, got {array.dtype}")
    if array.ndim != len(axes) or any(isinstance(a, int) and a != n for a, n in zip(axes, array.shape, strict=True)):
        raise DataError(f"{where}: expected the shape [{', '.join(map(str, axes))}], got {list(array.shape)}")


def real_regions(features: np.ndarray) -> int:
    """How many regions [R,D] there are before those, at the end, that are zero throughout: padding of a ragged set."""
    if features[-1].any():
        return len(features)
    real = np.flatnonzero(features.any(axis=1))
    return int(real[-1]) + 1 if len(real) else 0
