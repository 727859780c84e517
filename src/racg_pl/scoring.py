"""All-pairs scoring: every image against every caption, each item encoded once, pairs in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from racg_pl.model import RACG, Encoded


def stack(parts: Iterable[Encoded]) -> Encoded:
    """Batches of encoded items of one modality, of different widths, as one, the shorter padded; float32, whatever the
    precision of the trainer."""
    parts = list(parts)
    width = max(part.mask.shape[1] for part in parts)

    def pad(field: Tensor, *axes: int) -> Tensor:
        missing = [width - size if axis in axes else 0 for axis, size in enumerate(field.shape)]
        return F.pad(field, [size for end in reversed(missing) for size in (0, end)])

    return Encoded(
        torch.cat([pad(part.aligned.float(), 1) for part in parts]),
        torch.cat([pad(part.relations.float(), 2, 3) for part in parts]),
        torch.cat([pad(part.share.float(), 1) for part in parts]),
        torch.cat([part.pooled.float() for part in parts]),
        torch.cat([pad(part.mask, 1) for part in parts]),
    )


@torch.inference_mode()
def score_all(
    model: RACG,
    images: Encoded,
    texts: Encoded,
    image_block: int = 8,
    caption_block: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Scores of all pairs, float32 [B,C] on the CPU. Captions are scored in order of length, so that a block carries little padding.

    Args:
        image_block, caption_block: pairs scored at once; the messages of a block, image_block · caption_block · (R + W) · P floats,
            should fit the cache.
        progress: called with the number of pairs just scored.
    """
    lengths = texts.mask.sum(1)
    order = lengths.argsort(stable=True)
    regions = int(images.mask.sum(1).max())
    scores = torch.empty(len(images.mask), len(texts.mask))
    for columns in order.split(caption_block):
        block = texts.take(columns, int(lengths[columns].max()))
        for start in range(0, len(scores), image_block):
            rows = slice(start, start + image_block)
            scores[rows, columns.cpu()] = model.score(images.take(rows, regions), block).float().cpu()
            if progress:
                progress(len(columns) * len(scores[rows]))
    return scores
