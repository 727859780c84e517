"""What an evaluation holds: no batch longer than its gallery needs it."""

from __future__ import annotations

import weakref

import torch

from racg_pl.evaluation import drained
from racg_pl.gallery import Gallery
from racg_pl.method import Encoded


def encoded(items: int, nodes: int) -> Encoded:
    mask = torch.arange(nodes) < torch.randint(1, nodes + 1, (items, 1))
    aligned, relations = torch.rand(items, nodes, 2, 3), torch.rand(items, 1, nodes, nodes)
    return Encoded(aligned, relations, torch.rand(items, nodes) * mask, torch.rand(items, 4), mask)


def test_batches_go_as_the_gallery_fills():
    parts = [encoded(3, 5), encoded(2, 7), encoded(4, 2)]
    whole, held = Gallery(list(parts)), [weakref.ref(part.aligned) for part in parts]
    alive = []

    def watched():
        for part in drained(parts):
            alive.append(sum(one() is not None for one in held))
            yield part

    found = Gallery(watched())
    assert alive == [3, 3, 2]  # the one before last goes as the next is asked for
    assert not parts
    assert len(found) == 9
    for field, other in zip(found.take(slice(0, 9)), whole.take(slice(0, 9)), strict=True):
        assert torch.equal(field, other)
