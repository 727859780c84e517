"""What is asked of Lightning's verbs: looked at before, where Lightning would let through what cannot be, and after, where it refuses."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from racg_pl.data import RetrievalData
from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.module import RACGModule
from racg_pl.training import run
from racg_pl.yaml_file import configurations

# evaluation compares nodes in float32 at least, whatever they were computed in
PRECISIONS = "32-true", "64-true", "16-mixed", "bf16-mixed"
Files = Mapping[Path, Any]  # configurations, with what is in them
SHORT = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}


def answered(arguments: Sequence[str]) -> None:
    """Run one of Lightning's verbs. Raises: DataError for a user's mistake, SystemExit where it asked for help."""
    files = dict(configurations(arguments))
    require_values(files)
    require_precision(arguments, files)
    require_all_of_dev(arguments, files)
    try:
        run(arguments)
    except Exception as error:
        if isinstance(error, (DataError, OSError)) or not refused_by_lightning(error):
            raise
        raise DataError(f"configuration: {one_line(error)}") from error


def require_values(files: Files) -> None:
    """Raises: DataError where a configuration has null for an option that needs a value: Lightning would let it through, and a switch
    would be off."""
    for path, settings in files.items():
        for part, kind in (("model", RACGModule), ("data", RetrievalData)):
            known = inspect.signature(kind).parameters
            for name, value in options(settings, part).items():
                if value is None and name in known and known[name].default is not None:
                    raise DataError(f"{path}: {part}.{name}: expected a value, got null; leave it out for its default")


def require_precision(arguments: Sequence[str], files: Files) -> None:
    """Raises: DataError at a precision whose weights are narrower than float32, in which nodes are compared."""
    for where, asked in given(arguments, files, "precision"):
        if SHORT.get(str(asked), asked) not in PRECISIONS:
            raise DataError(
                f"{where}trainer.precision: expected one of {', '.join(PRECISIONS)}, got {asked}; leave it out for the first"
            )


def require_all_of_dev(arguments: Sequence[str], files: Files) -> None:
    """Raises: DataError where Lightning would evaluate the batches that it overfits."""
    for where, asked in given(arguments, files, "overfit_batches"):
        if str(asked) not in ("0", "0.0"):
            raise DataError(
                f"{where}trainer.overfit_batches: expected none, since recalls are those of a whole split, got {asked}; "
                "take trainer.limit_train_batches, with trainer.limit_val_batches 0 for a training alone"
            )


def given(arguments: Sequence[str], files: Files, option: str) -> Iterator[tuple[str, Any]]:
    """All values that are given to an option of the trainer, and the file that gives it."""
    for path, settings in files.items():
        if (asked := options(settings, "trainer").get(option)) is not None:
            yield f"{path}: ", asked
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == f"--trainer.{option}" and (equals or arguments[place + 1 : place + 2]):
            yield "", value if equals else arguments[place + 1]


def options(settings: Any, part: str) -> dict[str, Any]:
    """Of a part of a configuration; none where it is not made as one."""
    found = settings.get(part) if isinstance(settings, dict) else None
    return found if isinstance(found, dict) else {}


def refused_by_lightning(error: Exception) -> bool:
    """Whether Lightning itself raised this, as it does where an option does not suit the machine, the data or another option."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("lightning.")
