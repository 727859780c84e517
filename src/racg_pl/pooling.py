r"""Generalized pooling of nodes: which part of each feature's order an embedding takes is learned. RACG's, as VSE∞'s.

Chen, Hu, Wu, Jiang, Wang: *Learning the Best Pooling Strategy for Visual Semantic Embedding*, CVPR 2021, section 4. The generalized
pooling operator sorts each of the D features over an item's N nodes and weighs the k-th largest by a θ_k that depends on k and N alone:

.. math::
    v_i = \sum_{k=1}^N \theta_k \max\nolimits_k(\{\phi_{ni}\}_n), \quad \sum_k \theta_k = 1, \qquad
    \theta = \mathrm{softmax}(\mathrm{Linear}(\mathrm{BiGRU}(p_1 \dots p_N))), \qquad
    p_{k,2j} = \sin(w_j k),\; p_{k,2j+1} = \cos(w_j k),\; w_j = 10000^{-2j/d}

so that θ = 1/N, the mean, and θ = (1, 0, …), the maximum, are both within reach.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from racg_pl import native


class Ranked(torch.autograd.Function):
    """v of nodes [B,N,D], their mask [B,N] and θ [B,N]: [B,D], by native/pool.cpp. Keeps its inputs only; `by_sorting` defines it."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        x, mask, theta = (part.detach().contiguous() for part in given)
        pooled = x.new_empty(len(x), x.shape[2])
        native.pool("pool", {"x": x, "mask": mask, "theta": theta, "pooled": pooled})
        ctx.save_for_backward(x, mask, theta)
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, theta = ctx.saved_tensors
        given = {"x": x, "mask": mask, "theta": theta, "pooled": gradients[0].contiguous()}
        d_x, d_theta = torch.zeros_like(x), torch.zeros_like(theta)
        native.pool("pool_backward", given | {"d_x": d_x, "d_theta": d_theta})
        return d_x, None, d_theta


def by_sorting(nodes: Tensor, mask: Tensor, theta: Tensor) -> Tensor:
    """The same in plain torch."""
    ranked = nodes.masked_fill(~mask[..., None], -torch.inf).sort(dim=1, descending=True).values
    real = mask.sort(dim=1, descending=True).values
    return torch.einsum("bn,bnd->bd", theta, ranked.masked_fill(~real[..., None], 0))


class GeneralizedPooling(nn.Module):
    """Nodes [B,N,D] and their mask [B,N] → pooled [B,D].

    Args:
        width: d, of a position's encoding and of the BiGRU, whose directions are averaged.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.weigh = nn.Linear(width, 1, bias=False)

    def positions(self, count: int) -> Tensor:
        """p of positions 1 to count: [count,d]."""
        weight = self.weigh.weight
        frequency = 10000.0 ** (-torch.arange(0, self.width, 2, device=weight.device, dtype=weight.dtype) / self.width)
        angle = torch.arange(1, count + 1, device=weight.device)[:, None] * frequency
        return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)

    def weights(self, lengths: Tensor, count: int) -> Tensor:
        """θ for each of some numbers of nodes, N at most: [L] → [L,N], zero behind each number. lengths are the processor's."""
        widest, falling = int(lengths.max()), bool((lengths.diff() < 0).all())  # others torch sorts, which waits for a device
        sequence = self.positions(widest).expand(len(lengths), -1, -1)
        packed = pack_padded_sequence(sequence, lengths, batch_first=True, enforce_sorted=falling)
        states = pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]
        forward, backward = states.chunk(2, dim=-1)
        logits = self.weigh((forward + backward) / 2).squeeze(-1)
        outside = torch.arange(widest, device=logits.device) >= lengths.to(logits.device, non_blocking=True)[:, None]
        return F.pad(logits.masked_fill(outside, -torch.inf).softmax(-1), (0, count - widest))

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        lengths, count = mask.sum(1), nodes.shape[1]  # θ is the same for all items of one number of nodes
        if nodes.device.type == "cpu":
            numbers, which = lengths.unique(return_inverse=True)
        else:  # all numbers that there may be: to know which there are, a device has to be waited for
            numbers, which = torch.arange(count, 0, -1), count - lengths
        theta = self.weights(numbers, count)[which]
        if not native.available(nodes):
            return by_sorting(nodes, mask, theta.to(nodes.dtype))
        dtype = torch.promote_types(nodes.dtype, torch.float32)  # of the operator, whatever the precision of the trainer
        pooled: Tensor = Ranked.apply(nodes.to(dtype), mask, theta.to(dtype))
        return pooled
