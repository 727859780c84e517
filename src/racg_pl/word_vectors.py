"""Word vectors from a text file, as GloVe and fastText publish them: a word and its numbers a line, fastText with a line of sizes first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.progress import progress_bar

LINES = 1000  # between two looks of the progress bar


def read_vectors(path: Path, words: Sequence[str], width: int) -> tuple[Tensor, Tensor]:
    """The vectors of the words that a file has, the first of several lines of one word.

    Only lines of these words are read as numbers: two million others cost their bytes.

    Args:
        words: lower-cased, as of Vocabulary.  width: that the vectors must have.
    Returns: vectors float32 [F,width] of F words, and which they are, int64 [F].
    Raises: DataError where the file is missing, not of such lines, of another width, or has none of the words.
    """
    wanted = {word.encode(): index for index, word in enumerate(words)}
    found: dict[int, list[float]] = {}
    try:
        with path.open("rb") as file, progress_bar(f"reading {path.name}", path.stat().st_size, "bytes") as advance:
            read = 0
            for number, line in enumerate(file, start=1):
                read += len(line)
                if not number % LINES:
                    advance(read)
                    read = 0
                index = wanted.get(line[: line.find(b" ")])
                if index is not None and index not in found and (vector := _vector(path, number, line, width)):
                    found[index] = vector
    except OSError as error:
        raise DataError(
            f"{path}: expected word vectors in a text file, got: {one_line(error)}; name one by --model.word_vectors"
        ) from error
    if not found:
        raise DataError(
            f"{path}: expected a word and its numbers a line, got none of the {len(words)} words of the vocabulary; "
            f"name a text file (.txt, .vec) of the captions' language"
        )
    return torch.tensor(list(found.values())), torch.tensor(list(found))


def _vector(path: Path, number: int, line: bytes, width: int) -> list[float]:
    """The numbers of a line; none where they belong to a word with spaces, or are the sizes of fastText's first line."""
    values = [_number(field) for field in line.split()[1:]]
    if number == 1 and len(values) == 1:
        return []
    if len(values) > width and math.isnan(values[0]):  # ". . ." is a word of GloVe's
        return []
    if len(values) != width or not all(map(math.isfinite, values)):
        got = f"{len(values)} numbers" if len(values) != width else "one that is none or not finite"
        raise DataError(
            f"{path}: line {number}: expected a word and {width} numbers, as many as the model's word_dim, got {got}; "
            f"set --model.word_dim to the width of the vectors, or name another file"
        )
    return values


def _number(field: bytes) -> float:
    try:
        return float(field)
    except ValueError:
        return math.nan
