"""Flickr30k Entities as its authors publish it: noun phrases of captions, and the boxes that people drew for them.

    Sentences/ID.txt     a caption a line; a phrase in it is [/EN#CHAIN/type/type words of it]
    Annotations/ID.xml   objects of PASCAL VOC, each with the chains that it belongs to and a box in pixels from 1, or with none

Plummer et al., Flickr30k Entities, IJCV 123(1):74-93, 2017, and the README beside the data. Phrases without a box are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.readers.files import read_bytes, read_lines, stem

SENTENCES, ANNOTATIONS = "Sentences", "Annotations"
PHRASE = re.compile(r"\[/EN#(\d+)/([^\s\]]+)\s+([^\]]*)\]")


def read_entities(folder: Path, captions: Mapping[str, Sequence[str]]) -> dict[str, list[dict[str, Any]]]:
    """What a phrases file holds (phrases.py), of the images whose ids and captions are given; a file of theirs must be there.

    A sentence belongs to the caption of the same letters and digits; of others, the first that is left to the first that is left.
    Raises: DataError naming the first file that is missing or is not as above.
    """
    for name in (SENTENCES, ANNOTATIONS):
        if not (folder / name).is_dir():
            raise DataError(
                f"{folder / name}: expected a folder of Flickr30k Entities, got none; name the folder that holds both"
            )
    content: dict[str, list[dict[str, Any]]] = {}
    for image, texts in captions.items():
        path = folder / SENTENCES / f"{stem(image)}.txt"
        if not path.exists():
            raise DataError(
                f"{path}: expected the sentences of image {image!r}, got no such file; Flickr30k Entities go by names of picture files, "
                "by which the images must be called"
            )
        lines = [line for line in read_lines(path) if line]
        boxes = _boxes(folder / ANNOTATIONS / f"{stem(image)}.xml")
        entries = []
        for place, line in zip(_captions(lines, texts), lines, strict=True):
            for chain, kind, words in PHRASE.findall(line) if place >= 0 else ():
                if found := boxes.get(chain):
                    entries.append({"caption": place, "phrase": " ".join(words.split()), "type": kind, "boxes": found})
        content[image] = sorted(entries, key=lambda entry: entry["caption"])
    return content


def _captions(lines: Sequence[str], texts: Sequence[str]) -> list[int]:
    """The caption of each sentence, −1 where there are more sentences than captions."""
    said = [_letters(PHRASE.sub(r"\3", line)) for line in lines]
    left, chosen = {place: _letters(text) for place, text in enumerate(texts)}, [-1] * len(lines)
    for exact in (True, False):
        for number, sentence in enumerate(said):
            if (
                chosen[number] < 0
                and (place := next((p for p, text in left.items() if text == sentence or not exact), -1)) >= 0
            ):
                chosen[number] = place
                del left[place]
    return chosen


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def _boxes(path: Path) -> dict[str, list[list[float]]]:
    """By chain, boxes as x1 y1 x2 y2 in [0, 1]."""
    raw, found = read_bytes(path), defaultdict[str, list[list[float]]](list)
    try:
        root = ElementTree.fromstring(raw)
        width, height = (int(root.findtext(f"size/{name}", "")) for name in ("width", "height"))
        for thing in root.findall("object"):
            if (box := thing.find("bndbox")) is None:
                continue
            x1, y1, x2, y2 = (int(box.findtext(name, "")) for name in ("xmin", "ymin", "xmax", "ymax"))
            corners = [
                (x1 - 1) / width,
                (y1 - 1) / height,
                x2 / width,
                y2 / height,
            ]  # pixels are counted from 1, the last one included
            corners = [min(max(corner, 0.0), 1.0) for corner in corners]
            if corners[0] >= corners[2] or corners[1] >= corners[3]:
                continue  # of no area, it would agree with nothing
            for name in thing.findall("name"):
                found[(name.text or "").strip()].append(corners)
    except (ElementTree.ParseError, ValueError, ZeroDivisionError) as error:
        raise DataError(
            f"{path}: expected annotations of Flickr30k Entities, got: {one_line(error)}; copy the file again"
        ) from error
    return found
