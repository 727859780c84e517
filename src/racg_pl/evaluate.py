"""`racg eval`: recalls of score matrices, whatever model made them, and of ensembles by averaging."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from racg_pl.captions import CaptionStore
from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.metrics import KS, coco_folds, recalls
from racg_pl.progress import progress_bar
from racg_pl.tables import _table

SCHEMA = "racg_pl.eval/1"
FLOATS = ("float16", "float32", "float64")


class Evaluated(NamedTuple):
    """Recalls by file, in the order given, and of the mean of all where there are several."""

    metrics: dict[str, dict[str, float]]
    record: dict[str, Any]

    def __str__(self) -> str:
        head = ["scores", *(f"{d} {what}" for d in ("i2t", "t2i") for what in (*(f"R@{k}" for k in KS), "median")), "rsum"]
        names = [f"{d}_{what}" for d in ("i2t", "t2i") for what in (*(f"r{k}" for k in KS), "median")] + ["rsum"]
        return _table(head, [[file, *(f"{row[name]:.1f}" for name in names)] for file, row in self.metrics.items()], left=1)


def evaluate(files: Sequence[Path], captions: Path, folds: int = 1) -> Evaluated:
    """Recalls of each matrix, and of the mean of all of them.

    Args:
        files: .npy, float [images, captions], high where both belong together, in the order of `captions`, such as `racg test
            --save_scores true` writes.
        captions: SPLIT.captions.h5, which says whose caption is whose.
        folds: of consecutive images, each among its own captions, whose recalls are averaged: 5 for COCO 1K.
    Raises: DataError naming the first file that is no such matrix.
    """
    store = CaptionStore(captions)
    if folds < 1 or store.images % folds:
        raise DataError(
            f"{captions}: expected folds that divide its {store.images} images, got --folds {folds}; choose another number"
        )
    image = torch.from_numpy(store.image)
    resolved = [path.resolve() for path in files]
    if twice := [path for place, path in enumerate(files) if resolved[place] in resolved[:place]]:
        raise DataError(f"{twice[0]}: expected different files, got this one twice; give each once")
    for path in files:  # all of them before the first long step
        _open(path, store)
    metrics: dict[str, dict[str, float]] = {}
    hashes: dict[str, str] = {}
    total: torch.Tensor | None = None
    with progress_bar("ranking", len(files) + (len(files) > 1), "matrices") as advance:
        for path in files:
            array = np.array(_open(path, store))
            scores = torch.from_numpy(array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32, copy=False))
            metrics[str(path)] = _recalls(path, scores, image, folds)
            hashes[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            if len(files) > 1:
                total = scores.double() if total is None else total.add_(scores)
            advance(1)
        if total is not None:
            metrics[f"mean of {len(files)}"] = _recalls(files[0], total / len(files), image, folds)
            advance(1)
    record = {"schema": SCHEMA, "captions": str(captions), "captions_sha256": store.sha256, "images": store.images}
    record |= {"queries": len(store), "folds": folds, "files": hashes, "metrics": metrics}
    return Evaluated(metrics, record)


def _open(path: Path, captions: CaptionStore) -> np.ndarray:
    """A matrix on disk, of the right type and shape; its values are not read yet."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        got = error.strerror or one_line(error)
        raise DataError(f"{path}: expected a score matrix by numpy.save, got: {got}; name a file that can be read") from error
    except Exception as error:  # numpy reads headers in its own ways, and fails in as many
        # what numpy advises for files of another kind is to load them as pickles
        got = "objects, or a file of another kind" if "pickle" in str(error) else one_line(error)
        raise DataError(
            f"{path}: expected a score matrix by numpy.save, got: {got}; save the scores anew, as an array of float32"
        ) from error
    want = (captions.images, len(captions))
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path}: expected one array by numpy.save, got an archive of several; save the scores alone")
    if array.dtype.name not in FLOATS:
        raise DataError(f"{path}: expected scores in {', '.join(FLOATS)}, got {array.dtype}; save them as float32")
    if array.shape != want:
        mend = "transpose it" if array.shape == want[::-1] else "is it of this split?"
        raise DataError(f"{path}: expected scores [images, captions] = {list(want)}, got {list(array.shape)}; {mend}")
    return array


def _recalls(path: Path, scores: torch.Tensor, image: torch.Tensor, folds: int) -> dict[str, float]:
    try:
        return coco_folds(scores, image, folds) if folds > 1 else recalls(scores, image)
    except ValueError as error:
        raise DataError(f"{path}: expected finite scores of a split with captions, got: {error}; score it again") from error
