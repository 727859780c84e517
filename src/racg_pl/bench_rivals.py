"""What `racg bench` compares with: the field's loop over captions, RACG's definition, pair by pair, and all pairs in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from racg_pl.graphs import Regions, Sentences
from racg_pl.method import Encoded
from racg_pl.model import RACG
from racg_pl.nodes import NodeEncoder


def caption_loop(regions: Tensor, words: Tensor, lengths: Sequence[int], temperature: float = 9.0) -> Tensor:
    """Text-to-image cross attention the way SCAN evaluates (Lee et al., ECCV 2018, eq. 4-8, mean pooling): one caption after the other
    against all images, with a D-wide context for each word and image.

    Shapes: regions [B,R,D], words [C,W,D], lengths [C] → [B,C].
    """
    columns, flat = [], regions.flatten(0, 1)
    for caption, length in zip(words, lengths, strict=True):
        query = caption[:length]
        affinity = F.leaky_relu(flat @ query.T, 0.1).view(*regions.shape[:2], length)  # [B,R,W]
        attention = (temperature * F.normalize(affinity, dim=2)).transpose(1, 2).softmax(-1)
        context = torch.bmm(attention.contiguous(), regions)  # [B,W,D]
        matched = torch.einsum("bwd,wd->bw", context, query)
        columns.append((matched / (context.norm(dim=-1) * query.norm(dim=-1)).clamp(min=1e-8)).mean(1))
    return torch.stack(columns, 1)


class CaptionLoop(NodeEncoder):
    """What the field trains: RACG's nodes without relations between them, words by torch's GRU or by ours, scored by `caption_loop`."""

    def __init__(self, own_gru: bool, **options: Any) -> None:
        super().__init__(**options)
        self.own_gru = own_gru
        self.reset_parameters()

    def text_nodes(self, texts: Sentences) -> Tensor:
        if self.own_gru:
            return super().text_nodes(texts)
        return self.word_norm(self.gru.torchs(self.dropout(self.word(texts.words)), texts.mask))

    def forward(self, images: Regions, texts: Sentences) -> Tensor:
        """Scores of all pairs, [B,C]."""
        words = self.dropout(self.text_nodes(texts))
        return caption_loop(self.dropout(self.image_nodes(images)), words, texts.mask.sum(1).tolist())


def by_definition(model: RACG, images: Encoded, texts: Encoded, block: int) -> Tensor:
    """(3)-(5) as they are defined, by messages over each pair's bipartite graph, image k with caption k, `block` pairs at once: [K]."""
    blocks = [slice(first, first + block) for first in range(0, len(images.mask), block)]
    return torch.cat([model.score_pairs(images.take(pairs), texts.take(pairs)) for pairs in blocks])


def plain_score(model: RACG, images: Encoded, texts: Encoded) -> Tensor:
    """(3)-(5) of all pairs in plain torch, head similarities in blocks, as on a machine without the operator: [B,C]. Not the definition."""
    nodes = images.aligned, texts.aligned, images.mask, texts.mask
    z_w, z_r = model.encoder.dense(*nodes)
    terms = [
        model.word_alignment(z_w, texts.share).T,
        model.region_alignment(z_r, images.share),
        images.pooled @ texts.pooled.T,
    ]
    terms.append(model.encoder.edges(*nodes, images.relations, texts.relations, texts.share))
    return torch.einsum("k,kbc->bc", model.mix, torch.stack(terms))
