"""Cross graph and alignment of all pairs in one compiled operator, from encoded nodes to scores and back: see native/cross.cpp.

Numbers and gradients are those of `CrossGraphEncoder.dense` and `MultiheadAlignment`, which stay the definition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from racg_pl import native

if TYPE_CHECKING:
    from racg_pl.cross import CrossGraphEncoder, MultiheadAlignment
    from racg_pl.model import Encoded


def available(tensor: Tensor) -> bool:
    """Whether the operator takes this: on the CPU, and compiled here."""
    return tensor.device.type == "cpu" and native.library(native.kind(tensor.dtype)) is not None


class FusedSimilarities(torch.autograd.Function):
    """The two node terms of the score, all pairs. Keeps its inputs only: the backward pass computes each pair again.

    Shapes: a [B,R,H,d], b [C,W,H,d], heads of unit length; masks [B,R], [C,W]; Γ [B,R,R], [C,W,W]; π [B,R], [C,W]; λ [2]; g of words
        and of regions, flat (empty: the identity) → by words, by regions, each [B,C].
    """

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        a_gamma: Tensor,
        a_share: Tensor,
        b: Tensor,
        b_gamma: Tensor,
        b_share: Tensor,
        temperature: Tensor,
        word_g: Tensor,
        region_g: Tensor,
        a_mask: Tensor,
        b_mask: Tensor,
        gather: bool,
        aggregate: bool,
    ) -> tuple[Tensor, Tensor]:
        names = [*native.INPUTS, "a_mask", "b_mask"]
        tensors = (a, a_gamma, a_share, b, b_gamma, b_share, temperature, word_g, region_g, a_mask, b_mask)
        held = {name: tensor.detach().contiguous() for name, tensor in zip(names, tensors, strict=True)}
        by_words, by_regions = a.new_empty(len(a), len(b)), a.new_empty(len(a), len(b))
        native.call("forward", held | {"by_words": by_words, "by_regions": by_regions}, gather, aggregate)
        ctx.save_for_backward(*held.values())
        ctx.switches = gather, aggregate
        return by_words, by_regions

    @staticmethod
    def backward(ctx: Any, by_words: Tensor, by_regions: Tensor) -> tuple[Tensor | None, ...]:
        held = dict(zip([*native.INPUTS, "a_mask", "b_mask"], ctx.saved_tensors, strict=True))
        private = ("b", "b_gamma", "b_share", "temperature", "word_g", "region_g")  # each thread its own, summed here
        threads = torch.get_num_threads()
        grads = {
            name: held[name].new_zeros((threads, *held[name].shape) if name in private else held[name].shape)
            for name in native.INPUTS
        }
        outputs = {"by_words": by_words.contiguous(), "by_regions": by_regions.contiguous()}
        native.call("backward", held | outputs | {f"d_{name}": grad for name, grad in grads.items()}, *ctx.switches)
        return *(grad.sum(0) if name in private else grad for name, grad in grads.items()), None, None, None, None


def node_terms(
    encoder: CrossGraphEncoder, words: MultiheadAlignment, regions: MultiheadAlignment, images: Encoded, texts: Encoded
) -> tuple[Tensor, Tensor]:
    """The score's terms by words and by regions, each [B,C], in float32 at least, whatever the precision of the trainer."""
    dtype = torch.promote_types(images.aligned.dtype, torch.float32)
    none = images.aligned.new_zeros(0)
    parts = [*images[:3], *texts[:3], encoder.temperatures()]
    parts += [none if side.agreement is None else side.agreement.flat() for side in (words, regions)]
    parts = [part.to(dtype) for part in parts]
    by_words, by_regions = FusedSimilarities.apply(*parts, images.mask, texts.mask, encoder.gather, words.aggregate)
    return by_words, by_regions
