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
difference, a square and a product with W_l. It is done in blocks that stay in the cache and computed again for the gradient, so that
nothing wider than m is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from racg_pl.graphs import Regions, Sentences
from racg_pl.layers import masked_softmax
from racg_pl.method import Encoded
from racg_pl.nodes import NodeEncoder, require
from racg_pl.peers.scan import attended_norm, attention, cosines


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


class SimilarityVectors(NodeEncoder):
    """Args: align_dim: m.  temperature: λ₁ of the attention, set, not learned.  Others: see RACG."""

    BLOCK = 1 << 20  # floats of a_w in one block

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
    ) -> None:
        super().__init__(feature_dim, vocabulary, objects, dim, word_dim, word_std, dropout, word_dropout, region_dropout)
        require({"align_dim": align_dim}, {}, {"temperature": temperature})
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

    def blocks(self, images: Encoded, texts: Encoded) -> Iterator[Tensor]:
        """`vectors` of some images after others with all captions."""
        step = max(1, self.BLOCK // texts.aligned.numel())
        for start in range(0, len(images.mask), step):
            parts = (*images.take(slice(start, start + step)), *texts)
            if torch.is_grad_enabled():
                yield checkpoint(self.block, *parts, use_reentrant=False, preserve_rng_state=False)
            else:
                yield self.block(*parts)

    def block(self, *fields: Tensor) -> Tensor:
        """What becomes of a block of pairs, computed again for the gradient: here their vectors. Takes two Encoded, flat."""
        return self.vectors(Encoded(*fields[:5]), Encoded(*fields[5:]))

    def vectors(self, images: Encoded, texts: Encoded) -> Tensor:
        """s_g and s_w of all pairs: [B,C,1+W,m]. Those of padding are without meaning."""
        regions, words = images.aligned.squeeze(2), texts.aligned.squeeze(2)
        cosine = cosines(regions, words)
        weight = attention(cosine, images.mask[:, :, None, None], texts.mask, self.temperature)
        weight = (weight / attended_norm(weight, regions)[:, None]).flatten(2).to(regions.dtype)
        attended = torch.bmm(weight.transpose(1, 2), regions).unflatten(1, words.shape[:2])  # [B,C,W,D], of unit length
        local = self.local((attended - words).square())
        whole = self.whole((images.pooled[:, None] - texts.pooled).square())
        return F.normalize(torch.cat((whole[:, :, None], local), 2), dim=-1)

    def pair_floats(self, aligned: Tensor, regions: int, words: int) -> int:
        return 4 * regions * words + 2 * words * aligned.shape[-1] + 6 * (words + 1) * self.local.out_features


def mask_with_global(mask: Tensor) -> Tensor:
    """The mask of a caption's similarity vectors, the global one first: [C,W] → [C,1+W]."""
    return F.pad(mask, (1, 0), value=True)
