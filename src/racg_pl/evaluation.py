"""Evaluation of a split: items are encoded once, as they come; at the end all pairs are scored and ranked, over any number of processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from racg_pl import two_stage
from racg_pl.data import Batch, Split
from racg_pl.errors import DataError
from racg_pl.gallery import Gallery
from racg_pl.method import Encoded, Method
from racg_pl.metrics import NotFinite, RetrievalRecalls, recalls, recalls_of_ranks
from racg_pl.progress import progress_bar
from racg_pl.scoring import Ranking, rank, score_all


@dataclass
class Seen:
    """What one evaluation has encoded so far: this process's images and captions, and their indices into the split."""

    rows: list[Tensor] = field(default_factory=list)
    images: list[Encoded] = field(default_factory=list)
    captions: list[Tensor] = field(default_factory=list)
    texts: list[Encoded] = field(default_factory=list)

    def add(self, model: Method, batch: Batch) -> None:
        if len(batch.rows):
            self.rows.append(batch.rows)
            self.images.append(model.encode_image(batch.regions))
        if len(batch.captions):
            self.captions.append(batch.captions)
            self.texts.append(model.encode_text(batch.sentences))


class Evaluated(NamedTuple):
    """What an evaluation found."""

    metrics: dict[str, float]  # as of metrics.recalls
    scores: Tensor | None  # [B,C] on the CPU, unless larger than the budget
    ranking: Ranking | None  # where they are
    pairs_per_s: float  # scored by this process
    two_stage: dict[str, Any] | None  # as of two_stage.evaluate, where it was asked for


def evaluate(
    model: Method,
    seen: Seen,
    split: Split,
    memory_mb: int,
    candidates: int = 0,
    gather: Callable[[Tensor], Tensor] | None = None,
    progress: bool = True,
) -> Evaluated:
    """Recalls of a split whose items were just encoded, over all processes. `seen` is empty afterwards: padding goes as galleries fill.

    Args:
        memory_mb: of blocks of pairs, and of the largest matrix of scores that is kept.
        candidates: a query's, which are scored once more as from a large gallery; 0 = that is left out.
        gather: the parts of all processes along the first axis; None where there is one process.
    Raises: DataError at a score that is not finite.
    """
    rows, captions, image = torch.cat(seen.rows), torch.cat(seen.captions), torch.from_numpy(split.image)
    images, texts = Gallery(drained(seen.images)), Gallery(drained(seen.texts))
    device, rows = rows.device, rows.cpu()
    if gather is not None:  # each has encoded its share of the captions, and scores its images against all
        texts, captions = texts.gathered(gather), gather(captions)
    texts = texts.reorder(captions.argsort())
    searched = None
    if candidates:
        with progress_bar("two-stage search", len(images) + len(texts), "queries") as advance:
            searched = two_stage.evaluate(model, images.reorder(rows.argsort()), texts, image, candidates, advance)
    started, scores, ranking = time.perf_counter(), None, None
    try:
        with progress_bar("scoring", len(images) * len(texts), "pairs", progress) as advance:
            if len(split) * len(texts) > memory_mb << 18:  # of four bytes
                ranking = rank(model, images, texts, image, rows, len(split), 10, memory_mb, advance)
            else:
                scores = score_all(model, images, texts, memory_mb, advance)
        rate = len(images) * len(texts) / (time.perf_counter() - started)
        if scores is not None:
            scores = of_all(rows, scores, image, len(split), device)
            metrics = recalls(scores, image)
        elif ranking is not None:
            metrics = recalls_of_ranks(ranking.i2t, ranking.t2i)
    except NotFinite as error:
        raise DataError(
            f"evaluation: expected finite scores, but {error}; racg check the features, or take another checkpoint"
        ) from error
    return Evaluated(metrics, scores, ranking, rate, searched)


def of_all(rows: Tensor, scores: Tensor, image: Tensor, total: int, device: torch.device) -> Tensor:
    """The scores of all processes in order of the images: [b,C] of this one's → [B,C]."""
    metric = RetrievalRecalls(image, total)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        metric.to(device)  # NCCL gathers nothing that lies in the processor's memory
    metric.update(rows, scores)
    with metric.sync_context():
        return metric.matrix().cpu()


def drained(parts: list[Encoded]) -> Iterator[Encoded]:
    """The parts, each of which the list lets go of as it is taken."""
    while parts:
        yield parts.pop(0)
