"""Phrases and their words: found by letters, in order where they are repeated, and one line for each wrong file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from racg_pl.data import Split
from racg_pl.errors import DataError
from racg_pl.phrases import occurrences, phrases_file, places, read_phrases, scene_phrases, words_of
from racg_pl.readers.entities import read_entities
from racg_pl.scene_truth import Truth
from racg_pl.text import Vocabulary

WORDS = ["A", "red", "-", "haired", "man", "hands", "the", "cup", "to", "a", "man", "onstage", "."]


@pytest.mark.parametrize(
    ("phrase", "found", "how"),
    [
        ("a red-haired man", [(0, 1, 3, 4)], "respelt"),  # the hyphen is no letter
        ("A redhaired man", [(0, 1, 3, 4)], "respelt"),
        ("the cup", [(6, 7)], "respelt"),
        ("a man", [(9, 10)], "respelt"),
        ("man", [(4,), (10,)], "respelt"),
        ("stage", [(11,)], "inside"),
        ("hair", [(3,)], "inside"),
        ("cup to", [(7, 8)], "respelt"),
        ("a woman", [], "nowhere"),
        ("-", [], "nowhere"),
    ],
)
def test_occurrences(phrase: str, found: list[tuple[int, ...]], how: str):
    assert occurrences(phrase, WORDS) == (found, how)


def test_a_phrase_listed_as_often_as_it_stands_is_taken_in_order():
    words = ["a", "man", "throws", "a", "man", "a", "ball"]
    assert places(["A man", "a ball", "a man"], words) == [
        ((0, 1), "respelt", "in order"),
        ((5, 6), "respelt", ""),
        ((3, 4), "respelt", "in order"),
    ]


def test_a_phrase_listed_less_or_more_often_takes_all_its_places():
    words = ["a", "man", "throws", "a", "man", "a", "ball"]
    assert places(["a man"], words) == [((0, 1, 3, 4), "respelt", "together")]
    assert places(["a man"] * 3, words) == [((0, 1, 3, 4), "respelt", "together")] * 3
    assert places(["a ball", "the ball", "A BALL"], words) == [
        ((5, 6), "respelt", ""),
        ((), "nowhere", ""),
        ((5, 6), "respelt", ""),
    ]


@pytest.fixture(scope="module")
def split(scenes: Path) -> Split:
    return Split(scenes, "test", "bundled", Vocabulary.load(scenes / "vocab.json"))


def test_phrases_of_scenes_are_the_words_of_their_objects(scenes: Path, split: Split):
    truth = Truth(scenes / "test.truth.h5")
    phrases = scene_phrases(truth, split)
    assert sum(len(phrase.words) for phrase in phrases) >= len(truth.spans)
    for phrase in phrases:
        words = [words_of(split, phrase.caption)[place] for place in phrase.words]
        assert "".join(words) == phrase.text.replace(" ", "")
        (box,) = phrase.boxes.tolist()
        named = [thing for thing in truth.objects_of(split.image[phrase.caption]) if list(thing.box) == box]
        assert len(named) == 1
    of_a_caption = {(phrase.caption, tuple(phrase.boxes[0])) for phrase in phrases}
    assert len(of_a_caption) == len(phrases)


def test_the_truth_of_others_is_refused(scenes: Path, split: Split):
    with pytest.raises(DataError, match=r"dev\.truth\.h5: expected the truth about .*test\.h5"):
        scene_phrases(Truth(scenes / "dev.truth.h5"), split)


BOX = [0.1, 0.2, 0.5, 0.6]


def entry(split: Split, caption: int = 0, **changed: object) -> dict:
    text = split.texts[split.captions_of(3)[caption]]
    return {"caption": caption, "phrase": " ".join(text.split()[:2]), "type": "people", "boxes": [BOX]} | changed


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_captions_are_counted_within_their_image(split: Split, tmp_path: Path):
    own = split.captions_of(3)
    content = {split.store.ids[3]: [entry(split, 4), entry(split, 1, type="people/animals", boxes=[BOX, BOX])]}
    second, first = read_phrases(write(tmp_path / "p.json", content), split)[::-1]
    assert (first.caption, second.caption) == (own[1], own[4])
    assert first.kind == "people/animals"
    assert np.array_equal(first.boxes, [BOX, BOX])
    assert second.words[:2] == (0, 1)
    assert {first.found, second.found} == {"verbatim"}


MISTAKES = {
    "a list": (lambda split: [], "expected an object from image ids to phrases"),
    "nothing": (lambda split: {}, "expected an object from image ids to phrases"),
    "no phrase at all": (lambda split: {split.store.ids[0]: []}, "expected phrases, got none"),
    "another split": (lambda split: {"x.jpg": []}, "x.jpg: expected an image of"),
    "no list": (lambda split: {split.store.ids[0]: 3}, "test-00000: expected a list of phrases, got int"),
    "no object": (lambda split: {split.store.ids[3]: [entry(split), "a dog"]}, "test-00003: phrase 1: expected an object with boxes"),
    "no boxes": (lambda split: {split.store.ids[3]: [entry(split, boxes=[])]}, "expected a list of boxes, got []"),
    "pixels": (lambda split: {split.store.ids[3]: [entry(split, boxes=[[1, 2, 30, 40]])]}, "in [0, 1], got [1, 2, 30, 40]; divide"),
    "a width": (lambda split: {split.store.ids[3]: [entry(split, boxes=[[0.5, 0.5, 0.2, 0.2]])]}, "expected boxes as x1 < x2"),
    "NaN": (lambda split: {split.store.ids[3]: [entry(split, boxes=[[0, 0, float("nan"), 1]])]}, "expected boxes as x1 < x2"),
    "three": (lambda split: {split.store.ids[3]: [entry(split, boxes=[[0, 0, 1]])]}, "expected boxes of four numbers"),
    "a sixth": (lambda split: {split.store.ids[3]: [entry(split) | {"caption": 5}]}, "expected a caption in 0..4, got 5"),
    "a caption's id": (lambda split: {split.store.ids[3]: [entry(split) | {"caption": "1"}]}, "in 0..4, got '1'"),
    "no words": (lambda split: {split.store.ids[3]: [entry(split, phrase=" ")]}, "expected a text as its phrase"),
    "no type": (lambda split: {split.store.ids[3]: [entry(split, type=None)]}, "expected a text as its type, got None"),
}  # fmt: skip


def test_an_image_that_stands_there_twice_is_refused(split: Split, tmp_path: Path):
    name, entries = split.store.ids[3], json.dumps([entry(split)])
    (tmp_path / "p.json").write_text(f'{{"{name}": {entries}, "{name}": {entries}}}')
    with pytest.raises(DataError, match=rf"p.json: '{name}': expected a key once in its object, got it twice; join the two$"):
        read_phrases(tmp_path / "p.json", split)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, split: Split, tmp_path: Path):
    make, says = MISTAKES[name]
    path = write(tmp_path / "p.json", make(split))
    with pytest.raises(DataError) as caught:
        read_phrases(path, split)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# ---- Flickr30k Entities ----

SENTENCES = """\
[/EN#7/people/animals A man and  his dog] hand [/EN#8/other the cup] to [/EN#0/notvisual one] .
[/EN#9/people A man] stands in [/EN#5/scene the yard] .

[/EN#7/people Another] is here , said in no caption .
One sentence too many with [/EN#8/other a cup] .
"""
OBJECT = "<object>{}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
ANNOTATIONS = (
    "<annotation><filename>1.jpg</filename><size><width>100</width><height>50</height><depth>3</depth></size>"
    + OBJECT.format("<name>7</name><name>9</name>", 1, 1, 50, 50)
    + OBJECT.format("<name>7</name>", 51, 26, 100, 50)
    + OBJECT.format("<name>8</name>", 0, 10, 200, 20)
    + OBJECT.format("<name>8</name>", 10, 10, 9, 20)
    + "<object><name>5</name><scene>1</scene><nobndbox>0</nobndbox></object></annotation>"
)
CAPTIONS = ["a man stands in the yard .", "a man and his dog hand the cup to one .", "something else"]


def entities(folder: Path, sentences: str = SENTENCES, annotations: str = ANNOTATIONS) -> Path:
    for name, text in (("Sentences/1.txt", sentences), ("Annotations/1.xml", annotations)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_entities_by_hand(tmp_path: Path):
    """Sentences meet the captions of their letters, others what is left; phrases without a box go; pixels are counted from 1."""
    left, right, clipped = [0, 0, 0.5, 1], [0.5, 0.5, 1, 1], [0, 0.18, 1, 0.4]
    assert read_entities(entities(tmp_path), {"1.jpg": CAPTIONS}) == {
        "1.jpg": [
            {"caption": 0, "phrase": "A man", "type": "people", "boxes": [left]},
            {"caption": 1, "phrase": "A man and his dog", "type": "people/animals", "boxes": [left, right]},
            {"caption": 1, "phrase": "the cup", "type": "other", "boxes": [clipped]},
            {"caption": 2, "phrase": "Another", "type": "people", "boxes": [left, right]},
        ]
    }


def test_a_folder_of_entities_is_a_phrases_file(split: Split, tmp_path: Path):
    """What `racg prepare` keeps of it reads as the same phrases."""
    for row, name in enumerate(split.store.ids):
        texts = [split.texts[caption] for caption in split.captions_of(row)]
        text = "\n".join(
            f"[/EN#8/other {first}] {rest}" for first, _, rest in (text.partition(" ") for text in reversed(texts))
        )
        entities(tmp_path, text, ANNOTATIONS)
        for folder, end in (("Sentences", "txt"), ("Annotations", "xml")):
            (tmp_path / folder / f"1.{end}").rename(tmp_path / folder / f"{name}.{end}")
    found = read_phrases(tmp_path, split)
    assert [one.caption for one in found] == list(range(len(split.texts)))
    assert [one.text for one in found] == [text.split()[0] for text in split.texts]
    assert {one.found for one in found} == {"verbatim"}
    kept = tmp_path / "kept.json"
    kept.write_bytes(phrases_file(tmp_path, split))
    again = read_phrases(kept, split)
    assert [one.words for one in again] == [one.words for one in found]
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize(
    ("sentences", "annotations", "image", "message"),
    [
        (SENTENCES, "<annotation>", "1.jpg", r"1\.xml: expected annotations of Flickr30k Entities, got: no element found"),
        (
            SENTENCES,
            "<annotation></annotation>",
            "1",
            r"1\.xml: expected annotations of Flickr30k Entities, got: invalid literal",
        ),
        (SENTENCES, ANNOTATIONS.replace("100</width", "0</width"), "1", r"1\.xml: .* got: division by zero"),
        (SENTENCES, ANNOTATIONS.replace("<xmin>1<", "<xmin>one<"), "1", r"1\.xml: .* got: invalid literal .* 'one'"),
        (SENTENCES, ANNOTATIONS, "12.jpg", r"Sentences/12\.txt: expected the sentences of image '12\.jpg', got no such file"),
    ],
)
def test_bad_entities_are_one_line(sentences: str, annotations: str, image: str, message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message) as caught:
        read_entities(entities(tmp_path, sentences, annotations), {image: CAPTIONS})
    assert "\n" not in str(caught.value)


def test_half_a_folder_of_entities(tmp_path: Path):
    (tmp_path / "Sentences").mkdir()
    with pytest.raises(DataError, match=r"Annotations: expected a folder of Flickr30k Entities, got none"):
        read_entities(tmp_path, {"1": CAPTIONS})
