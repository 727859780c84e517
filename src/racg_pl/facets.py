r"""Heads by facets: groups of feature channels that fire together, such as those of form and those of colour, one group a head.

How strongly channels fire varies with light, distance and blur, by kind of channel, and says nothing of what is seen. A head of unit
length that reads one facet alone does not hear of it; a head that reads several hears the loudest of them. What the image side of a
head reads is then fixed by the training features and is not learned: learned heads read all facets alike (LOG.md).

Letters: F feature width, D node width, P alignment width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROUNDS = 20  # of k-means, which settles in fewer


def facets(features: Tensor, heads: int) -> Tensor:
    """Which head reads each channel: k-means of channels by how their sizes vary together, from centres far apart. No chance in it.

    Shapes: features [N,F] of N regions → int64 [F] of 0..H−1.
    """
    size = features.float().abs()
    size = (size - size.mean(0)) / size.std(0, correction=0).clamp(min=1e-6)
    channels = F.normalize(size.T @ size / len(size), dim=1)  # each as its correlations with all
    centres = channels[:1]
    for _ in range(heads - 1):
        farthest = (channels @ centres.T).amax(1).argmin()
        centres = torch.cat((centres, channels[farthest][None]))
    for _ in range(ROUNDS):
        nearest = (channels @ centres.T).argmax(1)
        centres = F.normalize(F.one_hot(nearest, heads).T.to(channels.dtype) @ channels, dim=1)
    return (channels @ centres.T).argmax(1)


class FacetNodes(nn.Linear):
    r"""W_f of equation (1) of model.py where heads read facets: block h of a node is made of the channels of head h alone.

    .. math::
        (W_f f)^h = \sum_{c \in \mathrm{facet}(h)} W_{\cdot c}\, f_c + b^h

    Each channel has D / H weights, those of its own head.

    Args:
        channels: F.  dim: D.  heads: H.
    Shapes: [...,F] → [...,D]. reads bool [H,F], kept with the weights; equal runs of channels until `read` has seen some features.
    """

    reads: Tensor

    def __init__(self, channels: int, dim: int, heads: int) -> None:
        super().__init__(channels, dim)
        self.weight = nn.Parameter(torch.empty(dim // heads, channels))
        runs = torch.arange(channels) * heads // channels
        self.register_buffer("reads", F.one_hot(runs, heads).T.bool())
        self.reset_parameters()

    def read(self, features: Tensor) -> None:
        """Settle which head reads which channels, from features [N,F] of the training split."""
        heads = len(self.reads)
        self.reads.copy_(F.one_hot(facets(features, heads), heads).T)

    def forward(self, features: Tensor) -> Tensor:
        weight = (self.reads[:, None] * self.weight).flatten(0, 1)  # [D,F]: one wide product beats H of chosen channels
        return F.linear(features, weight, self.bias)


class FacetHeads(nn.Linear):
    """A of equation (3) of model.py where heads read facets: head h of block h of a node alone. [...,D] → [...,P]."""

    def __init__(self, dim: int, align_dim: int, heads: int) -> None:
        super().__init__(dim, align_dim, bias=False)
        self.weight = nn.Parameter(torch.empty(heads, align_dim // heads, dim // heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...hd,hpd->...hp", x.unflatten(-1, (len(self.weight), -1)), self.weight).flatten(-2)
