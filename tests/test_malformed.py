"""What users' files have wrong with them: each gets one line that names the file and the mend, status 2, and nothing half-written."""

from __future__ import annotations

import base64
import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import layouts
from layouts import Photo, b64, corpus
from racg_pl.cli import main

PHOTOS = corpus(6)


class Bomb:
    """A pickle that leaves a trace where it is loaded."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, ("bomb-went-off",)


# ---- changes to a file of one layout ----


def text(change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes().decode()).encode())


def raw(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def array(change: Callable[[np.ndarray], object]) -> Callable[[Path], object]:
    return lambda path: np.save(path, change(np.load(path)))


def put(place: object, value: object) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[place] = value
        return values

    return change


def field(line: int, column: int, value: object) -> Callable[[Path], object]:
    """Change one field of a TSV."""

    def change(path: Path) -> None:
        rows = [row.split("\t") for row in path.read_text().splitlines()]
        rows[line][column] = str(value(rows[line][column]) if callable(value) else value)
        path.write_text("\n".join("\t".join(row) for row in rows) + "\n")

    return change


def content(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """Change what a JSON file says."""

    def apply(path: Path) -> None:
        said = json.loads(path.read_text())
        change(said)
        path.write_text(json.dumps(said))

    return apply


def bomb(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb()))


def bomb_array(path: Path) -> None:
    np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def tsv(
    *changes: Callable[[Path], object], columns: Callable[[Photo], list] = layouts.peteanderson
) -> Callable[[Path], list[str]]:
    def make(here: Path) -> list[str]:
        path = layouts.tsv(here / "a.tsv", PHOTOS, columns)
        for change in changes:
            change(path)
        return [str(path)]

    return make


def precomp(name: str, *changes: Callable[[Path], object], boxes: str = "own") -> Callable[[Path], list[str]]:
    def make(here: Path) -> list[str]:
        folder = layouts.precomp(here / "precomp", PHOTOS, boxes=boxes)
        for change in changes:
            change(folder / f"dev_{name}")
        return [str(folder), "--split", "dev"]

    return make


def infinity(change: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    def make(here: Path) -> list[str]:
        home = layouts.vse_infinity(here / "f30k", PHOTOS)
        change(home / "id_mapping.json")
        return [str(home), "--split", "dev"]

    return make


def npz(change: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    def make(here: Path) -> list[str]:
        change(layouts.npz(here / "npz", PHOTOS) / f"{PHOTOS[2].name}.npz")
        return [str(here / "npz")]

    return make


def again(**arrays: object) -> Callable[[Path], object]:
    """Save an .npz with some arrays changed; None takes one away."""

    def change(path: Path) -> None:
        with np.load(path) as zipped:
            kept = {name: zipped[name] for name in zipped.files if name != "info"}
        kept |= {name: value(kept[name]) if callable(value) else value for name, value in arrays.items()}
        np.savez(path, **{name: value for name, value in kept.items() if value is not None})

    return change


def captions(
    write: Callable, *changes: Callable[[Path], object], name: str = "c.json", split: str = ""
) -> Callable[[Path], list[str]]:
    """A sound TSV, and a caption file with something wrong."""

    def make(here: Path) -> list[str]:
        source, path = layouts.tsv(here / "a.tsv", PHOTOS), here / name
        write(path, PHOTOS)
        for change in changes:
            change(path)
        return [str(source), "--captions", str(path), *(["--split", split] if split else [])]

    return make


def karpathy(*changes: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    return captions(layouts.karpathy, *changes, split="train")


def csv(*changes: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    return captions(lambda path, photos: layouts.csv_table(path, photos, splits=False), *changes, name="c.csv")


def own(name: str, change: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    def make(here: Path) -> list[str]:
        folder = here / "own"
        folder.mkdir()
        np.save(folder / "features.npy", layouts.padded([photo.features for photo in PHOTOS]))
        np.save(folder / "boxes.npy", layouts.padded([photo.boxes for photo in PHOTOS]))
        np.save(folder / "sizes.npy", [[photo.width, photo.height] for photo in PHOTOS])
        layouts.csv_table(folder / "captions.csv", PHOTOS, splits=False)
        change(folder / name)
        return [str(folder)]

    return make


def source(write: Callable[[Path], object], name: str) -> Callable[[Path], list[str]]:
    def make(here: Path) -> list[str]:
        write(here / name)
        return [str(here / name)]

    return make


def wider(photo: Photo) -> list[object]:
    return layouts.peteanderson(photo._replace(width=photo.height, height=photo.width))


WIDTH = PHOTOS[1].width
MALFORMED: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    # bottom-up TSV
    "tsv: cut in the middle of a line": (tsv(raw(lambda b: b[: b.rindex(b"\t") + 12])), "line 6 ('7065'): features: expected"),
    "tsv: cut inside the columns": (
        tsv(raw(lambda b: b[: b.rindex(b"\t")])),
        "line 6: expected 6 columns, got 5: a cut or merged line; extract this image again",
    ),
    "tsv: another number of columns": (
        tsv(text(lambda t: t.replace("\t", "\t0\t"))),
        "line 1: expected 6 columns (image_id, image_w, image_h, num_boxes, boxes, features) or 10 columns (img_id, ",
    ),
    "tsv: commas": (tsv(text(lambda t: t.replace("\t", ","))), "between tabs, got 1; is this a bottom-up TSV?"),
    "tsv: bad base64": (tsv(field(2, 5, lambda f: f[:9] + "*" + f[10:])), "line 3 ('7026'): features: expected base64, got "),
    "tsv: short base64 of boxes": (tsv(field(2, 4, lambda f: f[:-8])), "line 3 ('7026'): boxes: expected ["),
    "tsv: features of another number of regions": (
        tsv(field(1, 5, lambda f: b64(np.zeros(5, "f4")))),
        "line 2 ('7013'): features: expected base64 of float32 for 3 regions, got 28 characters; extract this image again",
    ),
    "tsv: features of another width": (
        tsv(field(1, 5, b64(np.zeros((len(PHOTOS[1].boxes), 3), "f4")))),
        "line 2 ('7013'): features: expected 6 numbers a region, as before, got 3: a cut line",
    ),
    "tsv: NaN": (
        tsv(field(1, 5, b64(np.full_like(PHOTOS[1].features, np.nan)))),
        "line 2 ('7013'): expected finite features, got nan in region 0, dimension 0; extract this image again",
    ),
    "tsv: zero regions": (tsv(field(1, 3, 0)), "line 2 ('7013'): num_boxes: expected an integer of at least 1, got '0'"),
    "tsv: a size that is no number": (tsv(field(1, 1, "640.0")), "image_w: expected an integer of at least 1, got '640.0'"),
    "tsv: negative boxes": (
        tsv(field(1, 4, b64(PHOTOS[1].boxes - 9999))),
        "line 2 ('7013'): expected boxes inside the picture of",
    ),
    "tsv: boxes beyond the image": (tsv(field(1, 4, b64(PHOTOS[1].boxes + 9999))), "pixels, got ["),
    "tsv: width and height swapped": (tsv(columns=wider), "are width and height swapped?"),
    "tsv: boxes of width and height": (
        tsv(field(1, 4, b64(np.tile(np.array([9, 9, 5, 4], "f4"), (len(PHOTOS[1].boxes), 1))))),
        "expected boxes with x1 < x2 and y1 < y2",
    ),
    "tsv: duplicate ids": (tsv(field(4, 0, 7013)), "line 5 ('7013'): expected unique ids, got that of line 2; remove one"),
    "tsv: an empty id": (tsv(field(4, 0, " ")), "line 5: image_id: expected a text of at least one character, got ''"),
    "tsv: a Latin-1 id": (
        tsv(raw(lambda b: b.replace(b"7013\t", b"caf\xe9\t"))),
        "line 2: image_id: expected UTF-8, got byte 0xe9",
    ),
    "tsv: empty": (tsv(raw(lambda b: b"")), "expected at least one image, got none"),
    "tsv: a header without features": (
        tsv(text(lambda t: "image_id\timage_w\n" + t)),
        "line 1: expected a header with image_id, ",
    ),
    "tsv: NaN confidences": (
        tsv(field(1, 4, b64(np.full(len(PHOTOS[1].boxes), np.nan, "f4"))), columns=layouts.lxmert),
        f"line 2 ('{PHOTOS[1].name}'): expected finite scores, got nan",
    ),
    # SCAN's, GSMN's and VSE-infinity's precomp
    "precomp: truncated": (
        precomp("ims.npy", raw(lambda b: b[:-50])),
        "dev_ims.npy: expected an array of numbers, got a truncated",
    ),
    "precomp: a pickle bomb": (
        precomp("ims.npy", bomb_array),
        "got pickled Python objects, which are never loaded; save numbers: np.save(",
    ),
    "precomp: a bare pickle": (precomp("ims.npy", bomb), "pickled Python objects, which are never loaded"),
    "precomp: a ragged object array": (
        precomp("ims.npy", lambda p: np.save(p, np.array([np.ones(2), np.ones(3)], object), allow_pickle=True)),
        "rows of unequal length padded with zeros",
    ),
    "precomp: a folder by the name of the array": (
        precomp("ims.npy", as_folder),
        "dev_ims.npy: expected an array of numbers, got a folder",
    ),
    "precomp: Fortran order": (
        precomp("ims.npy", array(np.asfortranarray)),
        "dev_ims.npy: expected an array in C order, got Fortran order; save np.ascontiguousarray(array)",
    ),
    "precomp: NaN": (
        precomp("ims.npy", array(put((3, 0, 1), np.nan))),
        "record 3 ('7039'): expected finite features, got nan in region 0",
    ),
    "precomp: zero regions": (precomp("ims.npy", array(put(3, 0))), "record 3 ('7039'): expected features, got only zeros"),
    "precomp: too few rows": (precomp("ims.npy", array(lambda a: a[1:])), "expected 25 captions for the 5 rows of dev_ims.npy"),
    "precomp: six captions an image": (
        precomp("caps.txt", text(lambda t: t + "one more\n" * 6)),
        "dev_caps.txt: expected 30 captions for the 6 rows of dev_ims.npy (6 if every image stands there 5 times), got 36",
    ),
    "precomp: Latin-1 captions": (
        precomp("caps.txt", raw(lambda b: b.replace("ï".encode(), b"\xef"))),
        "dev_caps.txt: line 1: expected UTF-8, got byte 0xef near",
    ),
    "precomp: UTF-16 captions": (
        precomp("caps.txt", raw(lambda b: b.decode().encode("utf-16"))),
        "dev_caps.txt: line 1: expected UTF-8, got byte 0xff",
    ),
    "precomp: captions are missing": (
        precomp("caps.txt", Path.unlink),
        "dev_caps.txt: cannot be read (No such file or directory)",
    ),
    "precomp: duplicate ids": (
        precomp("ids.txt", text(lambda t: t.replace("7013", "7000"))),
        "record 1 ('7000'): expected unique ids, got one that record 0 has too; rename one",
    ),
    "precomp: negative boxes": (
        precomp("boxes.npy", array(put((2, 0), [-0.5, 0, 1, 1]))),
        "record 2 ('7026'): expected boxes within [0, 1]",
    ),
    "gsmn: boxes beyond the image": (
        precomp("ims_bbx.npy", array(put((2, 0, 2), 5000)), boxes="gsmn"),
        "record 2 ('7026'): expected boxes inside the picture of",
    ),
    "gsmn: sizes pickled": (
        precomp(
            "ims_size.npy", lambda p: np.save(p, np.array([{"image_w": 3, "image_h": 4}]), allow_pickle=True), boxes="gsmn"
        ),
        "dev_ims_size.npy: expected sizes, got pickled dictionaries; save them plainly",
    ),
    "gsmn: sizes are missing": (precomp("ims_size.npy", Path.unlink, boxes="gsmn"), "dev_ims_size.npy: no such file"),
    "gsmn: fewer sizes": (precomp("ims_size.npy", array(lambda a: a[1:]), boxes="gsmn"), "dev_ims_size.npy: expected 6 rows"),
    "gsmn: a picture without extent": (
        precomp("ims_size.npy", array(put((0, 1), 0)), boxes="gsmn"),
        "record 0 ('7000'): expected a width and a height of at least 1, got",
    ),
    "vse-infinity: an id without a name": (
        infinity(content(lambda said: said.pop("7013"))),
        "id_mapping.json: expected the id '7013' of dev_ids.txt, got 5 others; is this its mapping?",
    ),
    "vse-infinity: a mapping cut short": (
        infinity(raw(lambda b: b[:30])),
        "id_mapping.json: expected JSON, got something else (",
    ),
    "vse-infinity: an id twice": (
        infinity(text(lambda t: t.replace('"7013"', '"7000"'))),
        "id_mapping.json: '7000': expected a key once in its object, got it twice; join the two",
    ),
    "vse-infinity: a list": (infinity(raw(lambda b: b"[1]")), "id_mapping.json: expected an object from ids to file names"),
    # a file an image
    "npz: cut": (
        npz(raw(lambda b: b[:200])),
        f"{PHOTOS[2].name}.npz: expected an .npz archive, got something else; copy it again",
    ),
    "npz: damaged inside": (
        npz(raw(lambda b: b[:50] + b"\0" * 40 + b[90:])),
        f"{PHOTOS[2].name}.npz: expected arrays of numbers, got ",
    ),
    "npz: empty": (npz(raw(lambda b: b"")), "expected an .npz archive, got an empty file"),
    "npz: without features": (npz(again(x=None)), "expected arrays by name, got no array x or features, but"),
    "npz: features pickled": (
        npz(again(x=lambda x: np.array([Bomb()], object))),
        "floating-point numbers [r, D], got object [1]",
    ),
    "npz: features of another width": (
        npz(again(x=lambda x: x[:, :-1])),
        "expected the same width, dtype and arrays in every file",
    ),
    "npz: without sizes": (npz(again(image_w=None, image_h=None)), "expected the same width, dtype and arrays in every file"),
    "npz: fewer boxes": (npz(again(num_bbox=99)), "features: expected 99 regions (at least 1), got"),
    "npz: no regions": (npz(again(num_bbox=0)), "expected 0 regions (at least 1), got"),
    "npz: boxes beyond the image": (npz(again(bbox=lambda b: b + 9999)), "expected boxes inside the picture of"),
    "npz: boxes in [0, 1] beside sizes": (npz(again(bbox=lambda b: b / 1000)), "got all within [0, 1]; leave the sizes out"),
    "npz: a size that is no number": (npz(again(image_w=1.5)), "image_w: expected one integer, got float64 []"),
    "npy: a pickle bomb": (
        lambda here: [(here / "npy").mkdir(), bomb_array(here / "npy" / "a.npy"), str(here / "npy")][-1:],
        "a.npy: expected an array of numbers, got pickled Python objects",
    ),
    # one's own array
    "own: names for fewer rows": (
        own("features.npy", array(lambda a: a[1:])),
        "captions.csv: expected a name for each of 5 rows",
    ),
    "own: integers": (
        own("features.npy", array(lambda a: a.astype(int))),
        "features.npy: expected floating-point numbers, got int64",
    ),
    "own: boxes in [0, 1] beside sizes": (
        own("boxes.npy", array(lambda a: a / 1000)),
        "record 0 ('COCO_val2014_000000007000.jpg'): expected boxes in pixels, since width and height stand beside them, got all "
        "within [0, 1]; leave the sizes out",
    ),
    "own: pixels without sizes": (own("sizes.npy", Path.unlink), "expected boxes within [0, 1]"),
    "own: no table": (own("captions.csv", Path.unlink), "ids.txt: no such file, and there are no captions to name the rows"),
    # captions
    "karpathy: cut": (karpathy(raw(lambda b: b[:-9])), "c.json: expected JSON, got something else ("),
    "karpathy: Latin-1": (
        karpathy(raw(lambda b: b.replace(b"\\u00ef", b"\xef"))),
        "c.json: line 1: expected UTF-8, got byte 0xef near",
    ),
    "karpathy: no sentences": (
        karpathy(content(lambda said: said["images"][1].update(sentences=[]))),
        f"image '{PHOTOS[1].name}.jpg': expected at least 1 caption, got 0; add captions or remove the image",
    ),
    "karpathy: sentences without text": (
        karpathy(content(lambda said: said["images"][1]["sentences"][2].pop("raw"))),
        "sentence 2: raw: expected Unicode text without null characters, got 'None'",
    ),
    "karpathy: half an emoji": (
        karpathy(content(lambda said: said["images"][1]["sentences"][2].update(raw="\ud83d"))),
        "sentence 2: raw: expected Unicode text without null characters, got",
    ),
    "karpathy: no split": (
        karpathy(content(lambda said: said["images"][1].pop("split"))),
        "image 1 ('COCO_val2014_000000007013.jpg'): split: ",
    ),
    "karpathy: an image twice": (
        karpathy(content(lambda said: said["images"].append(said["images"][0]))),
        "image 6 ('COCO_val2014_000000007000.jpg'): expected unique images, got this one twice",
    ),
    "karpathy: an image without features": (
        karpathy(content(lambda said: said["images"][0].update(filename="other.jpg", cocoid=1))),
        "got none for 1, the first 'other.jpg' (its ids are like 'COCO_val2014_000000007000')",
    ),
    "karpathy: a split that is not there": (
        captions(layouts.karpathy, split="testall"),
        "expected the split 'testall', got only train (",
    ),
    "karpathy: which split?": (
        captions(layouts.karpathy),
        "expected the name of one of its splits, got none; give one of train (",
    ),
    "karpathy: another JSON": (
        karpathy(content(lambda said: said.update(images=3))),
        "expected Karpathy's JSON (images with split",
    ),
    "karpathy: nested without end": (karpathy(raw(lambda b: b"[" * 100_000)), "c.json: expected JSON, got something else ("),
    "coco: a split of a file without": (
        captions(layouts.coco, split="train"),
        "expected a file with splits to take 'train' from, got one",
    ),
    "coco: captions are missing": (
        captions(layouts.coco, content(lambda said: said.update(annotations=said["annotations"][1:6]))),
        "image 'COCO_val2014_000000007000.jpg': expected at least 1 caption, got 0; add captions or remove the image",
    ),
    "coco: of an image that is not there": (
        captions(layouts.coco, content(lambda said: said["annotations"][3].update(image_id=5))),
        "annotation 3: image_id: expected the id of one of 6 images, got 5",
    ),
    "coco: instances": (
        captions(layouts.coco, content(lambda said: said["annotations"][0].pop("caption"))),
        "annotation 0: expected an object with image_id and caption, got no captions; is this captions_….json?",
    ),
    "csv: without a header": (
        csv(text(lambda t: t.split("\n", 1)[1])),
        "c.csv: line 1: expected a header with image and caption, got",
    ),
    "csv: a comma without quotes": (
        csv(text(lambda t: t.replace('"', ""))),
        "line 2: expected 2 columns, got 3; put captions with commas",
    ),
    "csv: a quote without end": (csv(text(lambda t: t.rstrip()[:-1])), "expected CSV, got something else ("),
    "csv: Latin-1": (csv(raw(lambda b: b.replace("ï".encode(), b"\xef"))), "c.csv: line 2: expected UTF-8, got byte 0xef"),
    "csv: null characters": (
        csv(text(lambda t: t.replace("says", "\0"))),
        "expected Unicode text without null characters, got",
    ),
    "csv: empty": (csv(raw(lambda b: b"")), "c.csv: line 1: expected a header with image and caption, got nothing"),
    "jsonl: a line that is none": (
        captions(layouts.jsonl_table, text(lambda t: t.replace("{", "", 1)), name="c.jsonl"),
        "c.jsonl: line 1: expected JSON, got something else (",
    ),
    "jsonl: a caption twice in a line": (
        captions(layouts.jsonl_table, text(lambda t: t.replace("{", '{"caption": "a", "caption": "b", ')), name="c.jsonl"),
        "c.jsonl: line 1: 'caption': expected a key once in its object, got it twice; join the two",
    ),
    "jsonl: other keys": (
        captions(layouts.jsonl_table, text(lambda t: t.replace("captions", "texts")), name="c.jsonl"),
        "c.jsonl: line 1: expected an object with image and caption (or captions), got",
    ),
    "captions: a folder": (captions(layouts.karpathy, as_folder), "c.json: expected a file of captions, got a folder"),
    "captions: a spreadsheet": (
        captions(layouts.coco, name="c.xlsx"),
        "c.xlsx: expected captions as .json (Karpathy's or COCO's), .csv",
    ),
    # sources that are no features
    "source: nothing there": (lambda here: [str(here / "none")], "none: no such file or folder; check the path"),
    "source: a pickle": (
        source(bomb, "features.pkl"),
        "features.pkl: expected region features, got a pickle, which is never loaded",
    ),
    "source: torch's": (
        source(bomb, "features.pt"),
        "features.pt: expected region features, got a pickle, which is never loaded",
    ),
    "source: an empty folder": (
        source(Path.mkdir, "empty"),
        "empty: expected region features (*_ims.npy, *.tsv, .npz or .npy files",
    ),
    "source: captions": (
        source(lambda p: layouts.karpathy(p, PHOTOS), "c.json"),
        "c.json: expected region features, got captions, not features",
    ),
    "source: one long line": (
        source(lambda p: p.write_bytes(b"x" * (1 << 26)), "a.tsv"),
        "line 1: expected a line of an image, got one of 64 MB",
    ),
    "options: a layout that is none": (
        lambda here: [*tsv()(here), "--layout", "scan"],
        "expected one of the layouts precomp, vse-infinity, tsv, folder, own, got 'scan'",
    ),
    "options: a dtype that is none": (
        lambda here: [*tsv()(here), "--dtype", "int8"],
        "expected the dtype auto, float16 or float32, got 'int8'",
    ),
    "options: a split of nothing": (
        lambda here: [*tsv()(here), "--split", "dev"],
        "expected captions to choose from, got none",
    ),
    "options: more captions than there are": (
        lambda here: [*karpathy()(here), "--per-image", "9"],
        "expected at least 9 captions, got 5; add captions or remove the image",
    ),
    "options: captions of no image": (
        lambda here: [*karpathy()(here), "--per-image", "0"],
        "expected at least 1 caption an image, got 0",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_one_line_and_nothing_half_written(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    make, message = MALFORMED[case]
    monkeypatch.chdir(tmp_path)
    arguments = make(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert main(["convert", *arguments, "--out", str(tmp_path / "out" / "x.h5")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("racg: /")
    assert err.count("\n") == 1
    assert len(err) < 700
    assert message in err
    left = set(tmp_path.rglob("*")) - before
    assert left <= {tmp_path / "out"}, "something was left, or a pickle was loaded"
    assert not list(left and (tmp_path / "out").iterdir())


def test_the_table_is_long_enough() -> None:
    assert len(MALFORMED) >= 40


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full, the disk that is always full")
def test_no_space_left_on_the_device(tmp_path: Path, capsys) -> None:
    source = layouts.tsv(tmp_path / "a.tsv", PHOTOS)
    (tmp_path / f".x.h5.tmp-{os.getpid()}").symlink_to("/dev/full")
    assert main(["convert", str(source), "--out", str(tmp_path / "x.h5")]) == 2
    assert capsys.readouterr().err == (
        f"racg: {tmp_path / 'x.h5'}: cannot be written (No space left on device); make room or use another disk\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]


def test_a_disk_that_fills_up_with_the_captions_keeps_no_store_without_them(tmp_path: Path) -> None:
    """The limit on the size of files stands in for a full disk: the regions fit, their captions do not."""
    photos = [photo._replace(captions=["many words " * 2000] * 5) for photo in PHOTOS]
    source, table = layouts.tsv(tmp_path / "a.tsv", photos), layouts.coco(tmp_path / "c.json", photos)
    code = f"""
import resource, signal, sys
from racg_pl.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]}))
sys.exit(main(["convert", {str(source)!r}, "--captions", {str(table)!r}, "--out", {str(tmp_path / "x.h5")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"racg: {tmp_path / 'x.captions.h5'}: cannot be written (File too large); make room or use another disk\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tsv", "c.json"]


# ---- what is tolerated ----


def test_marks_line_ends_and_blank_lines_are_no_fault(tmp_path: Path) -> None:
    source = layouts.tsv(tmp_path / "a.tsv", PHOTOS, end="\r\n\r\n")
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    table = layouts.karpathy(tmp_path / "c.json", PHOTOS)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b', "', b',\r\n"'))
    assert main(["convert", str(source), "--captions", str(table), "--split", "train", "--out", str(tmp_path / "x.h5")]) == 0


# ---- fuzzing: whatever the bytes, a store or one line ----

SLOW = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@st.composite
def damage(draw: st.DrawFn, size: int) -> Callable[[bytes], bytes]:
    """A few cuts, insertions, swaps and flips of bytes."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["cut", "insert", "flip", "repeat"]),
                st.integers(0, size),
                st.integers(0, 40),
                st.binary(max_size=12),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def apply(data: bytes) -> bytes:
        for kind, place, length, more in steps:
            head, middle, tail = data[:place], data[place : place + length], data[place + length :]
            data = (
                head
                + {"cut": b"", "insert": more + middle, "flip": bytes(b ^ 1 for b in middle), "repeat": middle * 2}[kind]
                + tail
            )
        return data

    return apply


def quietly(arguments: list[str], out: Path, err: Callable[[], str]) -> None:
    """`racg convert` ends well with a store that `racg check` accepts, or in one line with nothing left."""
    status = main(["convert", *arguments, "--out", str(out)])
    said = err()
    assert status in (0, 2)
    if status:
        assert said.startswith("racg: ")
        assert said.count("\n") == 1
        assert not out.exists()
    else:
        assert main(["check", str(out)]) == 0
        out.unlink()
    assert not list(out.parent.glob(".*"))


@given(change=damage(2600), columns=st.sampled_from([layouts.peteanderson, layouts.lxmert]))
@SLOW
def test_fuzzed_tsv(change: Callable[[bytes], bytes], columns: Callable, tmp_path_factory, capsys) -> None:
    here = tmp_path_factory.mktemp("fuzz")
    path = layouts.tsv(here / "a.tsv", PHOTOS[:3], columns)
    path.write_bytes(change(path.read_bytes()))
    quietly([str(path)], here / "x.h5", lambda: capsys.readouterr().err)


@given(
    change=damage(700),
    name=st.sampled_from(["ims.npy", "boxes.npy", "objects.npy", "caps.txt", "ids.txt", "ims_bbx.npy", "ims_size.npy"]),
)
@SLOW
def test_fuzzed_precomp(change: Callable[[bytes], bytes], name: str, tmp_path_factory, capsys) -> None:
    here = tmp_path_factory.mktemp("fuzz")
    folder = layouts.precomp(here / "p", PHOTOS[:3], boxes="gsmn" if name.startswith("ims_") else "own")
    path = folder / f"dev_{name}"
    path.write_bytes(change(path.read_bytes()))
    quietly([str(folder), "--split", "dev"], here / "x.h5", lambda: capsys.readouterr().err)


@given(
    rows=st.lists(
        st.lists(
            st.one_of(
                st.integers(-2, 700).map(str),
                st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode()),
                st.text(max_size=6),
            ),
            max_size=11,
        ),
        max_size=4,
    )
)
@SLOW
def test_fuzzed_columns(rows: list[list[str]], tmp_path_factory, capsys) -> None:
    here = tmp_path_factory.mktemp("fuzz")
    (here / "a.tsv").write_bytes("\n".join("\t".join(row) for row in rows).encode("utf-8", "surrogatepass"))
    quietly([str(here / "a.tsv")], here / "x.h5", lambda: capsys.readouterr().err)
