"""Encoded items of one modality, held without padding until they are scored.

Letters: B items of N nodes at most, n of one of them; H heads of width d, K channels of relations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from racg_pl.method import Encoded


class Gallery:
    """Items that were encoded in batches, as one ragged whole: 36 regions take 36 KB in float32, 12 words 14 KB, not those of the longest.

    Args:
        parts: batches of encoded items, of any widths.
        dtype: in which nodes and relations are held; by default float32, or float64 where they come in it, as π and pooled embeddings are.
    """

    def __init__(self, parts: Iterable[Encoded], dtype: torch.dtype | None = None) -> None:
        flat: dict[str, list[Tensor]] = {name: [] for name in ("aligned", "relations", "share", "pooled", "lengths")}
        for part in parts:
            mask, wide = part.mask, torch.promote_types(part.aligned.dtype, torch.float32)
            both = (mask[:, :, None] & mask[:, None])[:, None].expand_as(part.relations)
            flat["aligned"].append(part.aligned[mask].to(dtype or wide))
            flat["relations"].append(part.relations[both].to(dtype or wide))
            flat["share"].append(part.share[mask].to(wide))
            flat["pooled"].append(part.pooled.to(wide))
            flat["lengths"].append(mask.sum(1))
            self.channels = part.relations.shape[1]
        self.pooled, self.lengths = torch.cat(flat.pop("pooled")), torch.cat(flat.pop("lengths"))
        self.aligned, self.relations, self.share = (torch.cat(flat.pop(name)) for name in ("aligned", "relations", "share"))
        self._count()

    def _count(self) -> None:
        self.first = self.lengths.cumsum(0) - self.lengths  # of each item's nodes
        sizes = self.channels * self.lengths.square()
        self.first_relation = sizes.cumsum(0) - sizes

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        return sum(field.nbytes for field in (self.aligned, self.relations, self.share, self.pooled))

    def reorder(self, order: Tensor) -> Gallery:
        """The same items in another order, or some of them; nodes are not copied."""
        made = object.__new__(Gallery)
        made.__dict__ = dict(self.__dict__)
        for name in ("pooled", "lengths", "first", "first_relation"):
            setattr(made, name, getattr(self, name)[order])
        return made

    def gathered(self, gather: Callable[[Tensor], Tensor]) -> Gallery:
        """The items of several processes end to end; not of a gallery in another order.

        Args: gather: the parts of all processes along the first axis.
        """
        made = object.__new__(Gallery)
        made.channels = self.channels
        for name in ("aligned", "relations", "share", "pooled", "lengths"):
            setattr(made, name, gather(getattr(self, name)))
        made._count()
        return made

    def take(self, index: Tensor | slice) -> Encoded:
        """Items as the model scores them, padded to the longest of them."""
        lengths = self.lengths[index]
        node = torch.arange(int(lengths.max()), device=lengths.device)
        mask = node < lengths[:, None]
        place = (self.first[index][:, None] + node).where(mask, 0)
        channel = torch.arange(self.channels, device=lengths.device)[:, None, None]
        both = (mask[:, :, None] & mask[:, None])[:, None]
        n = lengths[:, None, None, None]
        relation = self.first_relation[index][:, None, None, None] + (channel * n + node[:, None]) * n + node
        relations = self.relations[relation.where(both, 0)] if self.channels else self.relations.new_zeros(both.shape)[:, :0]
        return Encoded(
            self.aligned[place] * mask[..., None, None],
            relations * both,
            self.share[place] * mask,
            self.pooled[index],
            mask,
        )
