"""A folder with a file an image: bottom-up-attention.pytorch's .npz, or one's own .npz or .npy.

    IMAGE.npz   x [r,D], bbox [r,4] in pixels, num_bbox, image_h, image_w; `info`, a pickle, is never read
                one's own: features [r,D], boxes [r,4] in [0,1], or in pixels where image_h and image_w stand beside them;
                objects, scores, attributes, attribute_scores [r]; the names of `info` (objects_id, objects_conf, attrs_id,
                attrs_conf) are understood too, saved as arrays
    IMAGE.npy   features [r,D]; boxes, where there are any, as boxes/IMAGE.npy beside features/IMAGE.npy, [r,4] in [0,1];
                folders of folders are alike in both: boxes/train/IMAGE.npy of features/train/IMAGE.npy

Files may lie in folders of folders; the id is the file's name without its suffix. All must hold the same kinds of arrays.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.progress import progress_bar
from racg_pl.readers.arrays import expect, load, reason
from racg_pl.readers.captions import CaptionFile
from racg_pl.readers.files import ARRAY_SUFFIXES, file_sha256, files_below, files_sha256
from racg_pl.readers.picture import Picture, scaled

NAMES = {
    "features": ("x", "features"),
    "boxes": ("bbox", "boxes"),
    "objects": ("objects", "objects_id"),
    "scores": ("scores", "objects_conf"),
    "attributes": ("attributes", "attrs_id"),
    "attribute_scores": ("attribute_scores", "attrs_conf"),
}
KINDS = {"features": "f", "objects": "iu", "attributes": "iu"}
COUNT, SIZE = "num_bbox", ("image_w", "image_h")


@dataclass
class Folder:
    """See the module."""

    path: Path
    files: list[Path]
    ids: list[str]
    layout: str
    regions: int
    dim: int
    dtype: np.dtype
    boxes_known: bool
    captions: CaptionFile | None = None

    def sha256(self) -> str:
        return files_sha256([(path.relative_to(self.path).as_posix(), file_sha256(path)) for path in self.files])

    def read(self, index: int) -> Picture:
        path = self.files[index]
        where = str(path)
        if path.suffix == ".npy":
            features = load(path)
            expect(features, "f", ("r", self.dim), where)
            boxes = load(beside) if self.boxes_known and (beside := box_file(path)) else None
            return Picture(where, features, boxes)
        with archive(path) as zipped:
            arrays = {what: zipped[name] for what, name in _present(zipped.files).items()}
            single = {name: _integer(zipped[name], f"{where}: {name}") for name in (COUNT, *SIZE) if name in zipped.files}
        count = single.get(COUNT, len(arrays["features"]) if arrays["features"].ndim else 0)
        for name, array in arrays.items():
            shape: tuple[str | int, ...] = (
                ("r", {"features": self.dim, "boxes": 4}[name]) if name in ("features", "boxes") else ("r",)
            )
            expect(array, KINDS.get(name, "fiu"), shape, f"{where}: {name}")
            if not 0 < count <= len(array):
                raise DataError(
                    f"{where}: {name}: expected {count} regions (at least 1), got {len(array)}; extract this image again"
                )
            arrays[name] = array[:count]
        size = (single[SIZE[0]], single[SIZE[1]]) if set(SIZE) <= set(single) else None
        if "boxes" in arrays and size is not None:
            arrays["boxes"] = scaled(arrays["boxes"], *size, where)
        elif "boxes" in arrays and (arrays["boxes"] > 2).any():
            raise DataError(
                f"{where}: boxes are in pixels, but image_w and image_h are missing; add them, or save boxes in [0, 1]"
            )
        features, boxes = arrays.pop("features"), arrays.pop("boxes", None)
        return Picture(where, features, boxes, size=size, **arrays)


def files(source: Path) -> list[Path]:
    """The files of a folder's images in order of their paths; those in folders of boxes are not among them."""
    top = source / "features" if (source / "features").is_dir() else source
    inside = (path for path in files_below(top) if "boxes" not in path.relative_to(top).parts[:-1])
    return sorted(path for path in inside if path.suffix in ARRAY_SUFFIXES and path.is_file())


def box_file(path: Path) -> Path | None:
    """boxes/IMAGE.npy of features/IMAGE.npy, in the same folders of folders; None where no folder is called features."""
    above = next((folder for folder in path.parents if folder.name == "features"), None)
    return None if above is None else above.parent / "boxes" / path.relative_to(above)


def open_folder(source: Path, progress: bool = False) -> Folder:
    """Look at the header of every file. Raises: DataError naming the first that is not like the others."""
    paths = files(source)
    if not paths:
        raise DataError(f"{source}: expected .npz or .npy files, one an image, got none; name their folder")
    if len({path.suffix for path in paths}) > 1:
        raise DataError(f"{source}: expected .npz or .npy files, got both; keep one kind")
    known: dict[str, Path] = {}
    regions, first = 0, _look(paths[0])
    with progress_bar(f"look at {source.name}", len(paths), "files", progress) as advance:
        for path in paths:
            if path.stem in known:
                raise DataError(f"{path}: expected unique names, got that of {known[path.stem]}; rename one")
            look, known[path.stem] = _look(path), path
            if look[1:] != first[1:]:
                same = "the same width, dtype and arrays in every file"
                raise DataError(
                    f"{path}: expected {same}, {_say(first)} as in {paths[0].name}, got {_say(look)}; save it alike"
                )
            regions = max(regions, look[0])
            advance(1)
    _, dim, dtype, names = first
    whose = "bottom-up-attention.pytorch's .npz folder" if {"x", "bbox"} <= names else f"a folder of {paths[0].suffix} files"
    boxes = bool(names & {"bbox", "boxes"})
    return Folder(source, paths, [path.stem for path in paths], whose, regions, dim, np.dtype(dtype), boxes)


Look = tuple[int, int, str, frozenset[str]]  # regions, dim, dtype, names of the arrays


def _say(look: Look) -> str:
    return f"{look[1]} × {look[2]} ({', '.join(sorted(look[3]))})"


def _look(path: Path) -> Look:
    """What the header of a file says."""
    if path.suffix == ".npy":
        header = load(path, mapped=True)
        expect(header, "f", ("r", "D"), str(path))
        beside = box_file(path)
        boxes = beside is not None and beside.exists()
        return *header.shape, str(header.dtype), frozenset(["features", "boxes"] if boxes else ["features"])
    with archive(path) as zipped:
        names = frozenset(zipped.files) - {"info"}
        present = _present(sorted(names))
        with zipped.zip.open(f"{present['features']}.npy") as member:  # type: ignore[union-attr]  # open as long as the archive
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(member)
    if dtype.kind != "f" or len(shape) != 2:
        raise DataError(f"{path}: {present['features']}: expected floating-point numbers [r, D], got {dtype} {list(shape)}")
    return *shape, str(dtype), names


def _present(names: list[str]) -> dict[str, str]:
    """Which array of an archive is what. Raises: KeyError without features."""
    present = {what: next((name for name in called if name in names), None) for what, called in NAMES.items()}
    if present["features"] is None:
        raise KeyError(f"no array x or features, but {', '.join(names)[:80] or 'none'}")
    return {what: name for what, name in present.items() if name is not None}


def _integer(value: np.ndarray, where: str) -> int:
    if value.size != 1 or value.dtype.kind not in "iu":
        raise DataError(f"{where}: expected one integer, got {value.dtype} {list(value.shape)}")
    return int(value.reshape(()))


@contextmanager
def archive(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """An .npz whose members are never unpickled; whatever goes wrong with it is one line."""
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(
                f"{path}: expected an .npz archive, got {'an empty file' if not path.stat().st_size else 'something else'}; copy it again"
            )
        with np.load(path, allow_pickle=False) as zipped:
            yield zipped
    except DataError:
        raise
    except KeyError as error:
        raise DataError(
            f"{path}: expected arrays by name, got {error.args[0]}; save np.savez(path, features=…, boxes=…)"
        ) from error
    except Exception as error:  # zlib, zipfile and numpy each have their own
        why = reason(error) if isinstance(error, ValueError) else f"a damaged archive ({one_line(error)}); copy it again"
        raise DataError(f"{path}: expected arrays of numbers, got {why}") from error
