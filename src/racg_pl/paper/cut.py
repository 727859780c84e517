"""A data set whose split for validation is cut to its first pictures: evaluation takes most of a training of a few steps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from racg_pl.captions import CaptionStore, ParseStore, write_captions, write_parse
from racg_pl.errors import writing
from racg_pl.features import RegionStore, RegionWriter


def cut(root: Path, out: Path, split: str, parser: str, images: int) -> Path:
    """A folder of links to the files of `root`, with the first `images` pictures of `split`, their captions and parse in its place.

    Returns: out, or root where the split has no more than these.
    Raises: DataError where a file is missing or damaged.
    """
    store, captions = RegionStore(root / f"{split}.h5"), CaptionStore(root / f"{split}.captions.h5")
    if len(store) <= images:
        return root
    with writing(out):
        out.mkdir(parents=True)
        for path in root.resolve().iterdir():
            if path.is_file() and not path.name.startswith(f"{split}."):
                (out / path.name).symlink_to(path)
    kind, boxes_known = str(store.dtype), store.boxes_known
    of_store = {"dtype": kind, "extractor": store.extractor, "source": store.source, "boxes_known": boxes_known}
    with RegionWriter(out / f"{split}.h5", store.regions, store.dim, **of_store) as writer:  # type: ignore[arg-type]
        arrays = store.read(np.arange(images), store.dtype)
        for row, count in enumerate(arrays.counts.tolist()):
            labels = None if store.labels is None else store.labels[row, :count]
            group = None if store.groups is None else int(store.groups[row])
            writer.add(store.ids[row], arrays.features[row, :count], arrays.boxes[row, :count], labels, group=group)
    kept = np.flatnonzero(captions.image < images)
    path = out / f"{split}.captions.h5"
    write_captions(path, [captions.texts[place] for place in kept], captions.image[kept], writer)
    parse = ParseStore(root / f"{split}.parse-{parser}.h5")
    words, edges = (_inside(offsets, kept) for offsets in (parse.offsets, parse.edge_offsets))
    parts = {name: getattr(parse, name)[words] for name in ("heads", "labels", "tags")}
    parts |= {"words": [parse.words[place] for place in words], "edges": parse.edges[edges]}
    for name in ("offsets", "edge_offsets"):
        parts[name] = np.concatenate([[0], np.diff(getattr(parse, name))[kept].cumsum()])
    for name in ("label_names", "tag_names", "parser", "version", "scheme"):
        parts[name] = getattr(parse, name)
    write_parse(out / f"{split}.parse-{parser}.h5", SimpleNamespace(**parts), CaptionStore(path))
    return out


def _inside(offsets: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The places from offsets[i] to offsets[i + 1], of each i that is kept, end to end."""
    return np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in kept])
