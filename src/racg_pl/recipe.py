"""A corpus as one recipe: a YAML file that names what a user must bring, with shapes and counts, and where the field publishes it.

name: flickr30k
regions: 36            R, the most that a picture may have
dim: 2048              D
per_image: 5           captions of an image
threshold: 4           times a word must occur in training captions
extractor: bottom-up   what made the features
dtype: float16         of the stored features: float16, float32 or auto
bring:                 files and folders, relative to the folder that the user gives
  - {path: f30k_precomp, what: SCAN's features and captions, where: "https://…"}
splits:                in any layout of readers/
  train: {source: f30k_precomp, split: train, images: 29000}
  dev: {source: val_obj36.tsv, layout: tsv, captions: dataset_flickr30k.json, split: val, images: 1014, phrases: phrases.json}

Phrases with boxes, a file as in phrases.py or the folder of Flickr30k Entities, are for `racg ground`, and may be left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from racg_pl.convert import DTYPES
from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.readers.files import decoded, read_bytes
from racg_pl.yaml_file import load_yaml

NUMBERS = ("regions", "dim", "per_image", "threshold")
TEXTS = ("name", "extractor", "dtype")


class Brought(NamedTuple):
    """What a user must bring, in words, and where it is published."""

    path: str
    what: str
    where: str


class Split(NamedTuple):
    """Where the images of one split come from, and phrases of theirs; see `racg convert` for layout, captions and split."""

    source: str
    images: int
    split: str | None = None
    layout: str | None = None
    captions: str | None = None
    phrases: str | None = None


@dataclass(frozen=True)
class Recipe:
    """See the module. `path` is its file."""

    path: Path
    name: str
    regions: int
    dim: int
    per_image: int
    threshold: int
    extractor: str
    dtype: str
    bring: list[Brought]
    splits: dict[str, Split]

    def require(self, folder: Path) -> None:
        """Raise DataError naming everything in `folder` that is missing, and where the first of it is published."""
        missing = [item for item in self.bring if not (folder / item.path).exists()]
        if missing:
            first = missing[0]
            more = f"; missing too: {', '.join(item.path for item in missing[1:])}" if missing[1:] else ""
            raise DataError(
                f"{folder / first.path}: expected {first.what}, got no such file or folder; get it from {first.where}, "
                f"or name another folder with --source{more}"
            )
        for name, split in self.splits.items():
            if split.phrases is not None and not (folder / split.phrases).exists():
                raise DataError(
                    f"{folder / split.phrases}: expected phrases of {name}, as {self.path} says, got no such file; bring it, or leave "
                    "phrases out of the recipe"
                )


def read_recipe(path: str | Path) -> Recipe:
    """Raises: DataError naming the first key that is missing, unknown or not of its kind."""
    path = Path(path)
    try:
        content = load_yaml(decoded(read_bytes(path), str(path)))
    except DataError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        raise DataError(f"{path}: expected YAML, got something else ({one_line(error)}); mend that line") from error
    said = _mapping(content, {*NUMBERS, *TEXTS, "bring", "splits"}, {*NUMBERS, *TEXTS, "bring", "splits"}, str(path))
    numbers = {name: _number(said[name], f"{path}: {name}") for name in NUMBERS}
    texts = {name: _text(said[name], f"{path}: {name}") for name in TEXTS}
    if texts["dtype"] not in DTYPES:
        raise DataError(f"{path}: dtype: expected {', '.join(DTYPES)}, got {texts['dtype']!r}; choose one")
    if not isinstance(said["bring"], list) or not isinstance(said["splits"], dict) or not said["splits"]:
        raise DataError(f"{path}: expected bring as a list and splits as names with a source each; see racg_pl/recipe.py")
    bring, splits = [], {}
    for place, item in enumerate(said["bring"]):
        where = f"{path}: bring: entry {place}"
        entry = _mapping(item, set(Brought._fields), set(Brought._fields), where)
        bring.append(Brought(*(_text(entry[name], f"{where}: {name}") for name in Brought._fields)))
    for name, item in said["splits"].items():
        where = f"{path}: splits: {name}"
        if not isinstance(name, str) or not name.isidentifier():
            raise DataError(f"{where}: expected a name of letters and digits, such as train, got {name!r}; rename it")
        entry = _mapping(item, {"source", "images"}, set(Split._fields), where)
        images = _number(entry.pop("images"), f"{where}: images")
        splits[name] = Split(images=images, **{key: _text(value, f"{where}: {key}") for key, value in entry.items()})
    if "train" not in splits:
        raise DataError(
            f"{path}: splits: expected train among them, which the vocabulary is counted on, got {', '.join(splits)}"
        )
    return Recipe(path=path, bring=bring, splits=splits, **numbers, **texts)  # type: ignore[arg-type]


def _mapping(value: object, needed: set[str], allowed: set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected keys with values, got {type(value).__name__}; see experiments/data/flickr30k.yaml")
    for keys, fault in ((needed - set(value), "is missing"), ({str(key) for key in set(value) - allowed}, "is unknown")):
        if keys:
            raise DataError(f"{where}: expected the keys {', '.join(sorted(allowed))}, but {min(keys)!r} {fault}")
    return dict(value)


def _number(value: object, where: str) -> int:
    if type(value) is not int or value < 1:
        raise DataError(f"{where}: expected a whole number of at least 1, got {value!r}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: expected a text, got {value!r}; put it in quotes")
    return value
