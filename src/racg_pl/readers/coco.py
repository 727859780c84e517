"""COCO's captions_train2014.json and its kin; the file is the split.

    {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}, …],
     "annotations": [{"image_id": 391895, "id": 770337, "caption": "…"}, …]}

Images come in the order of `images`, captions in that of `annotations`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from racg_pl.errors import DataError
from racg_pl.readers.captions import Captioned, CaptionFile, clean, unique
from racg_pl.readers.files import stem


def recognise(content: Any) -> bool:
    return (
        isinstance(content, dict) and isinstance(content.get("annotations"), list) and isinstance(content.get("images"), list)
    )


def read(content: Any, path: Path) -> CaptionFile:
    """Raises: DataError naming the first image or annotation that is not as said above."""
    texts: dict[int, list[str]] = {}
    images = []
    for place, image in enumerate(content["images"]):
        number = image.get("id") if isinstance(image, dict) else None
        if type(number) is not int:
            raise DataError(f"{path}: image {place}: id: expected an integer, got {number!r}")
        name = image.get("file_name")
        names = [name, stem(name)] if isinstance(name, str) and name else []
        if number in texts:
            raise DataError(f"{path}: image {place}: id: expected unique ids, got {number} twice; remove one")
        texts[number] = []
        images.append(Captioned((*names, str(number), f"{number:012d}"), texts[number]))
    for place, annotation in enumerate(content["annotations"]):
        where = f"{path}: annotation {place}"
        if not isinstance(annotation, dict) or "caption" not in annotation:
            raise DataError(f"{where}: expected an object with image_id and caption, got no captions; is this captions_….json?")
        number = annotation.get("image_id")
        if type(number) is not int or number not in texts:
            raise DataError(f"{where}: image_id: expected the id of one of {len(images)} images, got {number!r}")
        texts[number].append(clean(annotation["caption"], f"{where}: caption"))
    return CaptionFile("COCO's JSON", path, unique(images, path))
