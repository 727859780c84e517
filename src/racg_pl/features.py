"""The region store: one HDF5 file a split holds every image's regions. Written as a stream, read lazily in each process.

Letters: N images, R regions an image (padded), D feature width. the three schemas list every data set of every file, once;
captions.py holds the text side, check.py the validator. No wall-clock date is stored: the same records give the same bytes.

`sha256` in a file's attributes is the hash of its content, not of its bytes: see `ContentHash`. Of a region store it covers the
header (schema, dtype of the features, R, D, names of the optional data sets) and then, record by record, id, count, features as
stored, boxes, labels, scores, size, group, attributes and their scores (the last six where present).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from racg_pl.errors import DataError
from racg_pl.hdf5 import TEXT, ContentHash, Field, Schema, create_h5, open_h5, reading, storable
from racg_pl.record import Record, all_finite

REGIONS = Schema(
    "racg_pl.regions/1",
    {"extractor": str, "source": str, "source_sha256": str, "sha256": str},
    {
        "ids": Field("N", "text"),  # unique
        "counts": Field("N", "int32"),  # 1..R real regions come first, the rest is zero
        "features": Field("N R D", "float16 float32"),
        "boxes": Field("N R 4", "float32"),  # x1 y1 x2 y2 in [0,1]
        "labels": Field("N R", "int32", optional=True),  # detected object, -1 unknown
        "scores": Field("N R", "float32", optional=True),  # of the detection
        "sizes": Field("N 2", "int32", optional=True),  # width and height in pixels, 0 0 unknown
        "groups": Field("N", "int32", optional=True),  # near twins share a number, -1 none
        "attributes": Field("N R", "int32", optional=True),  # detected attribute, -1 unknown
        "attribute_scores": Field("N R", "float32", optional=True),  # of that detection
    },
)
CAPTIONS = Schema(
    "racg_pl.captions/1",
    {"features": str, "features_sha256": str, "images": int, "sha256": str},
    {
        "text": Field("C", "text"),
        "image": Field("C", "int64"),  # index into the region store's ids
    },
)
PARSE = Schema(
    "racg_pl.parse/2",
    {"parser": str, "version": str, "scheme": str, "graph": str, "captions_sha256": str, "sha256": str},
    {
        "words": Field("T", "text"),  # the words of all captions, end to end
        "heads": Field("T", "int32"),  # position inside the caption; a root is its own head
        "labels": Field("T", "int16"),  # of the arc to the head, index into label_names
        "tags": Field("T", "int16"),  # index into tag_names
        "offsets": Field("O", "int64"),  # O = C + 1: caption c is words[offsets[c]:offsets[c + 1]]
        "edges": Field("E 3", "int32"),  # source, target (places inside the caption) and type (index into type_names)
        "edge_offsets": Field("O", "int64"),  # caption c has edges[edge_offsets[c]:edge_offsets[c + 1]]
        "label_names": Field("L", "text"),
        "tag_names": Field("G", "text"),
        "type_names": Field("K", "text"),
    },
    "run racg text",
)
OPTIONAL = ("labels", "scores", "sizes", "groups", "attributes", "attribute_scores")
BUFFER = 64  # images held by the writer before they go to disk


class RegionArrays(NamedTuple):
    """Images, stacked: features float32 [n,R,D], boxes [n,R,4], counts [n], labels [n,R] (−1 unknown)."""

    features: np.ndarray
    boxes: NDArray[np.float32]
    counts: NDArray[np.int32]
    labels: NDArray[np.int32]


def regions_hash(dtype: np.dtype, regions: int, dim: int, optional: list[str]) -> ContentHash:
    """The content hash of a region store before its first record."""
    return ContentHash(schema=REGIONS.name, dtype=str(dtype), regions=regions, dim=dim, optional=sorted(optional))


class RegionWriter:
    """Write a region store as a stream: memory does not grow with N, ids apart. Nothing is left on disk if the body raises.

        with RegionWriter("train.h5", 36, 2048, extractor="bottom-up") as writer:
            writer.add("COCO_391895", features, boxes)

    Args:
        path: the file to write.  regions: R.  dim: D.  dtype: of the stored features, "float16" or "float32".
        extractor: what made the features.  source: the file they come from, whose name is stored and which messages about bad
        records name; by default messages name `path`.  source_sha256: its hash.
        boxes_known: False where no boxes are known and all are the whole picture (stored as the attribute boxes="unknown").
        moves: see `create_h5`.
    Once written, `sha256` is the content hash.
    """

    def __init__(
        self,
        path: str | Path,
        regions: int,
        dim: int,
        *,
        dtype: str = "float16",
        extractor: str,
        source: str | Path = "",
        source_sha256: str = "",
        boxes_known: bool = True,
        moves: ExitStack | None = None,
    ) -> None:
        self.path, self.regions, self.dim = Path(path), regions, dim
        if dtype not in REGIONS.fields["features"].dtypes.split():
            raise DataError(f"{path}: expected the dtype float16 or float32, got {dtype!r}")
        if regions < 1 or dim < 1:
            raise DataError(f"{path}: expected at least one region and one dimension, got R={regions}, D={dim}")
        for text in (self.path.name, extractor, Path(source).name):
            if not storable(text):
                raise DataError(
                    f"{path}: expected names in UTF-8 of the file, its source and its extractor, got {text!r}; rename it"
                )
        self.dtype = np.dtype(dtype)
        self._blame = source or self.path
        self.source_sha256, self.sha256 = source_sha256, ""
        self._attributes = {"extractor": extractor, "source": Path(source).name}
        self._attributes |= {} if boxes_known else {"boxes": "unknown"}
        self._ids: dict[str, int] = {}
        self._optional: list[str] | None = None  # known from the first record on
        self._pending: list[Record] = []
        self._data: dict[str, h5py.Dataset] = {}
        self._stack, self._moves = ExitStack(), moves
        self._hashed: Callable[[], None] = lambda: None  # waits until what was flushed last is hashed

    def __enter__(self) -> Self:
        self._hasher = self._stack.enter_context(ThreadPoolExecutor(1))
        self._file = self._stack.enter_context(create_h5(self.path, self._moves))
        self._file.attrs.update({"schema": REGIONS.name} | self._attributes)
        return self

    def __exit__(self, *error) -> None:
        if error[0] is not None:
            self._stack.__exit__(*error)
            return
        with self._stack:
            if not self._ids:
                raise DataError(f"{self._blame}: expected at least one image, got none")
            self._flush()
            self._hashed()
            self._file.attrs["source_sha256"] = self.source_sha256
            self._file.attrs["sha256"] = self.sha256 = self._hash.hexdigest()

    def __len__(self) -> int:
        return len(self._ids)

    def add(
        self,
        id: str,
        features: ArrayLike,
        boxes: ArrayLike,
        labels: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        size: tuple[int, int] | None = None,
        group: int | None = None,
        attributes: ArrayLike | None = None,
        attribute_scores: ArrayLike | None = None,
        where: str = "",
        copy: bool = True,
    ) -> None:
        """Add one image with r real regions, 1 ≤ r ≤ R. What the first image has of the six optional ones, all must have.

        Args:
            id: unique, not empty.  features: [r,D].  boxes: [r,4].  labels, attributes: [r] integers.
            scores, attribute_scores: [r].  size: width and height in pixels.  group: near twins share one.
            where: what messages call this record; by default its number and id.
            copy: False where none of the arrays is written to after this call: it spares copying what is stored as it is.
        Raises: DataError naming the record.
        """
        self._copy = copy
        self._where = where or f"{self._blame}: record {len(self._ids)} ({id!r})"
        if not isinstance(id, str) or not id or not storable(id):
            raise DataError(f"{self._where}: expected an id that is a text of at least one character, got {id!r}")
        if id in self._ids:
            raise DataError(f"{self._where}: expected unique ids, got one that record {self._ids[id]} has too; rename one")
        features = self._array("features", features)
        count = len(features) if features.ndim else 0
        if not 1 <= count <= self.regions:
            raise DataError(f"{self._where}: features: expected 1 to {self.regions} regions, got {list(features.shape)}")
        record = Record(
            ids=id,
            counts=np.int32(count),
            features=self._padded("features", features, (count, self.dim), self.dtype),
            boxes=self._padded("boxes", boxes, (count, 4), np.dtype("float32")),
            labels=self._per_region("labels", labels, count, np.dtype("int32"), fill=-1),
            scores=self._per_region("scores", scores, count, np.dtype("float32")),
            sizes=None if size is None else self._cast("size", size, (2,), np.dtype("int32")),
            groups=None if group is None else np.int32(self._cast("group", group, (), np.dtype("int32"))),
            attributes=self._per_region("attributes", attributes, count, np.dtype("int32"), fill=-1),
            attribute_scores=self._per_region("attribute_scores", attribute_scores, count, np.dtype("float32")),
        )
        given = [name for name in OPTIONAL if getattr(record, name) is not None]
        if self._optional is None:
            self._optional = given
            self._create(given)
        if given != self._optional:
            want, got = (", ".join(names) or "none" for names in (self._optional, given))
            raise DataError(f"{self._where}: expected {want}, as record 0 has, got {got}; give them to all or to none")
        if fault := record.fault():
            raise DataError(f"{self._where}: {fault}")
        self._ids[id] = len(self._ids)
        self._pending.append(record)
        if len(self._pending) == BUFFER:
            self._flush()

    def _array(self, name: str, values: ArrayLike) -> np.ndarray:
        try:
            return np.asarray(values)
        except ValueError:
            raise DataError(f"{self._where}: {name}: expected an array, got rows of unequal length") from None

    def _cast(self, name: str, values: ArrayLike, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """`values` as the stored dtype; another shape or kind of number, or one that does not fit, is an error."""
        given = self._array(name, values)
        if given.dtype.kind not in ("iu" if dtype.kind == "i" else "fiu"):
            kind = "integers" if dtype.kind == "i" else "numbers"
            raise DataError(f"{self._where}: {name}: expected {kind}, got {given.dtype}")
        if given.shape != shape:
            raise DataError(f"{self._where}: {name}: expected the shape {list(shape)}, got {list(given.shape)}")
        if given.dtype == dtype:
            return given.copy() if self._copy else given
        with np.errstate(over="ignore"):
            stored = given.astype(dtype)
        if dtype.kind == "f" and all_finite(stored):
            return stored
        fits = stored == given if dtype.kind == "i" else np.isfinite(stored) | ~np.isfinite(given)
        if not fits.all():
            mend = "; store float32" if dtype == np.float16 else ""
            raise DataError(f"{self._where}: {name}: expected numbers that {dtype} can hold, got {given[~fits][0]:g}{mend}")
        return stored

    def _padded(self, name: str, values: ArrayLike, shape: tuple[int, ...], dtype: np.dtype, fill: int = 0) -> np.ndarray:
        cast = self._cast(name, values, shape, dtype)
        if len(cast) == self.regions:
            return np.ascontiguousarray(cast)
        row = np.full((self.regions, *shape[1:]), fill, dtype)
        row[: len(cast)] = cast
        return row

    def _per_region(self, name: str, values: ArrayLike | None, count: int, dtype: np.dtype, fill: int = 0) -> np.ndarray | None:
        return None if values is None else self._padded(name, values, (count,), dtype, fill)

    def _create(self, optional: list[str]) -> None:
        self._hash = regions_hash(self.dtype, self.regions, self.dim, optional)
        lengths = {"N": 0, "R": self.regions, "D": self.dim, "4": 4, "2": 2}
        for name, field in REGIONS.fields.items():
            if field.optional and name not in optional:
                continue
            shape = tuple(lengths[axis] for axis in field.axes.split())
            dtype = {"features": self.dtype, "ids": TEXT}.get(name) or np.dtype(field.dtypes)
            rows = 1 if name == "features" else BUFFER  # one chunk an image: a random read touches nothing else
            chunks, growing = (rows, *shape[1:]), (None, *shape[1:])
            self._data[name] = self._file.create_dataset(name, shape, dtype, maxshape=growing, chunks=chunks)

    def _flush(self) -> None:
        """Write and hash the pending records, the latter in a thread of its own while others are read and written."""
        if not self._pending:  # the last ones filled a buffer
            return
        start = len(self._ids) - len(self._pending)
        for name, data in self._data.items():
            column = [getattr(record, name) for record in self._pending]
            data.resize(len(self._ids), axis=0)
            if name == "features":
                for row, features in enumerate(column, start):
                    data.id.write_direct_chunk((row, 0, 0), features)
            else:
                data[start:] = column if name == "ids" else np.stack(column)
        self._file.flush()
        self._hashed()
        self._hashed = self._hasher.submit(self._add_to_hash, self._pending).result
        self._pending = []

    def _add_to_hash(self, records: list[Record]) -> None:
        for record in records:
            self._hash.add(*(value for value in record if value is not None))


class RegionStore:
    """A region store, opened anew in each process that reads it: a fork or a pickle never shares a file handle.

    Raises: DataError if the file is missing, truncated, no HDF5 file or no region store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._handle, self._process = open_h5(self.path, REGIONS), os.getpid()
        self._length, self.regions, self.dim = self._handle["features"].shape
        self.dtype: np.dtype = self._handle["features"].dtype
        self.sha256: str = self._handle.attrs["sha256"]
        self.extractor: str = self._handle.attrs["extractor"]
        self.source: str = self._handle.attrs["source"]
        self.boxes_known: bool = self._handle.attrs.get("boxes") != "unknown"

    def __reduce__(self) -> tuple[type[RegionStore], tuple[Path]]:
        return RegionStore, (self.path,)

    def __repr__(self) -> str:
        return f"RegionStore({str(self.path)!r}: {len(self)} images × {self.regions} regions × {self.dim}, {self.dtype})"

    def __len__(self) -> int:
        return self._length

    @property
    def _file(self) -> h5py.File:
        if self._process != os.getpid():  # after a fork; HDF5 reads by pread, so that the parent's offset is not disturbed
            self._handle, self._process = open_h5(self.path, REGIONS), os.getpid()
        return self._handle

    @cached_property
    def ids(self) -> list[str]:
        """The images' ids, [N]."""
        with reading(self.path, "ids"):
            return self._file["ids"].asstr()[:].tolist()

    @cached_property
    def counts(self) -> NDArray[np.int32]:
        """Real regions of each image, [N]."""
        return self._all("counts")

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """Boxes of all images, [N,R,4]."""
        return self._all("boxes")

    @cached_property
    def labels(self) -> NDArray[np.int32] | None:
        """Detected objects [N,R], −1 unknown; None where the store has none."""
        return self._all("labels") if "labels" in self._file else None

    @cached_property
    def scores(self) -> NDArray[np.float32] | None:
        """Scores of the detections [N,R], or None."""
        return self._all("scores") if "scores" in self._file else None

    @cached_property
    def sizes(self) -> NDArray[np.int32] | None:
        """Width and height of each image in pixels [N,2], 0 unknown, or None."""
        return self._all("sizes") if "sizes" in self._file else None

    @cached_property
    def groups(self) -> NDArray[np.int32] | None:
        """Groups of near twins [N], −1 none, or None."""
        return self._all("groups") if "groups" in self._file else None

    @cached_property
    def attributes(self) -> NDArray[np.int32] | None:
        """Detected attributes [N,R], −1 unknown, or None."""
        return self._all("attributes") if "attributes" in self._file else None

    @cached_property
    def attribute_scores(self) -> NDArray[np.float32] | None:
        """Scores of the attributes [N,R], or None."""
        return self._all("attribute_scores") if "attribute_scores" in self._file else None

    def _all(self, name: str) -> np.ndarray:
        with reading(self.path, name):
            return self._file[name][:]

    def __getitem__(self, index: int) -> RegionArrays:
        """One image: features [R,D], boxes [R,4], its count, labels [R]."""
        return RegionArrays(*(field[0] for field in self.read(np.array([index]))))

    def read(self, indices: ArrayLike, dtype: DTypeLike = np.float32) -> RegionArrays:
        """Read images in any order, repeats allowed; each is read from disk once. All but the features is kept in memory.

        Args:
            indices: integers [n] in 0..N−1.  dtype: of the features given back. Casting float16 costs more than reading it:
            with the store's own `dtype` a batch comes three times as fast, for those who cast on the device.
        Raises: IndexError outside that range; DataError if the disk gives damaged data.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"{self.path}: expected indices in 0..{len(self) - 1}, got {wanted.min()}..{wanted.max()}")
        features = np.empty((len(wanted), self.regions, self.dim), dtype)
        data, order = self._file["features"], np.argsort(wanted, kind="stable")
        # a slice for each run of neighbours: h5py's fancy indexing is 60 times slower on such wide rows
        for run in np.split(order, np.flatnonzero(np.diff(wanted[order]) > 1) + 1) if len(order) else ():
            first, last = wanted[run[0]], wanted[run[-1]]
            with reading(self.path, f"records {first} to {last}"):
                rows = data[first : last + 1]
            features[run] = rows if len(run) == 1 else rows[wanted[run] - first]
        labels = np.full((len(wanted), self.regions), -1, np.int32) if self.labels is None else self.labels[wanted]
        return RegionArrays(features, self.boxes[wanted], self.counts[wanted], labels)
