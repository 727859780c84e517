"""The pooled embeddings of a split's pictures by one model, in a file: the first stage of `racg search`, made once.

Letters: N pictures, P width of a pooled embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from racg_pl.errors import DataError, writing
from racg_pl.hdf5 import Field, Schema, create_h5, open_h5, reading
from racg_pl.progress import progress_bar
from racg_pl.two_stage import PooledIndex

INDEX = Schema("racg_pl.index/1", {"weights": str, "features_sha256": str}, {"pooled": Field("N P", "float16")})
MEND = "name another by --index"
ENCODED = 64  # pictures encoded at a time
ADDED = 1 << 16  # embeddings read at a time


def read_index(path: Path, weights: str, features: str) -> PooledIndex | None:
    """The index of a file; None where it was made of other weights or pictures. Raises: DataError where it is none, or damaged.

    Args:
        weights: sha256 of the model's.  features: of the region store.
    """
    with open_h5(path, INDEX) as file, reading(path):
        if (file.attrs["weights"], file.attrs["features_sha256"]) != (weights, features):
            return None
        pooled = file["pooled"]
        index = PooledIndex(pooled.shape[1])
        for start in range(0, len(pooled), ADDED):
            index.add(torch.from_numpy(pooled[start : start + ADDED]))
    return index


def write_index(
    path: Path, weights: str, features: str, encode: Callable[[NDArray[np.int64]], Tensor], pictures: int
) -> PooledIndex:
    """Encode all pictures, with a progress bar, and keep what comes of it.

    Args:
        encode: gives pooled embeddings [n,P] of n rows of the store.  pictures: N.
    Raises: DataError, and nothing is written, where there are no such embeddings, or some that are no numbers.
    """
    width = encode(np.arange(1)).shape[1]
    index = PooledIndex(width)
    with (
        writing(path, MEND),
        create_h5(path, mend=MEND) as file,
        progress_bar("encode", pictures, "pictures") as advance,
    ):
        file.attrs.update(schema=INDEX.name, weights=weights, features_sha256=features)
        pooled = file.create_dataset("pooled", (pictures, width), np.float16)
        for start in range(0, pictures, ENCODED):
            rows = np.arange(start, min(start + ENCODED, pictures))
            block = encode(rows).half()
            if not block.isfinite().all():
                raise DataError(
                    f"{path}: expected embeddings of numbers, got some that are none: the model is damaged; train it again"
                )
            pooled[start : start + len(rows)] = block.numpy()
            index.add(block)
            advance(len(rows))
    return index
