"""Each layer against its own definition: message passing over edges, dense evaluation, plain loops, autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from racg_pl.geometry import GeometryEdges
from racg_pl.graphs import GEOMETRY, semantic_relations, to_edges
from racg_pl.layers import LabelEdges, RelationLayer, WordRelations, masked_softmax
from racg_pl.semantics import TYPES

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def ragged(*counts: int, width: int | None = None) -> Tensor:
    """Masks with the given numbers of real nodes, [len(counts), width]."""
    return torch.arange(width or max(counts)) < torch.tensor(counts)[:, None]


# ---- masked softmax ----


def test_masked_softmax_is_softmax_of_what_is_there():
    logits = torch.randn(3, 5)
    mask = ragged(5, 2, 1)
    weights = masked_softmax(logits, mask)
    torch.testing.assert_close(weights[0], logits[0].softmax(0))
    torch.testing.assert_close(weights[1], torch.cat((logits[1, :2].softmax(0), torch.zeros(3))))
    assert weights[2].tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_masked_softmax_of_nothing_is_zero_and_has_finite_gradients(dim):
    logits = torch.randn(4, 4, requires_grad=True)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1], mask[:, 2] = False, False
    weights = masked_softmax(logits, mask, dim)
    assert (weights[~mask] == 0).all()
    sums = weights.sum(dim)
    torch.testing.assert_close(sums, mask.any(dim).float())
    weights.square().sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~mask] == 0).all()


# ---- relation layers ----


def graph(kind: str, batch: int = 3, nodes: int = 7) -> tuple[Tensor, Tensor | None]:
    """Ragged, with isolated nodes: links [B,N,N] and what describes them."""
    mask = ragged(nodes, 4, 1)
    linked = (torch.rand(batch, nodes, nodes) < 0.5) & mask[:, :, None] & mask[:, None]
    linked[0, 2] = False  # nothing is sent to it
    linked[0, 3], linked[0, :, 3] = False, False  # nor from it
    if kind == "none":
        return linked, None
    return linked, torch.randn(batch, nodes, nodes, GEOMETRY) if kind == "geometry" else torch.randint(9, (batch, nodes, nodes))


def layer(kind: str, heads: int = 4) -> RelationLayer:
    encoder = {"none": lambda: None, "geometry": lambda: GeometryEdges(heads), "labels": lambda: LabelEdges(9, heads, 5)}[
        kind
    ]()
    return RelationLayer(12, 16, heads, encoder).eval()


@pytest.mark.parametrize("heads", [1, 4, 16])
@pytest.mark.parametrize("kind", ["none", "geometry", "labels"])
def test_relations_sparse_equals_dense(kind, heads):
    made, (linked, edges) = layer(kind, heads), graph(kind)
    x = torch.randn(3, 7, 12)
    dense = made.dense(x, linked, edges)
    sparse = made(x.flatten(0, 1), to_edges(linked), None if edges is None else edges[linked])
    torch.testing.assert_close(sparse.view_as(x), dense, **CLOSE)
    alone = ~linked.any(-1)
    assert alone.sum() >= 2
    assert torch.equal(dense[alone], x[alone])
    torch.testing.assert_close(sparse.view_as(x)[alone], x[alone], atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["none", "geometry", "labels"])
def test_relations_have_the_same_gradients_sparse_and_dense(kind):
    made, (linked, edges) = layer(kind).double(), graph(kind)
    edges = edges.double() if kind == "geometry" else edges
    x, goal = torch.randn(3, 7, 12, dtype=torch.double), torch.randn(3, 7, 12, dtype=torch.double)
    gradients = []
    for dense in (True, False):
        leaf = x.clone().requires_grad_()
        if dense:
            out = made.dense(leaf, linked, edges)
        else:
            out = made(leaf.flatten(0, 1), to_edges(linked), None if edges is None else edges[linked]).view_as(x)
        gradients.append(torch.autograd.grad((out * goal).sum(), [leaf, *made.parameters()]))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_padding_under_autocast():
    """Messages are in bfloat16 there, nodes are not."""
    linked, edges = graph("geometry")
    made, x = layer("geometry"), torch.randn(3, 7, 12)
    with torch.autocast("cpu", torch.bfloat16):
        nodes = made.dense(x, linked, edges)
    torch.testing.assert_close(nodes, made.dense(x, linked, edges), atol=0.05, rtol=0.05)
    assert nodes.dtype == torch.float32


def test_relations_by_plain_loops():
    made, (linked, edges) = layer("labels", heads=2), graph("labels")
    x = torch.randn(3, 7, 12)
    got = made.dense(x, linked, edges)
    y = made.norm(x)
    q, k, v = (part(y).view(3, 7, 2, 8) for part in (made.query, made.key, made.value))
    for b, i in ((0, 0), (0, 5), (1, 2)):
        message = torch.zeros(2, 8)
        senders = linked[b, i].nonzero()[:, 0].tolist()
        bias, content = made.edge_encoder.bias.weight, made.edge_encoder.content.weight
        for h in range(2):
            logits = torch.stack([q[b, i, h] @ k[b, j, h] / 8**0.5 + bias[edges[b, i, j], h] for j in senders])
            for weight, j in zip(logits.softmax(0), senders, strict=True):
                message[h] += weight * (v[b, j, h] + content[edges[b, i, j]] @ made.edge_value[h])
        torch.testing.assert_close(got[b, i], x[b, i] + made.out(message.flatten()), **CLOSE)


@pytest.mark.parametrize("kind", ["none", "geometry", "labels"])
def test_relations_do_not_see_the_order_of_nodes(kind):
    made, (linked, edges) = layer(kind), graph(kind)
    x, order = torch.randn(3, 7, 12), torch.randperm(7)
    out = made.dense(x, linked, edges)
    shuffled = None if edges is None else edges[:, order][:, :, order]
    out_ = made.dense(x[:, order], linked[:, order][:, :, order], shuffled)
    torch.testing.assert_close(out_, out[:, order], **CLOSE)


def test_the_order_of_edges_changes_nothing():
    made, (linked, edges) = layer("labels"), graph("labels")
    x, edge_index = torch.randn(21, 12), to_edges(linked)
    order = torch.randperm(edge_index.shape[1])
    torch.testing.assert_close(made(x, edge_index[:, order], edges[linked][order]), made(x, edge_index, edges[linked]), **CLOSE)


def test_a_graph_without_edges_passes_everything_unchanged():
    made, x = layer("labels"), torch.randn(2, 5, 12)
    none = torch.zeros(2, 5, 5, dtype=torch.bool)
    assert torch.equal(made.dense(x, none, torch.zeros(2, 5, 5, dtype=torch.int64)), x)
    assert torch.equal(made(x.flatten(0, 1), to_edges(none), torch.zeros(0, dtype=torch.int64)).view_as(x), x)


def test_edges_matter():
    made, (linked, edges) = layer("labels"), graph("labels")
    x = torch.randn(3, 7, 12)
    assert not torch.allclose(made.dense(x, linked, edges), made.dense(x, linked, (edges + 1) % 9), atol=1e-3)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width=16 and heads=3"):
        RelationLayer(12, 16, 3)


# ---- relations that words are compared by ----


def test_relations_of_words_go_from_the_first_participant_to_the_second():
    """Of "a cat is chased by the robot": what "chased" says goes from the robot to the cat, and nothing else is said."""
    edges = torch.tensor([(3, 6, TYPES.index("agent")), (3, 1, TYPES.index("patient")), (1, 0, TYPES.index("function"))])
    mask = torch.ones(1, 7, dtype=torch.bool)
    types = semantic_relations(edges, torch.zeros(3, dtype=torch.int64), mask)
    made, x = WordRelations(12, 4), torch.randn(1, 7, 12)
    got = made(x, types.clamp(min=0).int())
    want = torch.zeros(1, 4, 7, 7)
    want[0, :, 6, 1] = made.said(x[0, 3]).tanh()
    torch.testing.assert_close(got, want, **CLOSE)
