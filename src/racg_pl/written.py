"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class replacing:
    """The path of a file to write, which takes its final name when the body ends and is removed when it raises."""

    def __init__(self, path: Path) -> None:
        self.path, self.unfinished = path, path.with_name(f".{path.name}.{os.getpid()}.unfinished")

    def __enter__(self) -> Path:
        return self.unfinished

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                os.replace(self.unfinished, self.path)
        finally:
            self.unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def write_json(path: Path, record: object) -> None:
    write_whole(path, (json.dumps(record, indent=1, default=str) + "\n").encode())
