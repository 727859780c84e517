r"""VSE∞: two pooled embeddings and their cosine, the pooling learned.

Chen, Hu, Wu, Jiang, Wang: *Learning the Best Pooling Strategy for Visual Semantic Embedding*, CVPR 2021, section 4: an item's embedding is
what generalized pooling (pooling.py) makes of its nodes. One operator an item's modality.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from racg_pl.graphs import Regions, Sentences
from racg_pl.method import Encoded
from racg_pl.nodes import BIGRU, NodeEncoder
from racg_pl.pooling import GeneralizedPooling
from racg_pl.pretrained import Pretrained


class VSEInfinity(NodeEncoder, Pretrained, library_name="racg_pl"):
    """Cosine of embeddings of width D. Args: see RACG."""

    source: ClassVar[str] = (
        "written from *Learning the Best Pooling Strategy for Visual Semantic Embedding* (Chen et al., CVPR 2021, "
        "[arXiv 2011.04305](https://arxiv.org/abs/2011.04305)), over the nodes of RACG"
    )

    def __init__(
        self,
        feature_dim: int,
        vocabulary: int,
        objects: int = 0,
        dim: int = 1024,
        word_dim: int = 300,
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
        self.image_pool, self.text_pool = GeneralizedPooling(), GeneralizedPooling()
        self.reset_parameters()

    def encode_image(self, images: Regions) -> Encoded:
        images = self.hide_regions(images)
        return self.embedding(self.image_pool(self.dropout(self.image_nodes(images)), images.mask))

    def encode_text(self, texts: Sentences) -> Encoded:
        return self.embedding(self.text_pool(self.dropout(self.text_nodes(texts)), texts.mask))

    def embedding(self, pooled: Tensor) -> Encoded:
        """An item as one node of no width, so that galleries hold its embedding alone."""
        return self.item(pooled.new_zeros(len(pooled), 1, 0), pooled.new_ones(len(pooled), 1, dtype=torch.bool), pooled)

    def similarities(self, images: Encoded, texts: Encoded) -> Tensor:
        return (images.pooled @ texts.pooled.T)[None]

    def pair_floats(self, aligned: Tensor, regions: int, words: int) -> int:
        return 1
