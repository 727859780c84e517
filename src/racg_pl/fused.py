"""Cross graph, alignment and relations of all pairs in one compiled operator, from encoded items to scores and back: native/cross.cpp.

Numbers and gradients are those of `CrossGraphEncoder` and `MultiheadAlignment`, which stay the definition; relations of a caption have a
gradient only between words that some relation already goes out of, or into.

Head similarities are products of bfloat16 nodes, summed in float32, where nodes are held in it, or where torch may compute products of
float32 so (`torch.set_float32_matmul_precision("medium")`), if the processor has such products and no gradient is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from racg_pl import native

if TYPE_CHECKING:
    from racg_pl.cross import CrossGraphEncoder, MultiheadAlignment
    from racg_pl.method import Encoded

NAMES = [*native.INPUTS, "a_mask", "b_mask"]
OUTPUTS = ["by_words", "by_regions", "by_edges"]
SHARED = (
    "b",
    "b_relations",
    "b_share",
    "temperature",
    "word_g",
    "region_g",
)  # each thread has gradients of its own, summed here


class FusedSimilarities(torch.autograd.Function):
    """The terms of the score that need the cross graph, all pairs. Keeps its inputs only: the backward pass computes each pair again.

    Shapes: a [B,R,H,d], b [C,W,H,d], heads of unit length; relations [B,Q,R,R], [C,Q,W,W]; π [B,R], [C,W]; λ [2]; g of words and of
        regions, flat (empty: the identity); masks [B,R], [C,W] → by words, by regions, by edges, each [B,C].
    """

    @staticmethod
    def forward(ctx: Any, gather: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors in the order of NAMES."""
        held = {name: tensor.detach().contiguous() for name, tensor in zip(NAMES, tensors, strict=True)}
        outputs = {name: held["temperature"].new_zeros(len(held["a"]), len(held["b"])) for name in OUTPUTS}
        native.call("forward_narrow" if held["a"].dtype == torch.bfloat16 else "forward", held | outputs, gather)
        ctx.save_for_backward(*held.values())
        ctx.gather = gather
        return tuple(outputs.values())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        held = dict(zip(NAMES, ctx.saved_tensors, strict=True))
        copies = torch.get_num_threads()
        grads = {
            name: held[name].new_zeros((copies, *held[name].shape) if name in SHARED else held[name].shape)
            for name in native.INPUTS
        }
        outputs = {name: gradient.contiguous() for name, gradient in zip(OUTPUTS, gradients, strict=True)}
        native.call("backward", held | outputs | {f"d_{name}": grad for name, grad in grads.items()}, ctx.gather)
        return None, *(grad.sum(0) if name in SHARED else grad for name, grad in grads.items()), None, None


def pair_terms(
    encoder: CrossGraphEncoder, words: MultiheadAlignment, regions: MultiheadAlignment, images: Encoded, texts: Encoded
) -> tuple[Tensor, ...]:
    """The score's terms by words, by regions and by edges, each [B,C], in float32 at least, whatever the precision of the trainer."""
    dtype = torch.promote_types(images.aligned.dtype, torch.float32)
    none = images.aligned.new_zeros(0)
    parts = [*images[:3], *texts[:3], encoder.temperatures()]
    parts += [none if side.agreement is None else side.agreement.flat() for side in (words, regions)]
    parts = [part.to(dtype) for part in parts]
    if narrowed(images.aligned):
        for name, nodes in (("a", images.aligned), ("b", texts.aligned)):
            parts[NAMES.index(name)] = nodes.bfloat16()
    return FusedSimilarities.apply(encoder.gather, *parts, images.mask, texts.mask)


def narrowed(nodes: Tensor) -> bool:
    """Whether head similarities of these nodes are computed in bfloat16."""
    allowed = nodes.dtype == torch.bfloat16 or (
        nodes.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium"
    )
    return allowed and not torch.is_grad_enabled() and native.narrow()
