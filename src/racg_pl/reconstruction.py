"""Feature reconstruction, equation (6) of model.py: what a related word attends to in its own picture must give the word back.

Two forms, of which a model has one. They differ in what of a region is decoded: its vector, or the object that the detector found in it.

Letters: B images, C captions (caption c is of image[c]), R regions, W words, D node width, K kinds of objects, 0 = none, V words of the
vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racg_pl.errors import DataError
from racg_pl.method import Encoded


class EncodedImages(Encoded):
    """Images of a training step, with what (6) reads of their regions, as they are before they hear of others."""

    nodes: Tensor  # [B,R,D] of (1), zero at padding
    labels: Tensor  # int64 [B,R], kinds of objects, 0 at padding


class AttendedRegions(nn.Sequential):
    r"""The vectors that a word attends to are decoded to it:

    .. math::
        -\log p\left(w \,\Big|\, \sum_r \alpha_{wr} v_r\right), \qquad p = \mathrm{softmax}(\mathrm{MLP})

    Args:
        dim: D.  vocabulary: V.
    Shapes: loss: α [C,R,W], zero at padding, decoded bool [C,W], words int64 [C,W] → summed over the decoded words, a number.
    """

    share: ClassVar[float] = 0.15  # of the related words that a step decodes at least; each costs V × D products

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, vocabulary))

    def loss(self, images: EncodedImages, image: Tensor, alpha: Tensor, decoded: Tensor, words: Tensor) -> Tensor:
        some = decoded.any(1).nonzero().squeeze(1)  # for the other captions D-wide regions would be copied in vain
        seen = images.nodes.index_select(0, image[some])
        gathered = torch.einsum("krw,krd->kwd", alpha[some], seen)
        return F.cross_entropy(self(gathered[decoded[some]]), words[decoded], reduction="sum")


class NamedObjects(nn.Sequential):
    r"""Objects name words, and a word attends to the regions whose objects name it:

    .. math::
        -\log \frac{1}{|O|} \sum_{o \in O} p(w \mid o) \;-\; \log \sum_r \alpha_{wr} \frac{p(w \mid o_r)}{p(w \mid 0)}, \qquad
        p(\cdot \mid o) = \mathrm{softmax}(\mathrm{Linear}(e_o))

    o_r is what the detector found in region r, 0 where nothing, and O are the picture's kinds of objects, each once, and 0. The first
    term alone teaches p, the second alone attention: p is held fixed there, and every object counts alike in the first, so that
    attention cannot become a code for the word. What no object names, as "grass", is drawn to regions without one, alike to all of
    them; in a picture without objects nothing is drawn anywhere. The first term is the translation model 1 of Brown et al.
    (Computational Linguistics 19(2), 1993) from objects to words.

    Args:
        dim: D, of e_o.  vocabulary: V.  objects: detector classes.
    Shapes: as AttendedRegions.
    """

    share: ClassVar[float] = 1.0

    def __init__(self, dim: int, vocabulary: int, objects: int) -> None:
        super().__init__(nn.Embedding(objects + 1, dim), nn.Linear(dim, vocabulary))

    def loss(self, images: EncodedImages, image: Tensor, alpha: Tensor, decoded: Tensor, words: Tensor) -> Tensor:
        none = images.labels.new_zeros(1)
        kinds, place = torch.cat((none, images.labels.flatten())).unique(return_inverse=True)  # those of the batch, 0 first
        place = place[1:].view_as(images.labels)
        found = torch.zeros(len(place), len(kinds), dtype=torch.bool, device=place.device).scatter_(1, place, True)
        found[:, 0] = True
        named = self(kinds).log_softmax(-1)[:, words].permute(1, 0, 2)  # [C,K,W]
        by_any = named.masked_fill(~found[image][..., None], -torch.inf).logsumexp(1) - found.sum(1).log()[image][:, None]
        held = (named - named[:, :1]).detach().float().clamp(max=60)  # whose exp is finite
        of_region = held.gather(1, place[image][..., None].expand(-1, -1, words.shape[1]))  # [C,R,W]
        attended = (alpha * of_region.exp()).sum(1).clamp(min=torch.finfo(torch.float32).tiny).log()
        return -(by_any + attended)[decoded].sum()


def decoder(decode: str, dim: int, vocabulary: int, objects: int, used: bool = True) -> AttendedRegions | NamedObjects:
    """The form by its name; where it is not `used`, the one that needs no objects.

    Raises: DataError where there is no such form, or no object to decode.
    """
    if decode not in ("regions", "objects"):
        raise DataError(f"model: expected decode of regions or objects, got {decode!r}")
    if decode == "regions" or not used:
        return AttendedRegions(dim, vocabulary)
    if not objects:
        raise DataError(
            "model: expected a region store with labels of detected objects for decode: objects, got none; use regions"
        )
    return NamedObjects(dim, vocabulary, objects)
