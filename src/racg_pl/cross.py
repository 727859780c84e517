"""Relations between two graphs, and how well their nodes agree. The cross graph is a MessagePassing over a bipartite edge_index, which
defines it; `dense` evaluates all pairs in plain torch, on any device, and fused.py both steps at once where there is a compiler.

Letters: D node width, P alignment width, H heads of width d = P / H, B images, C captions, R regions, W words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

from racg_pl.layers import masked_softmax


class PairSimilarities(torch.autograd.Function):
    """The all-pairs form of CrossGraphEncoder: head similarities of every image with every caption, without building one message.

    Since messages are sums of unit head vectors, z_w[h] = Σ_r α_wr (b_w^h · a_r^h): head similarities c [H,R,W] are all a pair
    needs. Pairs go in blocks, on a CPU those that stay in its cache, captions innermost, so that every reduction runs over contiguous
    rows. The gradient is written by hand and computes each block again: nothing wider than z is kept. Of bfloat16 nodes only the
    products are in bfloat16.

    Shapes: a [B,R,H,d], b [C,W,H,d], heads of unit length; λ [2]; masks [B,R], [C,W] → z_w [C,W,B,H], z_r [B,R,C,H].
    """

    CPU = 1 << 19, 32  # floats of c in one block, and captions, at most
    GPU = 1 << 26, 256  # which waits for every block to be asked for: few large ones

    @staticmethod
    def blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
        """Images and captions of a block, their heads [H,b·R,d] and [H,d,W·c], and c [H,b,R,W,c]."""
        floats, most = PairSimilarities.CPU if a.device.type == "cpu" else PairSimilarities.GPU
        width = min(len(b), most)
        height = max(1, floats // (width * a[0, :, :, 0].numel() * b.shape[1]))
        for first in range(0, len(b), width):
            captions = slice(first, first + width)
            columns = b[captions].permute(2, 3, 1, 0).contiguous()  # [H,d,W,c]
            for start in range(0, len(a), height):
                images = slice(start, start + height)
                rows = a[images].permute(2, 0, 1, 3).flatten(1, 2)  # [H,b·R,d]
                similarity = torch.bmm(rows, columns.flatten(2)).to(torch.promote_types(a.dtype, torch.float32))
                shape = (len(rows), -1, a.shape[1], *columns.shape[2:])
                yield images, captions, rows, columns.flatten(2), similarity.view(shape)

    @staticmethod
    def attention(
        similarity: Tensor, scale: Tensor, a_mask: Tensor, b_mask: Tensor, gather: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """c [H,b,R,W,c] of a block → s, α, β, each [b,R,W,c]. λ s is at most 80, so that exp needs no shift by the largest."""
        s = similarity.mean(0)
        a_mask, b_mask = a_mask[:, :, None, None], b_mask.T
        if gather:
            alpha, beta = (s * scale[0]).exp_().mul_(a_mask), (s * scale[1]).exp_().mul_(b_mask)
            return s, alpha.div_(alpha.sum(1, keepdim=True)), beta.div_(beta.sum(2, keepdim=True))
        alpha, beta = torch.zeros_like(s), torch.zeros_like(s)
        alpha.scatter_(1, s.masked_fill(~a_mask, -torch.inf).argmax(1, keepdim=True), 1.0)
        beta.scatter_(2, s.masked_fill(~b_mask, -torch.inf).argmax(2, keepdim=True), 1.0)
        return s, alpha, beta

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, temperature: Tensor, a_mask: Tensor, b_mask: Tensor, gather: bool
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(a.dtype, torch.float32)
        z_w = a.new_empty(len(b), b.shape[1], len(a), a.shape[2], dtype=dtype)
        z_r = a.new_empty(len(a), a.shape[1], len(b), a.shape[2], dtype=dtype)
        for images, captions, _, _, c in PairSimilarities.blocks(a, b):
            _, alpha, beta = PairSimilarities.attention(c, temperature, a_mask[images], b_mask[captions], gather)
            z_w[captions, :, images] = (c * alpha).sum(2).permute(3, 2, 1, 0)
            z_r[images, :, captions] = (c * beta).sum(3).permute(1, 2, 3, 0)
        ctx.save_for_backward(a, b, temperature, a_mask, b_mask, z_w, z_r)
        ctx.gather = gather
        return z_w, z_r

    @staticmethod
    def backward(ctx: Any, grad_w: Tensor, grad_r: Tensor) -> tuple[Tensor | None, ...]:
        a, b, temperature, a_mask, b_mask, z_w, z_r = ctx.saved_tensors
        grad_a, grad_b, grad_scale = torch.zeros_like(a), torch.zeros_like(b), torch.zeros_like(temperature)
        mean_w, mean_r = (grad_w * z_w).sum(-1), (grad_r * z_r).sum(-1)  # Σ α ∂α, since z is linear in α
        for images, captions, rows, columns, c in PairSimilarities.blocks(a, b):
            s, alpha, beta = PairSimilarities.attention(c, temperature, a_mask[images], b_mask[captions], ctx.gather)
            dz_w = grad_w[captions, :, images].permute(3, 2, 1, 0).contiguous()[:, :, None]  # [H,b,1,W,c]
            dz_r = grad_r[images, :, captions].permute(3, 0, 1, 2).contiguous()[:, :, :, None]  # [H,b,R,1,c]
            grad = (dz_w * alpha).addcmul_(dz_r, beta)
            if ctx.gather:
                d_alpha = (c * dz_w).sum(0).sub_(mean_w[captions, :, images].permute(2, 1, 0)[:, None]).mul_(alpha)
                d_beta = (c * dz_r).sum(0).sub_(mean_r[images, :, captions][:, :, None]).mul_(beta)
                grad_scale[0] += torch.dot(d_alpha.flatten(), s.flatten())
                grad_scale[1] += torch.dot(d_beta.flatten(), s.flatten())
                grad += d_alpha.mul_(temperature[0]).add_(d_beta.mul_(temperature[1])).div_(len(c))
            flat = grad.view(len(c), -1, columns.shape[-1]).to(a.dtype)
            grad_a[images] += (
                torch.bmm(flat, columns.transpose(1, 2)).view(len(c), *a[images].shape[:2], -1).permute(1, 2, 0, 3)
            )
            grad_b[captions] += torch.bmm(rows.transpose(1, 2), flat).view(*rows.shape[::2], b.shape[1], -1).permute(3, 2, 0, 1)
        return grad_a, grad_b, grad_scale, None, None, None


class CrossGraphEncoder(MessagePassing):
    r"""Relations between the two graphs of a pair, in both directions (equation (3) of model.py), on nodes whose heads have unit length.

    .. math::
        s_{rw} = \frac1H \sum_h a_r^h \cdot b_w^h, \qquad m_w = \sum_r \mathrm{softmax}_r(\lambda s_{rw})\, a_r, \qquad
        n_r = \sum_w \mathrm{softmax}_w(\lambda' s_{rw})\, b_w

    and the agreement of each node with what it gathered, z_w[h] = b_w^h · m_w^h and z_r[h] = a_r^h · n_r^h: the cosine, times the
    message's length, so that a scattered attention counts for less.
    Off (``gather=False``): each node takes its single best match instead of gathering.

    Args:
        temperature: where the learned λ of each direction starts.
    Shapes: forward, one direction over any bipartite edge_index: source [S,H,d], target [T,H,d], edge_index [2,E] → messages [T,H,d].
        dense, all pairs: a [B,R,H,d], b [C,W,H,d], masks → z_w [C,W,B,H], z_r [B,R,C,H].
    """

    def __init__(self, temperature: float = 9.0, gather: bool = True) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.gather = gather
        self.start = temperature
        self.log_temperature = nn.Parameter(torch.empty(2), requires_grad=gather)  # words gather regions, regions gather words
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_temperature, math.log(self.start))

    def temperatures(self) -> Tensor:
        """λ and λ', at most 80."""
        return self.log_temperature.clamp(max=math.log(80)).exp()

    def forward(self, source: Tensor, target: Tensor, edge_index: Tensor, direction: int) -> Tensor:
        """direction: 0 where words gather regions, 1 where regions gather words."""
        return self.propagate(edge_index, unit=(source, target), direction=direction, size=(len(source), len(target)))

    def message(self, unit_i: Tensor, unit_j: Tensor, direction: int, index: Tensor, size_i: int | None) -> Tensor:
        similarity = (unit_i * unit_j).sum(-1).mean(-1)
        if self.gather:
            weight = softmax(self.temperatures()[direction] * similarity, index, num_nodes=size_i)
        else:  # the first of the best, as argmax takes it
            best = similarity.new_full((size_i or 0,), -torch.inf).scatter_reduce(0, index, similarity, "amax")
            place = torch.arange(len(index), device=index.device)
            tied = torch.where(similarity == best[index], place, len(index))
            first = tied.new_full((size_i or 0,), len(index)).scatter_reduce(0, index, tied, "amin")
            weight = (first[index] == place).to(similarity.dtype)
        return weight[:, None, None] * unit_j

    def dense(self, a: Tensor, b: Tensor, a_mask: Tensor, b_mask: Tensor) -> tuple[Tensor, Tensor]:
        return PairSimilarities.apply(a, b, self.temperatures(), a_mask, b_mask, self.gather)

    def edges(
        self, a: Tensor, b: Tensor, a_mask: Tensor, b_mask: Tensor, a_relations: Tensor, b_relations: Tensor, share: Tensor
    ) -> Tensor:
        r"""How well the relations of a caption meet those of a picture, between the regions that its words attend to: all pairs, [B,C].

        .. math::
            \sum_k \sum_{wv} \pi_w T^k_{wv} \sum_{rs} \alpha_{wr} G^k_{rs} \alpha_{vs}

        Shapes: a [B,R,H,d], b [C,W,H,d], masks, G [B,K,R,R], T [C,K,W,W], π [C,W].
        """
        dtype = torch.promote_types(a.dtype, torch.float32)
        similarity = torch.einsum("brhd,cwhd->bcrw", a, b).to(dtype) / a.shape[2]
        mask = a_mask[:, None, :, None]
        if self.gather:
            alpha = masked_softmax(self.temperatures()[0] * similarity, mask, 2)
        else:
            best = similarity.masked_fill(~mask, -torch.inf).argmax(2, keepdim=True)
            alpha = torch.zeros_like(similarity).scatter_(2, best, 1.0)
        alpha = alpha * b_mask[:, None]
        weighed = share[:, None, :, None] * b_relations.to(dtype)
        # one product an image, K R by R by C W, and one a caption, B R by W by K W: no relation is copied for each pair
        seen = a_relations.to(dtype).flatten(1, 2) @ alpha.transpose(1, 2).flatten(2)
        said = alpha.transpose(0, 1).flatten(1, 2) @ weighed.transpose(1, 2).flatten(2)
        seen = seen.unflatten(1, a_relations.shape[1:3]).unflatten(3, alpha.shape[1::2])  # [B,K,R,C,W]
        said = said.unflatten(1, alpha.shape[::2]).unflatten(3, b_relations.shape[1:3])  # [C,B,R,K,W]
        return (seen.permute(0, 3, 1, 2, 4) * said.permute(1, 0, 3, 2, 4)).sum((2, 3, 4), dtype=dtype)

    def paired(self, a: Tensor, b: Tensor, a_mask: Tensor, b_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Image k with caption k only: α, what words take from regions, and β, what regions take from words, both [K,R,W]."""
        similarity = torch.einsum("krhd,kwhd->krw", a, b) / a.shape[2]
        to_word, to_region = (scale * similarity for scale in self.temperatures())
        if self.gather:
            alpha, beta = masked_softmax(to_word, a_mask[:, :, None], 1), masked_softmax(to_region, b_mask[:, None], 2)
        else:
            alpha = F.one_hot(similarity.masked_fill(~a_mask[:, :, None], -torch.inf).argmax(1), a.shape[1]).transpose(1, 2)
            beta = F.one_hot(similarity.masked_fill(~b_mask[:, None], -torch.inf).argmax(2), b.shape[1])
            alpha, beta = alpha.to(a.dtype), beta.to(a.dtype)
        return alpha, beta


class Agreement(nn.Module):
    """g(z) = u · z + MLP(z) over the H head similarities of a node, [...,H] → [...]; begins as their mean."""

    def __init__(self, heads: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.empty(heads))
        self.hidden, self.out = nn.Linear(heads, hidden), nn.Linear(hidden, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.linear, 1 / len(self.linear))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def flat(self) -> Tensor:
        """All parameters end to end, as native/cross.cpp reads them."""
        return torch.cat([self.linear, *(part.flatten() for part in (*self.hidden.parameters(), *self.out.parameters()))])

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.linear + self.out(F.silu(self.hidden(z))).squeeze(-1)


class MultiheadAlignment(nn.Module):
    r"""How well an item's nodes agree with what they gathered, head by head: equation (4) of model.py.

    .. math::
        \mathrm{score} = \sum_i \pi_i\, g(z_i), \qquad g(z) = u \cdot z + \mathrm{MLP}(z)

    π says how much a node's agreement counts, a softmax over the item's nodes (words such as "a" should count little).
    Off (``heads=1``): one similarity, g the identity.

    Args:
        heads: H.
    Shapes: z [N,K,M,H] of N items with K nodes against M others, share [N,K] (π, 0 on padding) → [N,M].
    """

    def __init__(self, heads: int, hidden: int = 16) -> None:
        super().__init__()
        self.agreement = Agreement(heads, hidden) if heads > 1 else None

    def forward(self, z: Tensor, share: Tensor) -> Tensor:
        agreement = z.squeeze(-1) if self.agreement is None else self.agreement(z)
        return (agreement * share[..., None]).sum(1)
