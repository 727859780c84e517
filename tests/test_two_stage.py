"""Two-stage retrieval against brute force."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from conftest import small
from racg_pl.cli import main
from racg_pl.errors import DataError
from racg_pl.gallery import Gallery
from racg_pl.metrics import recalls
from racg_pl.scoring import score_all
from racg_pl.two_stage import PooledIndex, evaluate, first_stage_recall, rerank
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


def test_with_all_candidates_a_split_has_its_exact_recalls_and_with_few_never_more_than_the_ceiling():
    made = model().eval()
    with torch.no_grad():
        images, texts = Gallery([made.encode_image(IMAGES)]), Gallery([made.encode_text(TEXTS)])
    image = torch.tensor([0, 1, 2, 2, 0])[: len(texts)]  # image 3 has no caption
    exact = recalls(score_all(made, images, texts), image)
    queries: list[int] = []
    whole = evaluate(made, images, texts, image, 100, queries.append)
    assert whole["metrics"] == pytest.approx(exact)
    assert whole["i2t_ceiling"] == whole["t2i_ceiling"] == 100
    assert sum(queries) == len(images) + len(texts)
    one = evaluate(made, images, texts, image, 1)
    for way in ("i2t", "t2i"):
        assert one["metrics"][f"{way}_r1"] == one["metrics"][f"{way}_r10"] == pytest.approx(one[f"{way}_ceiling"])


def test_the_verb_reports_it_apart(scenes: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    given = small(scenes, tmp_path, f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}")
    assert main(["test", *given]) == 0
    exact = json.loads((tmp_path / "test.json").read_text())
    assert "two_stage" not in exact
    assert main(["test", *given, "--two_stage=4"]) == 0
    record = json.loads((tmp_path / "test.json").read_text())
    assert record["metrics"] == exact["metrics"]
    assert record["two_stage"]["candidates"] == 4
    for way in ("i2t", "t2i"):
        assert record["two_stage"]["metrics"][f"{way}_r10"] == pytest.approx(record["two_stage"][f"{way}_ceiling"])
    capsys.readouterr()
    assert main(["test", *given, "--two_stage=-1"]) == 2
    assert "two_stage: expected a number of candidates" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["test", *given, "--two_stage=4"]) == 2
    assert "racg_pl[search]" in capsys.readouterr().err


def test_without_faiss_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DataError, match=r"racg_pl\[search\]"):
        PooledIndex(4)


def test_a_model_without_pooled_embeddings_is_refused():
    with pytest.raises(DataError, match="aggregation"):
        PooledIndex(0)
