r"""SAF: similarity attention filtration, one half of SGRAF.

Diao, Zhang, Ma, Lu: *Similarity Reasoning and Filtration for Image-Text Matching*, AAAI 2021, section 3.4. Of the similarity vectors s_p of
a pair (similarity_vectors.py), those that say little are weakened before all are summed and scored:

.. math::
    \delta_p = \frac{\sigma(\mathrm{BN}(w_f \cdot s_p))}{\sum_q \sigma(\mathrm{BN}(w_f \cdot s_q))}, \qquad
    s_f = \sum_p \delta_p s_p, \qquad S = w \cdot s_f + b

(eq. 8, 9), σ the sigmoid. Batch normalisation takes its statistics over the real vectors of all pairs that are scored together, in
evaluation over those of the training.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racg_pl.method import Encoded
from racg_pl.nodes import BIGRU
from racg_pl.peers.scan import EPSILON
from racg_pl.peers.similarity_vectors import SimilarityVectors, mask_with_global
from racg_pl.pretrained import Pretrained


class SAF(SimilarityVectors, Pretrained, library_name="racg_pl"):
    """Args: see SimilarityVectors."""

    source: ClassVar[str] = (
        "SAF, written from *Similarity Reasoning and Filtration for Image-Text Matching* (Diao et al., AAAI 2021, "
        "[arXiv 2101.01368](https://arxiv.org/abs/2101.01368)), over the nodes of RACG"
    )

    def __init__(
        self,
        feature_dim: int,
        vocabulary: int,
        objects: int = 0,
        dim: int = 1024,
        align_dim: int = 256,
        word_dim: int = 300,
        temperature: float = 9.0,
        word_std: float = 0.06,
        dropout: float = 0.1,
        word_dropout: float = 0.0,
        region_dropout: float = 0.0,
        text_encoder: str = BIGRU,
        bert_config: str = "",
    ) -> None:
        nodes = (word_dim, temperature, word_std, dropout, word_dropout, region_dropout, text_encoder, bert_config)
        super().__init__(feature_dim, vocabulary, objects, dim, align_dim, *nodes)
        self.filter, self.norm = nn.Linear(align_dim, 1), nn.BatchNorm1d(1)
        self.judge = nn.Linear(align_dim, 1)
        self.reset_parameters()

    def similarities(self, images: Encoded, texts: Encoded) -> Tensor:
        real = mask_with_global(texts.mask).expand(len(images.mask), -1, -1)
        asked = torch.cat((self.filter.weight, self.judge.weight))  # both are linear: of a vector its two products are enough
        parts = [
            F.linear(part, asked) / part.norm(dim=-1, keepdim=True).clamp(min=EPSILON)
            for part in self.differences(images, texts)
        ]
        filtered, judged = torch.cat((parts[0][:, :, None], parts[1]), 2).unbind(-1)  # w_f · s_p and w · s_p: [B,C,1+W]
        gate = self.norm((filtered[real] + self.filter.bias)[:, None]).sigmoid().squeeze(-1)
        gates = filtered.new_zeros(real.shape, dtype=gate.dtype).masked_scatter(real, gate)
        return ((gates * judged).sum(-1) / gates.sum(-1) + self.judge.bias)[None]
