"""HDF5 files that carry a schema: written under a temporary name and moved into place, checked when opened, hashed by content.

What a file holds is said as a `Schema`; those of racg_pl stand in features.py.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np

from racg_pl.errors import DataError
from racg_pl.processes import is_running

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

TEXT = h5py.string_dtype("utf-8")
SMALL = 1 << 14  # bytes that are gathered before they are hashed
BEGIN = 1 << 25  # bytes written after which the disk is asked to begin
LITTLE = sys.byteorder == "little"


class Field(NamedTuple):
    """One data set: its axes by letter (equal letters, equal lengths; digits are fixed), its dtypes, and may it be absent."""

    axes: str
    dtypes: str
    optional: bool = False


class Schema(NamedTuple):
    """One kind of file: its name and version, its attributes with their types, its data sets, and what writes it anew."""

    name: str
    attributes: dict[str, type]
    fields: dict[str, Field]
    mend: str = "write the file again"


class ContentHash:
    """sha256 over values, each preceded by its length in bytes (8 bytes, little-endian): a text as UTF-8, an array as its
    little-endian bytes in C order. The first value is the header, as JSON with sorted keys."""

    def __init__(self, **header: object) -> None:
        self._hash = hashlib.sha256()
        self.add(json.dumps(header, sort_keys=True))

    def add(self, *values: str | np.ndarray | np.generic) -> None:
        small = bytearray()  # gathered: each update lets another thread have the interpreter, and waits to get it back
        for value in values:
            data: bytes | memoryview
            if isinstance(value, str):
                data = value.encode()
            elif isinstance(value, np.generic):
                data = (value if LITTLE else value.byteswap()).tobytes()
            else:
                array = np.asarray(value)
                data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
            small += len(data).to_bytes(8, "little")
            if len(small) + len(data) < SMALL:
                small += data
            else:
                self._hash.update(small)
                self._hash.update(data)
                small.clear()
        self._hash.update(small)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def done_with(descriptor: int, start: int, length: int) -> None:
    """Say that these bytes of an open file are not needed for now: Linux lets go of those that the disk has, so that their memory
    serves again, and begins to write the others, rather than wait until a tenth of the memory is full of them."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)


class _Disk(io.FileIO):
    """The file under an HDF5 file that is being written. HDF5 crashes when a write fails, as on a full disk, or says nothing
    where it fails on closing: so HDF5 never hears of it, and the first failure is kept here."""

    failure: OSError | None = None
    _unsent = 0  # bytes written since the disk was last asked to begin

    def write(self, data: ReadableBuffer) -> int:
        rest = memoryview(data).cast("B")
        try:
            while rest and self.failure is None:
                rest = rest[super().write(rest) :]
            self._unsent += memoryview(data).nbytes
            if self._unsent >= BEGIN:
                self._begin()
        except OSError as error:
            self.failure = error
        return memoryview(data).nbytes

    def _begin(self) -> None:
        done_with(self.fileno(), max(0, self.tell() - self._unsent), self._unsent)
        self._unsent = 0

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


class NewFile(h5py.File):
    """An HDF5 file that is being written; `flush` tells if the disk took all of it."""

    def __init__(self, path: Path) -> None:
        self._disk = _Disk(path, "w+")
        super().__init__(self._disk, "w")

    def flush(self) -> None:
        super().flush()
        self._raise_failure()

    def close(self) -> None:
        super().close()
        self._disk.close()

    def fill(self, **columns: list[str] | np.ndarray) -> None:
        """Write whole data sets; a list becomes UTF-8 text."""
        for name, data in columns.items():
            shape = (len(data),) if isinstance(data, list) else data.shape
            self.create_dataset(name, data=data, shape=shape, dtype=TEXT if isinstance(data, list) else data.dtype)

    def _raise_failure(self) -> None:
        if self._disk.failure:
            raise self._disk.failure


@contextmanager
def create_h5(path: str | Path, moves: ExitStack | None = None, mend: str = "choose another folder") -> Iterator[NewFile]:
    """A new HDF5 file under a temporary name beside `path`, moved over it at the end; on any exception nothing is left.

    Args:
        moves: moves the file when it is left itself, so that of several files all take their names or none.
        mend: what to do where the folder refuses it.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: expected the name of a file, got a folder; give the file's own name")
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path)
        file = NewFile(temporary)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({one_line(error)}); {mend}") from error

    def move(kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    try:
        with nullcontext(moves) if moves is not None else ExitStack() as last:
            last.push(move)
            with file:
                yield file
            file._raise_failure()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataError(f"{path}: cannot be written ({os.strerror(error.errno)}); make room or use another disk") from error
        raise


def _tidy(path: Path) -> None:
    """Remove what processes that were killed while they wrote `path` have left of it."""
    for left in path.parent.glob(f".{escape(path.name)}.tmp-*"):
        number = left.suffix.removeprefix(".tmp-")
        if number.isdecimal() and not is_running(int(number)):
            with suppress(OSError):  # of another user
                left.unlink()


def open_h5(path: str | Path, *schemas: Schema) -> h5py.File:
    """Open a finished file for reading and hold its layout against the schema that it names; the records are not read.

    Raises: DataError where the file is missing, truncated, not HDF5, of none of `schemas`, or lacks what its schema asks for.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path, or write the file first")
    if path.is_dir():
        raise DataError(f"{path}: expected a file, got a folder; name the .h5 file inside it")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "a truncated file" if "truncated" in str(error) else f"no HDF5 file ({one_line(error)})"
        raise DataError(f"{path}: expected an HDF5 file, got {reason}; copy or write it again") from error
    with reading(path):
        name = file.attrs.get("schema")
        for schema in schemas:
            if name == schema.name:
                _check_layout(file, path, schema)
                return file
            if str(name).partition("/")[0] == schema.name.partition("/")[0]:
                raise DataError(f"{path}: expected the schema {schema.name}, got {name}, of another version; {schema.mend}")
        want = " or ".join(schema.name for schema in schemas)
        raise DataError(f"{path}: expected the schema {want}, got {name!r}; is this the right file?")


@contextmanager
def reading(path: Path, what: str = "this file") -> Iterator[None]:
    """Say in one line that something cannot be read: over a damaged file HDF5 raises almost any exception."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: {what} cannot be read ({one_line(error)}); copy or write the file again") from error


def storable(text: str) -> bool:
    """Whether HDF5 can hold a text as UTF-8: no null characters, no lone surrogates."""
    if text.isascii():
        return "\0" not in text
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def one_line(error: BaseException) -> str:
    """The message of an exception (or its kind), without line breaks and not long: of a long one both ends, where causes stand."""
    words = " ".join(str(error).split())
    return (words if len(words) <= 240 else f"{words[:140]} … {words[-100:]}") or type(error).__name__


def _check_layout(file: h5py.File, path: Path, schema: Schema) -> None:
    for name, kind in schema.attributes.items():
        got = file.attrs.get(name)
        if not isinstance(got, str if kind is str else np.integer):
            raise DataError(f"{path}: expected the attribute {name} ({kind.__name__}), got {got!r}; write the file again")
    lengths: dict[str, int] = {}
    for name, field in schema.fields.items():
        data = file.get(name)
        if data is None and field.optional:
            continue
        if not isinstance(data, h5py.Dataset):
            raise DataError(f"{path}: expected the data set {name}, got none; write the file again")
        dtype = "text" if h5py.check_string_dtype(data.dtype) else str(data.dtype)
        if dtype not in field.dtypes.split():
            raise DataError(f"{path}: {name}: expected {field.dtypes.replace(' ', ' or ')}, got {dtype}; write it again so")
        axes, want = field.axes.split(), []
        if len(data.shape) == len(axes):
            for axis, size in zip(axes, data.shape, strict=True):
                want.append(int(axis) if axis.isdigit() else lengths.setdefault(axis, size))
        if list(data.shape) != want:
            shape = ", ".join(f"{axis}={lengths[axis]}" if axis in lengths else axis for axis in axes)
            raise DataError(f"{path}: {name}: expected the shape [{shape}], got {list(data.shape)}; write it again so")
