"""Scoring in blocks against scoring at once, and ranks without the matrix against ranks of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from racg_pl import metrics, scoring
from racg_pl.gallery import Gallery
from racg_pl.model import Encoded
from racg_pl.scoring import rank, score_all, score_rows
from test_model import images, model, texts

COUNTS = (6, 1, 4, 3, 6, 2, 5), (5, 1, 3, 7, 2, 7, 1, 4, 6, 2, 3)
IMAGE = torch.tensor([3, 0, 0, 6, 1, 5, 3, 1, 2, 5, 0])  # image 4 has no captions
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(params=["native", "plain"])
def form(request, monkeypatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr("racg_pl.native.available", lambda tensor: False)
    return request.param


@pytest.fixture(params=[(1024, 256, 1 << 18), (0, 2, 1 << 18), (0, 3, 1), (1024, 4, 3000)])
def blocks(request, monkeypatch) -> int:
    """All at once, and blocks of few: images, captions, pairs. Gives the budget."""
    memory, captions, cache = request.param
    monkeypatch.setattr(scoring, "CAPTIONS", {True: captions, False: captions})
    monkeypatch.setattr(scoring, "CACHE", cache)
    return memory


def encoded(**setting: object) -> tuple:
    made = model(**setting)
    with torch.no_grad():
        return made, made.encode_image(images(*COUNTS[0])), made.encode_text(texts(*COUNTS[1]))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("setting", [{}, {"cross_graph": False}, {"aggregation": False}, {"multihead": False}])
def test_blocks_change_nothing(setting, blocks):
    made, some, others = encoded(**setting)
    whole = made.score(some, others)
    done: list[int] = []
    scores = score_all(made, Gallery([some]), Gallery([others]), blocks, done.append)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    torch.testing.assert_close(scores, whole, **CLOSE)
    assert sum(done) == 7 * 11


def test_blocks_of_images_follow_the_budget():
    made, some, others = encoded()
    some, others = Gallery([some]), Gallery([others])
    assert [rows.stop - rows.start for rows, _ in score_rows(made, some, others, 0)] == [1] * 7
    assert [rows.stop - rows.start for rows, _ in score_rows(made, some, others)] == [7]


def test_a_gallery_gives_back_what_it_was_given():
    made = model()
    parts = [images(6, 2, seed=1), images(3, 1, seed=2)], [texts(4, 1, seed=3), texts(7, 2, 5, seed=4)]
    for encode, batches in zip((made.encode_image, made.encode_text), parts, strict=True):
        with torch.no_grad():
            pieces = [encode(batch) for batch in batches]
        held, at = Gallery(pieces), 0
        for piece in pieces:
            back, real = held.take(slice(at, at + len(piece.mask))), piece.mask[:, :, None] & piece.mask[:, None]
            at += len(piece.mask)
            assert torch.equal(back.mask, piece.mask)
            assert torch.equal(back.aligned, piece.aligned * piece.mask[..., None, None])
            assert torch.equal(back.relations, piece.relations * real[:, None])
            assert torch.equal(back.share, piece.share)
            assert torch.equal(back.pooled, piece.pooled)
        assert at == len(held)
        order = torch.tensor([at - 1, 0, 1])
        for one, two in zip(held.reorder(order).take(slice(0, 3))[:5], held.take(order)[:5], strict=True):
            assert torch.equal(one, two)


def test_a_gallery_carries_no_padding():
    made, some, _ = encoded()
    nodes, pairs = sum(COUNTS[0]), sum(count**2 for count in COUNTS[0])
    assert Gallery([some]).nbytes == 4 * (nodes * 8 + made.channels * pairs + nodes + 7 * 16)
    assert Gallery([some], torch.bfloat16).nbytes == 2 * (nodes * 8 + made.channels * pairs) + 4 * (nodes + 7 * 16)
    assert made.score(Gallery([some]).take(torch.tensor([1])), Gallery([some]).take(torch.tensor([1]))).shape == (1, 1)


@pytest.mark.usefixtures("form")
def test_bfloat16_nodes_score_nearly_the_same():
    made, some, others = encoded()
    halves = [Gallery([side], torch.bfloat16) for side in (some, others)]
    torch.testing.assert_close(score_all(made, *halves), made.score(some, others), atol=0.03, rtol=0.03)


@pytest.mark.usefixtures("form")
def test_ranks_and_matches_are_those_of_the_matrix(blocks):
    made, some, others = encoded()
    some, others = Gallery([some]), Gallery([others])
    scores = score_all(made, some, others)
    got = rank(made, some, others, IMAGE, keep=4, memory_mb=blocks)
    assert torch.equal(got.i2t, metrics.ranks_i2t(scores, IMAGE))
    assert torch.equal(got.t2i, metrics.ranks_t2i(scores, IMAGE))
    for best, rows in ((got.captions, scores), (got.images, scores.T)):
        torch.testing.assert_close(best[0], rows.topk(4).values, **CLOSE)
        torch.testing.assert_close(rows.gather(1, best[1]), best[0], **CLOSE)


def test_fewer_items_than_matches_asked_for():
    made, some, others = encoded()
    got = rank(made, Gallery([some]), Gallery([others]), IMAGE, keep=50)
    assert got.captions[1].sort().values.tolist() == [list(range(11))] * 7
    assert got.images[1].sort().values.tolist() == [list(range(7))] * 11


def test_equal_scores_count_against_the_query(monkeypatch):
    made, some, others = encoded()
    # equal to the bit: a product of matrices may round equal rows differently by their place
    monkeypatch.setattr(made, "score", lambda images, texts: torch.zeros(len(images.mask), len(texts.mask)))
    got = rank(made, Gallery([some]), Gallery([others]), IMAGE)
    assert got.t2i.tolist() == [6] * 11
    assert got.i2t.tolist() == [11 - int((row == IMAGE).sum()) if (row == IMAGE).any() else -1 for row in range(7)]


def test_images_in_any_order_and_twice():
    made, some, others = encoded()
    rows = torch.tensor([4, 2, 6, 2, 0, 1, 5, 3, 4])
    one, two = (
        rank(made, Gallery([some]), Gallery([others]), IMAGE),
        rank(made, Gallery([some.take(rows)]), Gallery([others]), IMAGE, rows, 7),
    )
    assert torch.equal(one.i2t, two.i2t)
    assert torch.equal(one.t2i, two.t2i)
    assert torch.equal(one.images[1], two.images[1])


def test_a_score_that_is_not_finite_is_refused():
    made, some, others = encoded()

    def broken(side: Encoded) -> Tensor:
        return side.pooled.index_fill(0, torch.tensor([2]), torch.nan)

    with pytest.raises(ValueError, match="not finite"):
        rank(made, Gallery([some._replace(pooled=broken(some))]), Gallery([others]), IMAGE)


def process(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=number, world_size=2, timeout=timedelta(seconds=60))
    made, some, others = encoded()
    rows = torch.arange(number, 7, 2)
    if number:
        some.pooled[3] = torch.nan
    said = ""
    try:
        rank(made, Gallery([some.take(rows)]), Gallery([others]), IMAGE, rows, 7)
    except ValueError as error:
        said = str(error)
    Path(folder, f"{number}.txt").write_text(said)
    dist.destroy_process_group()


def test_a_bad_score_of_one_process_ends_all(tmp_path: Path):
    torch.multiprocessing.spawn(process, (str(tmp_path),), nprocs=2)
    assert (tmp_path / "0.txt").read_text() == "scores of another process are not finite"
    assert "11 of 33 scores are not finite" in (tmp_path / "1.txt").read_text()
