"""Each layer against its own definition: message passing over edges, dense evaluation, plain loops, autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from racg_pl.graphs import GEOMETRY, bipartite_edges, to_edges
from racg_pl.layers import (
    CrossGraphEncoder,
    GeometryEdges,
    LabelEdges,
    MultiheadAlignment,
    PairSimilarities,
    RelationLayer,
    masked_softmax,
)

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
    return RelationLayer(16, heads, encoder).eval()


@pytest.mark.parametrize("heads", [1, 4, 16])
@pytest.mark.parametrize("kind", ["none", "geometry", "labels"])
def test_relations_sparse_equals_dense(kind, heads):
    made, (linked, edges) = layer(kind, heads), graph(kind)
    x = torch.randn(3, 7, 16)
    dense, gamma = made.dense(x, linked, edges)
    sparse = made(x.flatten(0, 1), to_edges(linked), None if edges is None else edges[linked])
    torch.testing.assert_close(sparse.view_as(x), dense, **CLOSE)
    torch.testing.assert_close(gamma.sum(-1), linked.any(-1).float())
    assert (gamma[~linked] == 0).all()
    alone = ~linked.any(-1)
    assert alone.sum() >= 2
    assert torch.equal(dense[alone], x[alone])
    torch.testing.assert_close(sparse.view_as(x)[alone], x[alone], atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["none", "geometry", "labels"])
def test_relations_have_the_same_gradients_sparse_and_dense(kind):
    made, (linked, edges) = layer(kind).double(), graph(kind)
    edges = edges.double() if kind == "geometry" else edges
    x, goal = torch.randn(3, 7, 16, dtype=torch.double), torch.randn(3, 7, 16, dtype=torch.double)
    gradients = []
    for dense in (True, False):
        leaf = x.clone().requires_grad_()
        if dense:
            out = made.dense(leaf, linked, edges)[0]
        else:
            out = made(leaf.flatten(0, 1), to_edges(linked), None if edges is None else edges[linked]).view_as(x)
        gradients.append(torch.autograd.grad((out * goal).sum(), [leaf, *made.parameters()]))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_relations_by_plain_loops():
    made, (linked, edges) = layer("labels", heads=2), graph("labels")
    x = torch.randn(3, 7, 16)
    got = made.dense(x, linked, edges)[0]
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
    x, order = torch.randn(3, 7, 16), torch.randperm(7)
    out, gamma = made.dense(x, linked, edges)
    shuffled = None if edges is None else edges[:, order][:, :, order]
    out_, gamma_ = made.dense(x[:, order], linked[:, order][:, :, order], shuffled)
    torch.testing.assert_close(out_, out[:, order], **CLOSE)
    torch.testing.assert_close(gamma_, gamma[:, order][:, :, order], **CLOSE)


def test_the_order_of_edges_changes_nothing():
    made, (linked, edges) = layer("labels"), graph("labels")
    x, edge_index = torch.randn(21, 16), to_edges(linked)
    order = torch.randperm(edge_index.shape[1])
    torch.testing.assert_close(made(x, edge_index[:, order], edges[linked][order]), made(x, edge_index, edges[linked]), **CLOSE)


def test_a_graph_without_edges_passes_everything_unchanged():
    made, x = layer("labels"), torch.randn(2, 5, 16)
    none = torch.zeros(2, 5, 5, dtype=torch.bool)
    assert torch.equal(made.dense(x, none, torch.zeros(2, 5, 5, dtype=torch.int64))[0], x)
    assert torch.equal(made(x.flatten(0, 1), to_edges(none), torch.zeros(0, dtype=torch.int64)).view_as(x), x)


def test_edges_matter():
    made, (linked, edges) = layer("labels"), graph("labels")
    x = torch.randn(3, 7, 16)
    assert not torch.allclose(made.dense(x, linked, edges)[0], made.dense(x, linked, (edges + 1) % 9)[0], atol=1e-3)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="dim=16 and heads=3"):
        RelationLayer(16, 3)


def test_edges_between_regions_by_hand():
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


def test_edges_between_regions_are_finite_however_far():
    made = GeometryEdges(4)
    edges = torch.tensor([[1e6, -1e6, 9.0, -9.0, 0.0, 0.0]], requires_grad=True)
    sum(part.sum() for part in made(edges)).backward()
    assert edges.grad.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in made.parameters())


# ---- cross graph ----

MASKS = ragged(6, 3, 1, 6), ragged(5, 1, 2)  # regions of four images, words of three captions


def heads_of(mask: Tensor, heads: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unit heads, in padded places too, as a model has them."""
    return F.normalize(torch.randn(*mask.shape, heads, width, dtype=dtype), dim=-1)


def all_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, captions and masks of all B · C pairs, images first."""
    images, captions = len(a), len(b)
    pair = torch.cartesian_prod(torch.arange(images), torch.arange(captions))
    return a[pair[:, 0]], b[pair[:, 1]], MASKS[0][pair[:, 0]], MASKS[1][pair[:, 1]]


@pytest.fixture(params=[1 << 19, 100, 1], ids=["one block", "some blocks", "many blocks"])
def blocks(request, monkeypatch) -> int:
    monkeypatch.setattr(PairSimilarities, "BLOCK", request.param)
    monkeypatch.setattr(PairSimilarities, "CAPTIONS", 32 if request.param > 100 else 2)
    return request.param


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("gather", [True, False])
def test_cross_graph_messages_equal_dense_equal_paired(gather, heads, blocks):
    encoder = CrossGraphEncoder(7.0, gather)
    with torch.no_grad():
        encoder.log_temperature[1] += 0.5
    a, b = heads_of(MASKS[0], heads, 5), heads_of(MASKS[1], heads, 5)
    z_w, z_r = encoder.dense(a, b, *MASKS)

    a_, b_, a_mask, b_mask = all_pairs(a, b)
    m, n, alpha = encoder.paired(a_, b_, a_mask, b_mask)
    messages = encoder(a_.flatten(0, 1), b_.flatten(0, 1), bipartite_edges(a_mask, b_mask), direction=0).view_as(b_)
    answers = encoder(b_.flatten(0, 1), a_.flatten(0, 1), bipartite_edges(b_mask, a_mask), direction=1).view_as(a_)
    torch.testing.assert_close(m[b_mask], messages[b_mask], **CLOSE)
    torch.testing.assert_close(n[a_mask], answers[a_mask], **CLOSE)
    words, regions = (b_ * m).sum(-1).view(4, 3, 5, heads), (a_ * n).sum(-1).view(4, 3, 6, heads)
    real = MASKS[1][:, :, None].expand(-1, -1, 4)
    torch.testing.assert_close(z_w[real], words.permute(1, 2, 0, 3)[real], **CLOSE)
    real = MASKS[0][:, :, None].expand(-1, -1, 3)
    torch.testing.assert_close(z_r[real], regions.transpose(1, 2)[real], **CLOSE)

    assert (alpha.masked_select(~a_mask[:, :, None]) == 0).all()
    torch.testing.assert_close(alpha.sum(1)[b_mask], torch.ones(int(b_mask.sum())))
    if not gather:
        assert set(alpha.unique().tolist()) == {0, 1}


def test_what_is_gathered_by_plain_loops():
    encoder = CrossGraphEncoder(7.0)
    a, b = heads_of(MASKS[0], 2, 3), heads_of(MASKS[1], 2, 3)
    z_w = encoder.dense(a, b, *MASKS)[0]
    for image, caption, word in ((0, 0, 4), (1, 2, 1), (2, 1, 0)):
        regions = [a[image, r] for r in range(6) if MASKS[0][image, r]]
        similarity = torch.stack([(region * b[caption, word]).sum(-1).mean() for region in regions])
        message = sum(weight * region for weight, region in zip((7 * similarity).softmax(0), regions, strict=True))
        torch.testing.assert_close(z_w[caption, word, image], (message * b[caption, word]).sum(-1), **CLOSE)


def test_the_first_of_equal_matches_is_taken_in_every_form():
    encoder = CrossGraphEncoder(gather=False)
    one = F.normalize(torch.randn(1, 1, 2, 3), dim=-1)
    a, b = torch.cat((-one, one, one), 1), one
    a_mask, b_mask = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    assert encoder.paired(a, b, a_mask, b_mask)[2].flatten().tolist() == [0, 1, 0]
    message = encoder(a[0], b[0], bipartite_edges(a_mask, b_mask), direction=0)
    torch.testing.assert_close(message, one[0])
    torch.testing.assert_close(encoder.dense(a, b, a_mask, b_mask)[0].flatten(), torch.ones(2))


@pytest.mark.parametrize("gather", [True, False])
def test_handwritten_gradients_equal_autograd(gather, blocks):
    """Through the dense Function and through `paired`, in float64."""
    encoder = CrossGraphEncoder(5.0, gather).double()
    with torch.no_grad():
        encoder.log_temperature[1] -= 0.3
    a, b = (heads_of(mask, 3, 4, torch.double).requires_grad_() for mask in MASKS)
    goal_w, goal_r = torch.randn(3, 5, 4, 3).double(), torch.randn(4, 6, 3, 3).double()
    goal_w, goal_r = goal_w * MASKS[1][..., None, None], goal_r * MASKS[0][..., None, None]
    inputs = [a, b, encoder.log_temperature] if gather else [a, b]
    z_w, z_r = encoder.dense(a, b, *MASKS)
    written = torch.autograd.grad((z_w * goal_w).sum() + (z_r * goal_r).sum(), inputs)
    a_, b_, a_mask, b_mask = all_pairs(a, b)
    m, n, _ = encoder.paired(a_, b_, a_mask, b_mask)
    z_w = (b_ * m).sum(-1).view(4, 3, 5, 3).permute(1, 2, 0, 3)
    z_r = (a_ * n).sum(-1).view(4, 3, 6, 3).transpose(1, 2)
    automatic = torch.autograd.grad((z_w * goal_w).sum() + (z_r * goal_r).sum(), inputs)
    for one, two in zip(written, automatic, strict=True):
        torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-8)


def test_handwritten_gradients_pass_gradcheck(monkeypatch):
    monkeypatch.setattr(PairSimilarities, "BLOCK", 20)
    a_mask, b_mask = ragged(3, 2), ragged(2, 1)
    inputs = heads_of(a_mask, 2, 2, torch.double), heads_of(b_mask, 2, 2, torch.double), torch.tensor([4.0, 6.0]).double()
    assert torch.autograd.gradcheck(
        lambda a, b, t: PairSimilarities.apply(a, b, t, a_mask, b_mask, True), [x.requires_grad_() for x in inputs]
    )


def test_temperatures_are_bounded():
    """exp(λ s) runs without the usual shift: λ = 80 at s = ±1 must stay finite in float32, forward and backward."""
    encoder = CrossGraphEncoder(1e6)
    assert encoder.temperatures().tolist() == pytest.approx([80, 80])
    same = F.normalize(torch.ones(2, 3, 2, 4), dim=-1)
    mask = ragged(3, 2)
    for sign in (1, -1):
        a = same.clone().requires_grad_()
        z_w, z_r = encoder.dense(a, sign * same, mask, mask)
        torch.testing.assert_close(z_w[mask], torch.full_like(z_w[mask], sign))
        (z_w.sum() + z_r.sum()).backward()
        assert a.grad.isfinite().all()


def test_without_gathering_the_temperature_is_not_trained():
    assert not list(filter(lambda weight: weight.requires_grad, CrossGraphEncoder(gather=False).parameters()))
    assert list(filter(lambda weight: weight.requires_grad, CrossGraphEncoder().parameters()))


# ---- multihead alignment ----


def shares(*counts: int) -> Tensor:
    mask = ragged(*counts)
    return masked_softmax(torch.randn(mask.shape), mask)


def test_alignment_of_one_head_is_the_identity():
    made, z, share = MultiheadAlignment(1, aggregate=False), torch.randn(2, 4, 3, 1), shares(4, 2)
    assert not list(made.parameters())
    torch.testing.assert_close(made(z, torch.zeros(2, 4, 4), share), torch.einsum("nkm,nk->nm", z[..., 0], share), **CLOSE)


def test_alignment_begins_as_the_mean_over_heads():
    made, z, share = MultiheadAlignment(4, aggregate=False), torch.randn(2, 4, 3, 4), shares(4, 2)
    torch.testing.assert_close(made(z, torch.zeros(2, 4, 4), share), torch.einsum("nkm,nk->nm", z.mean(-1), share), **CLOSE)


def test_alignment_flows_along_relations():
    z, share = torch.randn(2, 4, 3, 1), shares(4, 3)
    gamma = masked_softmax(torch.randn(2, 4, 4), ragged(4, 3)[:, None].expand(-1, 4, -1))
    want = torch.zeros(2, 3)
    for n in range(2):
        for m in range(3):
            for i in range(4):
                flow = sum(gamma[n, i, j] * z[n, j, m, 0] for j in range(4))
                want[n, m] += share[n, i] * (z[n, i, m, 0] + flow) / 2
    torch.testing.assert_close(MultiheadAlignment(1, aggregate=True)(z, gamma, share), want, **CLOSE)


def test_alignment_learns_to_weigh_heads():
    made, z, share = MultiheadAlignment(4, aggregate=False), torch.randn(2, 4, 3, 4), shares(4, 2)
    made(z, torch.zeros(2, 4, 4), share).sum().backward()
    assert made.agreement.linear.grad.abs().sum() > 0
    assert made.agreement.out.weight.grad.abs().sum() > 0
