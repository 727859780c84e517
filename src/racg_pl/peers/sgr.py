r"""SGR: similarity graph reasoning, the other half of SGRAF.

Diao, Zhang, Ma, Lu: *Similarity Reasoning and Filtration for Image-Text Matching*, AAAI 2021, section 3.3. The similarity vectors of a pair
(similarity_vectors.py) are the nodes of a complete graph, over which they reason for N steps:

.. math::
    e_{pq} = \frac{\exp((W_{in}^n s_p^n) \cdot (W_{out}^n s_q^n))}{\sum_q \exp((W_{in}^n s_p^n) \cdot (W_{out}^n s_q^n))}, \qquad
    s_p^{n+1} = \mathrm{ReLU}\Big(W_r^n \sum_q e_{pq}\, s_q^n\Big), \qquad S = w \cdot s_g^N + b

(eq. 6, 7): what the global node has become is scored. Hence the last step is taken by the global node alone. W_inᵀ W_out is one m × m
matrix, applied once a node.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racg_pl.layers import masked_softmax
from racg_pl.method import Encoded
from racg_pl.nodes import BIGRU, require
from racg_pl.peers.similarity_vectors import SimilarityVectors, mask_with_global
from racg_pl.pretrained import Pretrained


class Reasoning(nn.Module):
    """One step. Nodes [B,C,L,m], mask [C,L] → the first `keep` nodes after it, [B,C,keep,m]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        # wider than where nn.Linear starts, from which three steps leave all scores alike
        for part in (self.query, self.key, self.out):
            nn.init.xavier_uniform_(part.weight)

    def forward(self, nodes: Tensor, mask: Tensor, keep: int | None) -> Tensor:
        asked = nodes[:, :, :keep] @ (self.query.weight.T @ self.key.weight)
        edges = masked_softmax(asked @ nodes.transpose(-1, -2), mask[:, None])
        return self.out(edges.to(nodes.dtype) @ nodes).relu()


class SGR(SimilarityVectors, Pretrained, library_name="racg_pl"):
    """Args: steps: N.  Others: see SimilarityVectors."""

    source: ClassVar[str] = (
        "SGR, written from *Similarity Reasoning and Filtration for Image-Text Matching* (Diao et al., AAAI 2021, "
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
        steps: int = 3,
        word_std: float = 0.06,
        dropout: float = 0.1,
        word_dropout: float = 0.0,
        region_dropout: float = 0.0,
        text_encoder: str = BIGRU,
        bert_config: str = "",
    ) -> None:
        nodes = (word_dim, temperature, word_std, dropout, word_dropout, region_dropout, text_encoder, bert_config)
        super().__init__(feature_dim, vocabulary, objects, dim, align_dim, *nodes)
        require({"steps": steps}, {}, {})
        self.steps = nn.ModuleList(Reasoning(align_dim) for _ in range(steps))
        self.judge = nn.Linear(align_dim, 1)
        self.reset_parameters()

    def similarities(self, images: Encoded, texts: Encoded) -> Tensor:
        whole, local = self.differences(images, texts)
        nodes, mask = F.normalize(torch.cat((whole[:, :, None], local), 2), dim=-1), mask_with_global(texts.mask)
        for place, step in enumerate(self.steps):
            nodes = step(nodes, mask, 1 if place == len(self.steps) - 1 else None)
        return self.judge(nodes[:, :, 0]).squeeze(-1)[None]
