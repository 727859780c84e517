"""What a method is to training, scoring, galleries and export: RACG (model.py) is one, its peers (peers/) are others.

To add one: a file of one class in `peers/`, and its line in `PEERS` of `peers/__init__.py`; `--model.method NAME` then trains and tests
it with the data, objective, schedule and budget of all others. The class derives from `NodeEncoder`, so that its nodes are those of
the others, and from `Pretrained`, so that it can be passed on (its `source` says whose it is), has what `Method` lists, and takes in
`__init__` what it needs of RACGModule's options, under their names (a new option is added there, a scalar with a default). Options
that it does not take are refused where somebody sets them. tests/test_peers.py runs every method of `PEERS` through what all must
hold; a plain, slow definition of its score belongs beside the others there. The smallest example is `peers/vse_infinity.py`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from racg_pl.graphs import Regions, Sentences


class Encoded(NamedTuple):
    """What one modality brings to every pair; N is R for images and W for captions. What a method has no use for has width 0."""

    aligned: Tensor  # [B,N,H,P/H] a_r or b_w, heads of unit length
    relations: Tensor  # [B,K,N,N] G or T, zero at padding
    share: Tensor  # [B,N] π, sums to 1 over real nodes
    pooled: Tensor  # [B,D] unit length
    mask: Tensor  # [B,N]

    def take(self, index: Tensor | slice, width: int | None = None) -> Encoded:
        """The items at index, cut to their first `width` nodes."""
        return Encoded(
            self.aligned[index, :width],
            self.relations[index, ..., :width, :width],
            self.share[index, :width],
            self.pooled[index],
            self.mask[index, :width],
        )


class Method(Protocol):
    """Scores images against captions. Neither padding nor what else is in a batch may change a score in evaluation mode.

    Letters: B images, C captions, R regions, W words, K terms of the score.
    """

    def encode_image(self, images: Regions) -> Encoded:
        """All that depends on an image alone, once an image."""

    def encode_text(self, texts: Sentences) -> Encoded:
        """The same for captions. The batch is cut to its longest caption."""

    def similarities(self, images: Encoded, texts: Encoded) -> Tensor:
        """Terms of the score of all pairs, [K,B,C]. Of several, `term_weight` trains each by itself as well."""

    def combine(self, terms: Tensor) -> Tensor:
        """The score of all pairs of its terms: [K,B,C] → [B,C]."""

    def objectives(self, terms: Tensor) -> list[Tensor]:
        """What training asks to rank, each [B,C] by itself: the score, or parts that add up to it."""

    def score(self, images: Encoded, texts: Encoded) -> Tensor:
        """Both in one: [B,C]."""

    def pair_floats(self, aligned: Tensor, regions: int, words: int) -> int:
        """Numbers that scoring holds a pair of so many nodes, beyond the encoded items: evaluation makes its blocks of pairs by it.

        0 where a compiled operator takes pairs one after another, in blocks of any size. aligned: nodes of the images.
        """
