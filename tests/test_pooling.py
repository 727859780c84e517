"""Generalized pooling: the compiled operator against sorting, and what either must hold. Its plain definition is in test_peers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from racg_pl import native
from racg_pl.pooling import GeneralizedPooling, Ranked, by_sorting

COUNTS = (0, 1, 2, 7, 8, 9, 23, 36)  # of real nodes: around the operator's blocks of eight


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def scattered() -> Tensor:
    """A mask [B,N] with so many real nodes, anywhere."""
    return torch.stack([torch.rand(40).argsort() < count for count in COUNTS])


@pytest.mark.parametrize("width", [1, 8, 37])
def test_the_operator_equals_sorting_with_gradients(width):
    if not native.available(torch.zeros(1, dtype=torch.double)):
        pytest.skip("no compiler")
    mask = scattered()
    nodes = torch.randn(*mask.shape, width, dtype=torch.double, requires_grad=True)
    theta = torch.randn(mask.shape, dtype=torch.double, requires_grad=True)
    back = torch.randn(len(mask), width, dtype=torch.double)
    found = []
    for function in (Ranked.apply, by_sorting):
        pooled = function(nodes, mask, theta)
        found.append([pooled, *torch.autograd.grad(pooled, (nodes, theta), back)])
    for ours, want in zip(*found, strict=True):
        torch.testing.assert_close(ours, want, atol=1e-12, rtol=1e-12)
    assert found[0][0][0].abs().max() == 0  # without a node


def test_equal_nodes_share_all_ranks(way):
    """Ranks of equal values are a choice, but each is given once."""
    pool, mask = GeneralizedPooling(), torch.ones(1, 11, dtype=torch.bool)
    nodes = torch.tensor([2.0, 3.0]).expand(1, 11, 2)
    torch.testing.assert_close(pool(nodes, mask), torch.tensor([[2.0, 3.0]]))


@torch.no_grad()
def test_pooling_is_between_the_mean_and_the_maximum(way):
    pool, nodes = GeneralizedPooling(), torch.randn(2, 5, 3)
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    pool.weigh.weight.zero_()
    torch.testing.assert_close(pool(nodes, mask), torch.stack((nodes[0].mean(0), nodes[1, :3].mean(0))))
    weights = torch.tensor([[1.0, 0, 0, 0, 0]])
    pool.weights = lambda lengths, count: weights.expand(len(lengths), -1)  # type: ignore[method-assign]
    torch.testing.assert_close(pool(nodes, mask), torch.stack((nodes[0].amax(0), nodes[1, :3].amax(0))))


@torch.no_grad()
def test_neither_order_nor_padding_nor_its_place_counts(way):
    pool, nodes, mask = GeneralizedPooling(), torch.randn(len(COUNTS) - 1, 40, 5), scattered()[1:]
    order = torch.rand(mask.shape).argsort(1)
    moved = nodes.gather(1, order[..., None].expand_as(nodes)), mask.gather(1, order)
    torch.testing.assert_close(pool(*moved), pool(nodes, mask), atol=1e-6, rtol=1e-5)
    one = mask[4].nonzero()[:, 0]
    torch.testing.assert_close(pool(nodes[4:5, one], mask[4:5, one]), pool(nodes, mask)[4:5], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_what_is_not_finite_stays_so(way):
    pool, nodes = GeneralizedPooling(), torch.randn(2, 9, 3)
    nodes[0, 4, 1] = torch.nan
    pooled = pool(nodes, torch.ones(2, 9, dtype=torch.bool))
    assert pooled.isnan().tolist() == [[False, True, False], [False] * 3]


def test_half_precision_is_pooled_in_single(way):
    pool, mask = GeneralizedPooling(), scattered()[1:]
    nodes = torch.randn(*mask.shape, 5).bfloat16()
    torch.testing.assert_close(pool(nodes, mask).float(), pool(nodes.float(), mask), atol=0.02, rtol=0.02)
