"""The one exception for a user's mistake: `racg` prints its message as one line and exits with status 2, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class DataError(ValueError):
    """Bad input. The message names the file, the record and the mend: "FILE: record 7: expected …, got …"."""


FILE = "give a file in a folder that exists"


def require_file(path: Path | None, makes_folder: bool = False) -> None:
    """What is to be written, if anything, is no folder, and lies in one, unless that is made too. Raises: DataError."""
    if path is None:
        return
    if path.is_dir():
        raise DataError(f"{path}: expected the name of a file, got a folder; give the file's own name")
    if not makes_folder and not path.parent.is_dir():
        raise DataError(f"{path}: cannot be written (there is no folder {path.parent}); {FILE}")


def require_apart(written: Iterable[Path], read: Iterable[Path]) -> None:
    """Nothing is written over what is read, and nothing twice. Raises: DataError."""
    taken = {path.resolve() for path in read}
    for path in written:
        if path.resolve() in taken:
            raise DataError(
                f"{path}: expected a file of its own to write to, got one that is read or written too; name another"
            )
        taken.add(path.resolve())


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
