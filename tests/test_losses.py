"""Objectives against plain loops over pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from racg_pl.losses import collapse, contrastive, triplet

IMAGE = torch.tensor([0, 1, 1, 2, 0, 3])  # of each caption; two images have two
POSITIVE = torch.arange(4)[:, None] == IMAGE


@pytest.fixture
def scores() -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def negatives(scores: Tensor) -> list[tuple[float, list[float], list[float]]]:
    """For each matched pair: its score, those of the image with wrong captions, those of the caption with wrong images."""
    pairs = []
    for caption, image in enumerate(IMAGE.tolist()):
        captions = [scores[image, c].item() for c in range(6) if IMAGE[c] != image]
        images = [scores[i, caption].item() for i in range(4) if i != image]
        pairs.append((scores[image, caption].item(), captions, images))
    return pairs


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplet_over_all_negatives(scores, margin):
    total = 0.0
    for right, *directions in negatives(scores):
        for wrong in directions:
            total += sum(max(0, margin + score - right) for score in wrong) / len(wrong)
    assert triplet(scores, POSITIVE, margin).item() == pytest.approx(total / 6)


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplet_over_the_hardest(scores, margin):
    total = sum(max(0, margin + max(wrong) - right) for right, *directions in negatives(scores) for wrong in directions)
    assert triplet(scores, POSITIVE, margin, hardest=True).item() == pytest.approx(total / 6)


def test_contrastive(scores):
    total = 0.0
    for right, *directions in negatives(scores):
        for wrong in directions:
            total -= math.log(math.exp(right / 0.3) / (math.exp(right / 0.3) + sum(math.exp(score / 0.3) for score in wrong)))
    assert contrastive(scores, POSITIVE, 0.3).item() == pytest.approx(total / 12)


LOSSES = {
    "all": lambda scores, positive: triplet(scores, positive),
    "hardest": lambda scores, positive: triplet(scores, positive, hardest=True),
    "contrastive": lambda scores, positive: contrastive(scores, positive),
}
each = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))


@pytest.mark.parametrize("hardest", [False, True])
def test_equal_scores_give_twice_the_margin(hardest):
    assert triplet(torch.full((4, 6), 0.7), POSITIVE, 0.2, hardest).item() == pytest.approx(0.4)


@each
def test_captions_of_the_same_image_are_no_negatives(loss):
    """Two captions of one image: however well the other fits, it costs nothing."""
    positive = torch.tensor([[True, True, False], [False, False, True]])
    scores = torch.tensor([[0.5, 0.5, -9.0], [-9.0, -9.0, 0.5]])
    raised = scores.clone()
    raised[0, 1] = 50.0
    assert loss(scores, positive).item() == pytest.approx(0, abs=1e-6)
    assert loss(raised, positive).item() == pytest.approx(0, abs=1e-6)


@each
def test_a_perfect_matrix_costs_nothing_and_a_wrong_one_much(loss):
    right = POSITIVE * 20.0 - 10.0
    assert loss(right, POSITIVE).item() == pytest.approx(0, abs=1e-6)
    assert loss(-right, POSITIVE).item() > 20


@each
def test_gradients_push_matches_up_and_others_down(loss, scores):
    leaf = scores.clone().requires_grad_()
    loss(leaf, POSITIVE).backward()
    assert (leaf.grad[POSITIVE] <= 0).all()
    assert (leaf.grad[~POSITIVE] >= 0).all()
    assert leaf.grad.abs().sum() > 0


@each
@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def test_gradients_stay_finite(loss, value):
    leaf = torch.full((4, 6), value).requires_grad_()
    loss(leaf, POSITIVE).backward()
    assert leaf.grad.isfinite().all()


@each
def test_a_batch_without_negatives_teaches_nothing_and_breaks_nothing(loss):
    """One image with its captions, as the last batch of a small set may be."""
    leaf = torch.randn(1, 3).requires_grad_()
    cost = loss(leaf, torch.ones(1, 3, dtype=torch.bool))
    cost.backward()
    assert cost.item() == 0
    assert leaf.grad.abs().sum() == 0


@each
def test_an_image_without_captions_takes_part_as_a_negative_only(loss):
    scores = torch.tensor([[5.0, -5.0], [-5.0, 5.0], [4.95, -5.0]], requires_grad=True)
    positive = torch.tensor([[True, False], [False, True], [False, False]])
    loss(scores, positive).backward()
    assert scores.grad[2, 0] > 0
    assert scores.grad.isfinite().all()


def test_the_temperature_of_the_contrastive_loss_learns(scores):
    tau = torch.tensor(0.1, dtype=torch.double, requires_grad=True)
    contrastive(scores, POSITIVE, tau).backward()
    assert tau.grad.abs() > 0


# ---- collapse ----


def test_collapse_is_said_in_words():
    scores = 0.3 + 1e-5 * torch.randn(8, 8)
    words = collapse(scores, triplet(scores, torch.eye(8).bool(), 0.2, hardest=True), 0.2)
    assert words is not None
    assert "collapsed" in words
    assert "learning rate" in words
    assert "\n" not in words


@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_other_batches_are_silent(spread):
    scores = spread * torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    assert collapse(scores, triplet(scores, torch.eye(8).bool(), 0.2, hardest=True), 0.2) is None
    learned = scores + torch.eye(8)
    assert collapse(learned, triplet(learned, torch.eye(8).bool(), 0.2, hardest=True), 0.2) is None
