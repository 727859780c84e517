"""The text side on disk: captions with their images, and parses as flat arrays; reading them needs no spaCy.

Each file names by hash what it belongs to, so that a stale one is found before it trains anything. Data sets and attributes:
the schemas in features.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from racg_pl.errors import DataError
from racg_pl.features import CAPTIONS, PARSE, RegionStore, RegionWriter
from racg_pl.hdf5 import ContentHash, create_h5, open_h5, reading, storable
from racg_pl.semantics import TYPES, VERSION

ARRAYS = ("heads", "labels", "tags", "offsets", "edges", "edge_offsets")  # of a parse


class Parse(Protocol):
    """What `write_parse` stores: words, heads, labels and tags of all captions end to end [T], and offsets [C+1]; the edges of
    their semantic graphs [E,3] (source, target, type), and edge_offsets [C+1].

    `heads`, sources and targets are positions inside the caption, a root is its own head; `labels` and `tags` index the lists of
    names, types index semantics.TYPES.
    """

    words: Sequence[str]
    heads: NDArray[np.integer]
    labels: NDArray[np.integer]
    label_names: Sequence[str]
    tags: NDArray[np.integer]
    tag_names: Sequence[str]
    offsets: NDArray[np.integer]
    edges: NDArray[np.integer]
    edge_offsets: NDArray[np.integer]
    parser: str
    version: str
    scheme: str


def write_captions(
    path: str | Path,
    texts: Sequence[str],
    image: ArrayLike,
    store: RegionStore | RegionWriter,
    moves: ExitStack | None = None,
) -> None:
    """Write captions beside the regions that they describe.

    Args:
        texts: C captions; an empty one is allowed.  image: [C] integers, each caption's index into `store.ids`; any order, any
        number an image.  store: the features, whose name and hash are stored.  moves: see `create_h5`.
    Raises: DataError naming the first bad caption.
    """
    path, images = Path(path), np.asarray(image)
    if images.dtype.kind not in "iu" or images.shape != (len(texts),) or not texts:
        raise DataError(f"{path}: expected an integer image index for each of {len(texts)} captions, got {_shape(images)}")
    if not storable(store.path.name):
        raise DataError(f"{store.path}: expected a name in UTF-8, got {store.path.name!r}; rename it")
    images = images.astype(np.int64)
    if fault := images_fault(images, len(store)) or texts_fault(texts):
        raise DataError(f"{path}: {fault}")
    with create_h5(path, moves) as file:
        file.attrs.update({"schema": CAPTIONS.name, "features": store.path.name})
        file.attrs.update({"features_sha256": store.sha256, "images": len(store)})
        file.fill(text=list(texts), image=images)
        file.attrs["sha256"] = captions_hash(texts, images, store.sha256)


class CaptionStore:
    """Captions in memory: `texts` [C], `image` int64 [C], `images` (how many the features have), and their hashes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open_h5(self.path, CAPTIONS) as file, reading(self.path):
            self.texts: list[str] = read_texts(file, "text", self.path)
            self.image: NDArray[np.int64] = file["image"][:]
            self.images = int(file.attrs["images"])
            self.features: str = file.attrs["features"]
            self.features_sha256: str = file.attrs["features_sha256"]
            self.sha256: str = file.attrs["sha256"]
        if fault := images_fault(self.image, self.images):
            raise DataError(f"{self.path}: {fault}")

    def __len__(self) -> int:
        return len(self.texts)

    def require(self, store: RegionStore) -> None:
        """Raise DataError unless these captions were written for exactly this region store."""
        if store.sha256 != self.features_sha256:
            raise DataError(
                f"{self.path}: expected the features {self.features} with sha256 {self.features_sha256[:12]}…, "
                f"got {store.path} with {store.sha256[:12]}…; write the captions again for these features"
            )


def write_parse(path: str | Path, parse: Parse, captions: CaptionStore) -> None:
    """Write a parse of `captions`. Raises: DataError naming the first bad caption or word."""
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    for name in ARRAYS:
        given, dtype = np.asarray(getattr(parse, name)), PARSE.fields[name].dtypes
        shape, want = ((3,), "an [E,3]") if name == "edges" else ((), "a flat")
        if given.shape[1:] != shape or not given.ndim or given.dtype.kind not in "iu" or (given.astype(dtype) != given).any():
            raise DataError(f"{path}: {name}: expected {want} array of integers that {dtype} can hold, got {_shape(given)}")
        arrays[name] = given.astype(dtype)
    if len(arrays["offsets"]) != len(captions) + 1:
        got = len(arrays["offsets"]) - 1
        raise DataError(f"{path}: expected a parse of {len(captions)} captions ({captions.path}), got {got}; parse again")
    texts = {name: list(getattr(parse, name)) for name in ("words", "label_names", "tag_names")} | {"type_names": list(TYPES)}
    fault = parse_fault(len(texts["words"]), arrays, len(texts["label_names"]), len(texts["tag_names"]))
    if fault := fault or texts_fault(texts["words"]):
        raise DataError(f"{path}: {fault}")
    names = {name: getattr(parse, name) for name in ("parser", "version", "scheme")}
    names |= {"graph": VERSION, "captions_sha256": captions.sha256}
    with create_h5(path) as file:
        file.attrs.update({"schema": PARSE.name} | names)
        file.fill(**texts, **arrays)
        file.attrs["sha256"] = parse_hash(texts, arrays, names)


class ParseStore:
    """A parse in memory: heads, labels, tags [T], offsets [C+1], edges [E,3], edge_offsets [C+1], lists of names; `words` [T] are
    read when first asked for. Raises: DataError on a damaged file, and on semantic graphs by the rules of another version."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open_h5(self.path, PARSE) as file, reading(self.path):
            self.heads: NDArray[np.int32] = file["heads"][:]
            self.labels: NDArray[np.int16] = file["labels"][:]
            self.tags: NDArray[np.int16] = file["tags"][:]
            self.offsets: NDArray[np.int64] = file["offsets"][:]
            self.edges: NDArray[np.int32] = file["edges"][:]
            self.edge_offsets: NDArray[np.int64] = file["edge_offsets"][:]
            self.label_names: list[str] = read_texts(file, "label_names", self.path)
            self.tag_names: list[str] = read_texts(file, "tag_names", self.path)
            self.type_names: list[str] = read_texts(file, "type_names", self.path)
            self.parser: str = file.attrs["parser"]
            self.version: str = file.attrs["version"]
            self.scheme: str = file.attrs["scheme"]
            self.graph: str = file.attrs["graph"]
            self.captions_sha256: str = file.attrs["captions_sha256"]
            self.sha256: str = file.attrs["sha256"]
        if (self.graph, tuple(self.type_names)) != (VERSION, TYPES):
            raise DataError(f"{self.path}: expected semantic graphs of version {VERSION}, got {self.graph}; {PARSE.mend}")
        arrays = {name: getattr(self, name) for name in ARRAYS}
        if fault := parse_fault(len(self.heads), arrays, len(self.label_names), len(self.tag_names)):
            raise DataError(f"{self.path}: {fault}")

    def __len__(self) -> int:
        """How many captions were parsed."""
        return len(self.offsets) - 1

    @cached_property
    def words(self) -> list[str]:
        with open_h5(self.path, PARSE) as file, reading(self.path, "words"):
            return read_texts(file, "words", self.path)

    def require(self, captions: CaptionStore) -> None:
        """Raise DataError unless this is a parse of exactly these captions."""
        if captions.sha256 != self.captions_sha256:
            raise DataError(
                f"{self.path}: expected the captions with sha256 {self.captions_sha256[:12]}…, got {captions.path} with "
                f"{captions.sha256[:12]}…; parse these captions again"
            )


def read_texts(file: h5py.File, name: str, path: Path) -> list[str]:
    """A text data set, equal words sharing one string: a parse of COCO holds six million words and 30,000 different ones."""
    seen: dict[bytes, str] = {}
    texts: list[str] = []
    try:
        for raw in file[name][:].tolist():
            if raw not in seen:
                seen[raw] = raw.decode()
            texts.append(seen[raw])
    except UnicodeDecodeError:
        raise DataError(f"{path}: {name}: record {len(texts)}: expected UTF-8, got {raw[:40]!r}; write it again") from None
    return texts


def images_fault(image: NDArray[np.int64], images: int) -> str | None:
    """The first caption that names no image, in words, or None."""
    if not len(image):
        return "expected at least one caption, got none"
    wrong = np.flatnonzero((image < 0) | (image >= images))
    return f"record {wrong[0]}: expected an image in 0..{images - 1}, got {image[wrong[0]]}" if len(wrong) else None


def texts_fault(texts: Iterable[str]) -> str | None:
    """The first text that HDF5 cannot hold, in words, or None."""
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not storable(text):
            return f"record {index}: expected Unicode text without null characters, got {text!r}"
    return None


def parse_fault(words: int, arrays: dict[str, np.ndarray], labels: int, tags: int) -> str | None:
    """What is wrong with the arrays of a parse, in words, or None.

    Args:
        words: T.  arrays: those of ARRAYS, by name.  labels, tags: how many names there are.
    """
    offsets = arrays["offsets"]
    for name in ("heads", "labels", "tags"):
        if len(arrays[name]) != words:
            return f"{name}: expected one for each of {words} words, got {len(arrays[name])}"
    if len(offsets) < 2:
        return "expected at least one caption, got none"
    if len(arrays["edge_offsets"]) != len(offsets):
        return f"edge_offsets: expected one for each of {len(offsets)} offsets, got {len(arrays['edge_offsets'])}; parse again"
    for name, total in (("offsets", words), ("edge_offsets", len(arrays["edges"]))):
        given = arrays[name]
        steps = np.diff(given)
        if given[0] != 0 or given[-1] != total or (steps < 0).any():
            place = int(np.argmax(steps < 0)) if (steps < 0).any() else 0 if given[0] else len(steps) - 1
            got = given[place : place + 2].tolist()
            return f"{name}: record {place}: expected offsets that rise from 0 to {total}, got {got}; parse again"
    lengths = np.diff(offsets)
    longest = np.repeat(lengths, lengths)
    for name, limit in (("heads", longest), ("labels", np.full(words, labels)), ("tags", np.full(words, tags))):
        values = arrays[name]
        wrong = np.flatnonzero((values < 0) | (values >= limit))
        if len(wrong):
            caption = int(np.searchsorted(offsets, wrong[0], side="right")) - 1
            place = int(wrong[0] - offsets[caption])
            where = "inside the caption, " if name == "heads" else ""
            return f"record {caption}, word {place}: expected {name} {where}in 0..{limit[wrong[0]] - 1}, got {values[wrong[0]]}"
    edges, caption_of = arrays["edges"], np.repeat(np.arange(len(lengths)), np.diff(arrays["edge_offsets"]))
    limits = np.stack([lengths[caption_of], lengths[caption_of], np.full(len(edges), len(TYPES))], 1)
    wrong = np.flatnonzero(((edges < 0) | (edges >= limits)).any(1) | (edges[:, 0] == edges[:, 1]))
    if len(wrong):
        source, target, number = edges[wrong[0]].tolist()
        last, most = lengths[caption_of[wrong[0]]] - 1, len(TYPES) - 1
        return (
            f"record {caption_of[wrong[0]]}: expected edges between two words in 0..{last} of a type in 0..{most}, "
            f"got {source} → {target} of type {number}; parse again"
        )
    return None


def captions_hash(texts: Sequence[str], image: NDArray[np.int64], features_sha256: str) -> str:
    """Content hash of a caption file: header (schema, hash of the features), then text and image of each caption."""
    content = ContentHash(schema=CAPTIONS.name, features_sha256=features_sha256)
    content.add(*chain.from_iterable(zip(texts, image, strict=True)))
    return content.hexdigest()


def parse_hash(texts: dict[str, list[str]], arrays: dict[str, np.ndarray], names: dict[str, str]) -> str:
    """Content hash of a parse: header (schema, attributes, lists of names), each word, then the arrays in the order of ARRAYS."""
    header = names | {name: texts[name] for name in ("label_names", "tag_names", "type_names")}
    content = ContentHash(schema=PARSE.name, **header)
    content.add(*texts["words"])
    content.add(*(arrays[name] for name in ARRAYS))
    return content.hexdigest()


def _shape(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
