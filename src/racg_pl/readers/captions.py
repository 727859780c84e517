"""Captions with their images and splits, from whichever file a user has: Karpathy's JSON, COCO's, a CSV or JSON-lines table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from racg_pl.errors import DataError
from racg_pl.hdf5 import storable
from racg_pl.readers.files import stem

SPLITS = {"val": "dev", "valid": "dev", "validation": "dev", "restval": "train"}  # other names of train, dev and test


class Captioned(NamedTuple):
    """One image: what the features may call it, the likeliest first; its captions; its split where the file has splits."""

    names: tuple[str, ...]
    texts: list[str]
    split: str | None = None


class CaptionFile(NamedTuple):
    """The images of a caption file, in its order."""

    layout: str
    path: Path
    images: list[Captioned]

    def select(self, split: str | None, per_image: int | None = None) -> CaptionFile:
        """The images of a split, each with its first `per_image` captions.

        Raises: DataError if there is no such split, or an image has fewer captions, or none.
        """
        counts: dict[str, int] = {}
        for image in self.images:
            if image.split is not None:
                counts[image.split] = counts.get(image.split, 0) + 1
        listed = ", ".join(f"{name} ({count} images)" for name, count in counts.items())
        chosen, wanted = self.images, SPLITS.get(split or "", split)
        if counts and split is None:
            raise DataError(f"{self.path}: expected the name of one of its splits, got none; give one of {listed}")
        if split is not None and not counts:
            raise DataError(
                f"{self.path}: expected a file with splits to take {split!r} from, got one without; leave the split out"
            )
        if split is not None:
            chosen = [image for image in self.images if image.split == wanted]
            if not chosen:
                raise DataError(f"{self.path}: expected the split {split!r}, got only {listed}")
        least = 1 if per_image is None else per_image
        if least < 1:
            raise DataError(f"{self.path}: expected at least 1 caption an image, got {least}; give a larger --per-image")
        for image in chosen:
            if len(image.texts) < least:
                raise DataError(
                    f"{self.path}: image {image.names[0]!r}: expected at least {least} caption{'s' * (least > 1)}, "
                    f"got {len(image.texts)}; add captions or remove the image"
                )
        if per_image is not None:
            chosen = [image._replace(texts=image.texts[:per_image]) for image in chosen]
        return self._replace(images=chosen)

    def match(self, ids: Sequence[str], source: Path) -> list[int]:
        """The index into `ids` of each image. Raises: DataError naming the first that the features lack, or that two share."""
        index: dict[str, int] = {}
        for place, id in enumerate(ids):
            index[stem(id)] = -1 if stem(id) in index else place  # ambiguous: only the full id counts
        index |= {id: place for place, id in enumerate(ids)}
        order, missing, taken = list[int](), list[str](), dict[int, str]()
        for image in self.images:
            place = next((index[name] for name in image.names if index.get(name, -1) >= 0), -1)
            if place < 0:
                missing.append(image.names[0])
            elif place in taken:
                raise DataError(
                    f"{self.path}: images {taken[place]!r} and {image.names[0]!r}: expected one image for each features, "
                    f"got {ids[place]!r} of {source} for both; rename one"
                )
            else:
                taken[place] = image.names[0]
                order.append(place)
        if missing:
            raise DataError(
                f"{source}: expected features of {len(self.images)} images of {self.path.name}, got none for {len(missing)}, "
                f"the first {missing[0]!r} (its ids are like {ids[0]!r}); add them or remove these captions"
            )
        return order


def read_captions(path: Path) -> CaptionFile:
    """Read a caption file; what it is shows in its content. Raises: DataError."""
    from racg_pl.readers import coco, karpathy, table
    from racg_pl.readers.files import read_json

    if path.is_dir():
        raise DataError(f"{path}: expected a file of captions, got a folder; name the file")
    kind = path.suffix.lower()
    if kind == ".csv":
        return table.read_csv(path)
    if kind in (".jsonl", ".ndjson"):
        return table.read_jsonl(path)
    if kind != ".json":
        raise DataError(
            f"{path}: expected captions as .json (Karpathy's or COCO's), .csv or .jsonl, got {path.suffix or 'no suffix'}"
        )
    content = read_json(path, slim)
    for reader in (coco, karpathy):
        if reader.recognise(content):
            return reader.read(content, path)
    raise DataError(
        f"{path}: expected Karpathy's JSON (images with split and sentences) or COCO's (images and annotations), got "
        f"{'the keys ' + ', '.join(sorted(map(str, content))[:6]) if isinstance(content, dict) else type(content).__name__}"
    )


def slim(found: dict) -> dict:
    """A JSON object without what takes most of the memory and is never used."""
    if "raw" in found:
        found.pop("tokens", None)
    return found


def clean(text: object, where: str) -> str:
    """A caption with single blanks. Raises: DataError if it is no text, or none that can be stored."""
    if not isinstance(text, str) or not storable(text):
        raise DataError(f"{where}: expected Unicode text without null characters, got {str(text)[:60]!r}")
    return " ".join(text.split())


def unique(images: list[Captioned], path: Path) -> list[Captioned]:
    """The same images. Raises: DataError if two go by the same first name."""
    seen: set[str] = set()
    for place, image in enumerate(images):
        if image.names[0] in seen:
            raise DataError(
                f"{path}: image {place} ({image.names[0]!r}): expected unique images, got this one twice; remove one"
            )
        seen.add(image.names[0])
    if not images:
        raise DataError(f"{path}: expected at least one image with captions, got none")
    return images
