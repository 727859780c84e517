"""All-pairs scoring: every image against every caption, each item encoded once. Whole, as a matrix, or streamed: rows come by blocks, and
ranks and best matches are kept, never the matrix.

Letters: B images, C captions, b images of a block, k best matches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from racg_pl.gallery import Gallery
from racg_pl.method import Method
from racg_pl.metrics import NO_QUERY, NotFinite, ranks_i2t

CAPTIONS = {True: 256, False: 64}  # scored at a time by the native operator, whole vectors of them, and in plain torch
CACHE = 1 << 18  # floats a pair of plain torch may have in the CPU's cache, all pairs of a block together
MEMORY_MB = 1024
Progress = Callable[[int], None]


def block_of_images(images: Gallery, texts: Gallery, memory_mb: int) -> int:
    """Images whose nodes, padded, and scores fit a quarter of the budget: the rest is for what the scorer makes of them."""
    widest = int(images.lengths.max())
    heads = images.aligned[0].numel()
    size = max(4, images.aligned.element_size())
    each = size * (len(texts) + images.pooled.shape[1] + widest * (2 * heads + widest * images.channels))
    return max(1, min(len(images), memory_mb * 2**18 // each))


def pairs_at_once(model: Method, images: Gallery, words: int, memory_mb: int) -> int:
    """Pairs of one block in plain torch: those whose intermediate results fit the cache of a CPU, or half of the budget of a GPU."""
    budget = memory_mb * 2**17 if images.lengths.is_cuda else CACHE
    wide = max(1, images.aligned.element_size() // 4)
    return max(1, budget // (wide * model.pair_floats(images.aligned, int(images.lengths.max()), words)))


@torch.inference_mode()
def score_rows(
    model: Method, images: Gallery, texts: Gallery, memory_mb: int = MEMORY_MB, progress: Progress | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Scores of blocks of images against all captions: float32 [b,C] on the CPU, each valid until the next is asked for.

    Captions go in order of length, so that a block carries little padding.

    Args:
        memory_mb: what blocks may take beyond the encoded items.
        progress: called with the number of pairs just scored.
    """
    order = texts.lengths.argsort(stable=True)
    height = block_of_images(images, texts, memory_mb)
    native = model.pair_floats(images.aligned, 1, 1) == 0
    scores = torch.empty(height, len(texts))
    for start in range(0, len(images), height):
        rows = slice(start, min(start + height, len(images)))
        block, out = images.take(rows), scores[: rows.stop - start]
        for columns in order.split(CAPTIONS[native]):
            captions, places = texts.take(columns), columns.cpu()
            step = (
                len(out) if native else max(1, pairs_at_once(model, images, captions.mask.shape[1], memory_mb) // len(columns))
            )
            for first in range(0, len(out), step):
                part = slice(first, first + step)
                out[part, places] = model.score(block.take(part), captions).float().cpu()
            if progress:
                progress(out.shape[0] * len(columns))
        yield rows, out


@torch.inference_mode()
def score_all(
    model: Method, images: Gallery, texts: Gallery, memory_mb: int = MEMORY_MB, progress: Progress | None = None
) -> Tensor:
    """Scores of all pairs, float32 [B,C] on the CPU: the matrix, and `memory_mb` beyond it."""
    scores = torch.empty(len(images), len(texts))
    for rows, block in score_rows(model, images, texts, memory_mb, progress):
        scores[rows] = block
    return scores


class Ranking(NamedTuple):
    """What retrieval needs of a matrix of scores."""

    i2t: Tensor  # int64 [B] as in metrics.py, NO_QUERY for an image without captions
    t2i: Tensor  # int64 [C]
    captions: tuple[Tensor, Tensor]  # of each image, best first: scores [B,k] and captions [B,k]
    images: tuple[Tensor, Tensor]  # of each caption: scores [C,k] and images [C,k]


@torch.inference_mode()
def own_scores(model: Method, images: Gallery, texts: Gallery, local: Tensor) -> Tensor:
    """Score of each caption with its own image, −inf where that is not here: [C]. local [C]: its place in `images`, or −1."""
    right = torch.full((len(texts),), -torch.inf)
    captions = (local >= 0).nonzero()[:, 0]
    captions = captions[local[captions].argsort(stable=True)]
    for columns in captions.split(64):
        rows, row = local[columns].unique(return_inverse=True)
        device = texts.lengths.device
        scores = model.score(images.take(rows.to(device)), texts.take(columns.to(device))).float().cpu()
        right[columns] = scores[row, torch.arange(len(columns))]
    return right


@torch.inference_mode()
def rank(
    model: Method,
    images: Gallery,
    texts: Gallery,
    image: Tensor,
    rows: Tensor | None = None,
    total: int | None = None,
    keep: int = 10,
    memory_mb: int = MEMORY_MB,
    progress: Progress | None = None,
) -> Ranking:
    """Ranks and best matches without the matrix; the same over any number of processes, each of which scores its own images.

    A caption's score with its own image is computed once and stands in every comparison, so that blocks of other sizes, whose sums
    may differ in the last bit, change no rank.

    Args:
        image: int [C], each caption's image, numbered over all images.
        rows: int [b], which images `images` are; all in order where left out. Those that an earlier process has too are left to it.
        total: number of images over all processes; that of `images` where left out.
        keep: k.
    Raises: NotFinite.
    """
    total = len(images) if total is None else total
    rows = torch.arange(len(images)) if rows is None else rows.cpu()
    mine = first_owned(rows)
    images, rows = images.reorder(mine.to(images.lengths.device)), rows[mine]
    place = torch.full((total,), -1)
    place[rows] = torch.arange(len(rows))
    local = place[image]
    right = reduced(own_scores(model, images, texts, local), "MAX")
    i2t = torch.full((total,), NO_QUERY)
    t2i = torch.zeros(len(texts), dtype=torch.int64)
    own = (local >= 0).nonzero()[:, 0]
    k_captions, k_images = min(keep, len(texts)), min(keep, total)
    captions = torch.full((total, k_captions), -torch.inf), torch.full((total, k_captions), -1)
    best = torch.full((len(texts), k_images), -torch.inf), torch.full((len(texts), k_images), -1)
    failed: NotFinite | None = None
    try:
        for block, scores in score_rows(model, images, texts, memory_mb, progress) if len(images) else ():
            here = own[(local[own] >= block.start) & (local[own] < block.stop)]
            scores[local[here] - block.start, here] = right[here]
            i2t[rows[block]] = ranks_i2t(scores, local, block.start)
            for part in range(0, len(scores), 64):  # comparing all at once would take as much as the scores
                t2i += (scores[part : part + 64] >= right).sum(0)
            captions[0][rows[block]], captions[1][rows[block]] = scores.topk(k_captions)
            values, places = scores.topk(min(k_images, len(scores)), dim=0)
            values, places = torch.cat((best[0], values.T), 1), torch.cat((best[1], rows[block][places].T), 1)
            values, chosen = values.topk(k_images)
            best = values, places.gather(1, chosen)
    except NotFinite as error:  # which is raised once all processes are here, or the others would wait for this one
        failed = error
    if reduced(torch.tensor([failed is not None], dtype=torch.int64), "MAX").item():
        raise failed or NotFinite("scores of another process are not finite")
    values, places = (torch.cat(gathered(part), 1) for part in best)
    values, chosen = values.topk(k_images)
    return Ranking(
        reduced(i2t, "MAX"),
        reduced(t2i, "SUM") - 1,  # the right one reaches its own score
        (reduced(captions[0], "MAX"), reduced(captions[1], "MAX")),
        (values, places.gather(1, chosen)),
    )


def several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def reduced(tensor: Tensor, how: str) -> Tensor:
    """The maximum or the sum over all processes."""
    if several():
        device = torch.device("cuda") if dist.get_backend() == "nccl" else tensor.device
        moved = tensor.to(device)
        dist.all_reduce(moved, getattr(dist.ReduceOp, how))
        tensor.copy_(moved)
    return tensor


def gathered(tensor: Tensor) -> list[Tensor]:
    """A CPU tensor of every process, in order of the processes."""
    if not several():
        return [tensor]
    parts: list[Tensor] = [tensor] * dist.get_world_size()
    dist.all_gather_object(parts, tensor)
    return parts


def first_owned(rows: Tensor) -> Tensor:
    """Places of `rows` that neither an earlier process nor an earlier place has: samplers repeat items to even out the processes."""
    before = gathered(rows)[: dist.get_rank()] if several() else []
    seen = set(torch.cat(before).tolist()) if before else set()
    kept = []
    for place, row in enumerate(rows.tolist()):
        if row not in seen:
            kept.append(place)
            seen.add(row)
    return torch.tensor(kept, dtype=torch.int64)
