"""One's own captions as a table: CSV with a header line, or JSON-lines; several captions of an image are several lines.

    image,caption,split                   {"image": "beach.jpg", "caption": "two dogs", "split": "train"}
    beach.jpg,"two dogs, running",train   {"image": "cafe.jpg", "captions": ["a cup", "a cup of tea"]}

`split` may be left out. Images come in the order in which they are first named.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.readers.captions import SPLITS, Captioned, CaptionFile, clean, unique
from racg_pl.readers.files import BOM, decoded, distinct, read_bytes, read_lines, stem

Row = tuple[str, dict[str, Any]]  # where it stands, and what it says


def read_csv(path: Path) -> CaptionFile:
    """Raises: DataError naming the first bad line."""
    for number, line in enumerate(read_bytes(path).removeprefix(BOM).split(b"\n"), start=1):
        decoded(line, f"{path}: line {number}")
    text = read_bytes(path).removeprefix(BOM).decode()
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)  # `a.jpg, "a cup, of tea"`

    def each() -> Iterator[Row]:
        try:
            header = [name.strip() for name in next(rows, [])]
            if missing := {"image", "caption"} - set(header):
                raise DataError(
                    f"{path}: line 1: expected a header with image and caption, got {', '.join(header)[:80] or 'nothing'}; "
                    f"add {' and '.join(sorted(missing))}"
                )
            if twice := [name for name in header if header.count(name) > 1]:
                raise DataError(
                    f"{path}: line 1: expected each column once, got {twice[0]!r} twice; give each caption a line of its own"
                )
            for row in rows:
                where = f"{path}: line {rows.line_num}"
                if row and len(row) != len(header):
                    raise DataError(
                        f"{where}: expected {len(header)} columns, got {len(row)}; put captions with commas in quotes"
                    )
                if row:
                    yield where, dict(zip(header, row, strict=True))
        except csv.Error as error:
            raise DataError(f"{path}: line {rows.line_num}: expected CSV, got something else ({one_line(error)})") from error

    return _gather("CSV", path, each())


def read_jsonl(path: Path) -> CaptionFile:
    """Raises: DataError naming the first bad line."""

    def each() -> Iterator[Row]:
        for number, line in enumerate(read_lines(path), start=1):
            where = f"{path}: line {number}"
            if not line:
                continue
            try:
                row = json.loads(line, object_pairs_hook=distinct(where))
            except DataError:
                raise
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: expected JSON, got something else ({one_line(error)})") from error
            if not isinstance(row, dict) or "image" not in row or not {"caption", "captions"} & set(row):
                raise DataError(f"{where}: expected an object with image and caption (or captions), got {line[:60]!r}")
            yield where, row

    return _gather("JSON-lines", path, each())


def _gather(layout: str, path: Path, rows: Iterator[Row]) -> CaptionFile:
    images: dict[str, Captioned] = {}
    for where, row in rows:
        name, split = row["image"], row.get("split") or None
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}: image: expected a name, got {name!r}")
        if split is not None and not isinstance(split, str):
            raise DataError(f"{where}: split: expected a name, got {split!r}")
        name, split = name.strip(), (split or "").strip() or None
        split = SPLITS.get(split or "", split)
        several = row.get("captions", [])
        if not isinstance(several, list):
            raise DataError(f"{where}: captions: expected a list, got {type(several).__name__}")
        image = images.setdefault(name, Captioned(tuple(dict.fromkeys((name, stem(name)))), [], split))
        if image.split != split:
            raise DataError(f"{where}: expected image {name!r} in one split, got {image.split!r} and {split!r}")
        image.texts.extend(
            clean(text, f"{where}: caption") for text in ([row["caption"]] if "caption" in row else []) + several
        )
    if len({image.split is None for image in images.values()}) > 1:
        without = next(name for name, image in images.items() if image.split is None)
        raise DataError(f"{path}: expected a split for every image or for none, got none for {without!r}")
    return CaptionFile(layout, path, unique(list(images.values()), path))
