"""The two-way GRU against torch's own, numbers and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from racg_pl.gru import BiGRU, Recurrence, places

LENGTHS = torch.tensor([3, 7, 1, 7, 2, 5])
MASK = torch.arange(9) < LENGTHS[:, None]  # wider than the longest, as a batch cut from another is


def made(dtype: torch.dtype = torch.double) -> tuple[BiGRU, Tensor]:
    torch.manual_seed(0)
    return BiGRU(5, 8).to(dtype), torch.randn(*MASK.shape, 5, dtype=dtype, requires_grad=True)


def test_parameters_are_torchs():
    gru, vectors = made()
    theirs = nn.GRU(5, 8, batch_first=True, bidirectional=True).double()
    theirs.load_state_dict(gru.state_dict())
    alone = theirs(vectors[1:2, :7])[0].unflatten(-1, (2, -1)).mean(2)
    torch.testing.assert_close(gru(vectors, MASK)[1:2, :7], alone)


def test_states_and_gradients_are_torchs():
    gru, vectors = made()
    goals = torch.randn(*MASK.shape, 8, dtype=torch.double)
    gradients = []
    for states in (gru(vectors, MASK), gru.torchs(vectors, MASK)):
        gradients.append([states.detach(), *torch.autograd.grad((states * goals).sum(), [vectors, *gru.parameters()])])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("grad", [True, False])
def test_without_gradients_no_gates_are_kept_and_states_are_the_same(grad: bool, monkeypatch: pytest.MonkeyPatch):
    gru, vectors = made(torch.float)
    kept: list[Tensor] = []

    def forward(ctx: Any, *inputs: Any) -> Tensor:
        states = Recurrence.forward(ctx, *inputs)
        kept.extend(ctx.to_save)
        return states

    monkeypatch.setattr("racg_pl.gru.Recurrence", type("Watched", (Recurrence,), {"forward": staticmethod(forward)}))
    with torch.enable_grad() if grad else torch.inference_mode():
        torch.testing.assert_close(gru(vectors, MASK), gru.torchs(vectors, MASK), atol=1e-6, rtol=1e-5)
    assert kept[-1].shape[:2] == (2, LENGTHS.sum() if grad else len(LENGTHS))


def test_what_stands_in_padding_does_not_matter():
    gru, vectors = made()
    states = gru(vectors, MASK)
    assert torch.equal(states, gru(vectors.masked_fill(~MASK[..., None], 7.0), MASK))
    assert (states[~MASK] == 0).all()


def test_under_autocast_it_is_torchs():
    gru, vectors = made(torch.float)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gru(vectors, MASK), gru.torchs(vectors, MASK))


@pytest.mark.parametrize("lengths", [[1], [2, 2], [1, 3]])
def test_places(lengths: list[int]):
    forth, back, sizes = places(torch.tensor(lengths), 4)
    words = [(step, sentence) for step in range(max(lengths)) for sentence, n in enumerate(lengths) if step < n]
    long_first = sorted(words, key=lambda word: (word[0], -lengths[word[1]], word[1]))
    assert forth.tolist() == [4 * sentence + step for step, sentence in long_first]
    assert back.tolist() == [4 * sentence + lengths[sentence] - 1 - step for step, sentence in long_first]
    assert sizes == [sum(n > step for n in lengths) for step in range(max(lengths))]
