"""Bottom-up attention's TSV, one image a line, arrays in base64; a file, or a folder of parts (x.tsv.0, x.tsv.1, …).

    peteanderson80   image_id  image_w  image_h  num_boxes  boxes  features
    LXMERT           img_id  img_h  img_w  objects_id  objects_conf  attrs_id  attrs_conf  num_boxes  boxes  features

boxes float32 [r,4] in pixels, features float32 [r,D], ids int64 [r], confidences float32 [r]; r may differ from line to line. A
header line is allowed. One pass notes where each line stands, then lines are read in any order.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line, storable
from racg_pl.progress import progress_bar
from racg_pl.readers.captions import CaptionFile
from racg_pl.readers.files import BOM, decoded, files_sha256
from racg_pl.readers.picture import Picture, scaled

SHORT = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
COLUMNS = {
    "peteanderson80's": SHORT,
    "LXMERT's": (
        *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
        *("num_boxes", "boxes", "features"),
    ),
}
SAME = {"img_id": "image_id", "img_h": "image_h", "img_w": "image_w"}
ARRAYS = {"objects_id": "<i8", "objects_conf": "<f4", "attrs_id": "<i8", "attrs_conf": "<f4", "boxes": "<f4", "features": "<f4"}
BUFFER = 1 << 20
FLOAT = np.dtype("float32")
LONGEST = 1 << 26  # bytes of a line; 100 regions × 2048 take 1.1 MB


class Line(NamedTuple):
    """Where an image stands: file, offset and length in bytes, number of the line; and its regions."""

    file: int
    offset: int
    length: int
    number: int
    regions: int


@dataclass
class Tsv:
    """See the module. `columns` names those of each file."""

    path: Path
    files: list[Path]
    columns: list[tuple[str, ...]]
    layout: str
    ids: list[str]
    lines: list[Line]
    dim: int
    digest: str
    boxes_known: bool = True
    captions: CaptionFile | None = None
    dtype: np.dtype = FLOAT

    @property
    def regions(self) -> int:
        return max(line.regions for line in self.lines)

    def sha256(self) -> str:
        return self.digest

    def read(self, index: int) -> Picture:
        line, path = self.lines[index], self.files[self.lines[index].file]
        where = f"{path}: line {line.number} ({self.ids[index]!r})"
        with opened(path, buffering=0) as file:
            file.seek(line.offset)
            raw = file.read(line.length)
        fields = dict(zip(self.columns[line.file], raw.rstrip(b"\r\n").split(b"\t"), strict=False))
        if len(raw) != line.length or "features" not in fields:
            raise DataError(
                f"{where}: expected the line that was there a moment ago, got another; do not write to the file meanwhile"
            )
        shapes = {"boxes": (line.regions, 4), "features": (line.regions, self.dim)}
        arrays = {
            name: _decode(fields[name], shapes.get(name, (line.regions,)), dtype, f"{where}: {name}")
            for name, dtype in ARRAYS.items()
            if name in fields
        }
        size = (int(fields["image_w"]), int(fields["image_h"]))
        return Picture(
            where,
            arrays["features"],
            scaled(arrays["boxes"], *size, where),
            objects=arrays.get("objects_id"),
            scores=arrays.get("objects_conf"),
            attributes=arrays.get("attrs_id"),
            attribute_scores=arrays.get("attrs_conf"),
            size=size,
        )


def parts(source: Path) -> list[Path]:
    """The TSV files of a source: itself, or those of a folder, in order of their names."""
    if not source.is_dir():
        return [source]
    return sorted(
        path for path in source.iterdir() if path.suffix == ".tsv" or (path.suffix[1:].isdigit() and ".tsv" in path.suffixes)
    )


def open_tsv(source: Path, progress: bool = False) -> Tsv:
    """Read through the file once. Raises: DataError naming the first line that is not as said above, or whose id came before."""
    paths, known, columns, digests = parts(source), dict[str, tuple[Path, int]](), [], []
    ids, lines, dim, layouts = list[str](), list[Line](), 0, list[str]()
    if not paths:
        raise DataError(f"{source}: expected .tsv files, got none; name the file")
    total = sum(path.stat().st_size for path in paths if path.exists()) >> 20
    with progress_bar(f"scan {source.name}", total, "MB", progress and total > 512) as advance:
        for place, path in enumerate(paths):
            names: tuple[str, ...] = ()
            content, offset, seen = hashlib.sha256(), 0, 0
            with opened(path) as file:
                for number, line in enumerate(iter(lambda file=file: file.readline(LONGEST), b""), start=1):  # type: ignore[misc]
                    content.update(line)
                    where, start, offset = f"{path}: line {number}", offset, offset + len(line)
                    fields = line.removeprefix(BOM if number == 1 else b"").rstrip(b"\r\n").split(b"\t")
                    start += len(BOM) * (number == 1 and line.startswith(BOM))
                    advance((offset >> 20) - seen)
                    seen = offset >> 20
                    if len(line) == LONGEST:
                        raise DataError(
                            f"{where}: expected a line of an image, got one of {LONGEST >> 20} MB or more; is this a TSV?"
                        )
                    if not names:
                        names, layout, header = _columns(fields, where)
                        layouts.append(layout)
                        if header:
                            continue
                    if fields == [b""]:
                        continue
                    id, count, width = _facts(fields, names, where)
                    if id in known:
                        at = "line {1}" if known[id][0] == path else "line {1} of {0.name}"
                        raise DataError(
                            f"{where} ({id!r}): expected unique ids, got that of {at.format(*known[id])}; remove one"
                        )
                    if lines and width != dim:
                        raise DataError(
                            f"{where} ({id!r}): features: expected {dim} numbers a region, as before, got {width}: a cut line"
                        )
                    known[id], dim = (path, number), width
                    ids.append(id)
                    lines.append(Line(place, start, offset - start, number, count))
            columns.append(names)
            digests.append((path.name, content.hexdigest()))
    if not lines:
        raise DataError(f"{source}: expected at least one image, got none; copy the file again")
    layout = f"bottom-up TSV with {' and '.join(dict.fromkeys(layouts))} columns"
    return Tsv(source, paths, columns, layout, ids, lines, dim, files_sha256(digests))


@contextmanager
def opened(path: Path, buffering: int = BUFFER) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb", buffering=buffering) as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)}); check the path") from error


def _columns(fields: list[bytes], where: str) -> tuple[tuple[str, ...], str, bool]:
    """The names of the columns (image_id, image_w, image_h for any spelling), whose they are, and whether this line is a header."""
    first = tuple(field.decode("latin-1").strip().lower() for field in fields)
    if first[0] in ("image_id", "img_id"):
        names = tuple(SAME.get(name, name) for name in first)
        if missing := set(SHORT) - set(names):
            raise DataError(f"{where}: expected a header with {', '.join(SHORT)}, got no {min(missing)}")
        return names, "its header's", True
    for whose, names in COLUMNS.items():
        if len(names) == len(fields):
            return tuple(SAME.get(name, name) for name in names), whose, False
    listed = " or ".join(f"{len(names)} columns ({', '.join(names)})" for names in COLUMNS.values())
    raise DataError(f"{where}: expected {listed} between tabs, got {len(fields)}; is this a bottom-up TSV?")


def _facts(fields: list[bytes], names: tuple[str, ...], where: str) -> tuple[str, int, int]:
    """Id, regions and numbers a region of a line, from what can be seen without decoding it."""
    if len(fields) != len(names):
        raise DataError(
            f"{where}: expected {len(names)} columns, got {len(fields)}: a cut or merged line; extract this image again"
        )
    row = dict(zip(names, fields, strict=True))
    id = decoded(row["image_id"], f"{where}: {names[0]}").strip()
    if not id or not storable(id):
        raise DataError(f"{where}: image_id: expected a text of at least one character, got {id!r}")
    for name in ("image_w", "image_h", "num_boxes"):
        if not row[name].strip().isdigit() or not 0 < int(row[name].strip()[:12]) < 1 << 31:
            raise DataError(
                f"{where} ({id!r}): {name}: expected an integer of at least 1, got {row[name][:20].decode('latin-1')!r}"
            )
    count, text = int(row["num_boxes"]), _bare(row["features"])
    numbers, rest = divmod(len(text) // 4 * 3 - text[-2:].count(b"="), 4)
    if len(text) % 4 or rest or numbers % count or not numbers:
        raise DataError(
            f"{where} ({id!r}): features: expected base64 of float32 for {count} regions, got {len(text)} characters; "
            "extract this image again"
        )
    return id, count, numbers // count


def _bare(text: bytes) -> bytes:
    """Base64 without the b'…' that Python 3 writes around bytes."""
    return text[2:-1] if text[:2] in (b"b'", b'b"') else text.strip()


def _decode(text: bytes, shape: tuple[int, ...], dtype: str, where: str) -> np.ndarray:
    try:
        raw = binascii.a2b_base64(_bare(text), strict_mode=True)
    except ValueError as error:
        raise DataError(
            f"{where}: expected base64, got something else ({one_line(error)}); extract this image again"
        ) from error
    if len(raw) != np.dtype(dtype).itemsize * int(np.prod(shape)):
        raise DataError(
            f"{where}: expected {list(shape)} numbers of {np.dtype(dtype).itemsize} bytes, got {len(raw)} bytes; extract this image again"
        )
    return np.frombuffer(raw, dtype).reshape(shape)
