"""The validator: a summary of good files, and for every way to be bad one line that names the first bad record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from racg_pl.captions import CaptionStore, write_captions, write_parse
from racg_pl.check import check
from racg_pl.errors import DataError
from racg_pl.features import RegionStore, RegionWriter
from racg_pl.scene_truth import Truth
from test_captions import IMAGE, PARSE, TEXTS

R, D, N = 3, 4, 70  # more than one block


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    with RegionWriter(tmp_path / "train.h5", R, D, dtype="float32", extractor="test", source="a/train_ims.npy") as writer:
        for index in range(N):
            count = 2 + index % 2
            features, boxes = rng.random((count, D)), np.tile([0.25, 0, 1, 0.5], (count, 1))
            labels = np.arange(count) - 1
            writer.add(f"id{index}", features, boxes, labels, rng.random(count), (640, 480), -1)
    store = RegionStore(tmp_path / "train.h5")
    write_captions(tmp_path / "train.captions.h5", TEXTS, IMAGE, store)
    write_parse(tmp_path / "train.parse-bundled.h5", PARSE, CaptionStore(tmp_path / "train.captions.h5"))
    counts = {"dog": 5, "a": 4, "cat": 1}
    (tmp_path / "vocab.json").write_text(json.dumps({"schema": "racg_pl.vocab/1", "threshold": 4, "counts": counts}))
    return tmp_path


def test_summaries(root: Path) -> None:
    regions = check(root / "train.h5")
    assert "70 images × 2 to 3 of 3 regions × 4, float32" in regions
    assert "extractor  test, source train_ims.npy" in regions
    assert "60.0% of the regions" in regions
    assert "also has   scores, sizes, groups" in regions
    assert "ids        id0, id1, … id69" in regions
    assert RegionStore(root / "train.h5").sha256 in regions
    captions = check(root / "train.captions.h5")
    assert "4 captions of 70 images" in captions
    assert "0 to 2 captions; 68 images have none" in captions
    assert "1 are empty" in captions
    assert "train.h5 (which lies beside it and fits)" in captions
    parse = check(root / "train.parse-bundled.h5")
    assert "4 captions, 8 words, parsed by bundled 1.0 (ud)" in parse
    assert "0 to 4 a caption, 7 different ones" in parse
    assert "0.75 a caption" in parse
    assert "1.2 edges a caption: function 60%, agent 20%, attribute 20%" in parse
    assert "3 words, 2 of them at least 4 times (90.0% of the running words)" in check(root / "vocab.json")
    (root / "train.h5").unlink()
    assert "not in this folder, so not compared" in check(root / "train.captions.h5")


def put(name: str, place: object, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][place] = value

    return change


def again(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    """Replace a data set by another."""

    def change(file: h5py.File) -> None:
        data = make(file[name][:])
        del file[name]
        file[name] = data

    return change


def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def remove(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


REGIONS = {
    "nan": (
        put("features", (66, 1, 2), np.nan),
        "record 66 ('id66'): expected finite features, got nan in region 1, dimension 2",
    ),
    "infinite": (put("features", (5, 0, 0), np.inf), "record 5 ('id5'): expected finite features, got inf in region 0"),
    "right of the image": (
        put("boxes", (7, 1, 2), 1.5),
        "record 7 ('id7'): expected boxes within [0, 1], got [0.25, 0.0, 1.5, 0.5] in",
    ),
    "inverted": (put("boxes", (7, 1, 0), 1), "record 7 ('id7'): expected boxes with x1 < x2 and y1 < y2"),
    "nan box": (put("boxes", (7, 0, 0), np.nan), "record 7 ('id7'): expected boxes finite numbers"),
    "same id": (put("ids", 68, "id3"), "record 68 ('id3'): expected unique ids, got one that record 3 has too"),
    "negative count": (put("counts", 1, -1), "record 1 ('id1'): expected a count of 1 to 3 real regions, got -1"),
    "count over R": (put("counts", 1, 4), "record 1 ('id1'): expected a count of 1 to 3 real regions, got 4"),
    "count too small": (put("counts", 1, 2), "record 1 ('id1'): expected zeros behind its 2 real regions, got other numbers"),
    "label": (put("labels", (2, 0), -5), "record 2 ('id2'): expected labels of −1 (unknown) or more, got -5"),
    "score": (put("scores", (2, 0), np.nan), "record 2 ('id2'): expected finite scores, got nan"),
    "size": (put("sizes", (2, 0), -1), "record 2 ('id2'): expected a width and a height (0 unknown), got [-1, 480]"),
    "group": (put("groups", 2, -7), "record 2 ('id2'): expected a group of −1 (none) or more, got -7"),
    "id that is no UTF-8": (put("ids", 2, b"\xe9"), "record 0 or one of the 63 behind it cannot be read ('utf-8' codec"),
    "changed features": (put("features", (9, 0, 0), 0.123), "it was changed after it was written"),
    "changed size": (put("sizes", (9, 0), 1), "it was changed after it was written"),
    "dtype": (again("features", lambda x: x.astype("f8")), "features: expected float16 or float32, got float64"),
    "counts dtype": (again("counts", lambda x: x.astype("i8")), "counts: expected int32, got int64"),
    "ids as numbers": (again("ids", lambda x: np.arange(len(x))), "ids: expected text, got int64"),
    "rank": (again("features", lambda x: x[:, 0]), "features: expected the shape [N=70, R, D], got [70, 4]"),
    "fewer boxes": (again("boxes", lambda x: x[:-1]), "boxes: expected the shape [N=70, R=3, 4], got [69, 3, 4]"),
    "five corners": (
        again("boxes", lambda x: np.pad(x, ((0, 0), (0, 0), (0, 1)))),
        "boxes: expected the shape [N=70, R=3, 4], got",
    ),
    "no boxes": (remove("boxes"), "expected the data set boxes, got none"),
    "no hash": (lambda file: file.attrs.__delitem__("sha256"), "expected the attribute sha256 (str), got None"),
    "schema": (attribute("schema", "racg_pl.regions/9"), "got racg_pl.regions/9, of another version; write the file again"),
    "another kind": (attribute("schema", "racg_pl.other/1"), "got 'racg_pl.other/1'; is this the right file?"),
}
CAPTIONS = {
    "missing image": (put("image", 2, 70), "record 2: expected an image in 0..69, got 70"),
    "negative image": (put("image", 2, -1), "record 2: expected an image in 0..69, got -1"),
    "Latin-1": (put("text", 1, b"caf\xe9"), "text: record 1: expected UTF-8, got b'caf\\xe9'"),
    "changed": (put("text", 1, "cat"), "it was changed after it was written"),
    "lengths": (again("image", lambda x: x[:-1]), "image: expected the shape [C=4], got [3]"),
    "image dtype": (again("image", lambda x: x.astype("i4")), "image: expected int64, got int32"),
}
PARSES = {
    "head": (put("heads", 6, 3), "record 2, word 2: expected heads inside the caption, in 0..2, got 3"),
    "offsets": (put("offsets", 2, 2), "offsets: record 1: expected offsets that rise from 0 to 8, got [4, 2]"),
    "label": (put("labels", 0, 9), "record 0, word 0: expected labels in 0..3, got 9"),
    "changed": (put("words", 0, "The"), "it was changed after it was written"),
    "scheme": (attribute("scheme", "clear"), "it was changed after it was written"),
    "edge": (put("edges", 0, (1, 4, 0)), "record 0: expected edges between two words in 0..3"),
    "changed edge": (put("edges", 0, (1, 0, 7)), "it was changed after it was written"),
    "edge offsets": (put("edge_offsets", 2, 2), "edge_offsets: record 1: expected offsets that rise from 0 to 5, got [3, 2]"),
    "no offsets": (remove("offsets"), "expected the data set offsets, got none"),
}
BAD = {("train.h5", case): x for case, x in REGIONS.items()}
BAD |= {("train.captions.h5", case): x for case, x in CAPTIONS.items()}
BAD |= {("train.parse-bundled.h5", case): x for case, x in PARSES.items()}


@pytest.mark.parametrize(("name", "case"), BAD)
def test_bad_files(root: Path, name: str, case: str) -> None:
    change, message = BAD[name, case]
    with h5py.File(root / name, "r+") as file:
        change(file)
    with pytest.raises(DataError) as error:
        check(root / name)
    assert str(error.value).startswith(f"{root / name}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files(root: Path, keep: float) -> None:
    data = (root / "train.h5").read_bytes()
    (root / "train.h5").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=r"train\.h5: expected an HDF5 file, got .*; copy or write it again"):
        check(root / "train.h5")


def test_damaged_bytes_are_never_a_traceback(root: Path) -> None:
    """Overwrite 64 bytes at each of 40 places: the summary, or a line."""
    data = (root / "train.h5").read_bytes()
    damaged = root / "damaged.h5"
    good = check(root / "train.h5").splitlines()[1:]
    for place in np.linspace(0, len(data) - 64, 40).astype(int):
        damaged.write_bytes(data[:place] + b"\x01" * 64 + data[place + 64 :])
        try:
            result = check(damaged).splitlines()[1:]
        except DataError as error:
            result = str(error).splitlines()
        assert result == good or len(result) == 1  # the place was unused, or there is one line


def test_partners_that_do_not_fit(root: Path) -> None:
    store = RegionStore(root / "train.h5")
    write_captions(root / "train.captions.h5", TEXTS[:2], [0, 0], store)
    with pytest.raises(DataError, match=r"train\.captions\.h5: expected captions with sha256"):
        check(root / "train.parse-bundled.h5")
    with RegionWriter(root / "train.h5", 1, 1, extractor="test") as writer:
        writer.add("x", [[1.0]], [[0, 0, 1, 1]])
    with pytest.raises(DataError, match=r"train\.h5: expected features with sha256"):
        check(root / "train.captions.h5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected a vocabulary in JSON"),
        ("[" * 100_000, "expected a vocabulary in JSON"),
        ("[]", "expected the schema 'racg_pl.vocab/1' with counts by word, got 'list'"),
        ("{}", "expected the schema 'racg_pl.vocab/1' with counts by word, got None"),
        (
            '{"schema": "racg_pl.vocab/1", "threshold": 0, "counts": {}}',
            "threshold: expected a whole number of 1 or more, got 0",
        ),
        ('{"schema": "racg_pl.vocab/1", "threshold": 4, "counts": []}', "counts: expected a count for each word, got list"),
        (
            '{"schema": "racg_pl.vocab/1", "threshold": 4, "counts": {"a": 1, "b": 0}}',
            "counts: 'b': expected a lower-cased word with a count of 1 or more, got 0",
        ),
        (
            '{"schema": "racg_pl.vocab/1", "threshold": 1, "counts": {"Dog": 5, "": 7}}',
            "counts: 'Dog': expected a lower-cased word with a count of 1 or more, got 5",
        ),
    ],
)
def test_bad_vocabularies(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(DataError) as error:
        check(tmp_path / "vocab.json")
    assert str(error.value).startswith(f"{tmp_path / 'vocab.json'}: {message}")
    assert "\n" not in str(error.value)


def test_the_truth_about_scenes(copy: Path) -> None:
    for path in copy.glob("*.h5"):
        check(path)
    path = copy / "test.truth.h5"
    truth, said = Truth(path), check(path).splitlines()
    assert said[0] == f"{path}: the truth about 20 pictures of Scenes, split test of 60 drawn with seed 0"
    kinds = [int((truth.twin_kind == kind).sum()) for kind in (1, 2)]
    assert said[1].startswith(f"  pictures   {len(truth.classes)} objects, {len(truth.relations)} relations; ")
    assert said[1].endswith("; twins: {} of attribute, {} of relation".format(*kinds))
    assert said[2:] == [
        "  features   test.h5 (which lies beside it and fits)",
        "  captions   test.captions.h5 (which lies beside it and fits)",
    ]
    (copy / "test.captions.h5").write_bytes((copy / "dev.captions.h5").read_bytes())
    with pytest.raises(DataError, match=r"test\.captions\.h5: expected captions with sha256"):
        check(path)
    (copy / "test.captions.h5").unlink()
    assert "captions   test.captions.h5 (not in this folder, so not compared)" in check(path)
    with h5py.File(path, "r+") as file:
        file.attrs["ceilings"] = "{"
    with pytest.raises(DataError, match=r"test\.truth\.h5: this file cannot be read \(.*\); copy or write the file again"):
        check(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "x.h5", "no such file"),
        (tmp_path, "got a folder"),
        (tmp_path / "v.json", "No such file"),
    ):
        with pytest.raises(DataError, match=message):
            check(path)
