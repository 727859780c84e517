"""Noun phrases of captions with the boxes that a human, or the generator of Scenes, says they speak of; and their words in a parse.

A phrases file is JSON in UTF-8, an object from each image's id to its phrases, each an object with

    caption   which of the image's captions, 0 the first in the order of SPLIT.captions.h5
    phrase    its words
    type      of what they speak, such as people; of several types at once "people/animals", and such a phrase counts in each
    boxes     one or more [x1, y1, x2, y2] in [0, 1]

Images without phrases may be left out. In place of such a file stands the folder of Flickr30k Entities, see readers/entities.py.

A phrase is found in its caption by letters and digits alone, whatever case, spaces and hyphens, where it begins and ends with a word;
else inside longer words ("stage" in "onstage"). One that stands there m times and is listed m times is taken in that order; listed
more or less often, each listing means all its places together. One that is nowhere has no words.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from racg_pl.data import Split
from racg_pl.errors import DataError
from racg_pl.readers.entities import read_entities
from racg_pl.readers.files import parsed_json, read_bytes
from racg_pl.scene_draw import ANIMALS, PEOPLE
from racg_pl.scene_truth import Truth

KEYS = {"caption", "phrase", "type", "boxes"}
FOUND = {
    "generated": "named by the generator",
    "verbatim": "as whole words, as written but for case",
    "respelt": "as whole words by letters and digits alone",
    "inside": "inside longer words",
    "nowhere": "nowhere, which count as misses",
}


class Phrase(NamedTuple):
    """caption: index into the split.  text: as listed.  kind: of what it speaks.  boxes: float64 [G,4].  words: places in the parse,
    none where it is not found.  found: one of FOUND.  repeated: where it stands more than once, "in order" or "together", else ""."""

    caption: int
    text: str
    kind: str
    boxes: NDArray[np.float64]
    words: tuple[int, ...]
    found: str
    repeated: str


def phrases_file(path: Path, split: Split) -> bytes:
    """A phrases file, as it is, or of a folder of Flickr30k Entities what one would hold of the split. Raises: DataError."""
    if not path.is_dir():
        return read_bytes(path)
    texts = {name: [split.texts[caption] for caption in split.captions_of(row)] for row, name in enumerate(split.store.ids)}
    return (json.dumps(read_entities(path, texts), ensure_ascii=False, indent=1) + "\n").encode()


def read_phrases(path: Path, split: Split, raw: bytes | None = None) -> list[Phrase]:
    """The phrases of a file or folder, by caption as the split counts them, each caption's in the file's order.

    Args: raw: its `phrases_file`, where that is there.
    Raises: DataError naming the first entry that is no phrase, or speaks of an image or a caption that the split does not have.
    """
    content = parsed_json(phrases_file(path, split) if raw is None else raw, path)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: expected an object from image ids to phrases, got something else; see racg_pl/phrases.py")
    rows = {name: row for row, name in enumerate(split.store.ids)}
    listed: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for name, entries in content.items():
        if name not in rows:
            known = f"{split.store.path} ({split.store.ids[0]} …)"
            raise DataError(f"{path}: {name}: expected an image of {known}, got none of its ids; name the split of this file")
        captions = split.captions_of(rows[name])
        if not isinstance(entries, list):
            raise DataError(f"{path}: {name}: expected a list of phrases, got {type(entries).__name__}")
        for number, entry in enumerate(entries):
            if fault := _fault(entry, len(captions)):
                raise DataError(f"{path}: {name}: phrase {number}: {fault}")
            listed[int(captions[entry["caption"]])].append(entry)
    phrases = []
    for caption, entries in sorted(listed.items()):
        words = words_of(split, caption)
        found = places([entry["phrase"] for entry in entries], words)
        for entry, (where, how, repeated) in zip(entries, found, strict=True):
            if how == "respelt" and entry["phrase"].lower() in split.texts[caption].lower():
                how = "verbatim"
            boxes = np.array(entry["boxes"], np.float64)
            phrases.append(Phrase(caption, entry["phrase"], entry["type"], boxes, where, how, repeated))
    if not phrases:
        raise DataError(f"{path}: expected phrases, got none for any image")
    return phrases


def _fault(entry: object, captions: int) -> str | None:
    """What is wrong with an entry of a phrases file, in words, or None."""
    if not isinstance(entry, dict) or not entry.keys() >= KEYS:
        return f"expected an object with {', '.join(sorted(KEYS))}, got {str(entry)[:80]}"
    caption, boxes = entry["caption"], entry["boxes"]
    if type(caption) is not int or not 0 <= caption < captions:
        return f"expected a caption in 0..{captions - 1}, got {caption!r}"
    for key in ("phrase", "type"):
        if not isinstance(entry[key], str) or not entry[key].strip():
            return f"expected a text as its {key}, got {entry[key]!r}"
    if not isinstance(boxes, list) or not boxes:
        return f"expected a list of boxes, got {str(boxes)[:80]}"
    for box in boxes:
        if not isinstance(box, list) or len(box) != 4 or not all(type(x) in (int, float) for x in box):
            return f"expected boxes of four numbers, got {str(box)[:80]}"
        if not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            return f"expected boxes as x1 < x2 and y1 < y2 in [0, 1], got {box}; divide corners by width and height"
    return None


def scene_phrases(truth: Truth, split: Split) -> list[Phrase]:
    """What each caption of Scenes calls an object of its picture, with the object's true box.

    Raises: DataError unless truth and captions belong together.
    """
    truth.require_split(split)
    phrases = []
    for caption, image in enumerate(split.image):
        spans = truth.spans_of(caption)
        objects = truth.objects_of(int(image))
        text, owner = split.texts[caption], _owners(words_of(split, caption), split.texts[caption])
        for number in sorted({thing for _, _, thing in spans}):
            said = [(first, end) for first, end, thing in spans if thing == number]
            words = {owner[place] for first, end in said for place in range(first, end)} - {-1}
            name = " ".join(text[first:end] for first, end in said)
            thing = objects[number]
            kind = "people" if thing.name in PEOPLE else "animals" if thing.name in ANIMALS else "things"
            phrases.append(Phrase(caption, name, kind, np.array([thing.box]), tuple(sorted(words)), "generated", ""))
    return phrases


def words_of(split: Split, caption: int) -> list[str]:
    """The words of a caption as they were parsed."""
    first, last = split.parse.offsets[caption : caption + 2]
    return split.parse.words[first:last]


def _owners(words: Sequence[str], text: str) -> list[int]:
    """The word that each character of a text belongs to, −1 white space. Words end to end are the text without white space."""
    owner = iter([place for place, word in enumerate(words) for _ in word])
    return [-1 if character.isspace() else next(owner) for character in text]


def letters(words: Sequence[str]) -> tuple[str, list[int]]:
    """Letters and digits of words end to end, in lower case, and the word that each belongs to."""
    pairs = [(letter, place) for place, word in enumerate(words) for letter in word.lower() if letter.isalnum()]
    return "".join(letter for letter, _ in pairs), [place for _, place in pairs]


def occurrences(phrase: str, words: Sequence[str]) -> tuple[list[tuple[int, ...]], str]:
    """The words of each place at which a phrase stands, and how it was found: "respelt", "inside" or "nowhere" of FOUND."""
    wanted, (text, owner) = letters([phrase])[0], letters(words)
    whole: list[tuple[int, ...]] = []
    inside: list[tuple[int, ...]] = []
    first = text.find(wanted) if wanted else -1
    while first >= 0:
        end = first + len(wanted)
        begins = not first or owner[first - 1] != owner[first]
        ends = end == len(text) or owner[end] != owner[end - 1]
        (whole if begins and ends else inside).append(tuple(dict.fromkeys(owner[first:end])))
        first = text.find(wanted, first + 1)
    return (whole, "respelt") if whole else (inside, "inside") if inside else ([], "nowhere")


def places(phrases: Sequence[str], words: Sequence[str]) -> list[tuple[tuple[int, ...], str, str]]:
    """For each listed phrase of one caption: its words, how it was found, and how repeated, see Phrase."""
    keys = [letters([phrase])[0] for phrase in phrases]
    answer: list[tuple[tuple[int, ...], str, str]] = []
    for number, (phrase, key) in enumerate(zip(phrases, keys, strict=True)):
        found, how = occurrences(phrase, words)
        if in_order := len(found) == keys.count(key):
            where = found[keys[:number].count(key)]
        else:
            where = tuple(sorted({place for one in found for place in one}))
        answer.append((where, how, "" if len(found) < 2 else "in order" if in_order else "together"))
    return answer
