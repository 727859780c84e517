"""One's own pictures: the lines of data_prep/README.md run as they stand, and arrays in memory come back as they were."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import numpy as np
import pytest

import layouts
from racg_pl import captions
from racg_pl.captions import CaptionStore
from racg_pl.check import check
from racg_pl.cli import main
from racg_pl.convert import store_arrays
from racg_pl.errors import DataError
from racg_pl.features import RegionStore

README = Path(__file__).parents[1] / "data_prep" / "README.md"
PHOTOS = layouts.corpus(4)
GIVEN = {
    "features": [photo.features for photo in PHOTOS],
    "boxes": [photo.relative for photo in PHOTOS],
    "captions": [photo.captions for photo in PHOTOS],
}


def test_readme_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    for split in ("train", "dev", "test"):
        for kind in ("h5", "captions.h5", "parse-bundled.h5"):
            check(tmp_path / "data" / "own" / f"{split}.{kind}")
    assert RegionStore(tmp_path / "data/own/train.h5").ids == ["kitchen.jpg", "dog.jpg"]
    assert (tmp_path / "data" / "own" / "vocab.json").is_file()


def test_arrays_come_back(tmp_path: Path) -> None:
    store = store_arrays(tmp_path / "x.h5", **GIVEN)
    captions = CaptionStore(tmp_path / "x.captions.h5")
    captions.require(store)
    assert store.ids == ["0", "1", "2", "3"]
    for index, photo in enumerate(PHOTOS):
        count = len(photo.features)
        got = store[index]
        assert store.counts[index] == count
        np.testing.assert_array_equal(np.reshape(got.features, (-1, layouts.DIM))[:count], photo.features)
        np.testing.assert_array_equal(np.reshape(got.boxes, (-1, 4))[:count], photo.relative)
    assert captions.texts == [text for photo in PHOTOS for text in photo.captions]
    assert captions.image.tolist() == [index for index, photo in enumerate(PHOTOS) for _ in photo.captions]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": GIVEN["boxes"][1:]}, "boxes: expected one for each of 4 images, got 3"),
        ({"captions": ["one text"] * 4}, "image '0': expected a list of captions, got 'one text'"),
        ({"captions": [["a"], None, ["b"], ["c"]]}, "image '1': expected a list of captions, got None"),
        ({"captions": [["a"], ["b"], 5, ["c"]]}, "image '2': expected a list of captions, got 5"),
        (
            {"captions": [["a"], ["b", "c\0"], ["d"], ["e"]]},
            "image '1': captions: record 1: expected Unicode text without null",
        ),
        ({"captions": [["a"], [], ["b"], ["c"]]}, "image '1': expected a list of captions, got []"),
        ({"features": [*GIVEN["features"][:2], np.ones(3), np.ones(3)]}, "image '2': features: expected the shape"),
    ],
)
def test_one_line_names_the_first_bad_image(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected") as raised:
        store_arrays(tmp_path / "x.h5", **(GIVEN | change))
    assert message in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_name_without_its_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"new/x: expected a name that ends in \.h5, got no suffix; name it x\.h5"):
        store_arrays(tmp_path / "new" / "x", [[[1.0]]], [[[0, 0, 1, 1]]], [["a dog"]])
    assert not list(tmp_path.iterdir())


def test_where_it_fails_the_files_of_before_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_arrays(tmp_path / "x.h5", **GIVEN)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="null characters"):
        store_arrays(tmp_path / "x.h5", **(GIVEN | {"captions": [["b\0"]] * 4}))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(captions, "captions_hash", full)
    other = GIVEN | {"features": [photo.features + 1 for photo in PHOTOS]}
    with pytest.raises(DataError, match=r"x.captions.h5: cannot be written \(No space left on device\)"):
        store_arrays(tmp_path / "x.h5", **other)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    store = store_arrays(tmp_path / "x.h5", **other)
    CaptionStore(tmp_path / "x.captions.h5").require(store)
    assert sorted(tmp_path.iterdir()) == sorted(before)


@pytest.mark.parametrize("table", ["captions.csv", "captions.jsonl"])
def test_folder_with_a_table(table: str, tmp_path: Path) -> None:
    folder = layouts.npz(tmp_path / "pictures", PHOTOS)
    write = layouts.jsonl_table if table.endswith("jsonl") else lambda path, photos: layouts.csv_table(path, photos, False)
    write(folder / table, PHOTOS)
    assert main(["convert", str(folder), "--out", str(tmp_path / "x.h5")]) == 0
    captions = CaptionStore(tmp_path / "x.captions.h5")
    captions.require(RegionStore(tmp_path / "x.h5"))
    assert captions.texts == [text for photo in PHOTOS for text in photo.captions]
