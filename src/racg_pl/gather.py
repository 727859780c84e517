"""Negatives across processes: the B × C scores of the whole batch, each process scoring its own images against all captions.

Each process then has the same loss. What flows back through a gathered tensor is summed over the processes, and DDP takes the mean of
the gradients: together, the gradient that one process with the whole batch has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor

from racg_pl.method import Encoded


def padded(field: Tensor, shape: Sequence[int]) -> Tensor:
    """With zeros (False) behind each axis up to `shape`."""
    missing = [want - size for want, size in zip(shape, field.shape, strict=True)]
    return F.pad(field, [size for end in reversed(missing) for size in (0, end)])


def gather(module: LightningModule, field: Tensor) -> Tensor:
    """The parts of all processes end to end along the first axis, by rank; other axes are padded to the longest."""
    shapes = module.all_gather(torch.tensor(field.shape, device=field.device))
    assert isinstance(shapes, Tensor)
    parts = module.all_gather(padded(field, shapes.amax(0).tolist()), sync_grads=field.is_floating_point())
    return torch.cat([part[:length] for part, length in zip(parts, shapes[:, 0].tolist(), strict=True)])


def all_pairs(
    module: LightningModule,
    similarities: Callable[[Encoded, Encoded], Tensor],
    images: Encoded,
    texts: Encoded,
    rows: Tensor,
    owner: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Terms of the score of all images with all captions of all processes.

    Args:
        similarities: of a model, (images, texts) → [K,b,c].  images, texts: of this process.
        rows: [b], indices of the images into the split.  owner: [c], of each caption's image.
        chunk: captions of like length that are scored at once.
    Returns: terms [K,B,C] and whether they belong together, bool [B,C]; in each process the same.
    """
    texts = Encoded(*(gather(module, field) for field in texts))
    lengths = texts.mask.sum(1)
    order = lengths.argsort(stable=True)
    words, parts = lengths[order].tolist(), order.split(chunk)
    longest = [words[min(start + chunk, len(words)) - 1] for start in range(0, len(words), chunk)]
    columns = [similarities(images, texts.take(part, width)) for part, width in zip(parts, longest, strict=True)]
    terms = gather(module, torch.cat(columns, -1).transpose(0, 1).contiguous()).transpose(0, 1)
    return terms, gather(module, owner)[order] == gather(module, rows)[:, None]
