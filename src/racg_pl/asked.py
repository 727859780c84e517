"""What is asked of Lightning's verbs: looked at before, where Lightning would let through what cannot be, and after, where it refuses."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from racg_pl.data import RetrievalData
from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.module import RACGModule
from racg_pl.training import run
from racg_pl.yaml_file import configurations

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")  # in which nodes are compared in float32 whatever they were computed in
SHORT = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


def answered(arguments: Sequence[str]) -> None:
    """Run one of Lightning's verbs. Raises: DataError for a user's mistake, SystemExit where it asked for help."""
    require_values(arguments)
    require_precision(arguments)
    try:
        run(arguments)
    except Exception as error:
        if isinstance(error, (DataError, OSError)) or not refused_by_lightning(error):
            raise
        raise DataError(f"configuration: {one_line(error)}") from error


def require_values(arguments: Sequence[str]) -> None:
    """Raises: DataError where a configuration has null for an option that needs a value: Lightning would let it through, and a switch
    would be off."""
    for path, settings in configurations(arguments):
        for part, kind in (("model", RACGModule), ("data", RetrievalData)):
            known = inspect.signature(kind).parameters
            for name, value in options(settings, part).items():
                if value is None and name in known and known[name].default is not None:
                    raise DataError(f"{path}: {part}.{name}: expected a value, got null; leave it out for its default")


def require_precision(arguments: Sequence[str]) -> None:
    """Raises: DataError at a precision that would hold weights in another type than float32, in which nodes are compared."""
    for where, asked in precisions(arguments):
        if SHORT.get(str(asked), asked) not in PRECISIONS:
            raise DataError(
                f"{where}trainer.precision: expected one of {', '.join(PRECISIONS)}, got {asked}; leave it out for the first"
            )


def precisions(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """All that are asked for, and the file that asks."""
    for path, settings in configurations(arguments):
        if (asked := options(settings, "trainer").get("precision")) is not None:
            yield f"{path}: ", asked
    for place, argument in enumerate(arguments):
        name, given, value = argument.partition("=")
        if name == "--trainer.precision" and (given or arguments[place + 1 : place + 2]):
            yield "", value if given else arguments[place + 1]


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
