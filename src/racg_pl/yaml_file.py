"""YAML as users write it, read safely. A key that stands twice is refused: YAML would keep the last and silently lose the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line


class Twice(yaml.constructor.ConstructorError):
    """A key stands twice."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[tuple[str, str]]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise Twice(None, None, f"expected each key once, got {key.value} again", key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def load_yaml(text: str | bytes) -> Any:
    """Raises: yaml.YAMLError; ValueError at a date that is none; RecursionError."""
    return yaml.load(text, _Loader)


def configurations(arguments: Sequence[str]) -> Iterator[tuple[Path, Any]]:
    """Files of `--config`, with what is in them; without those that are missing or no YAML, which is said where they are read.

    Raises: DataError where one has a key twice, of which Lightning's command line would take the last, or is not UTF-8, over which it
        would end in a traceback.
    """
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        path = Path(value or next(iter(arguments[place + 1 : place + 2]), "")) if name in ("--config", "-c") else None
        if path is None or not path.is_file():
            continue
        try:
            yield path, load_yaml(path.read_bytes().decode())
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: expected UTF-8, got another encoding ({error.reason} at byte {error.start}); convert it"
            ) from None
        except Twice as error:
            raise DataError(f"{path}: {one_line(error)}; put what belongs together under one") from error
        except (ValueError, RecursionError, yaml.YAMLError):
            continue
