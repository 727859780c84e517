"""Objectives over a B × C score matrix. `positive` is bool [B,C], True where the caption belongs to the image: never a negative."""

from __future__ import annotations

import torch
from torch import Tensor

Pairs = tuple[Tensor, ...]  # image and caption of each matched pair, the places where `positive` is True


def triplet(scores: Tensor, positive: Tensor, margin: float = 0.2, hardest: bool = False, pairs: Pairs | None = None) -> Tensor:
    """Hinge triplet loss of both directions: the mean over matched pairs of (margin + negative − positive)₊.

    Args:
        scores: [B,C].  hardest: only the hardest negative of each pair (VSE++, Faghri et al. 2018, eq. 6) instead of the mean over all
            (eq. 5).  pairs: where they are known: to look for them, a GPU has to be waited for.
    Returns: a scalar; 2 · margin where all scores are equal.
    """
    image, caption = positive.nonzero(as_tuple=True) if pairs is None else pairs
    matched = scores[image, caption][:, None]
    by_image = (
        (margin + scores[image] - matched).clamp(min=0).masked_fill(positive[image], 0)
    )  # [M,C] wrong captions of the image
    by_caption = (margin + scores.T[caption] - matched).clamp(min=0).masked_fill(positive.T[caption], 0)  # [M,B] wrong images
    if hardest:
        return (by_image.amax(1) + by_caption.amax(1)).mean()
    captions = (~positive)[image].sum(1).clamp(min=1)
    images = (~positive).T[caption].sum(1).clamp(min=1)
    return (by_image.sum(1) / captions + by_caption.sum(1) / images).mean()


def contrastive(scores: Tensor, positive: Tensor, temperature: Tensor | float = 0.07, pairs: Pairs | None = None) -> Tensor:
    """Softmax cross-entropy of both directions (InfoNCE), each matched pair against the negatives of its row and of its column.

    Other captions of the same image take no part.

    Args: pairs: as of `triplet`.
    Returns: a scalar, the mean over matched pairs and directions.
    """
    logits = scores / temperature
    image, caption = positive.nonzero(as_tuple=True) if pairs is None else pairs
    matched = logits[image, caption]
    negatives = logits.masked_fill(positive, -torch.inf)
    by_image = torch.logaddexp(matched, negatives.logsumexp(1)[image]) - matched
    by_caption = torch.logaddexp(matched, negatives.logsumexp(0)[caption]) - matched
    return (by_image.mean() + by_caption.mean()) / 2


def collapse(scores: Tensor, hinge: Tensor, margin: float) -> str | None:
    """Words for the field's best known failure, or None: all scores alike, so that the hinge of the hardest negatives sits at the margin.

    Args:
        scores: [B,C] of one batch.  hinge: `triplet(..., hardest=True)` of the same batch.
    """
    spread, mean_hinge = scores.std().item(), hinge.item() / 2
    if spread < 0.01 * margin and abs(mean_hinge - margin) < 0.1 * margin:
        return (
            f"training has collapsed: all scores are alike (standard deviation {spread:.1e}) and the hardest-negative hinge sits at the "
            f"margin ({mean_hinge:.3f} of {margin}). Lower the learning rate, lengthen the warm-up (model.hard_after), or train on all "
            f"negatives first."
        )
    return None
