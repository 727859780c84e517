r"""Similarity vectors, which SAF and SGR begin with: how a word agrees with what it attends to, in m numbers rather than one.

Diao, Zhang, Ma, Lu: *Similarity Reasoning and Filtration for Image-Text Matching* (SGRAF), AAAI 2021, section 3.2:

.. math::
    s(x, y; W) = \frac{W |x - y|^2}{\| W |x - y|^2 \|_2}, \quad |\cdot|^2 \text{ by elements}

(eq. 1); local ones, s_w = s(a_w, t_w; W_l), where a_w is what word w attends to by SCAN's t2i attention (eq. 3-5), and a global one,
s_g = s(v̄, t̄; W_g) (eq. 2), of embeddings that each modality pools by attention, its mean asking:

.. math::
    \bar v = \sum_i \mathrm{softmax}_i\big(u \cdot (\tanh(P v_i) \odot \tanh(Q\, \mathrm{mean}_j v_j))\big)\, v_i

(the paper names self-attention with the mean as query and leaves its form open; this is the project's). v, t, a, v̄, t̄ have unit length.

The length of a_w is known before a_w is built (Gram matrix, see scan.py), so that the only D-wide work a pair is a product with α, a
difference, a square and a product with W_l, done in blocks that stay in the cache, of which nothing wider than m is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racg_pl.graphs import Regions, Sentences
from racg_pl.layers import masked_softmax
from racg_pl.method import Encoded
from racg_pl.nodes import NodeEncoder, require
from racg_pl.peers.scan import cosines, paired_attention, require_temperature, taken, taken_length


class AskedPooling(nn.Module):
    """Nodes [B,N,D], mask [B,N] → their sum, weighed by what the mean of all asks: [B,D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.node, self.mean, self.weigh = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 1, bias=False)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        mean = (nodes * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        asked = self.node(nodes).tanh() * self.mean(mean).tanh()[:, None]
        weight = masked_softmax(self.weigh(asked).squeeze(-1), mask)
        return torch.einsum("bn,bnd->bd", weight, nodes)


class Differences(torch.autograd.Function):
    """W |a − t|² of all pairs, where a = Σ_r α_r v_r. The gradient, written by hand, builds a again.

    Shapes: α [B,R,T], v [B,R,D], t [T,D] of T words end to end, W [m,D] → [B,T,m].
    """

    CPU, GPU = 1 << 19, 1 << 26  # floats of a in one block: those that stay in the cache; few and large, see PairSimilarities

    @staticmethod
    def blocks(weight: Tensor, regions: Tensor, words: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Some images after others and their a − t, [b,T,D]."""
        floats = Differences.CPU if weight.device.type == "cpu" else Differences.GPU
        step = max(1, floats // words.numel())
        for start in range(0, len(weight), step):
            images = slice(start, start + step)
            yield images, torch.bmm(weight[images].transpose(1, 2), regions[images]).sub_(words)

    @staticmethod
    def forward(ctx: Any, weight: Tensor, regions: Tensor, words: Tensor, projection: Tensor) -> Tensor:
        ctx.save_for_backward(weight, regions, words, projection)
        out = weight.new_empty(len(weight), len(words), len(projection))
        with torch.autocast(weight.device.type, enabled=False):
            for images, difference in Differences.blocks(weight, regions, words):
                torch.matmul(difference.square_(), projection.T, out=out[images])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        weight, regions, words, projection = ctx.saved_tensors
        d_weight, d_regions = torch.empty_like(weight), torch.empty_like(regions)
        d_words, d_projection = torch.zeros_like(words), torch.zeros_like(projection)
        for images, difference in Differences.blocks(weight, regions, words):
            given = gradient[images]
            d_difference = (given @ projection).mul_(difference).mul_(2)
            d_projection.addmm_(given.flatten(0, 1).T, difference.square_().flatten(0, 1))
            d_words -= d_difference.sum(0)
            torch.bmm(regions[images], d_difference.transpose(1, 2), out=d_weight[images])
            torch.bmm(weight[images], d_difference, out=d_regions[images])
        return d_weight, d_regions, d_words, d_projection


class SimilarityVectors(NodeEncoder):
    """Args: align_dim: m.  temperature: λ₁ of the attention, set, not learned.  Others: see RACG."""

    def __init__(
        self,
        feature_dim: int,
        vocabulary: int,
        objects: int,
        dim: int,
        align_dim: int,
        word_dim: int,
        temperature: float,
        word_std: float,
        dropout: float,
        word_dropout: float,
        region_dropout: float,
        text_encoder: str,
        bert_config: str,
    ) -> None:
        text = (text_encoder, bert_config)
        super().__init__(
            feature_dim, vocabulary, objects, dim, word_dim, word_std, dropout, word_dropout, region_dropout, *text
        )
        require({"align_dim": align_dim}, {}, {})
        require_temperature(temperature)
        self.temperature = temperature
        self.image_pool, self.text_pool = AskedPooling(dim), AskedPooling(dim)
        self.local, self.whole = nn.Linear(dim, align_dim, bias=False), nn.Linear(dim, align_dim, bias=False)

    def encode_image(self, images: Regions) -> Encoded:
        images = self.hide_regions(images)
        return self.with_global(self.item(self.dropout(self.image_nodes(images)), images.mask), self.image_pool)

    def encode_text(self, texts: Sentences) -> Encoded:
        return self.with_global(self.item(self.dropout(self.text_nodes(texts)), texts.mask), self.text_pool)

    def with_global(self, item: Encoded, pool: nn.Module) -> Encoded:
        return item._replace(pooled=F.normalize(pool(item.aligned.squeeze(2), item.mask), dim=-1))

    def differences(self, images: Encoded, texts: Encoded) -> tuple[Tensor, Tensor]:
        """W |x − y|² of all pairs, of the embeddings [B,C,m] and of the words [B,C,W,m]. Those of padding are without meaning."""
        regions, words = images.aligned.squeeze(2), texts.aligned.squeeze(2)
        weight = taken(cosines(regions, words), self.temperature)
        weight = (weight / taken_length(weight, regions)[:, None]).flatten(2)
        wide = (part.to(weight.dtype) for part in (regions, words.flatten(0, 1), self.local.weight))
        local = Differences.apply(weight, *wide).unflatten(1, words.shape[:2])
        return self.whole((images.pooled[:, None] - texts.pooled).square()).to(local.dtype), local

    def attend(self, images: Encoded, texts: Encoded) -> Tensor:
        """α of image k with caption k: [K,W,R], zero at padding."""
        return paired_attention(images, texts, self.temperature)

    def pair_floats(self, aligned: Tensor, regions: int, words: int) -> int:
        return 4 * regions * words + 2 * words * aligned.shape[-1] + 6 * (words + 1) * self.local.out_features


def mask_with_global(mask: Tensor) -> Tensor:
    """The mask of a caption's similarity vectors, the global one first: [C,W] → [C,1+W]."""
    return F.pad(mask, (1, 0), value=True)
