"""`racg convert`: from any layout that users of this field have on disk, or from arrays, to a region store and its captions.

The layouts are described in readers/. Memory stays flat in N; on an error nothing is left, and files of before stay as they were.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import numpy as np
from numpy.typing import ArrayLike

from racg_pl.captions import texts_fault, write_captions
from racg_pl.errors import DataError, require_apart, require_file
from racg_pl.features import RegionStore, RegionWriter
from racg_pl.progress import progress_bar
from racg_pl.readers import open_regions, own, recognise
from racg_pl.readers.captions import CaptionFile, read_captions
from racg_pl.readers.picture import WHOLE_PICTURE, Regions

DTYPES = ("auto", "float16", "float32")
STEP = 64  # images between two words to a bar
OPTIONAL = ("objects", "scores", "attributes", "attribute_scores")


def convert(
    source: str | Path,
    out: str | Path,
    *,
    layout: str | None = None,
    split: str | None = None,
    captions: str | Path | None = None,
    captions_out: str | Path | None = None,
    per_image: int | None = None,
    extractor: str = "unknown",
    dtype: str = "auto",
    progress: bool = True,
) -> str:
    """Write `out` and its captions (train.h5: train.captions.h5). Images come in the order of the captions.

    Args:
        source: a file or folder in one of the layouts.  layout: its name; by default it is recognised.
        split: which images, of a layout or a caption file that has splits.
        captions: a caption file; precomp layouts and one's own folder bring theirs. Without any, all images are converted.
        captions_out: another name for the captions.  per_image: take the first so many captions of an image; fewer are an error.
        extractor: what made the features, stored as an attribute.
        dtype: of the stored features: "float16", "float32", or "auto", that of the source (float64 becomes float32).
    Returns: what was recognised and written, in two lines.
    Raises: DataError naming the file and the record.
    """
    source, out = Path(source), Path(out)
    layout = layout or recognise(source)
    table = Path(captions) if captions else own.table_of(source) if layout in ("own", "folder") else None
    given = read_captions(table) if table else None
    regions = open_regions(source, layout, split, given, progress)
    chosen = given.select(split_of_captions(given, split, layout), per_image) if given else None
    if chosen is None and regions.captions is not None:
        chosen = regions.captions.select(None, per_image)
    if chosen is None and (split or per_image):
        raise DataError(f"{source}: expected captions to choose from, got none; give them with --captions")
    return write_store(regions, chosen, out, captions_out=captions_out, extractor=extractor, dtype=dtype, progress=progress)


def write_store(
    regions: Regions,
    captions: CaptionFile | None,
    out: Path,
    *,
    captions_out: str | Path | None = None,
    extractor: str = "unknown",
    dtype: str = "auto",
    progress: bool = True,
    advance: Callable[[int], None] | None = None,
) -> str:
    """Write the images that `captions` name, in that order, or all. `advance` hears of each image written. As `convert`."""
    beside = _beside(out)
    if captions is None and captions_out:
        raise DataError(
            f"{captions_out}: expected captions to write, got none; give them by --captions, or leave out --captions-out"
        )
    captions_out = Path(captions_out) if captions_out else beside
    require_file(captions_out, makes_folder=True)
    if dtype not in DTYPES:
        raise DataError(f"{out}: expected the dtype auto, float16 or float32, got {dtype!r}")
    order = captions.match(regions.ids, regions.path) if captions else range(len(regions.ids))
    require_apart((out, captions_out), [*regions.files, *([captions.path] if captions else [])])
    _require_writable((out, captions_out) if captions else (out,))
    stored = dtype if dtype != "auto" else "float16" if regions.dtype == np.float16 else "float32"
    digest, done, told = _Later(regions.sha256), 0, 0
    with ExitStack() as moves:
        with (
            RegionWriter(
                out,
                regions.regions,
                regions.dim,
                dtype=stored,
                extractor=extractor,
                source=regions.path,
                boxes_known=regions.boxes_known,
                moves=moves,
            ) as writer,
            progress_bar(f"convert to {out.name}", len(order), "images", progress) as bar,
        ):
            for index in order:
                picture = regions.read(index)
                boxes = np.tile(WHOLE_PICTURE, (len(picture.features), 1)) if picture.boxes is None else picture.boxes
                writer.add(
                    regions.ids[index],
                    picture.features,
                    boxes,
                    picture.objects,
                    picture.scores,
                    picture.size,
                    attributes=picture.attributes,
                    attribute_scores=picture.attribute_scores,
                    where=picture.where,
                    copy=False,
                )
                done += 1
                if done % STEP == 0 or done == len(order):
                    (advance or bar)(done - told)
                    told = done
            have = [name for name in OPTIONAL if getattr(picture, name) is not None]
            writer.source_sha256 = digest.result()
        if captions is not None:
            _write_captions(captions_out, [image.texts for image in captions.images], writer, moves)
    said = (
        f"{regions.path}: {regions.layout}\n{out}: {len(order)} images × {regions.regions} regions × {regions.dim} ({stored}; "
    )
    said += f"{', '.join((['boxes'] if regions.boxes_known else []) + have) or 'no boxes, objects or scores'})"
    if captions is not None:
        said += f", {sum(len(image.texts) for image in captions.images)} captions in {captions_out}"
    else:
        said += ", no captions (give them with --captions)"
    return said + ("" if regions.boxes_known else "; boxes are unknown: every region stands for the whole picture")


def split_of_captions(given: CaptionFile | None, split: str | None, layout: str) -> str | None:
    """The split to take from a caption file: none from one without splits, beside a layout whose features the split names."""
    if given is None or (layout in ("precomp", "vse-infinity") and all(image.split is None for image in given.images)):
        return None
    return split


def _beside(out: Path) -> Path:
    """The captions of a region store: train.captions.h5 of train.h5. Raises: DataError unless `out` is such a name."""
    require_file(out, makes_folder=True)
    if out.suffix != ".h5":  # f30k.train and f30k.dev would both have f30k.captions.h5
        raise DataError(f"{out}: expected a name that ends in .h5, got {out.suffix or 'no suffix'}; name it {out.name}.h5")
    return out.with_suffix(".captions.h5")


def _require_writable(paths: Sequence[Path]) -> None:
    """All can be written, before the long step. Raises: DataError."""
    for path in paths:
        home = next(folder for folder in path.absolute().parents if folder.exists())
        if not home.is_dir() or not os.access(home, os.W_OK):
            raise DataError(f"{path}: cannot be written ({home} is no folder that may be written to); choose another folder")


def store_arrays(
    out: str | Path,
    features: Sequence[ArrayLike],
    boxes: Sequence[ArrayLike],
    captions: Sequence[Sequence[str]],
    *,
    ids: Sequence[str] | None = None,
    objects: Sequence[ArrayLike] | None = None,
    scores: Sequence[ArrayLike] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    extractor: str = "own",
    dtype: str = "float32",
) -> RegionStore:
    """One's own pictures, from arrays in memory to a region store and its captions beside it (train.h5: train.captions.h5).

    Args:
        features: N images, each [r,D], or one array [N,R,D].  boxes: N times [r,4], x1 y1 x2 y2 in [0,1].
        captions: the captions of each image, at least one.  ids: N names, by default the numbers 0 to N − 1.
        objects: N times [r] integers.  scores: N times [r].  sizes: width and height of each image in pixels.
    Returns: the store, opened.
    Raises: DataError naming the first bad image.
    """
    out, count = Path(out), len(features)
    beside = _beside(out)
    columns = {"boxes": boxes, "captions": captions, "ids": ids, "objects": objects, "scores": scores, "sizes": sizes}
    for name, column in columns.items():
        if column is not None and len(column) != count:
            raise DataError(f"{out}: {name}: expected one for each of {count} images, got {len(column)}")
    names = [str(index) for index in range(count)] if ids is None else list(ids)
    for name, texts in zip(names, captions, strict=True):
        if isinstance(texts, str) or not isinstance(texts, Collection) or not len(texts):
            raise DataError(f"{out}: image {name!r}: expected a list of captions, got {texts!r}")
        if fault := texts_fault(texts):
            raise DataError(f"{out}: image {name!r}: captions: {fault}")
    shapes = [np.shape(image) for image in features]
    if (wrong := next((k for k, shape in enumerate(shapes) if len(shape) != 2), None)) is not None:
        raise DataError(f"{out}: image {names[wrong]!r}: features: expected the shape [r, D], got {list(shapes[wrong])}")
    regions, dim = (max((shape[axis] for shape in shapes), default=0) for axis in (0, 1))
    with ExitStack() as moves:
        with RegionWriter(out, regions, dim, dtype=dtype, extractor=extractor, moves=moves) as writer:
            for k, name in enumerate(names):
                labels, confidences = (None if column is None else column[k] for column in (objects, scores))
                writer.add(name, features[k], boxes[k], labels, confidences, sizes[k] if sizes is not None else None)
        _write_captions(beside, captions, writer, moves)
    return RegionStore(out)


def _write_captions(path: Path, images: Sequence[Sequence[str]], store: RegionWriter, moves: ExitStack) -> None:
    """Captions in image order. They take their name with the store, or neither does."""
    image = np.repeat(np.arange(len(images)), [len(texts) for texts in images])
    write_captions(path, [text for texts in images for text in texts], image, store, moves)


class _Later:
    """What a function returns, computed meanwhile; abandoned where nobody asks for it."""

    def __init__(self, function: Callable[[], str]) -> None:
        self._function, self._outcome = function, list[str | BaseException]()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._function())
        except BaseException as error:
            self._outcome.append(error)

    def result(self) -> str:
        self._thread.join()
        outcome = self._outcome[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome
