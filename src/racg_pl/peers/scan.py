r"""SCAN: stacked cross attention, from texts to images (t2i) and from images to texts (i2t).

Lee, Chen, Hua, Hu, He: *Stacked Cross Attention for Image-Text Matching*, ECCV 2018, section 3.1. With s_ij the cosine of region i and
word j, i2t, in which every region i attends to the words:

.. math::
    \bar s_{ij} = [s_{ij}]_+ \Big/ \sqrt{\textstyle\sum_i [s_{ij}]_+^2}, \qquad
    a_i = \sum_j \frac{\exp(\lambda_1 \bar s_{ij})}{\sum_j \exp(\lambda_1 \bar s_{ij})}\, e_j, \qquad R_i = \cos(v_i, a_i)

(eq. 1-4), and the score pools R over the regions, as their mean or by LogSumExp, log(Σ_i exp(λ₂ R_i)) / λ₂ (eq. 5, 6). t2i exchanges
regions and words (eq. 7, 8): the s̄ of a region are normalised over the words, and each word attends to the regions.

No attended vector is built. With nodes of unit length and e_cq = exp(λ₁ s̄_cq), how much the attending node q takes of the attended
node c but for a factor, which a cosine does not see,

.. math::
    R_q = \frac{\sum_c e_{cq} s_{cq}}{\sqrt{e_q^\top (C C^\top)\, e_q}}

and C Cᵀ is known once an item: what a pair costs does not grow with D beyond s itself. Nor does it need masks: nodes of padding are
zero, and so is all that they would add.

Letters: A items with N nodes each are attended to, by Q items with M nodes each.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from racg_pl.errors import DataError
from racg_pl.graphs import Regions, Sentences
from racg_pl.method import Encoded
from racg_pl.nodes import BIGRU, NodeEncoder, require
from racg_pl.pretrained import Pretrained

EPSILON = 1e-8  # in roots, whose gradient at zero is not finite
HOTTEST = 40.0  # λ₁, so that squares of exp(λ₁) are finite


def require_temperature(temperature: float) -> None:
    require({}, {}, {"temperature": temperature})
    if temperature > HOTTEST:
        raise DataError(f"model: expected a temperature of at most {HOTTEST:g} for this method, got {temperature}")


def cosines(attended: Tensor, attending: Tensor) -> Tensor:
    """Of all nodes of unit length: [A,N,D], [Q,M,D] → [A,N,Q,M], in float32 at least."""
    product = attended.flatten(0, 1) @ attending.flatten(0, 1).T
    return product.to(torch.promote_types(product.dtype, torch.float32)).view(*attended.shape[:2], *attending.shape[:2])


def taken(cosine: Tensor, temperature: float) -> Tensor:
    """exp(λ₁ s̄) of eq. 1 and 3: [A,N,Q,M], how much each attending node takes of the attended ones, before it is made to sum to 1."""
    positive = cosine.relu()
    norm = (positive.square().sum(-1, keepdim=True) + EPSILON).sqrt()
    return (positive * (temperature / norm)).exp()


def taken_length(taken: Tensor, nodes: Tensor) -> Tensor:
    """Length of the sum of attended nodes so taken, by their Gram matrix: [A,N,Q,M], [A,N,D] → [A,Q,M]."""
    gram = nodes @ nodes.transpose(1, 2)
    square = (taken * torch.bmm(gram.to(taken.dtype), taken.flatten(2)).view_as(taken)).sum(1)
    return (square.clamp(min=0) + EPSILON).sqrt()


def paired_attention(attended: Encoded, attending: Encoded, temperature: float) -> Tensor:
    """α of item k with item k only: [K,M,N], zero at padding."""
    cosine = torch.einsum("knd,kmd->knm", attended.aligned.squeeze(2), attending.aligned.squeeze(2))[:, :, None]
    part = taken(cosine, temperature).squeeze(2) * attended.mask[..., None] * attending.mask[:, None]
    return (part / part.sum(1, keepdim=True).clamp(min=EPSILON)).transpose(1, 2)


class SCAN(NodeEncoder, Pretrained, library_name="racg_pl"):
    """Args:
    direction: t2i, where words attend to regions, or i2t.  temperature: λ₁, which the paper sets and does not learn.
    lse: λ₂ of LogSumExp pooling; 0 = the mean.  Others: see RACG.
    """

    source: ClassVar[str] = (
        "written from *Stacked Cross Attention for Image-Text Matching* (Lee et al., ECCV 2018, "
        "[arXiv 1803.08024](https://arxiv.org/abs/1803.08024)), over the nodes of RACG"
    )

    def __init__(
        self,
        feature_dim: int,
        vocabulary: int,
        objects: int = 0,
        direction: Literal["t2i", "i2t"] = "t2i",
        dim: int = 1024,
        word_dim: int = 300,
        temperature: float = 9.0,
        lse: float = 0.0,
        word_std: float = 0.06,
        dropout: float = 0.1,
        word_dropout: float = 0.0,
        region_dropout: float = 0.0,
        text_encoder: str = BIGRU,
        bert_config: str = "",
    ) -> None:
        text = (text_encoder, bert_config)
        super().__init__(
            feature_dim, vocabulary, objects, dim, word_dim, word_std, dropout, word_dropout, region_dropout, *text
        )
        require_temperature(temperature)
        require({}, {}, {"lse": lse} if lse else {})
        self.direction, self.temperature, self.lse = direction, temperature, lse
        self.reset_parameters()

    def encode_image(self, images: Regions) -> Encoded:
        images = self.hide_regions(images)
        return self.item(self.dropout(self.image_nodes(images)), images.mask)

    def encode_text(self, texts: Sentences) -> Encoded:
        return self.item(self.dropout(self.text_nodes(texts)), texts.mask)

    def similarities(self, images: Encoded, texts: Encoded) -> Tensor:
        if self.direction == "t2i":
            return self.stacked(images, texts)[None]
        return self.stacked(texts, images).T[None]

    def stacked(self, attended: Encoded, attending: Encoded) -> Tensor:
        """Scores of all pairs, [A,Q]."""
        nodes = attended.aligned.squeeze(2)
        cosine = cosines(nodes, attending.aligned.squeeze(2))
        part = taken(cosine, self.temperature)
        relevance = (part * cosine).sum(1) / taken_length(part, nodes)  # R: [A,Q,M]
        if self.lse:
            return (self.lse * relevance).masked_fill(~attending.mask, -torch.inf).logsumexp(-1) / self.lse
        return (relevance * attending.share).sum(-1)

    def attend(self, images: Encoded, texts: Encoded) -> Tensor:
        """Image k with caption k: α of t2i; of i2t each region's share of what all regions take from a word. [K,W,R], zero at padding."""
        if self.direction == "t2i":
            return paired_attention(images, texts, self.temperature)
        share = paired_attention(texts, images, self.temperature).transpose(1, 2)
        return share / share.sum(2, keepdim=True).clamp(min=EPSILON)

    def pair_floats(self, aligned: Tensor, regions: int, words: int) -> int:
        return 2 * regions * words
