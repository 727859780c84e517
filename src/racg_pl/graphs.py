"""Edges, edge features and masks of the semantic-embedded graphs: tensors in, tensors out, no parameters.

Letters as everywhere: B images, C captions, R regions, W words, N nodes of either kind. Masks are bool, True = a real node.
`edge_index[0]` is the source j and `[1]` the target i; the dense form of an edge (j → i) stands at `[..., i, j]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from racg_pl.semantics import TYPES

GEOMETRY = 6  # numbers that describe one edge between two regions, see box_geometry
UNTYPED, SELF = (
    0,
    1,
)  # relations of every text graph; from 2 on semantics.TYPES from source to target, then from target to source
RELATIONS = 2 + 2 * len(TYPES)


class Regions(NamedTuple):
    """A batch of images as precomputed regions: features [B,R,F] in the precision of their store, boxes [B,R,4] in [0,1], labels [B,R]
    (−1 unknown), mask [B,R]."""

    features: Tensor
    boxes: Tensor
    labels: Tensor
    mask: Tensor


class Sentences(NamedTuple):
    """A batch of parsed captions: words int64 [C,W], relations int8 [C,W,W] as `semantic_relations` gives them, mask [C,W]."""

    words: Tensor
    relations: Tensor
    mask: Tensor

    def take(self, index: Tensor | slice, width: int) -> Sentences:
        """The captions at index, cut to their first `width` words."""
        return Sentences(self.words[index, :width], self.relations[index, :width, :width], self.mask[index, :width])


def box_geometry(boxes: Tensor) -> Tensor:
    """Where region j lies as seen from region i, free of the picture's scale and of absolute place.

    (Δx, Δy of the centres over the root of i's area; log of the width and height ratios; IoU; 1 where i = j.)

    Args:
        boxes: [B,R,4] as x1 y1 x2 y2.
    Returns: [B,R,R,GEOMETRY], at [b,i,j].
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = (x2 - x1).clamp(min=1e-4), (y2 - y1).clamp(min=1e-4)
    size = (width * height).sqrt()
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    dx = (cx[:, None, :] - cx[:, :, None]) / size[:, :, None]
    dy = (cy[:, None, :] - cy[:, :, None]) / size[:, :, None]
    overlap_w = torch.minimum(x2[:, :, None], x2[:, None, :]) - torch.maximum(x1[:, :, None], x1[:, None, :])
    overlap_h = torch.minimum(y2[:, :, None], y2[:, None, :]) - torch.maximum(y1[:, :, None], y1[:, None, :])
    overlap = overlap_w.clamp(min=0) * overlap_h.clamp(min=0)
    area = width * height
    iou = overlap / (area[:, :, None] + area[:, None, :] - overlap)
    same = torch.eye(boxes.shape[1], device=boxes.device, dtype=boxes.dtype).expand_as(iou)
    parts = (
        dx,
        dy,
        (width[:, None, :] / width[:, :, None]).log(),
        (height[:, None, :] / height[:, :, None]).log(),
        iou,
        same,
    )
    return torch.stack(parts, dim=-1)


def region_adjacency(boxes: Tensor, mask: Tensor, neighbours: int | None = None) -> Tensor:
    """Which regions are linked: all real pairs, or each region with its nearest ones by distance of centres; always self-loops.

    Args:
        boxes: [B,R,4].  mask: [B,R].  neighbours: regions that send to each region besides itself; None = all.
    Returns: bool [B,R,R], at [b,i,j] True where j sends to i.
    """
    linked = mask[:, :, None] & mask[:, None, :]
    if neighbours is None or neighbours >= boxes.shape[1] - 1:
        return linked
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    distance = torch.cdist(centres, centres).masked_fill(~linked, torch.inf)
    distance.diagonal(dim1=1, dim2=2).fill_(-1)  # the region itself comes first
    nearest = distance.topk(neighbours + 1, largest=False).indices
    return torch.zeros_like(linked).scatter_(2, nearest, True) & linked


def semantic_relations(edges: Tensor, caption: Tensor, mask: Tensor) -> Tensor:
    """The typed edges of semantic graphs, each in both directions, and self-loops.

    Args:
        edges: [E,3], of all captions: source and target as positions in the caption, and an index into TYPES.
        caption: [E], whose edge it is.  mask: [C,W].
    Returns: int8 [C,W,W], at [c,i,j] the relation of the edge j → i: −1 none, SELF, 2 + t from the source of an edge of type t to its
        target, 2 + len(TYPES) + t from the target to the source.
    """
    count, width = mask.shape
    relations = torch.full((count, width, width), -1, dtype=torch.int8, device=mask.device)
    source, target, kind = edges.unbind(-1)
    relations[caption, target, source] = (2 + kind).to(torch.int8)
    relations[caption, source, target] = (2 + len(TYPES) + kind).to(torch.int8)
    relations.diagonal(dim1=1, dim2=2).masked_fill_(mask, SELF)
    return relations


def has_role(relations: Tensor, names: Iterable[str]) -> Tensor:
    """Where j stands in one of these roles to i, an edge i → j of TYPES. relations: [C,W,W] as above, at [c,i,j] → bool [C,W,W]."""
    found = torch.zeros_like(relations, dtype=torch.bool)
    for name in names:
        found |= relations == 2 + len(TYPES) + TYPES.index(name)
    return found


def chain_relations(mask: Tensor) -> Tensor:
    """The untyped stand-in for a parse: neighbouring words and self-loops, all of one type. [C,W] → int64 [C,W,W], −1 none."""
    width = mask.shape[1]
    place = torch.arange(width, device=mask.device)
    near = (place[:, None] - place[None, :]).abs() <= 1
    linked = near & mask[:, :, None] & mask[:, None, :]
    return torch.where(linked, UNTYPED, -1)


def to_edges(linked: Tensor) -> Tensor:
    """Dense links as torch-geometric's edge_index over the nodes of the whole batch, node n of item b at b · N + n.

    Args:
        linked: bool [B,N,N], at [b,i,j] True where j sends to i.
    Returns: int64 [2,E] (source, target).
    """
    item, target, source = linked.nonzero(as_tuple=True)
    width = linked.shape[-1]
    return torch.stack((item * width + source, item * width + target))


def bipartite_edges(source_mask: Tensor, target_mask: Tensor) -> Tensor:
    """The complete bipartite graph of each pair k: every real source node sends to every real target node.

    Args:
        source_mask: [K,S].  target_mask: [K,T].
    Returns: int64 [2,E], sources numbered k · S + s and targets k · T + t.
    """
    pair, target, source = (target_mask[:, :, None] & source_mask[:, None, :]).nonzero(as_tuple=True)
    return torch.stack((pair * source_mask.shape[1] + source, pair * target_mask.shape[1] + target))
