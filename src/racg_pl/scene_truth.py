"""The truth about a split of Scenes, `{split}.truth.h5`: what each picture holds, its twin, which word speaks of what.

Letters: N pictures, R proposals, O objects of all pictures end to end, K relations likewise, C captions, S words that speak
of an object. Picture i holds the objects object_offsets[i]:object_offsets[i + 1], numbered from 0 inside the picture, and
the relations relation_offsets[i]:relation_offsets[i + 1].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from racg_pl.captions import CaptionStore
from racg_pl.errors import DataError
from racg_pl.features import RegionStore
from racg_pl.hdf5 import TEXT, Field, Schema, create_h5, open_h5
from racg_pl.scene_facts import ATTRIBUTES, CLASSES, RELATIONS, Facts
from racg_pl.scene_twins import Ceilings

if TYPE_CHECKING:
    from racg_pl.data import Split

TRUTH = Schema(
    "racg_pl.truth/1",
    {"seed": int, "images": int, "split": str, "features_sha256": str, "captions_sha256": str, "ceilings": str},
    {
        "object_offsets": Field("P", "int64"),  # P = N + 1
        "classes": Field("O", "int16"),  # index into class_names
        "attributes": Field("O", "int16"),  # index into attribute_names
        "boxes": Field("O 4", "float32"),  # x1 y1 x2 y2 in [0,1], without a detector's error
        "relation_offsets": Field("P", "int64"),
        "relations": Field("K 3", "int16"),  # subject, index into relation_names, object; ends numbered inside the picture
        "proposals": Field("N R", "int8"),  # the object that each region was proposed for, −1 none
        "twin": Field("N", "int32"),  # the picture that differs only in its kind, −1 none
        "twin_kind": Field("N", "int8"),  # 0 none, 1 attributes of two objects exchanged, 2 roles of one relation exchanged
        "decisive": Field("C", "bool"),  # the caption tells its picture from the twin
        "spans": Field("S 4", "int32"),  # caption, first character, end, object inside the picture
        "class_names": Field("A", "text"),
        "attribute_names": Field("B", "text"),
        "relation_names": Field("E", "text"),
    },
)


class SceneObject(NamedTuple):
    """One object of a picture: the names of its class and attribute, and its box (x1, y1, x2, y2)."""

    name: str
    attribute: str
    box: tuple[float, float, float, float]


def write_truth(
    path: Path,
    store: RegionStore,
    captions: CaptionStore,
    facts: Sequence[Facts],
    boxes: Sequence[np.ndarray],
    arrays: dict[str, np.ndarray],
    *,
    seed: int,
    images: int,
    split: str,
    ceilings: Ceilings | None,
) -> None:
    """Write the truth of a split beside its features and captions.

    Args:
        facts: [N].  boxes: [N] of [n,4].  arrays: proposals, twin, twin_kind, decisive and spans, as in TRUTH.
        seed, images: what `generate` was called with.  ceilings: None for the split to train on.
    """
    relations = [relation for picture in facts for relation in picture.relations]
    arrays = arrays | {
        "object_offsets": np.cumsum([0, *(len(picture.classes) for picture in facts)]),
        "classes": np.concatenate([picture.classes for picture in facts]),
        "attributes": np.concatenate([picture.attributes for picture in facts]),
        "boxes": np.concatenate(boxes),
        "relation_offsets": np.cumsum([0, *(len(picture.relations) for picture in facts)]),
        "relations": np.array(relations),
    }
    names = {"class_names": list(CLASSES), "attribute_names": list(ATTRIBUTES), "relation_names": list(RELATIONS)}
    with create_h5(path) as file:
        file.attrs.update({"schema": TRUTH.name, "seed": seed, "images": images, "split": split})
        file.attrs.update({"features_sha256": store.sha256, "captions_sha256": captions.sha256})
        file.attrs["ceilings"] = json.dumps(ceilings and ceilings.to_dict())
        for name, field in TRUTH.fields.items():
            if name in names:
                file.create_dataset(name, data=names[name], dtype=TEXT)
            else:
                file.create_dataset(name, data=arrays[name].astype(field.dtypes))


class Truth:
    """The truth of a split, in memory. Its arrays have the names of TRUTH's data sets.

    Raises: DataError if the file is missing, truncated, or no truth file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open_h5(self.path, TRUTH) as file:
            arrays = {name: file[name][:] for name in TRUTH.fields if not name.endswith("_names")}
            texts = {name: file[name].asstr()[:].tolist() for name in TRUTH.fields if name.endswith("_names")}
            self.seed, self.images, self.split = int(file.attrs["seed"]), int(file.attrs["images"]), str(file.attrs["split"])
            self.features_sha256: str = file.attrs["features_sha256"]
            self.captions_sha256: str = file.attrs["captions_sha256"]
            stored = json.loads(file.attrs["ceilings"])
        self.ceilings = Ceilings.from_dict(stored) if stored else None  # none for the split to train on
        self.object_offsets, self.relation_offsets = arrays["object_offsets"], arrays["relation_offsets"]
        self.classes, self.attributes, self.boxes = arrays["classes"], arrays["attributes"], arrays["boxes"]
        self.relations, self.proposals = arrays["relations"], arrays["proposals"]
        self.twin, self.twin_kind = arrays["twin"], arrays["twin_kind"]
        self.decisive, self.spans = arrays["decisive"], arrays["spans"]
        self.class_names: list[str] = texts["class_names"]
        self.attribute_names: list[str] = texts["attribute_names"]
        self.relation_names: list[str] = texts["relation_names"]

    def __len__(self) -> int:
        """N."""
        return len(self.twin)

    def objects_of(self, image: int) -> list[SceneObject]:
        """The objects of one picture, in order."""
        part = slice(*self.object_offsets[image : image + 2])
        rows = zip(self.classes[part], self.attributes[part], self.boxes[part].tolist(), strict=True)
        return [SceneObject(self.class_names[c], self.attribute_names[a], tuple(box)) for c, a, box in rows]

    def relations_of(self, image: int) -> list[tuple[int, str, int]]:
        """The relations of one picture as (subject, name, object), the ends as places in `objects_of`."""
        part = slice(*self.relation_offsets[image : image + 2])
        return [(int(s), self.relation_names[r], int(o)) for s, r, o in self.relations[part]]

    def spans_of(self, caption: int) -> list[tuple[int, int, int]]:
        """(first character, end, object) of the words of one caption that speak of an object."""
        first, last = np.searchsorted(self.spans[:, 0], [caption, caption + 1])  # they are stored in the order of the captions
        return [tuple(span) for span in self.spans[first:last, 1:].tolist()]

    def require(self, captions: CaptionStore) -> None:
        """Raise DataError unless this is the truth about exactly these captions and their features."""
        if captions.sha256 != self.captions_sha256 or captions.features_sha256 != self.features_sha256:
            raise DataError(
                f"{self.path}: expected the captions with sha256 {self.captions_sha256[:12]}…, got {captions.path} with "
                f"{captions.sha256[:12]}…; generate Scenes again"
            )

    def require_split(self, split: Split) -> None:
        """The same for a split that is open."""
        if (self.captions_sha256, self.features_sha256) != (split.hashes["captions"], split.hashes["features"]):
            raise DataError(
                f"{self.path}: expected the truth about {split.store.path} and its captions, got that about others; generate Scenes again"
            )


def read_ceilings(root: str | Path) -> Ceilings:
    """The ceilings on the test split of the Scenes in folder `root`, without generating anything."""
    truth = Truth(Path(root) / "test.truth.h5")
    if truth.ceilings is None:
        raise DataError(f"{truth.path}: expected the ceilings of a test split, got none; generate Scenes again")
    return truth.ceilings
