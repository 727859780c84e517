"""Text, JSON and hashes of the files that users bring; everything that cannot be read is one line."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.progress import progress_bar

BLOCK = 1 << 20
BOM = b"\xef\xbb\xbf"
ARRAY_SUFFIXES = {".npy", ".npz"}  # of features by the name of their picture
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"} | ARRAY_SUFFIXES


def files_below(folder: Path) -> Iterator[Path]:
    """Those of a folder and its folders, links to folders too, a folder once."""
    seen = set[str]()
    for base, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(base)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(base, name) for name in names)


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def decoded(raw: bytes, where: str) -> str:
    """UTF-8 text. Raises: DataError that shows the first byte that is none."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        near = raw[max(error.start - 12, 0) : error.end + 12].decode("latin-1")
        raise DataError(f"{where}: expected UTF-8, got byte 0x{raw[error.start]:02x} near {near!r}; convert it") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without surrounding blanks. A byte order mark and Windows line ends are tolerated; an empty
    line counts, the end of the last line does not start another."""
    raw = read_bytes(path).removeprefix(BOM).split(b"\n")
    lines = raw[:-1] if not raw[-1] else raw
    try:
        return [line.decode().strip() for line in lines]
    except UnicodeDecodeError:
        return [decoded(line, f"{path}: line {number}").strip() for number, line in enumerate(lines, start=1)]


def read_json(path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """A JSON file in UTF-8; `hook` sees each object as it is read, and can drop what is not needed. Raises: DataError."""
    return parsed_json(read_bytes(path), path, hook)


def parsed_json(raw: bytes, path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """What `read_json` makes of a file's bytes."""
    raw = raw.removeprefix(BOM)
    number = raw.count(b"\n", 0, _first_wrong(raw)) + 1
    text = decoded(raw, f"{path}: line {number}")
    del raw
    try:
        return json.loads(text, object_pairs_hook=distinct(str(path), hook))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, got something else ({one_line(error)}); copy the file again") from error


def distinct(where: str, hook: Callable[[dict[str, Any]], Any] | None = None) -> Callable[[list[tuple[str, Any]]], Any]:
    """For `object_pairs_hook` of json: an object whose keys stand there once, seen by `hook`; else DataError, where json keeps the last."""

    def made(pairs: list[tuple[str, Any]]) -> Any:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise DataError(f"{where}: {twice[:80]!r}: expected a key once in its object, got it twice; join the two")
        return found if hook is None else hook(found)

    return made


def _first_wrong(raw: bytes) -> int:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return error.start
    return 0


def stem(name: str) -> str:
    """The name of a picture without its folders and its suffix: what sources most often agree on."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    head, dot, tail = last.rpartition(".")
    return head if dot and head and f".{tail.lower()}" in PICTURE_SUFFIXES else last


def file_sha256(path: Path, progress: bool = False) -> str:
    """sha256 of a file's bytes, read in blocks."""
    content = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            total = path.stat().st_size >> 20
            with progress_bar(f"sha256 of {path.name}", total, "MB", progress and total > 512) as advance:
                block = memoryview(bytearray(BLOCK))
                while got := file.readinto(block):
                    content.update(block[:got])
                    advance(1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return content.hexdigest()


def files_sha256(hashes: Sequence[tuple[str, str]]) -> str:
    """One hash of several (name, sha256): of a single file its own, else that of the lines which sha256sum would print."""
    if len(hashes) == 1:
        return hashes[0][1]
    return hashlib.sha256("".join(f"{sha256}  {name}\n" for name, sha256 in hashes).encode()).hexdigest()
