"""The cross graph and the alignment against their own definition: message passing over edges, plain loops, autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from racg_pl.cross import CrossGraphEncoder, MultiheadAlignment, PairSimilarities
from racg_pl.graphs import bipartite_edges
from racg_pl.layers import masked_softmax
from test_layers import CLOSE, ragged


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


MASKS = ragged(6, 3, 1, 6), ragged(5, 1, 2)  # regions of four images, words of three captions


def heads_of(mask: Tensor, heads: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unit heads, in padded places too, as a model has them."""
    return F.normalize(torch.randn(*mask.shape, heads, width, dtype=dtype), dim=-1)


def all_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, captions and masks of all B · C pairs, images first."""
    images, captions = len(a), len(b)
    pair = torch.cartesian_prod(torch.arange(images), torch.arange(captions))
    return a[pair[:, 0]], b[pair[:, 1]], MASKS[0][pair[:, 0]], MASKS[1][pair[:, 1]]


def messages(a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """What words and regions gather: [K,W,H,d] and [K,R,H,d]."""
    return torch.einsum("krw,krhd->kwhd", alpha, a), torch.einsum("krw,kwhd->krhd", beta, b)


@pytest.fixture(params=[1 << 19, 100, 1], ids=["one block", "some blocks", "many blocks"])
def blocks(request, monkeypatch) -> int:
    monkeypatch.setattr(PairSimilarities, "CPU", (request.param, 32 if request.param > 100 else 2))
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
    alpha, beta = encoder.paired(a_, b_, a_mask, b_mask)
    m, n = messages(a_, b_, alpha, beta)
    found = encoder(a_.flatten(0, 1), b_.flatten(0, 1), bipartite_edges(a_mask, b_mask), direction=0).view_as(b_)
    answers = encoder(b_.flatten(0, 1), a_.flatten(0, 1), bipartite_edges(b_mask, a_mask), direction=1).view_as(a_)
    torch.testing.assert_close(m[b_mask], found[b_mask], **CLOSE)
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
    assert encoder.paired(a, b, a_mask, b_mask)[0].flatten().tolist() == [0, 1, 0]
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
    m, n = messages(a_, b_, *encoder.paired(a_, b_, a_mask, b_mask))
    z_w = (b_ * m).sum(-1).view(4, 3, 5, 3).permute(1, 2, 0, 3)
    z_r = (a_ * n).sum(-1).view(4, 3, 6, 3).transpose(1, 2)
    automatic = torch.autograd.grad((z_w * goal_w).sum() + (z_r * goal_r).sum(), inputs)
    for one, two in zip(written, automatic, strict=True):
        torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-8)


def test_handwritten_gradients_pass_gradcheck(monkeypatch):
    monkeypatch.setattr(PairSimilarities, "CPU", (20, 32))
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
    made, z, share = MultiheadAlignment(1), torch.randn(2, 4, 3, 1), shares(4, 2)
    assert not list(made.parameters())
    torch.testing.assert_close(made(z, share), torch.einsum("nkm,nk->nm", z[..., 0], share), **CLOSE)


def test_alignment_begins_as_the_mean_over_heads():
    made, z, share = MultiheadAlignment(4), torch.randn(2, 4, 3, 4), shares(4, 2)
    torch.testing.assert_close(made(z, share), torch.einsum("nkm,nk->nm", z.mean(-1), share), **CLOSE)


def test_alignment_learns_to_weigh_heads():
    made, z, share = MultiheadAlignment(4), torch.randn(2, 4, 3, 4), shares(4, 2)
    made(z, share).sum().backward()
    assert made.agreement.linear.grad.abs().sum() > 0
    assert made.agreement.out.weight.grad.abs().sum() > 0


# ---- relations ----


@pytest.mark.parametrize("gather", [True, False])
def test_edges_by_plain_loops(gather):
    """Relations of padding are noise here, and must not count."""
    encoder = CrossGraphEncoder(7.0, gather)
    a, b = heads_of(MASKS[0], 2, 3), heads_of(MASKS[1], 2, 3)
    seen, said, share = torch.randn(4, 2, 6, 6), torch.randn(3, 2, 5, 5), masked_softmax(torch.randn(3, 5), MASKS[1])
    got = encoder.edges(a, b, *MASKS, seen, said, share)
    for image, caption in ((0, 0), (1, 2), (2, 1), (3, 0)):
        regions, words = range(int(MASKS[0][image].sum())), range(int(MASKS[1][caption].sum()))
        alpha = []
        for w in words:
            similarity = torch.stack([(a[image, r] * b[caption, w]).sum(-1).mean() for r in regions])
            alpha.append((7 * similarity).softmax(0) if gather else (similarity == similarity.max()).float())
        want = torch.zeros(())
        for k in range(2):
            for w in words:
                for v in words:
                    meeting = sum(alpha[w][r] * seen[image, k, r, s] * alpha[v][s] for r in regions for s in regions)
                    want += share[caption, w] * said[caption, k, w, v] * meeting
        torch.testing.assert_close(got[image, caption], want, **CLOSE)
