"""metrics.py against oracles written another way: loops in plain Python, torchmetrics, and matrices worked out by hand."""

from __future__ import annotations

import statistics
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.retrieval import RetrievalHitRate

from racg_pl import metrics
from racg_pl.metrics import NO_QUERY, RetrievalRecalls, coco_folds, ranks_i2t, ranks_t2i, recalls


def loop_rank(scores: list[float], right: list[bool]) -> int:
    best = max(score for score, is_right in zip(scores, right, strict=True) if is_right)
    return len([score for score, is_right in zip(scores, right, strict=True) if not is_right and score >= best])


def loop_ranks(scores: Tensor, image: Tensor) -> tuple[list[int], list[int]]:
    table, owner = scores.tolist(), image.tolist()
    i2t = [loop_rank(row, [o == i for o in owner]) if i in owner else NO_QUERY for i, row in enumerate(table)]
    t2i = [loop_rank([row[c] for row in table], [i == o for i in range(len(table))]) for c, o in enumerate(owner)]
    return i2t, t2i


def loop_recalls(scores: Tensor, image: Tensor) -> dict[str, float]:
    out = {}
    for name, ranks in zip(("i2t", "t2i"), loop_ranks(scores, image), strict=True):
        asked = [rank for rank in ranks if rank != NO_QUERY]
        out.update({f"{name}_r{k}": 100 * sum(rank < k for rank in asked) / len(asked) for k in (1, 5, 10)})
        out[f"{name}_median"] = float(int(statistics.median(asked)) + 1)
    return out | {"rsum": sum(value for key, value in out.items() if "_r" in key)}


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Scores with many ties, captions in any order, any number an image, none included."""
    images, captions = draw(st.integers(1, 12)), draw(st.integers(1, 25))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores = torch.randint(draw(st.integers(1, 40)), (images, captions), generator=generator) / 4 - 3
    return scores, torch.randint(images, (captions,), generator=generator)


@given(problems(), st.integers(1, 60))
@settings(deadline=None, max_examples=200)
def test_ranks_are_those_of_plain_loops_whatever_the_chunk(problem: tuple[Tensor, Tensor], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "CHUNK", chunk)
        i2t, t2i = ranks_i2t(*problem), ranks_t2i(*problem)
    assert i2t.dtype == t2i.dtype == torch.int64
    assert (i2t.tolist(), t2i.tolist()) == loop_ranks(*problem)
    assert recalls(*problem) == pytest.approx(loop_recalls(*problem))


@given(problems(), st.integers(0, 12), st.integers(0, 25))
@settings(deadline=None)
def test_blocks_of_rows_or_columns_rank_alike(problem: tuple[Tensor, Tensor], row: int, column: int) -> None:
    scores, image = problem
    parts = [ranks_i2t(scores[:row], image), ranks_i2t(scores[row:], image, first=min(row, len(scores)))]
    assert torch.equal(torch.cat(parts), ranks_i2t(scores, image))
    parts = [ranks_t2i(scores[:, :column], image[:column]), ranks_t2i(scores[:, column:], image[column:])]
    assert torch.equal(torch.cat(parts), ranks_t2i(scores, image))


@given(problems(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_of_images_and_captions_changes_nothing(problem: tuple[Tensor, Tensor], random) -> None:
    scores, image = problem
    rows, columns = list(range(len(scores))), list(range(len(image)))
    random.shuffle(rows)
    random.shuffle(columns)
    moved = torch.tensor(rows).argsort()[image[columns]]
    assert recalls(scores[rows][:, columns], moved) == pytest.approx(recalls(scores, image))


def test_torchmetrics_agrees_where_nothing_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.cat([torch.arange(30), torch.randint(30, (70,), generator=generator)])  # 1 to many captions each
    image = image[torch.randperm(100, generator=generator)]
    scores = torch.randperm(3000, generator=generator).view(30, 100) + 1.0
    scores[image, torch.arange(100)] += 900.5
    target = image == torch.arange(30)[:, None]
    ours = recalls(scores, image)
    for k in (1, 5, 10):
        for name, preds, relevant in (("i2t", scores, target), ("t2i", scores.T, target.T)):
            query = torch.arange(len(preds))[:, None].expand_as(preds)
            oracle = RetrievalHitRate(top_k=k)(preds.flatten(), relevant.flatten(), indexes=query.flatten())
            assert ours[f"{name}_r{k}"] == pytest.approx(100 * float(oracle), abs=1e-4)
    assert 0 < ours["t2i_r1"] < ours["t2i_r5"] < ours["t2i_r10"] < 100


def test_matrices_worked_out_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.8, 0.3], [0.7, 0.6, 0.2, 0.9]])
    image = torch.tensor([0, 1, 1, 0])
    assert ranks_i2t(scores, image).tolist() == [0, 2]  # of image 1, caption 1 at 0.6 is behind 0.9 and 0.7
    assert ranks_t2i(scores, image).tolist() == [0, 0, 1, 1]
    assert recalls(scores, image) == {
        "i2t_r1": 50.0, "i2t_r5": 100.0, "i2t_r10": 100.0, "i2t_median": 2.0,
        "t2i_r1": 50.0, "t2i_r5": 100.0, "t2i_r10": 100.0, "t2i_median": 1.0,
        "rsum": 500.0,
    }  # fmt: skip
    eye = torch.eye(12)
    assert recalls(eye, torch.arange(12))["rsum"] == 600
    shifted = eye.roll(1, dims=1)  # every best item is wrong, the right one ties with ten others
    assert ranks_i2t(shifted, torch.arange(12)).tolist() == [11] * 12
    staircase = -torch.arange(12.0).expand(12, 12)  # caption c always comes at place c
    assert ranks_i2t(staircase, torch.arange(12)).tolist() == list(range(12))
    assert recalls(staircase, torch.arange(12))["i2t_r5"] == pytest.approx(500 / 12)
    assert ranks_t2i(staircase, torch.arange(12)).tolist() == [11] * 12


@pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_constant_scorer_finds_nothing(value: float, dtype: torch.dtype) -> None:
    table = recalls(torch.full((50, 250), value, dtype=dtype), torch.arange(250) // 5)
    assert table == {key: {"i2t_median": 246, "t2i_median": 50}.get(key, 0) for key in table}


def test_an_image_without_captions_is_no_query_but_can_be_in_the_way() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.5, 1.0], [2.0, 0.0]])  # nobody speaks of image 2, which looks like caption 0
    image = torch.tensor([0, 1])
    assert ranks_i2t(scores, image).tolist() == [0, 0, NO_QUERY]
    assert ranks_t2i(scores, image).tolist() == [1, 0]
    assert recalls(scores, image)["i2t_r1"] == 100
    with pytest.raises(ValueError, match="no captions"):
        recalls(torch.zeros(3, 0), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_a_score_that_is_not_finite_raises(bad: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK", chunk)
    scores = torch.zeros(4, 6)
    scores[2, 5] = scores[3, 1] = bad
    line = f"2 of 24 scores are not finite; the first is {bad} for image 2 and caption 5"
    for function in (ranks_i2t, ranks_t2i, recalls):
        with pytest.raises(ValueError, match=line):
            function(scores, torch.arange(6) // 2)
    with pytest.raises(ValueError, match="image 12 and caption 5"):
        ranks_i2t(scores, torch.arange(6) // 2, first=10)


def test_shapes_and_types_are_checked() -> None:
    for scores, image, line in (
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"got \[3\]"),
        (torch.zeros(3, 3, dtype=torch.int64), torch.arange(3), "float"),
        (torch.zeros(3, 3), torch.arange(4), "one integer a caption"),
        (torch.zeros(3, 3), torch.arange(3.0), "one integer a caption"),
        (torch.zeros(3, 3), torch.arange(3) + 1, r"0\.\.2, got 1\.\.3"),
    ):
        with pytest.raises(ValueError, match=line):
            recalls(scores, image)


def test_coco_folds_are_means_of_consecutive_folds() -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.cat([torch.arange(20), torch.randint(20, (43,), generator=generator)])[
        torch.randperm(63, generator=generator)
    ]
    scores = torch.randint(9, (20, 63), generator=generator).float()
    expected: dict[str, float] = {}
    for fold in range(5):
        columns = [c for c in range(63) if fold * 4 <= image[c] < fold * 4 + 4]
        part = loop_recalls(scores[fold * 4 : fold * 4 + 4][:, columns], image[columns] - fold * 4)
        expected = {key: expected.get(key, 0) + value / 5 for key, value in part.items()}
    assert coco_folds(scores, image) == pytest.approx(expected)
    assert coco_folds(scores, image, folds=1) == pytest.approx(recalls(scores, image))
    with pytest.raises(ValueError, match="3 folds divide, got 20"):
        coco_folds(scores, image, folds=3)


def problem_of_seven() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(30, (7, 23), generator=generator).float(), torch.randint(6, (23,), generator=generator)


def test_metric_drops_repeats_and_puts_images_in_order() -> None:
    scores, image = problem_of_seven()
    metric = RetrievalRecalls(image, images=7)
    for rows in ([6, 2], [0], [], [5, 1, 2], [3, 4, 0]):
        index = torch.tensor(rows, dtype=torch.int64)
        metric.update(index, scores[index])
    assert torch.equal(metric.matrix(), scores)
    assert metric.compute() == recalls(scores, image)
    assert not metric.state_dict()
    metric.reset()
    metric.update(torch.arange(7), -scores)
    assert metric.compute() == recalls(-scores, image)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([0, 1, 3, 4, 6], "all 7 images, 2 are missing: 2, 5"),
        ([6], "6 are missing: 0, 1, 2, 3, 4, …"),
        ([0, 1, 2, 3, 4, 5, 6, 7], r"0\.\.6, got 0\.\.7"),
        ([-1, 0, 1, 2, 3, 4, 5, 6], r"0\.\.6, got -1\.\.6"),
    ],
)
def test_metric_names_what_is_missing_or_unknown(rows: list[int], line: str) -> None:
    metric = RetrievalRecalls(problem_of_seven()[1], images=7)
    metric.update(torch.tensor(rows), torch.zeros(len(rows), 23))
    with pytest.raises(ValueError, match=line):
        metric.compute()


def test_metric_refuses_scores_of_another_shape() -> None:
    metric = RetrievalRecalls(torch.arange(5), images=5)
    with pytest.raises(ValueError, match=r"shape \[2, 5\], got \[2, 4\]"):
        metric.update(torch.arange(2), torch.zeros(2, 4))


PARTS = {  # the batches of images that each of two processes scores
    "sampler's repeat of image 0": [[[0, 2], [4, 6]], [[1, 3], [5, 0]]],
    "uneven and shuffled": [[[6, 1, 3, 2, 6]], [[0], [5], [4, 6]]],
    "a process without images": [[[0, 1, 2, 3, 4, 5, 6]], [[]]],
    "two images missing": [[[0, 1, 2]], [[3, 4]]],
}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=120))
    scores, image = problem_of_seven()
    results: dict[str, object] = {}
    for name, parts in PARTS.items():
        metric = RetrievalRecalls(image, images=7)
        for batch in parts[rank]:
            rows = torch.tensor(batch, dtype=torch.int64)
            metric.update(rows, scores[rows])
        try:
            results[name] = metric.compute()
            with metric.sync_context():
                assert torch.equal(metric.matrix(), scores)
            assert sum(map(len, metric.rows)) == sum(map(len, parts[rank]))  # the sync was undone
        except ValueError as error:
            results[name] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_number_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(process, (str(tmp_path),), nprocs=2)
    expected: dict[str, object] = dict.fromkeys(PARTS, recalls(*problem_of_seven()))
    expected["two images missing"] = "expected scores of all 7 images, 2 are missing: 5, 6"
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == expected


def test_scores_in_order_are_not_copied():
    scores, image = torch.rand(3, 6), torch.arange(6) // 2
    for rows, copied in (([0, 1, 2], False), ([1, 0, 2], True)):
        metric = RetrievalRecalls(image, 3)
        metric.update(torch.tensor(rows), scores)
        assert (metric.matrix().data_ptr() != scores.data_ptr()) == copied
        assert torch.equal(metric.matrix(), scores[torch.tensor(rows).argsort()])
