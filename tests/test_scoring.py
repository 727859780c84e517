"""Scoring in blocks against scoring at once."""

from __future__ import annotations

import pytest
import torch

from racg_pl.scoring import score_all, stack
from test_model import FEATURES, images, model, texts

COUNTS = (6, 1, 4, 3, 6, 2, 5), (5, 1, 3, 7, 2, 7, 1, 4, 6, 2, 3)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize("blocks", [(8, 64), (1, 1), (2, 3), (3, 4), (7, 11)])
@pytest.mark.parametrize("setting", [{}, {"cross_graph": False}, {"aggregation": False}, {"multihead": False}])
def test_blocks_change_nothing(setting, blocks):
    made = model(**setting)
    with torch.no_grad():
        encoded, sentences = made.encode_image(images(*COUNTS[0])), made.encode_text(texts(*COUNTS[1]))
        whole = made.score(encoded, sentences)
    done: list[int] = []
    scores = score_all(made, encoded, sentences, *blocks, progress=done.append)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, whole, **CLOSE)
    assert sum(done) == 7 * 11


def test_batches_of_different_widths_are_one_after_stacking():
    made = model()
    one, two = images(6, 2, seed=1), images(3, 1, seed=2)
    first, second = texts(4, 1, seed=3), texts(7, 2, 5, seed=4)
    with torch.no_grad():
        parts = [made.encode_image(one), made.encode_image(two)], [made.encode_text(first), made.encode_text(second)]
        together = stack(parts[0]), stack(parts[1])
        assert together[0].aligned.shape[:2] == (4, 6)
        assert together[1].relations.shape == (5, 2, 7, 7)
        for joined, pieces in zip(together, parts, strict=True):
            at = 0
            for piece in pieces:
                count, width = piece.mask.shape
                assert torch.equal(joined.aligned[at : at + count, :width], piece.aligned)
                assert torch.equal(joined.relations[at : at + count, :, :width, :width], piece.relations)
                assert not joined.mask[at : at + count, width:].any()
                assert not joined.share[at : at + count, width:].any()
                at += count
        rows = [torch.cat([made.score(image, text) for text in parts[1]], 1) for image in parts[0]]
        torch.testing.assert_close(score_all(made, *together), torch.cat(rows), **CLOSE)


def test_regions_that_no_image_has_are_cut():
    made = model()
    wide = images(4, 2)
    wide = type(wide)(*(torch.cat((part, torch.zeros_like(part)), 1) for part in wide))
    with torch.no_grad():
        encoded, sentences = made.encode_image(wide), made.encode_text(texts(3, 2))
        plain = made.score(made.encode_image(images(4, 2)), sentences)
    torch.testing.assert_close(score_all(made, encoded, sentences), plain, **CLOSE)


def test_no_gradients_are_kept():
    made = model()
    scores = score_all(made, made.encode_image(images(2)), made.encode_text(texts(2)))
    assert not scores.requires_grad
    assert images(2).features.shape[-1] == FEATURES
