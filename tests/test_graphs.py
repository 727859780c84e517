"""Edges, geometry and relations against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from racg_pl.graphs import (
    GEOMETRY,
    RELATIONS,
    SELF,
    UNTYPED,
    Sentences,
    bipartite_edges,
    box_geometry,
    chain_relations,
    region_adjacency,
    semantic_relations,
    to_edges,
)
from racg_pl.semantics import TYPES

SMALL, WIDE = (0.0, 0.0, 0.2, 0.2), (0.1, 0.1, 0.5, 0.3)  # 0.2 × 0.2 around (0.1, 0.1), 0.4 × 0.2 around (0.3, 0.2)


def some_boxes(seed: int, *shape: int) -> torch.Tensor:
    corner, size = torch.rand(2, *shape, 2, generator=torch.Generator().manual_seed(seed)) * 0.4
    return torch.cat((corner, corner + size + 0.05), -1)


# ---- geometry ----


def test_geometry_of_two_boxes_by_hand():
    geometry = box_geometry(torch.tensor([[SMALL, WIDE]]))
    assert geometry.shape == (1, 2, 2, GEOMETRY)
    from_small = [1, 1 / 2, math.log(2), 0, 1 / 11, 0]
    from_wide = [-0.2 / math.sqrt(0.08), -0.1 / math.sqrt(0.08), -math.log(2), 0, 1 / 11, 0]
    torch.testing.assert_close(geometry[0, 0, 1], torch.tensor(from_small), atol=1e-6, rtol=0)
    torch.testing.assert_close(geometry[0, 1, 0], torch.tensor(from_wide), atol=1e-6, rtol=0)
    itself = torch.tensor([0, 0, 0, 0, 1, 1.0])
    torch.testing.assert_close(geometry[0].diagonal().T, itself.expand(2, -1), atol=1e-6, rtol=0)


def test_boxes_apart_do_not_overlap():
    boxes = torch.tensor([[(0, 0, 0.1, 0.1), (0.9, 0.9, 1, 1), (0.1, 0, 0.2, 0.1)]])
    geometry = box_geometry(boxes)[0]
    assert geometry[0, 1:, 4].tolist() == [0, 0]


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.1, -0.3)])
def test_scale_and_place_of_the_picture_change_nothing(factor, shift):
    boxes = some_boxes(0, 2, 6)
    moved = boxes * factor + torch.tensor([*shift, *shift])
    torch.testing.assert_close(box_geometry(moved), box_geometry(boxes), atol=1e-4, rtol=1e-4)


def test_geometry_tells_left_from_right():
    mirrored = torch.tensor([[SMALL, WIDE]])[..., [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1]) + torch.tensor([1.0, 0, 1, 0])
    there, mirror = box_geometry(torch.tensor([[SMALL, WIDE]]))[0, 0, 1], box_geometry(mirrored)[0, 0, 1]
    torch.testing.assert_close(mirror[0], -there[0])
    torch.testing.assert_close(mirror[1:], there[1:])


def test_degenerate_boxes_stay_finite():
    boxes = torch.tensor([[(0.5, 0.5, 0.5, 0.5), (0.0, 0.0, 1.0, 1.0), (0, 0, 0, 0)]])
    assert box_geometry(boxes).isfinite().all()


# ---- links between regions ----


def test_all_real_regions_are_linked():
    mask = torch.tensor([[True, True, False]])
    linked = region_adjacency(some_boxes(0, 1, 3), mask)
    assert linked.tolist() == [[[True, True, False], [True, True, False], [False, False, False]]]


def test_nearest_neighbours_by_hand():
    centres = torch.tensor([0.1, 0.2, 0.35, 0.9])  # on a line: 0 and 1 are close, 2 is nearer to 1, 3 is far
    boxes = torch.stack((centres - 0.05, torch.zeros(4), centres + 0.05, torch.full((4,), 0.1)), -1)[None]
    linked = region_adjacency(boxes, torch.ones(1, 4, dtype=torch.bool), neighbours=1)[0]
    assert linked.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 1], [2, 2], [3, 2], [3, 3]]


def test_neighbours_are_real_regions_only():
    boxes = torch.tensor([[SMALL, SMALL, SMALL, WIDE]])
    mask = torch.tensor([[True, False, False, True]])  # the padding lies nearest, and is never chosen
    linked = region_adjacency(boxes, mask, neighbours=1)[0]
    assert linked.nonzero().tolist() == [[0, 0], [0, 3], [3, 0], [3, 3]]


@pytest.mark.parametrize("neighbours", [5, 50, None])
def test_as_many_neighbours_as_there_are_is_all(neighbours):
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    boxes = some_boxes(1, 2, 6)
    assert torch.equal(region_adjacency(boxes, mask, neighbours), region_adjacency(boxes, mask))


def test_equal_boxes_keep_their_self_loops():
    linked = region_adjacency(torch.tensor([SMALL]).expand(1, 5, 4), torch.ones(1, 5, dtype=torch.bool), neighbours=2)[0]
    assert linked.diagonal().all()
    assert linked.sum(1).tolist() == [3] * 5


# ---- links between words ----


def test_relations_of_semantic_graphs_by_hand():
    # "dogs chase cats" and "dogs": chase –agent (0)→ dogs, chase –patient (1)→ cats, and one edge of the last type
    last = len(TYPES) - 1
    edges = torch.tensor([[1, 0, 0], [1, 2, 1], [0, 2, last]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    none, there, back = -1, (2, 3, 2 + last), (2 + len(TYPES), 3 + len(TYPES), 2 + len(TYPES) + last)
    relations = semantic_relations(edges, torch.tensor([0, 0, 0]), mask)
    assert relations.dtype == torch.int8
    assert relations.tolist() == [
        [
            [SELF, there[0], back[2], none],
            [back[0], SELF, back[1], none],
            [there[2], there[1], SELF, none],
            [none, none, none, none],
        ],
        [[SELF, none, none, none], [none] * 4, [none] * 4, [none] * 4],
    ]
    assert relations.max() == RELATIONS - 1


def test_no_caption_and_no_edge_have_relations_too():
    none = torch.zeros(0, 3, dtype=torch.int64)
    assert semantic_relations(none, none[:, 0], torch.ones(2, 1, dtype=torch.bool)).tolist() == [[[SELF]], [[SELF]]]
    assert semantic_relations(none, none[:, 0], torch.ones(0, 1, dtype=torch.bool)).shape == (0, 1, 1)


def test_part_of_a_batch_of_sentences_is_cut_on_all_its_axes():
    words, relations = torch.arange(12).view(3, 4), torch.arange(48).view(3, 4, 4).to(torch.int8)
    part = Sentences(words, relations, words >= 0).take(torch.tensor([2, 0]), 2)
    assert part.words.tolist() == [[8, 9], [0, 1]]
    assert part.relations.tolist() == [[[32, 33], [36, 37]], [[0, 1], [4, 5]]]
    assert part.mask.shape == (2, 2)


def test_chain_by_hand():
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    on, off = UNTYPED, -1
    assert chain_relations(mask).tolist() == [
        [[on, on, off, off], [on, on, on, off], [off, on, on, off], [off] * 4],
        [[on, off, off, off], [off] * 4, [off] * 4, [off] * 4],
    ]


# ---- edge lists ----


def test_edges_number_the_nodes_of_the_whole_batch():
    linked = torch.zeros(2, 3, 3, dtype=torch.bool)
    linked[0, 2, 0] = linked[1, 1, 2] = True  # 0 → 2 in the first, 2 → 1 in the second
    assert to_edges(linked).tolist() == [[0, 5], [2, 4]]


def test_edges_come_in_the_order_of_the_dense_form():
    linked = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    source, target = to_edges(linked)
    dense = torch.zeros(15, 15)
    dense[target, source] = torch.arange(1, len(source) + 1.0)
    for item in range(3):
        block = dense[item * 5 : item * 5 + 5, item * 5 : item * 5 + 5]
        assert torch.equal(block > 0, linked[item])
    assert torch.equal(torch.arange(len(source)), dense[target, source].long() - 1)


def test_bipartite_edges_by_hand():
    sources, targets = torch.tensor([[True, True], [False, True]]), torch.tensor([[True, False, True], [True, False, False]])
    assert bipartite_edges(sources, targets).tolist() == [[0, 1, 0, 1, 3], [0, 0, 2, 2, 3]]
