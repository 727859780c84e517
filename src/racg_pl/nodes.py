"""Nodes, the first step of every method: equation (1) of model.py, which RACG and its peers share, so that they differ in what follows.

Letters: B images, C captions, R regions, W words, D node width, F feature width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racg_pl.bert import BertWords, read_config
from racg_pl.errors import DataError
from racg_pl.graphs import Regions, Sentences
from racg_pl.gru import BiGRU
from racg_pl.method import Encoded

BIGRU = "bigru"  # the text encoder that is not a BERT


def require(counts: dict[str, int], shares: dict[str, float], positive: dict[str, float]) -> None:
    """Raises: DataError naming the first option of a model that is out of its range: counts from 1, shares in 0..1, others above 0."""
    for name, number in counts.items():
        if number < 1:
            raise DataError(f"model: expected {name} of at least 1, got {number}")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise DataError(f"model: expected {name} in 0..1, got {share}")
    for name, value in positive.items():
        if not value > 0:
            raise DataError(f"model: expected a {name} above 0, got {value}")


class NodeEncoder(nn.Module):
    r"""What RACG and its peers are made of alike: the parameters and dropouts of

    .. math::
        v_r = \mathrm{norm}(W_f f_r + \mathrm{box}(x_1,y_1,x_2,y_2,\mathrm{area}) + \mathrm{object}_r), \qquad
        w = \mathrm{norm}(\mathrm{BiGRU}(\mathrm{word\ vectors})), \quad \text{directions averaged,}

    or, by ``text_encoder``, w = norm(what BERT says of the word's pieces, averaged): see bert.py.

    A method (method.py) derives from it, adds parameters of its own, and ends its ``__init__`` with ``self.reset_parameters()``.

    Args: see RACG.
    """

    bert: BertWords | None
    word: nn.Embedding  # this and the GRU where there is no BERT
    gru: BiGRU

    def __init__(
        self,
        feature_dim: int,
        vocabulary: int,
        objects: int,
        dim: int,
        word_dim: int,
        word_std: float,
        dropout: float,
        word_dropout: float,
        region_dropout: float,
        text_encoder: str = BIGRU,
        bert_config: str = "",
    ) -> None:
        super().__init__()
        shares = {"dropout": dropout, "word_dropout": word_dropout, "region_dropout": region_dropout}
        require({"dim": dim, "word_dim": word_dim}, shares, {"word_std": word_std})
        self.word_std, self.word_dropout, self.region_dropout = word_std, word_dropout, region_dropout
        self.feature = nn.Linear(feature_dim, dim)
        self.box = nn.Sequential(nn.Linear(5, 64), nn.GELU(), nn.Linear(64, dim))
        self.object = nn.Embedding(objects + 1, dim) if objects else None  # 0 = unknown
        self.region_norm = nn.LayerNorm(dim)
        self.bert = None
        if text_encoder != BIGRU:
            self.bert = BertWords(bert_config or read_config(text_encoder), vocabulary, dim)
        else:
            self.word = nn.Embedding(vocabulary, word_dim, padding_idx=0)
            self.gru = BiGRU(word_dim, dim)
        self.word_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def reset_words(self) -> None:
        """Apart from `reset_objects`, since RACG draws between them what it always drew there: a seed keeps its weights."""
        if self.bert is None:
            nn.init.normal_(self.word.weight, std=self.word_std)
            nn.init.zeros_(self.word.weight[0].detach())

    def reset_objects(self) -> None:
        if self.object is not None:
            nn.init.normal_(self.object.weight, std=0.02)

    def reset_parameters(self) -> None:
        self.reset_words()
        self.reset_objects()

    def hide_regions(self, images: Regions) -> Regions:
        """In training, images without a share of their regions, never without all."""
        if not self.training or not self.region_dropout:
            return images
        kept = images.mask & (torch.rand(images.mask.shape, device=images.mask.device) >= self.region_dropout)
        return images._replace(mask=kept.where(kept.any(1, keepdim=True), images.mask))

    def image_nodes(self, images: Regions) -> Tensor:
        """(1) for regions: [B,R,D]."""
        x1, y1, x2, y2 = images.boxes.unbind(-1)
        nodes = self.feature(images.features.to(self.feature.weight.dtype))
        nodes = nodes + self.box(torch.stack((x1, y1, x2, y2, (x2 - x1) * (y2 - y1)), -1))
        if self.object is not None:
            nodes = nodes + self.object(self.image_objects(images))
        return self.region_norm(nodes)

    def image_objects(self, images: Regions) -> Tensor:
        """Which object each region shows, as `object` counts them: int64 [B,R], 0 = unknown, or not among the model's."""
        known = images.labels.clamp(min=-1) + 1
        return known.where(known < (1 if self.object is None else self.object.num_embeddings), 0)

    def text_nodes(self, texts: Sentences) -> Tensor:
        """(1) for words: [C,W,D]. Padding changes nothing."""
        words = texts.words
        if self.training and self.word_dropout:
            words = words.masked_fill((torch.rand(words.shape, device=words.device) < self.word_dropout) & texts.mask, 1)
        if self.bert is not None:
            return self.word_norm(self.bert(words, texts.mask))
        return self.word_norm(self.gru(self.dropout(self.word(words)), texts.mask))

    def item(self, nodes: Tensor, mask: Tensor, pooled: Tensor | None = None) -> Encoded:
        """Nodes [B,N,D] as one head of unit length each, all counting alike, without relations, and with a pooled embedding or none."""
        unit = F.normalize(nodes * mask[..., None], dim=-1)
        pooled = nodes.new_zeros(len(nodes), 0) if pooled is None else F.normalize(pooled, dim=-1)
        relations = nodes.new_zeros(len(nodes), 0, *mask.shape[1:], *mask.shape[1:])
        share = (mask / mask.sum(1, keepdim=True)).to(nodes.dtype)
        return Encoded(unit[:, :, None], relations, share, pooled, mask)

    def similarities(self, images: Encoded, texts: Encoded) -> Tensor:
        raise NotImplementedError

    def combine(self, terms: Tensor) -> Tensor:
        """The score of a method of one term."""
        return terms[0]

    def objectives(self, terms: Tensor) -> list[Tensor]:
        """Of a method that is trained by the loss of its score alone."""
        return [self.combine(terms)]

    def score(self, images: Encoded, texts: Encoded) -> Tensor:
        """All pairs: [B,C]."""
        return self.combine(self.similarities(images, texts))
