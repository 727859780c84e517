"""`racg check FILE`: hold a file against its schema record by record, recompute its hash, sum it up in a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from racg_pl.captions import ARRAYS, CaptionStore, ParseStore, captions_hash, parse_hash
from racg_pl.errors import DataError
from racg_pl.features import CAPTIONS, OPTIONAL, PARSE, REGIONS, regions_hash
from racg_pl.hdf5 import open_h5, reading
from racg_pl.progress import progress_bar
from racg_pl.record import Record
from racg_pl.scene_facts import Kind
from racg_pl.scene_truth import TRUTH, Truth
from racg_pl.text import Vocabulary

BLOCK = 64  # images in memory at a time
LARGE = 1 << 28  # bytes of features from which on a bar is shown
VOCABULARY = "racg_pl.vocab/1"


def check(path: str | Path) -> str:
    """Validate a region store, captions, a parse, a vocabulary or the truth about Scenes, whichever the file says it is.

    Where the features of captions, or the captions of a parse, or both of a truth, lie in the same folder, they must belong together.
    Memory stays flat in N, but for texts and truths.

    Returns: a summary of a few lines.
    Raises: DataError naming the first bad record.
    """
    path = Path(path)
    if path.suffix == ".json":
        return _check_vocabulary(path)
    with open_h5(path, REGIONS, CAPTIONS, PARSE, TRUTH) as file, reading(path):
        schema = file.attrs["schema"]
        if schema == REGIONS.name:
            return _check_regions(file, path)
    return {CAPTIONS.name: _check_captions, PARSE.name: _check_parse, TRUTH.name: _check_truth}[schema](path)


def _check_regions(file: h5py.File, path: Path) -> str:
    features = file["features"]
    images, regions, dim = features.shape
    optional = [name for name in OPTIONAL if name in file]
    content = regions_hash(features.dtype, regions, dim, optional)
    ids: dict[str, int] = {}
    counts: list[int] = []
    labelled = 0
    with progress_bar(f"check {path.name}", images, "images", features.nbytes > LARGE) as advance:
        for index, record in enumerate(_records(file, path)):
            where = f"{path}: record {index} ({record.ids!r})"
            if record.ids in ids:
                raise DataError(f"{where}: expected unique ids, got one that record {ids[record.ids]} has too; rename one")
            if fault := record.fault():
                raise DataError(f"{where}: {fault}")
            content.add(*(value for value in record if value is not None))
            ids[record.ids] = index
            counts.append(int(record.counts))
            labelled += 0 if record.labels is None else int((record.labels[: record.counts] >= 0).sum())
            advance(1)
    if not images:
        raise DataError(f"{path}: expected at least one image, got none; write the file again")
    _expect_hash(path, file.attrs["sha256"], content.hexdigest())
    ragged = f"{min(counts)} to {max(counts)} of {regions}" if min(counts) < regions else f"{regions}"
    sample = list(ids)[:2] + list(ids)[2:][-1:]
    lines = [
        f"{path}: {images} images × {ragged} regions × {dim}, {features.dtype}",
        f"  extractor  {file.attrs['extractor']}, source {file.attrs['source'] or 'unknown'}",
        f"  boxes      {'unknown: every region is the whole picture' if file.attrs.get('boxes') == 'unknown' else 'known'}",
        f"  labels     {f'{labelled / sum(counts):.1%} of the regions' if 'labels' in optional else 'none'}",
        f"  also has   {', '.join(name for name in optional if name != 'labels') or 'nothing else'}",
        f"  ids        {', '.join(sample[:2])}{f', … {sample[2]}' if len(sample) > 2 else ''}",
        f"  sha256     {content.hexdigest()}",
    ]
    return "\n".join(lines)


def _records(file: h5py.File, path: Path) -> Iterator[Record]:
    """The records in order, read in blocks."""
    names = [name for name in Record._fields if name in file]
    for start in range(0, len(file["ids"]), BLOCK):
        rows = slice(start, start + BLOCK)
        with reading(path, f"record {start} or one of the {BLOCK - 1} behind it"):
            block = {name: file[name].asstr()[rows] if name == "ids" else file[name][rows] for name in names}
        for row in range(len(block["ids"])):
            yield Record._make(block[name][row] if name in block else None for name in Record._fields)


def _check_captions(path: Path) -> str:
    captions = CaptionStore(path)
    _expect_hash(path, captions.sha256, captions_hash(captions.texts, captions.image, captions.features_sha256))
    beside = _expect_partner(path.parent / captions.features, "features", captions.features_sha256)
    _, per_image = np.unique(captions.image, return_counts=True)
    without, empty = captions.images - len(per_image), sum(not text.strip() for text in captions.texts)
    lines = [
        f"{path}: {len(captions)} captions of {captions.images} images",
        f"  an image   {0 if without else per_image.min()} to {per_image.max()} captions; {without} images have none",
        f"  captions   {sum(map(len, captions.texts)) / len(captions):.1f} letters on average; {empty} are empty",
        f"  features   {captions.features} ({beside})",
        f"  first      {captions.texts[0]!r}",
        f"  sha256     {captions.sha256}",
    ]
    return "\n".join(lines)


def _check_parse(path: Path) -> str:
    parse = ParseStore(path)
    texts = {name: getattr(parse, name) for name in ("words", "label_names", "tag_names", "type_names")}
    arrays = {name: getattr(parse, name) for name in ARRAYS}
    names = {name: getattr(parse, name) for name in ("parser", "version", "scheme", "graph", "captions_sha256")}
    _expect_hash(path, parse.sha256, parse_hash(texts, arrays, names))
    partner = path.with_name(path.name.split(".parse-")[0] + ".captions.h5")
    beside = _expect_partner(partner, "captions", parse.captions_sha256)
    lengths = np.diff(parse.offsets)
    counts = np.bincount(parse.edges[:, 2], minlength=len(parse.type_names))
    most = [k for k in np.argsort(-counts, kind="stable")[:5] if counts[k]]
    shares = ", ".join(f"{parse.type_names[k]} {counts[k] / len(parse.edges):.0%}" for k in most) or "none"
    roots = int((parse.heads == np.arange(len(parse.heads)) - np.repeat(parse.offsets[:-1], lengths)).sum())
    lines = [
        f"{path}: {len(parse)} captions, {len(parse.words)} words, parsed by {parse.parser} {parse.version} ({parse.scheme})",
        f"  words      {lengths.min()} to {lengths.max()} a caption, {len(set(parse.words))} different ones",
        f"  roots      {roots / max(len(parse), 1):.2f} a caption",
        f"  names      {len(parse.label_names)} labels, {len(parse.tag_names)} tags",
        f"  graph      version {parse.graph}, {len(parse.edges) / len(parse):.1f} edges a caption: {shares}",
        f"  captions   {partner.name} ({beside})",
        f"  sha256     {parse.sha256}",
    ]
    return "\n".join(lines)


def _check_truth(path: Path) -> str:
    with reading(path):
        truth = Truth(path)
    stem = path.name.removesuffix(".h5").removesuffix(".truth")
    partners = {"features": f"{stem}.h5", "captions": f"{stem}.captions.h5"}
    hashes = {"features": truth.features_sha256, "captions": truth.captions_sha256}
    lines = [
        f"{path}: the truth about {len(truth)} pictures of Scenes, split {truth.split} of {truth.images} drawn with seed {truth.seed}",
        f"  pictures   {len(truth.classes)} objects, {len(truth.relations)} relations; twins: "
        + ", ".join(
            f"{int((truth.twin_kind == kind).sum())} of {kind.name.lower()}" for kind in (Kind.ATTRIBUTE, Kind.RELATION)
        ),
        *(
            f"  {what:<10} {name} ({_expect_partner(path.parent / name, what, hashes[what])})"
            for what, name in partners.items()
        ),
    ]
    return "\n".join(lines)


def _check_vocabulary(path: Path) -> str:
    vocabulary = Vocabulary.load(path)
    counts = vocabulary.counts.values()
    kept = [count for count in counts if count >= vocabulary.threshold]
    return (
        f"{path}: {len(counts)} words, {len(kept)} of them at least {vocabulary.threshold} times "
        f"({sum(kept) / sum(counts):.1%} of the running words)"
    )


def _expect_hash(path: Path, stored: str, computed: str) -> None:
    if stored != computed:
        raise DataError(
            f"{path}: expected content with sha256 {stored[:12]}…, got {computed[:12]}…: it was changed after it was written; "
            "write it again"
        )


def _expect_partner(path: Path, what: str, sha256: str) -> str:
    """Whether the file that another one names by hash is that file; an error if it is another."""
    if not path.is_file():
        return "not in this folder, so not compared"
    with open_h5(path, REGIONS if what == "features" else CAPTIONS) as file:
        got = file.attrs["sha256"]
    if got != sha256:
        raise DataError(f"{path}: expected {what} with sha256 {sha256[:12]}…, got {got[:12]}…; write the later file again")
    return "which lies beside it and fits"
