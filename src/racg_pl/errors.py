"""The one exception for a user's mistake: `racg` prints its message as one line and exits with status 2, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DataError(ValueError):
    """Bad input. The message names the file, the record and the mend: "FILE: record 7: expected …, got …"."""


FILE = "give a file in a folder that exists"


def require_file(path: Path | None) -> None:
    """What is to be written, if anything, is no folder. Raises: DataError."""
    if path is not None and path.is_dir():
        raise DataError(f"{path}: expected the name of a file, got a folder; give the file's own name")


def is_name(text: str) -> bool:
    """Whether a text names a file or folder right within another."""
    return text not in ("", "..") and Path(text).name == text


@contextmanager
def writing(path: Path, mend: str = "choose another folder") -> Iterator[None]:
    """What is written to `path`; where the system refuses, DataError says so with the mend."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); {mend}") from error
