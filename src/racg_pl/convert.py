"""From SCAN's precomp layout, which users of this field have on disk, to a region store and its captions.

    {split}_ims.npy      [N,R,D], or [5N,R,D] with each image five times; memory-mapped
    {split}_caps.txt     5N captions in image order, UTF-8, one a line
    {split}_ids.txt      N or 5N ids, one a line; without it the row numbers
    {split}_boxes.npy    [N,R,4] x1 y1 x2 y2 in [0,1]; without it every region is the whole picture (attribute boxes="unknown")
    {split}_objects.npy  [N,R] labels, −1 unknown;  {split}_scores.npy  [N,R]; both optional

Regions that are zero throughout at the end of an image are padding of a ragged set.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from racg_pl.captions import texts_fault, write_captions
from racg_pl.errors import DataError
from racg_pl.features import RegionStore, RegionWriter
from racg_pl.hdf5 import one_line
from racg_pl.progress import progress_bar

CAPTIONS_AN_IMAGE = 5
BLOCK = 64  # images in memory at a time
WHOLE_PICTURE = np.array([0, 0, 1, 1], np.float32)


def convert_precomp(
    folder: str | Path,
    split: str,
    out: str | Path,
    *,
    extractor: str = "unknown",
    dtype: str = "auto",
    captions_out: str | Path | None = None,
    progress: bool = True,
) -> str:
    """Write `out` and its captions (train.h5: train.captions.h5); memory stays flat, and on an error nothing is left.

    Args:
        folder: holds {split}_ims.npy and its kin.  extractor: what made the features, stored as an attribute.
        dtype: of the stored features: "float16", "float32", or "auto", that of the source (float64 becomes float32).
        captions_out: another name for the captions.  progress: show bars on a terminal.
    Returns: a summary of one line.
    Raises: DataError naming the file and the row or line.
    """
    folder, out = Path(folder), Path(out)
    captions_out = Path(captions_out) if captions_out else out.with_suffix(".captions.h5")
    if not folder.is_dir():
        raise DataError(f"{folder}: expected the folder of {split}_ims.npy, got {'a file' if folder.exists() else 'nothing'}")
    if dtype not in ("auto", "float16", "float32"):
        raise DataError(f"{out}: expected the dtype auto, float16 or float32, got {dtype!r}")
    if out.is_dir():
        raise DataError(f"{out}: expected the name of a file, got a folder; name the file, such as {out / f'{split}.h5'}")
    source, captions_file = folder / f"{split}_ims.npy", folder / f"{split}_caps.txt"
    features = _map(source, "f", ("rows", "R", "D"))
    rows, regions, dim = features.shape
    texts = read_lines(captions_file)
    if fault := texts_fault(texts):
        raise DataError(f"{captions_file}: {fault}")
    if len(texts) not in (rows, CAPTIONS_AN_IMAGE * rows) or len(texts) % CAPTIONS_AN_IMAGE or not texts:
        raise DataError(
            f"{captions_file}: expected {CAPTIONS_AN_IMAGE * rows} captions for the {rows} rows of {source.name} "
            f"({rows} if every image stands there {CAPTIONS_AN_IMAGE} times), got {len(texts)}"
        )
    images = len(texts) // CAPTIONS_AN_IMAGE
    _expect_repeats(source, features, images)
    ids = _read_ids(folder / f"{split}_ids.txt", images)
    extras = {name: folder / f"{split}_{name}.npy" for name in ("boxes", "objects", "scores")}
    extras = {name: path for name, path in extras.items() if path.exists()}
    for name, path in extras.items():
        shape = (regions, 4) if name == "boxes" else (regions,)
        array = _map(path, "iu" if name == "objects" else "fiu", ("rows", *shape))
        if len(array) not in (images, CAPTIONS_AN_IMAGE * images):
            raise DataError(f"{path}: expected {images} rows, one an image of {source.name}, got {len(array)}")
        _expect_repeats(path, array, images)
    stored = dtype if dtype != "auto" else "float16" if features.dtype == np.float16 else "float32"

    with (
        RegionWriter(
            out,
            regions,
            dim,
            dtype=stored,
            extractor=extractor,
            source=source,
            source_sha256=file_sha256(source, progress),
            boxes_known="boxes" in extras,
        ) as writer,
        progress_bar(f"{split} → {out.name}", images, "images", progress) as advance,
    ):
        for start in range(0, images, BLOCK):
            stop = min(start + BLOCK, images)
            block = _rows(source, start, stop, images)
            extra = {name: _rows(path, start, stop, images) for name, path in extras.items()}
            for k, index in enumerate(range(start, stop)):
                real = np.flatnonzero(block[k].any(axis=1))
                if not len(real):
                    raise DataError(f"{source}: record {index} ({ids[index]!r}): expected features, got only zeros")
                count = real[-1] + 1
                boxes = extra["boxes"][k, :count] if "boxes" in extra else np.tile(WHOLE_PICTURE, (count, 1))
                labels, scores = (extra[name][k, :count] if name in extra else None for name in ("objects", "scores"))
                writer.add(ids[index], block[k, :count], boxes, labels, scores)
            advance(stop - start)
    try:
        write_captions(captions_out, texts, np.repeat(np.arange(images), CAPTIONS_AN_IMAGE), RegionStore(out))
    except BaseException:
        out.unlink()
        raise
    have = ", ".join(extras) or "no boxes, objects or scores"
    note = "" if "boxes" in extras else "; boxes are unknown: every region stands for the whole picture"
    return (
        f"{out}: {images} images × {regions} regions × {dim} ({stored}; {have}), {len(texts)} captions in {captions_out}{note}"
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without surrounding blanks. A byte order mark and Windows line ends are tolerated; an empty
    line counts, the end of the last line does not start another."""
    try:
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    lines = []
    for number, line in enumerate(raw[:-1] if not raw[-1] else raw, start=1):
        try:
            lines.append(line.decode().strip())
        except UnicodeDecodeError as error:
            near = line[max(error.start - 12, 0) : error.end + 12].decode("latin-1")
            byte = line[error.start]
            raise DataError(f"{path}: line {number}: expected UTF-8, got byte 0x{byte:02x} near {near!r}; convert it") from None
    return lines


def file_sha256(path: Path, progress: bool = False) -> str:
    """sha256 of a file's bytes, read in blocks."""
    content = hashlib.sha256()
    with path.open("rb") as file, progress_bar(f"sha256 of {path.name}", path.stat().st_size >> 20, "MB", progress) as advance:
        while block := file.read(1 << 20):
            content.update(block)
            advance(1)
    return content.hexdigest()


def _map(path: Path, kinds: str, axes: tuple[str | int, ...]) -> np.ndarray:
    """A .npy file as a memory map, held against the kinds of its dtype and its axes (a number is a fixed length)."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = one_line(error)
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path}: no such file; check the folder and the split") from error
        if "ickle" in reason or "Python objects" in reason:
            reason = "pickled Python objects; save numbers: np.save(path, np.stack(list_of_arrays))"
        elif "mmap length" in reason or "No data left" in reason:
            reason = "a truncated file; copy it again"
        raise DataError(f"{path}: expected an array of numbers, got {reason}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: expected one array, got an .npz archive; save it with np.save")
    if array.dtype.kind not in kinds:
        raise DataError(f"{path}: expected {'integers' if kinds == 'iu' else 'floating-point numbers'}, got {array.dtype}")
    if array.ndim != len(axes) or any(isinstance(a, int) and a != n for a, n in zip(axes, array.shape, strict=True)):
        raise DataError(f"{path}: expected the shape [{', '.join(map(str, axes))}], got {list(array.shape)}")
    return array


def _rows(path: Path, start: int, stop: int, images: int) -> np.ndarray:
    """Images start..stop−1 in memory. The map is made anew each time, so that pages already read do not count as memory."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    stride = len(array) // images
    return np.array(array[start * stride : stop * stride : stride])


def _expect_repeats(path: Path, array: np.ndarray, images: int) -> None:
    """Where every image should stand there five times, compare its rows for 32 images spread over the file."""
    stride = len(array) // images
    for index in np.unique(np.linspace(0, images - 1, 32).astype(int)) if stride > 1 else ():
        block = array[index * stride : (index + 1) * stride]
        same = [np.array_equal(block[0], row, equal_nan=True) for row in block]
        if not all(same):
            raise DataError(
                f"{path}: expected each image {stride} times ({len(array)} rows, {images * CAPTIONS_AN_IMAGE} captions), "
                f"got another row {index * stride + same.index(False)} than row {index * stride}"
            )


def _read_ids(path: Path, images: int) -> list[str]:
    if not path.exists():
        return [str(index) for index in range(images)]
    ids = read_lines(path)
    if len(ids) not in (images, CAPTIONS_AN_IMAGE * images):
        raise DataError(f"{path}: expected {images} ids, or each {CAPTIONS_AN_IMAGE} times, got {len(ids)}")
    stride = len(ids) // images
    for number, id in enumerate(ids):
        if id != ids[number - number % stride]:
            raise DataError(
                f"{path}: line {number + 1}: expected each id {stride} times, got {id!r}; remove the file to use numbers"
            )
    return ids[::stride]
