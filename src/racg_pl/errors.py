"""The one exception for a user's mistake: `racg` prints its message as one line and exits with status 2, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DataError(ValueError):
    """Bad input. The message names the file, the record and the mend: "FILE: record 7: expected …, got …"."""


FILE = "give a file in a folder that exists"


@contextmanager
def writing(path: Path, mend: str = "choose another folder") -> Iterator[None]:
    """What is written to `path`; where the system refuses, DataError says so with the mend."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); {mend}") from error
