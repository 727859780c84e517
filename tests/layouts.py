"""A small corpus, and writers that put it on disk in each layout of the field, byte for byte as its tools would."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIM = 6
SPLITS = ("train", "restval", "val", "test")


class Photo(NamedTuple):
    """One picture: `number` is COCO's id of it; boxes in pixels."""

    number: int
    width: int
    height: int
    features: np.ndarray  # float32 [r,D]
    boxes: np.ndarray  # float32 [r,4]
    objects: np.ndarray  # int64 [r]
    scores: np.ndarray  # float32 [r]
    attributes: np.ndarray
    attribute_scores: np.ndarray
    captions: list[str]
    split: str

    @property
    def name(self) -> str:
        return f"COCO_val2014_{self.number:012d}"

    @property
    def relative(self) -> np.ndarray:
        """Boxes in [0,1]."""
        return (self.boxes / np.array([self.width, self.height] * 2, np.float64)).astype(np.float32)


def corpus(count: int = 8, regions: int = 4, ragged: bool = True, seed: int = 0) -> list[Photo]:
    """`count` pictures, half of them for training, with 1 to `regions` regions (or exactly so many) and five captions each."""
    rng = np.random.default_rng(seed)
    photos = []
    for k in range(count):
        r = 1 + int(rng.integers(regions)) if ragged else regions
        width, height = (int(side) for side in rng.integers(60, 640, 2))
        corner = rng.integers(0, [[width // 2, height // 2]], (r, 2))
        side = rng.integers(1, [[width // 2, height // 2]], (r, 2))
        photos.append(
            Photo(
                number=7000 + 13 * k,
                width=width,
                height=height,
                features=rng.random((r, DIM), dtype=np.float32) + 0.5,
                boxes=np.concatenate([corner, corner + side], axis=1).astype(np.float32) + np.float32(0.25),
                objects=rng.integers(0, 1600, r),
                scores=rng.random(r, dtype=np.float32),
                attributes=rng.integers(0, 400, r),
                attribute_scores=rng.random(r, dtype=np.float32),
                captions=[f"picture {k} has {r} things, says voice {j} – naïvely" for j in range(5)],
                split=SPLITS[k % 4] if k >= count // 2 else "train",
            )
        )
    return photos


def b64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def peteanderson(photo: Photo) -> list[object]:
    return [photo.number, photo.width, photo.height, len(photo.boxes), b64(photo.boxes), b64(photo.features)]


def lxmert(photo: Photo) -> list[object]:
    kept = (photo.objects, photo.scores, photo.attributes, photo.attribute_scores)
    return [photo.name, photo.height, photo.width, *map(b64, kept), len(photo.boxes), b64(photo.boxes), b64(photo.features)]


def tsv(path: Path, photos: Sequence[Photo], columns=lxmert, end: str = "\r\n") -> Path:
    """Python's csv ends lines with \\r\\n, as the published files have it."""
    path.write_bytes("".join("\t".join(map(str, columns(photo))) + end for photo in photos).encode())
    return path


def npz(folder: Path, photos: Sequence[Photo], info: bool = True) -> Path:
    """bottom-up-attention.pytorch: compressed, with a pickled dictionary."""
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        more = {"info": {"image_id": photo.name, "objects_id": photo.objects}} if info else {}
        np.savez_compressed(
            folder / f"{photo.name}.npz",
            x=photo.features,
            bbox=photo.boxes,
            num_bbox=len(photo.boxes),
            image_h=photo.height,
            image_w=photo.width,
            **more,
        )
    return folder


def padded(arrays: Sequence[np.ndarray], fill: float = 0) -> np.ndarray:
    out = np.full((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def precomp(folder: Path, photos: Sequence[Photo], split: str = "dev", boxes: str = "own", times: int = 1) -> Path:
    """SCAN's files. boxes: "own" in [0,1] with objects and scores, "gsmn", or "none"; times: how often an image stands there."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"ims": padded([photo.features for photo in photos])}
    if boxes == "own":
        arrays |= {"boxes": padded([photo.relative for photo in photos])}
        arrays |= {
            "objects": padded([photo.objects for photo in photos], -1),
            "scores": padded([photo.scores for photo in photos]),
        }
    if boxes == "gsmn":
        arrays |= {"ims_bbx": padded([photo.boxes for photo in photos])}
        arrays |= {"ims_size": np.array([[photo.width, photo.height] for photo in photos])}
    for name, array in arrays.items():
        np.save(folder / f"{split}_{name}.npy", np.repeat(array, times, axis=0))
    (folder / f"{split}_caps.txt").write_text("".join(f"{text}\n" for photo in photos for text in photo.captions))
    (folder / f"{split}_ids.txt").write_text("".join(f"{photo.number}\n" * times for photo in photos))
    return folder


def vse_infinity(home: Path, photos: Sequence[Photo], split: str = "dev") -> Path:
    precomp(home / "precomp", photos, split, boxes="none")
    mapping = {str(photo.number): f"val2014/{photo.name}.jpg" for photo in photos}
    (home / "id_mapping.json").write_text(json.dumps(mapping))
    return home


def karpathy(path: Path, photos: Sequence[Photo]) -> Path:
    images = [
        {
            "filepath": "val2014",
            "sentids": [k * 5 + j for j in range(len(photo.captions))],
            "filename": f"{photo.name}.jpg",
            "imgid": k,
            "split": photo.split,
            "sentences": [
                {"tokens": text.split(), "raw": f"{text}\n", "imgid": k, "sentid": k * 5 + j}
                for j, text in enumerate(photo.captions)
            ],
            "cocoid": photo.number,
        }
        for k, photo in enumerate(photos)
    ]
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def coco(path: Path, photos: Sequence[Photo]) -> Path:
    images = [{"id": photo.number, "file_name": f"{photo.name}.jpg", "width": photo.width} for photo in photos]
    # captions of different images come mixed
    annotations = [{"image_id": photo.number, "id": j, "caption": photo.captions[j]} for j in range(5) for photo in photos]
    path.write_text(json.dumps({"info": {"year": 2014}, "images": images, "annotations": annotations, "licenses": []}))
    return path


def csv_table(path: Path, photos: Sequence[Photo], splits: bool = True) -> Path:
    lines = ["image,caption,split" if splits else "image,caption"]
    for photo in photos:
        lines += [f'{photo.name}.jpg,"{text}"' + (f",{photo.split}" if splits else "") for text in photo.captions]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")  # as Excel saves it
    return path


def jsonl_table(path: Path, photos: Sequence[Photo]) -> Path:
    rows = [{"image": f"{photo.name}.jpg", "captions": photo.captions} for photo in photos]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
