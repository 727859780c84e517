"""Captions and parses on disk: value round trips, hashes that bind each file to its own, one line for each wrong input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from racg_pl.captions import ARRAYS, CaptionStore, ParseStore, write_captions, write_parse
from racg_pl.errors import DataError
from racg_pl.features import RegionStore, RegionWriter
from racg_pl.semantics import TYPES, VERSION

TEXTS = ["A dog runs .", "", "naïve 犬 🐕", "dog"]
IMAGE = np.array([2, 0, 2, 0])  # neither in order nor equally many an image; image 1 has none


@dataclass
class Parse:
    """The smallest thing that `write_parse` takes: a parse of TEXTS."""

    words: list[str]
    heads: np.ndarray
    labels: np.ndarray
    label_names: list[str]
    tags: np.ndarray
    tag_names: list[str]
    offsets: np.ndarray
    edges: np.ndarray
    edge_offsets: np.ndarray
    parser: str = "bundled"
    version: str = "1.0"
    scheme: str = "ud"


PARSE = Parse(
    words=["A", "dog", "runs", ".", "naïve", "犬", "🐕", "dog"],
    heads=np.array([1, 2, 2, 2, 1, 1, 1, 0]),
    labels=np.array([0, 1, 2, 3, 0, 2, 0, 2]),
    label_names=["det", "nsubj", "ROOT", "punct"],
    tags=np.array([0, 1, 2, 3, 0, 1, 1, 1]),
    tag_names=["DET", "NOUN", "VERB", "PUNCT"],
    offsets=np.array([0, 4, 4, 7, 8]),
    edges=np.array([[1, 0, 13], [2, 1, 0], [2, 3, 13], [1, 0, 7], [1, 2, 13]]),
    edge_offsets=np.array([0, 3, 3, 5, 5]),
)


def make_store(path: Path, images: int = 3) -> RegionStore:
    with RegionWriter(path, 2, 3, extractor="test") as writer:
        for index in range(images):
            writer.add(f"id{index}", np.ones((2, 3)), [[0, 0, 1, 1], [0, 0, 0.5, 1]])
    return RegionStore(path)


@pytest.fixture
def store(tmp_path: Path) -> RegionStore:
    return make_store(tmp_path / "train.h5")


@pytest.fixture
def captions(tmp_path: Path, store: RegionStore) -> CaptionStore:
    write_captions(tmp_path / "train.captions.h5", TEXTS, IMAGE, store)
    return CaptionStore(tmp_path / "train.captions.h5")


def test_captions_round_trip(captions: CaptionStore, store: RegionStore) -> None:
    assert captions.texts == TEXTS
    assert len(captions) == 4
    np.testing.assert_array_equal(captions.image, IMAGE)
    assert captions.image.dtype == np.int64
    assert (captions.features, captions.features_sha256, captions.images) == ("train.h5", store.sha256, 3)
    captions.require(store)


def test_captions_of_other_features_are_refused(tmp_path: Path, captions: CaptionStore) -> None:
    other = make_store(tmp_path / "other.h5", images=4)
    with pytest.raises(DataError) as error:
        captions.require(other)
    message = str(error.value)
    for part in (
        str(captions.path),
        str(other.path),
        captions.features_sha256[:12],
        other.sha256[:12],
        "write the captions again",
    ):
        assert part in message
    assert "\n" not in message


def test_parse_round_trip(tmp_path: Path, captions: CaptionStore) -> None:
    write_parse(tmp_path / "p.h5", PARSE, captions)
    parse = ParseStore(tmp_path / "p.h5")
    assert len(parse) == 4
    for name in ("words", "label_names", "tag_names", "parser", "version", "scheme"):
        assert getattr(parse, name) == getattr(PARSE, name)
    assert (parse.graph, tuple(parse.type_names)) == (VERSION, TYPES)
    dtypes = ("int32", "int16", "int16", "int64", "int32", "int64")
    for name, dtype in zip(ARRAYS, dtypes, strict=True):
        assert getattr(parse, name).dtype == dtype
        np.testing.assert_array_equal(getattr(parse, name), getattr(PARSE, name))
    parse.require(captions)


def test_parse_of_other_captions_is_refused(tmp_path: Path, captions: CaptionStore, store: RegionStore) -> None:
    write_parse(tmp_path / "p.h5", PARSE, captions)
    write_captions(tmp_path / "new.captions.h5", [*TEXTS[:3], "cat"], IMAGE, store)
    with pytest.raises(DataError, match=r"p\.h5: expected the captions with sha256 .* parse these captions again"):
        ParseStore(tmp_path / "p.h5").require(CaptionStore(tmp_path / "new.captions.h5"))


def test_a_parse_may_have_no_words_or_tags(tmp_path: Path, store: RegionStore) -> None:
    write_captions(tmp_path / "c.h5", ["", ""], [0, 1], store)
    none, zeros = np.array([], dtype=np.int64), np.array([0, 0, 0])
    write_parse(
        tmp_path / "p.h5",
        Parse([], none, none, ["dep"], none, [], zeros, none.reshape(0, 3), zeros),
        CaptionStore(tmp_path / "c.h5"),
    )
    parse = ParseStore(tmp_path / "p.h5")
    assert (parse.words, parse.tag_names, len(parse)) == ([], [], 2)


def test_same_input_same_bytes(tmp_path: Path, captions: CaptionStore, store: RegionStore) -> None:
    write_captions(tmp_path / "again.h5", TEXTS, IMAGE, store)
    assert (tmp_path / "again.h5").read_bytes() == captions.path.read_bytes()
    for name in ("p.h5", "q.h5"):
        write_parse(tmp_path / name, PARSE, captions)
    assert (tmp_path / "p.h5").read_bytes() == (tmp_path / "q.h5").read_bytes()
    hashes = {captions.sha256}
    for texts, image in ((TEXTS, IMAGE[::-1]), ([*TEXTS[:3], "dogs"], IMAGE)):
        write_captions(tmp_path / "again.h5", texts, image, store)
        hashes.add(CaptionStore(tmp_path / "again.h5").sha256)
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("texts", "image", "message"),
    [
        (TEXTS, [0, 1, 2, 3], "record 3: expected an image in 0..2, got 3"),
        (TEXTS, [0, -1, 2, 2], "record 1: expected an image in 0..2, got -1"),
        (TEXTS, [0, 1, 2], "expected an integer image index for each of 4 captions, got int64 [3]"),
        (TEXTS, [0.0, 1, 2, 2], "expected an integer image index for each of 4 captions, got float64 [4]"),
        ([], [], "expected an integer image index for each of 0 captions"),
        (["a", "b\0c", "d", "e"], IMAGE, "record 1: expected Unicode text without null characters, got 'b\\x00c'"),
        (["a", "b", "\udce9", "e"], IMAGE, "record 2: expected Unicode text"),
        (["a", "b", "c", b"d"], IMAGE, "record 3: expected Unicode text without null characters, got b'd'"),
    ],
)
def test_wrong_captions(tmp_path: Path, store: RegionStore, texts: list, image: list, message: str) -> None:
    with pytest.raises(DataError) as error:
        write_captions(tmp_path / "x.h5", texts, image, store)
    assert str(error.value).startswith(f"{tmp_path / 'x.h5'}: {message}")
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": np.array([1, 2, 4, 2, 1, 1, 1, 0])}, "record 0, word 2: expected heads inside the caption, in 0..3, got 4"),
        ({"heads": np.array([1, 2, 2, 2, 1, 1, 1, 7])}, "record 3, word 0: expected heads inside the caption, in 0..0, got 7"),
        (
            {"heads": np.array([1, 2, 2, 2, 1, -1, 1, 0])},
            "record 2, word 1: expected heads inside the caption, in 0..2, got -1",
        ),
        ({"labels": np.array([0, 1, 2, 4, 0, 2, 0, 2])}, "record 0, word 3: expected labels in 0..3, got 4"),
        ({"tags": np.array([0, 1, 2, 3, 0, 1, 1, -1])}, "record 3, word 0: expected tags in 0..3, got -1"),
        ({"tags": np.array([70000] * 8)}, "tags: expected a flat array of integers that int16 can hold"),
        ({"labels": np.zeros(8)}, "labels: expected a flat array of integers that int16 can hold, got float64 [8]"),
        ({"heads": PARSE.heads[:7]}, "heads: expected one for each of 8 words, got 7"),
        ({"offsets": np.array([0, 4, 3, 7, 8])}, "offsets: record 1: expected offsets that rise from 0 to 8, got [4, 3]"),
        ({"offsets": np.array([1, 4, 4, 7, 8])}, "offsets: record 0: expected offsets that rise from 0 to 8, got [1, 4]"),
        ({"offsets": np.array([0, 4, 4, 7, 7])}, "offsets: record 3: expected offsets that rise from 0 to 8, got [7, 7]"),
        ({"offsets": np.array([0, 4, 8])}, "expected a parse of 4 captions ("),
        ({"words": ["a\0", *PARSE.words[1:]]}, "record 0: expected Unicode text"),
        ({"edges": PARSE.edges[:, :2]}, "edges: expected an [E,3] array of integers that int32 can hold, got int64 [5, 2]"),
        (
            {"edges": PARSE.edges + [[0, 3, 0]] * 5},
            "record 0: expected edges between two words in 0..3 of a type in 0..14, got 2 → 4",
        ),
        (
            {"edges": PARSE.edges * [1, 0, 1] + [0, 1, 0]},
            "record 0: expected edges between two words in 0..3 of a type in 0..14, got 1 → 1",
        ),
        (
            {"edges": np.add(PARSE.edges, [0, 0, 2])},
            "record 0: expected edges between two words in 0..3 of a type in 0..14, got 1 → 0 of type 15",
        ),
        (
            {"edge_offsets": np.array([0, 3, 2, 5, 5])},
            "edge_offsets: record 1: expected offsets that rise from 0 to 5, got [3, 2]",
        ),
        ({"edge_offsets": np.array([0, 3, 3, 5])}, "edge_offsets: expected one for each of 5 offsets, got 4"),
    ],
)
def test_wrong_parses(tmp_path: Path, captions: CaptionStore, change: dict, message: str) -> None:
    with pytest.raises(DataError) as error:
        write_parse(tmp_path / "x.h5", replace(PARSE, **change), captions)
    assert str(error.value).startswith(f"{tmp_path / 'x.h5'}: {message}")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x.h5").exists()


def test_the_wrong_kind_of_file_is_named(store: RegionStore, captions: CaptionStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected the schema racg_pl\.captions/1, got 'racg_pl\.regions/1'"):
        CaptionStore(store.path)
    with pytest.raises(DataError, match=r"expected the schema racg_pl\.parse/2, got 'racg_pl\.captions/1'"):
        ParseStore(captions.path)
    with pytest.raises(DataError, match="no such file"):
        ParseStore(tmp_path / "missing.h5")


def test_a_parse_of_another_version_says_what_to_run(tmp_path: Path, captions: CaptionStore) -> None:
    for attribute, value, message in (
        (
            "schema",
            "racg_pl.parse/1",
            r"p\.h5: expected the schema racg_pl\.parse/2, got racg_pl\.parse/1, of another version; run racg text",
        ),
        ("graph", "0", r"p\.h5: expected semantic graphs of version \d+, got 0; run racg text"),
    ):
        write_parse(tmp_path / "p.h5", PARSE, captions)
        with h5py.File(tmp_path / "p.h5", "a") as file:
            file.attrs[attribute] = value
        with pytest.raises(DataError, match=message):
            ParseStore(tmp_path / "p.h5")
