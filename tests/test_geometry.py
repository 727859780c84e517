"""Edges between regions: the compiled operator against plain torch, and what either must hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from racg_pl import geometry, native
from racg_pl.geometry import GeometryEdges, RegionRelations
from racg_pl.graphs import GEOMETRY, box_geometry, region_adjacency
from test_layers import CLOSE, ragged

KINDS = ("kernels", "relations")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shaken(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Away from where it begins, which is symmetric."""
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return module.to(dtype)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.double, 1e-11), (torch.float, 2e-4)])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [("kernels", (7,)), ("kernels", (0,)), *((kind, (5, 13, 13)) for kind in KINDS), *((kind, (2, 36, 36)) for kind in KINDS)],
)
def test_the_operator_equals_plain_torch_with_gradients(monkeypatch, kind, dtype, atol, shape, threads):
    """Blocks of an item's edges end anywhere in a vector. In float32, gradients are sums over up to 2,592 edges."""
    if not native.available(torch.zeros(1, dtype=dtype)):
        pytest.skip("no compiler")
    before = torch.get_num_threads()
    made = shaken(GeometryEdges(8) if kind == "kernels" else RegionRelations(3, hidden=20), dtype)
    edges, linked = 2 * torch.randn(*shape, GEOMETRY, dtype=dtype), torch.rand(shape) < 0.8
    found: list[list[Tensor]] = []
    back = None
    try:
        torch.set_num_threads(threads)
        for fused in (True, False):
            monkeypatch.setattr(geometry, "fusible", lambda edges, fused=fused: fused)
            said = made(edges) if kind == "kernels" else (made(linked, edges),)
            back = torch.randn_like(said[0]) if back is None else back
            found.append([*said, *torch.autograd.grad(said[0], list(made.parameters()), back)])
    finally:
        torch.set_num_threads(before)
    for ours, want in zip(*found, strict=True):
        torch.testing.assert_close(ours, want, atol=atol, rtol=1e-5 if dtype == torch.float else 1e-11)


def test_edges_that_have_a_gradient_go_through_plain_torch():
    made, edges = GeometryEdges(4), torch.randn(5, GEOMETRY, requires_grad=True)
    made(edges)[0].sum().backward()
    assert edges.grad.abs().min() > 0


def test_the_operator_keeps_float32_under_autocast(way):
    made, edges = GeometryEdges(4), torch.randn(2, 6, 6, GEOMETRY)
    want = made(edges)[0]
    with torch.autocast("cpu", torch.bfloat16):
        got = made(edges)[0]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, atol=0 if way == "native" else 0.05, rtol=0)


def test_edges_between_regions_by_hand(way):
    """A kernel around a place of its own for each head, and what the network makes of squashed numbers."""
    made = GeometryEdges(4, radius=0.5, spread=0.25)
    edges = torch.randn(5, GEOMETRY) * 3
    bias, content = made(edges)
    assert torch.equal(content[:, 4:], edges[:, 4:])
    torch.testing.assert_close(content[:, :4], (2 * edges[:, :4]).tanh())
    plain = made.mlp(content)
    for head, (x, y) in enumerate([(0.5, 0), (0, 0.5), (-0.5, 0), (0, -0.5)]):  # the ring, one direction a head
        square = (edges[:, 0] - x) ** 2 + (edges[:, 1] - y) ** 2
        torch.testing.assert_close(bias[:, head], -2 * torch.log(1 + square / 0.25**2) + plain[:, head], **CLOSE)


def test_edges_between_regions_are_finite_however_far(way):
    made = GeometryEdges(4)
    edges = torch.tensor([[1e6, -1e6, 9.0, -9.0, 0.0, 0.0]])
    made(edges)[0].sum().backward()
    assert all(weight.grad.isfinite().all() for weight in made.parameters())


def test_relations_of_regions_are_where_one_lies_as_seen_from_another(way):
    made, boxes, mask = RegionRelations(3), torch.rand(2, 5, 4).sort(-1).values, ragged(5, 3)
    linked = region_adjacency(boxes, mask)
    got = made(linked, box_geometry(boxes))
    assert got.shape == (2, 3, 5, 5)
    assert not got[1, :, 3:].any()
    assert not got[1, :, :, 3:].any()
    edge = box_geometry(boxes)[0, 1, 4]
    want = made.mlp(torch.cat(((2 * edge[:4]).tanh(), edge[4:]))).tanh()
    torch.testing.assert_close(got[0, :, 1, 4], want, **CLOSE)
    torch.testing.assert_close(made(linked, box_geometry(boxes / 2 + 0.3)), got, **CLOSE)  # neither place nor scale
    assert not torch.allclose(got[0], got[0].transpose(1, 2), atol=1e-3)  # who is where makes a difference
