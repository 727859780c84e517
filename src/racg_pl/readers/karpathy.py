"""Karpathy's dataset_flickr30k.json and dataset_coco.json: the captions and splits that the field reports on.

    {"images": [{"filename": "1000092795.jpg", "split": "train", "cocoid": 391895, "sentences": [{"raw": "…"}, …]}, …]}

COCO's restval belongs to train, val is called dev; `cocoid` stands in COCO's file alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from racg_pl.errors import DataError
from racg_pl.readers.captions import SPLITS, Captioned, CaptionFile, clean, unique
from racg_pl.readers.files import stem


def recognise(content: Any) -> bool:
    images = content.get("images") if isinstance(content, dict) else None
    return isinstance(images, list) and "annotations" not in content


def read(content: Any, path: Path) -> CaptionFile:
    """Raises: DataError naming the first image that is not as said above."""
    images = []
    for place, image in enumerate(content["images"]):
        where = f"{path}: image {place}"
        if not isinstance(image, dict):
            raise DataError(f"{where}: expected an object, got {type(image).__name__}")
        name, split, sentences = (image.get(key) for key in ("filename", "split", "sentences"))
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: filename: expected a name, got {name!r}")
        where += f" ({name!r})"
        if not isinstance(split, str) or not split:
            raise DataError(f"{where}: split: expected train, restval, val or test, got {split!r}")
        if not isinstance(sentences, list) or not all(isinstance(sentence, dict) for sentence in sentences):
            raise DataError(f"{where}: sentences: expected a list of objects with the key raw, got {type(sentences).__name__}")
        texts = [clean(sentence.get("raw"), f"{where}: sentence {k}: raw") for k, sentence in enumerate(sentences)]
        names = [name, stem(name)]
        if isinstance(number := image.get("cocoid"), int):
            names += [str(number), f"{number:012d}"]
        images.append(Captioned(tuple(names), texts, SPLITS.get(split, split)))
    return CaptionFile("Karpathy's JSON", path, unique(images, path))
