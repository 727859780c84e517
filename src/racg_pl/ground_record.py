"""What `racg ground` leaves: figures, where they come from, and phrase by phrase whether the region that is attended to agrees."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line

SCHEMA = "racg_pl.ground/2"
MEASURES = {"centre": "centre in a box", "iou": "IoU ≥ 0.5"}
REGIONS = ("attended", "chance", "largest", "surest", "best")  # which region is looked at


def packed(agree: NDArray[np.bool_], image: Sequence[int]) -> dict[str, str]:
    """By measure a digit a phrase, 1 where its region agrees; those of an image stand in a group.

    Shapes: agree [S,2] by MEASURES, image [S], equal ones side by side.
    """
    groups = [len(list(group)) for _, group in groupby(image)]
    parts = np.split(agree.astype(int), np.cumsum(groups)[:-1])
    return {name: " ".join("".join(map(str, part[:, k])) for part in parts) for k, name in enumerate(MEASURES)}


def unpacked(hits: Mapping[str, str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What `packed` has packed: percent a phrase [S,2] by MEASURES, 0 or 100, and the group of each [S], 0 the first."""
    sizes = [len(group) for group in hits["centre"].split(" ")]
    agree = np.stack([[100.0 * int(digit) for digit in hits[name].replace(" ", "")] for name in MEASURES], 1)
    return agree, np.repeat(np.arange(len(sizes)), sizes)


def read_record(path: Path) -> dict[str, Any]:
    """Raises: DataError where it is none that `racg ground` wrote."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']}")
        said = [record["weights"], record["split"], record["commit"], record["phrases"]["sha256"], record["data"]["captions"]]
        said += [record["hits"][name] for name in MEASURES]
        rows = [record["metrics"][name] for name in MEASURES]
        if not all(isinstance(one, str) for one in said) or not all(isinstance(row["attended"], float) for row in rows):
            raise ValueError("something else than texts and numbers")
        shapes = {tuple(map(len, record["hits"][name].split(" "))) for name in MEASURES}
        digits = set().union(*(record["hits"][name] for name in MEASURES))
        if len(shapes) > 1 or not digits <= {"0", "1", " "} or sum(min(shapes)) != record["metrics"]["phrases"]:
            raise ValueError(f"no hits of {record['metrics']['phrases']} phrases")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: expected what racg ground wrote of a checkpoint, got: {one_line(error)}; name its file, or measure it anew"
        ) from error
    return cast(dict[str, Any], record)


def asked(record: Mapping[str, Any]) -> tuple[str, str, str, int]:
    """To what a record is an answer: the split, the hashes of its phrases and of its captions, and how many phrases."""
    return record["split"], record["phrases"]["sha256"], record["data"]["captions"], record["metrics"]["phrases"]


def spoken_of(root: Path, split: str) -> Path:
    """The file that says what the captions of a split speak of: ROOT/SPLIT.phrases.json, or the truth of Scenes. Raises: DataError."""
    files = [root / f"{split}.phrases.json", root / f"{split}.truth.h5"]
    for path in files:
        if path.exists():
            return path
    raise DataError(
        f"{files[0]}: expected what the captions of {split} speak of, got neither this file nor {files[1].name}; "
        "bring it by racg prepare, or give a file of --phrases"
    )
