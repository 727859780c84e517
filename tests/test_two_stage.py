"""Two-stage retrieval against brute force."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

from racg_pl.errors import DataError
from racg_pl.two_stage import PooledIndex, first_stage_recall, rerank
from test_model import IMAGES, TEXTS, model


def test_candidates_are_the_nearest_and_in_order():
    torch.manual_seed(0)
    gallery, queries = F.normalize(torch.randn(300, 16), dim=-1), F.normalize(torch.randn(7, 16), dim=-1)
    index = PooledIndex(16)
    index.add(gallery[:120])
    index.add(gallery[120:])
    assert len(index) == 300
    found = index.search(queries, 5)
    exact = (queries @ gallery.T).topk(5)
    reached = (queries @ gallery.T).gather(1, found)
    torch.testing.assert_close(reached, exact.values, atol=2e-3, rtol=0)  # half precision may swap near ties
    assert index.search(queries, 1000).shape == (7, 300)


@pytest.mark.parametrize("image", [True, False])
def test_with_all_candidates_the_order_is_the_exact_one(image):
    made = model().eval()
    with torch.no_grad():
        images, texts = made.encode_image(IMAGES), made.encode_text(TEXTS)
        scores = made.score(images, texts) if image else made.score(images, texts).T
        query, gallery = (images, texts) if image else (texts, images)
    index = PooledIndex(gallery.pooled.shape[1])
    index.add(gallery.pooled)
    for row in range(len(scores)):
        one = query.take(slice(row, row + 1))
        values, order = rerank(made, one, index.search(one.pooled, 100)[0], gallery.take, image=image)
        assert order.tolist() == scores[row].argsort(descending=True).tolist()
        torch.testing.assert_close(values, scores[row].sort(descending=True).values, atol=1e-5, rtol=1e-5)


def test_what_the_first_stage_misses_stays_missing():
    found = torch.tensor([[3, 1], [0, 2], [4, 5]])
    assert first_stage_recall(found, [{1, 9}, {5}, {4, 5}]) == pytest.approx(200 / 3)


def test_without_faiss_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DataError, match=r"racg_pl\[search\]"):
        PooledIndex(4)


def test_a_model_without_pooled_embeddings_is_refused():
    with pytest.raises(DataError, match="aggregation"):
        PooledIndex(0)
