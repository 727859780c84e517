"""Batches: who is in them, in which order, and that the files belong together."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from racg_pl.captions import CaptionStore, write_captions
from racg_pl.data import Batch, EvaluationBatches, RetrievalData, Split, TrainingBatches
from racg_pl.errors import DataError
from racg_pl.features import RegionStore, RegionWriter
from racg_pl.graphs import SELF
from racg_pl.semantics import TYPES, VERSION
from racg_pl.text import Vocabulary
from racg_pl.text_files import prepare_texts

NEXT = TYPES.index("next")


def split_of(root: Path, name: str = "train", parser: str = "chain") -> Split:
    return Split(root, name, parser, Vocabulary.load(root / "vocab.json"))


@pytest.fixture(scope="module")
def train(scenes: Path) -> Split:
    return split_of(scenes)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Five pictures of one to three regions, without labels or groups; captions in no order, none for the third picture."""
    root = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    with RegionWriter(root / "train.h5", 3, 4, extractor="test", dtype="float32") as writer:
        for index, count in enumerate((3, 1, 2, 3, 2)):
            writer.add(f"p{index}", rng.random((count, 4), dtype=np.float32), np.tile([0, 0, 0.5, 1], (count, 1)))
    texts = ["a dog", "", "dogs run fast here", "word", "a dog runs", "two men", " "]
    write_captions(root / "train.captions.h5", texts, [3, 0, 4, 0, 1, 4, 3], RegionStore(root / "train.h5"))
    prepare_texts(root, "chain", threshold=1)
    return split_of(root)


def batches(split: Split, epoch: int = 0, images: int = 8, captions: int = 5, seed: int = 0, **rank: int) -> list:
    sampler = TrainingBatches(split, images, captions, seed, **rank)
    sampler.set_epoch(epoch)
    made = list(sampler)
    assert len(made) == len(sampler)
    return made


def same(one: list, two: list) -> bool:
    return len(one) == len(two) and all(
        np.array_equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True)
    )


# ---- the order of training ----


def test_no_image_comes_twice_in_an_epoch_and_few_are_left_out(train: Split):
    seen: set[int] = set()
    for epoch in range(4):
        rows = np.concatenate([rows for rows, _ in batches(train, epoch)]).tolist()
        assert len(rows) == len(set(rows))
        assert len(rows) > len(train) - 8  # less than a batch is left over
        seen |= set(rows)
    assert seen == set(range(len(train)))  # and never the same ones


def test_groups_stay_together(train: Split):
    groups = train.store.groups
    assert (groups >= 0).sum() >= 8
    for epoch in range(3):
        for rows, _ in batches(train, epoch):
            assert len(rows) <= 8
            for group in set(groups[rows]) - {-1}:
                assert set(np.flatnonzero(groups == group)) <= set(rows)


def test_captions_belong_to_the_images_of_the_batch(train: Split):
    for rows, captions in batches(train, captions=3):
        assert len(captions) == 3 * len(rows) == len(set(captions))
        assert train.image[captions].tolist() == np.repeat(rows, 3).tolist()


def test_which_captions_are_taken_changes_by_epoch(train: Split):
    taken = {c for epoch in range(12) for rows, captions in batches(train, epoch, captions=2) for c in captions.tolist()}
    assert len(taken) > 0.95 * len(train.image)


def test_the_seed_and_the_epoch_decide(train: Split):
    assert same(batches(train, 1), batches(train, 1))
    assert not same(batches(train, 1), batches(train, 2))
    assert not same(batches(train, 1), batches(train, 1, seed=1))


@pytest.mark.parametrize("images", [4, 8, 34, 100])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch(train: Split, world: int, images: int):
    """Together they have the batch of one process, image by image with the same captions; each has about as many."""
    parts = [batches(train, 3, images, rank=rank, world=world) for rank in range(world)]
    for whole, *shares in zip(batches(train, 3, images), *parts, strict=True):
        for field in (0, 1):
            assert np.concatenate([share[field] for share in shares]).tolist() == whole[field].tolist()
        sizes = [len(rows) for rows, _ in shares]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 3  # twins stay together


def test_twins_are_shared_out_together(train: Split):
    groups = train.store.groups
    for rank in range(2):
        for rows, _ in batches(train, 0, 12, rank=rank, world=2):
            for group in set(groups[rows].tolist()) - {-1}:
                assert np.count_nonzero(groups[rows] == group) == np.count_nonzero(groups == group)


def test_images_without_captions_are_not_trained_on(odd: Split):
    assert {row for epoch in range(3) for rows, _ in batches(odd, epoch, images=2) for row in rows.tolist()} == {0, 1, 3, 4}


# ---- the order of evaluation ----


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_covers_images_and_captions_once(train: Split, world: int):
    rows, captions = [], []
    for rank in range(world):
        blocks = list(EvaluationBatches(train, 8, rank, world))
        rows += [row for part, _ in blocks for row in part.tolist()]
        captions += [caption for _, part in blocks for caption in part.tolist()]
        assert all(len(part) == 0 or len(other) == 0 for part, other in blocks)
    assert sorted(rows) == list(range(len(train)))
    assert sorted(captions) == list(range(len(train.image)))


# ---- what is in a batch ----


def test_a_batch_says_which_caption_is_whose(train: Split):
    rows, captions = np.array([7, 2, 30]), np.array([150, 10, 151, 36])
    batch = train[rows, captions]
    assert batch.image.tolist() == [2, 1, 2, 0]
    assert batch.rows.tolist() == [7, 2, 30]
    assert batch.regions.features.shape == (3, 36, 2048)
    assert batch.regions.features.dtype == torch.float16  # as stored: the model casts them
    torch.testing.assert_close(batch.regions.boxes, torch.from_numpy(train.store.boxes[rows]))
    assert batch.sentences.mask.sum(1).tolist() == np.diff(train.parse.offsets)[captions].tolist()


def test_a_batch_of_captions_alone(train: Split):
    batch = train[np.zeros(0, np.int64), np.array([3, 4])]
    assert batch.image.tolist() == [-1, -1]
    assert len(batch.regions.features) == 0
    empty = train[np.array([1]), np.zeros(0, np.int64)]
    assert len(empty.sentences.words) == 0


def test_sentences_are_the_words_of_the_parse(train: Split):
    sentences = train.sentences(np.array([5, 9]))
    vocabulary = dict(zip(range(2, 2000), Vocabulary.load(train.store.path.parent / "vocab.json").words[2:], strict=False))
    for row, caption in enumerate((5, 9)):
        start, stop = train.parse.offsets[caption : caption + 2]
        words = [word.lower() for word in train.parse.words[start:stop]]
        got = [vocabulary.get(word, "unknown") for word in sentences.words[row, : stop - start].tolist()]
        assert [g for g in got if g != "unknown"] == [w for g, w in zip(got, words, strict=True) if g != "unknown"]
        width = stop - start
        near = [[2 + NEXT if i == j + 1 else 2 + len(TYPES) + NEXT if i == j - 1 else SELF if i == j else -1
                 for j in range(width)] for i in range(width)]  # fmt: skip
        assert sentences.relations[row, :width, :width].tolist() == near
        assert (sentences.relations[row, width:] == -1).all()
        assert (sentences.relations[row, :, width:] == -1).all()
        assert not sentences.words[row, stop - start :].any()


def test_an_empty_caption_is_one_unknown_word(odd: Split):
    sentences = odd.sentences(np.array([1, 2, 6, 3]))
    assert sentences.mask.sum(1).tolist() == [1, 4, 1, 1]
    assert sentences.words[0].tolist() == [1, 0, 0, 0]
    assert sentences.words[2].tolist() == [1, 0, 0, 0]
    assert sentences.words[3, 0] > 1
    assert (sentences.relations[0] >= 0).nonzero().tolist() == [[0, 0]]
    assert sentences.relations[0, 0, 0] == SELF


def test_ragged_regions_and_missing_labels(odd: Split):
    regions = odd.regions(np.array([1, 0, 4]))
    assert regions.mask.tolist() == [[True, False, False], [True] * 3, [True, True, False]]
    assert (regions.labels == -1).all()
    assert (regions.features[0, 1:] == 0).all()


# ---- the module ----


def loaded(batch: Batch) -> list[torch.Tensor]:
    return [batch.rows, *batch.regions, batch.captions, *batch.sentences, batch.image]


def test_two_workers_give_the_batches_of_none(scenes: Path):
    ways = []
    for workers in (0, 2):
        data = RetrievalData(str(scenes), "chain", images=16, workers=workers)
        ways.append([[loaded(batch) for batch in loader] for loader in (data.train_dataloader(), data.val_dataloader())])
    for one, two in zip(*ways, strict=True):
        assert len(one) == len(two) > 0
        for batch, other in zip(one, two, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


def test_what_the_model_needs_to_know(scenes: Path):
    data = RetrievalData(str(scenes), "chain")
    store, vocabulary = RegionStore(scenes / "train.h5"), Vocabulary.load(scenes / "vocab.json")
    assert data.feature_dim == 2048
    assert data.objects == store.labels.max() + 1
    assert data.words == len(vocabulary)
    assert data.text_source.startswith(f"chain 1 (chain), graph {VERSION}, vocabulary ")
    assert RetrievalData(str(scenes), "bundled").text_source != data.text_source


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("dim", 9, "expected 9 numbers a region, as in train.h5, got 2048 numbers a region"),
        ("labels", None, "expected no labels of objects, as in train.h5, got labels of objects"),
        ("boxes_known", False, "expected no boxes, as in train.h5, got boxes"),
    ],
)
def test_splits_of_two_extractors_are_refused(scenes: Path, field: str, value: object, line: str):
    data = RetrievalData(str(scenes), "chain")
    setattr(data.split("fit").store, field, value)
    with pytest.raises(DataError, match=rf"test\.h5: {re.escape(line)}; use one extractor for all splits"):
        data.split("test")


def test_a_folder_with_one_split_is_enough_to_evaluate(scenes: Path, tmp_path: Path):
    for path in [*scenes.glob("test.*"), scenes / "vocab.json"]:
        shutil.copy(path, tmp_path / path.name)
    data = RetrievalData(str(tmp_path), "chain")
    assert data.feature_dim == 2048
    assert len(list(data.test_dataloader())) == len(data.test_dataloader())


# ---- files that do not belong together ----


def put(root: Path, source: str, target: str) -> None:
    shutil.copy(root / source, root / target)


WRONG = {
    "captions of others": (
        lambda d: put(d, "dev.captions.h5", "train.captions.h5"),
        "train.captions.h5: expected the features dev.h5",
    ),
    "features of others": (lambda d: put(d, "dev.h5", "train.h5"), "train.captions.h5: expected the features train.h5"),
    "parse of others": (
        lambda d: put(d, "dev.parse-chain.h5", "train.parse-chain.h5"),
        "train.parse-chain.h5: expected the captions",
    ),
    "parse is missing": (
        lambda d: (d / "train.parse-chain.h5").unlink(),
        "train.parse-chain.h5: expected the parse of train.captions.h5",
    ),
    "features are missing": (lambda d: (d / "train.h5").unlink(), "train.h5: no such file"),
    "truncated": (lambda d: os.truncate(d / "train.h5", 10**5), "train.h5: expected an HDF5 file, got a truncated file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_do_not_fit_are_named(name: str, copy: Path):
    damage, says = WRONG[name]
    damage(copy)
    with pytest.raises(DataError) as caught:
        split_of(copy)
    assert f"{copy}/{says}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_of_two_parsers_are_refused(copy: Path):
    put(copy, "dev.parse-bundled.h5", "dev.parse-chain.h5")
    data = RetrievalData(str(copy), "chain")
    data.split("fit")
    with pytest.raises(DataError, match=r"dev\.parse-chain\.h5: expected a parse by chain"):
        data.split("validate")


def test_captions_written_anew_need_a_new_parse(copy: Path):
    """Not one word differs, only whose caption it is."""
    captions = CaptionStore(copy / "train.captions.h5")
    image = np.roll(captions.image, 1)
    write_captions(captions.path, captions.texts, image, RegionStore(copy / "train.h5"))
    with pytest.raises(DataError, match="parse these captions again"):
        split_of(copy)
    prepare_texts(copy, "chain", threshold=2)
    assert np.array_equal(split_of(copy).image, image)


@pytest.mark.parametrize("options", [{"images": 1}, {"captions": 0}, {"workers": -1}])
def test_numbers_that_make_no_batch(scenes: Path, options: dict):
    with pytest.raises(DataError, match=f"expected {next(iter(options))} of at least"):
        RetrievalData(str(scenes), **options)
