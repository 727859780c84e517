"""The converter on generated files in SCAN's layout, good and bad."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from racg_pl import captions
from racg_pl.captions import CaptionStore
from racg_pl.check import check
from racg_pl.convert import convert
from racg_pl.errors import DataError
from racg_pl.features import RegionStore

N, R, D = 70, 3, 5
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """N images with everything that the layout knows."""
    folder = tmp_path / "precomp"
    folder.mkdir()
    rng = np.random.default_rng(0)
    corners = rng.random((N, R, 2)) / 2
    np.save(folder / "dev_ims.npy", rng.random((N, R, D), dtype=np.float32))
    np.save(folder / "dev_boxes.npy", np.concatenate([corners, corners + 0.5], axis=2))
    np.save(folder / "dev_objects.npy", rng.integers(-1, 80, (N, R)))
    np.save(folder / "dev_scores.npy", rng.random((N, R), dtype=np.float32))
    (folder / "dev_ids.txt").write_text("".join(f"img{i}.jpg\n" for i in range(N)))
    (folder / "dev_caps.txt").write_text("".join(f"caption {j} of {i}\n" for i in range(N) for j in range(5)))
    return folder


def test_the_script_does_what_racg_convert_does(folder: Path, tmp_path: Path) -> None:
    script = [sys.executable, ROOT / "data_prep" / "convert_precomp.py", folder, "--split", "dev"]
    done = subprocess.run([*script, "--out", tmp_path / "script.h5"], capture_output=True, text=True, check=True)
    said = convert(folder, tmp_path / "racg.h5", layout="precomp", split="dev", progress=False)
    assert done.stdout == said.replace("racg.", "script.") + "\n"
    assert (tmp_path / "script.h5").read_bytes() == (tmp_path / "racg.h5").read_bytes()
    one, two = (CaptionStore(tmp_path / f"{name}.captions.h5") for name in ("script", "racg"))
    assert one.sha256 == two.sha256
    bad = subprocess.run([*script[:3], "--split", "val", "--out", tmp_path / "x.h5"], capture_output=True, text=True)
    assert bad.returncode == 2
    assert bad.stderr.startswith("racg: ")
    assert bad.stderr.count("\n") == 1


def load(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"dev_{name}.npy")


def test_everything(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "dev.h5"
    summary = convert(folder, split="dev", out=out, extractor="bottom-up")
    captions_file = tmp_path / "new" / "dev.captions.h5"
    assert summary.splitlines() == [
        f"{folder / 'dev_ims.npy'}: SCAN's precomp",
        f"{out}: 70 images × 3 regions × 5 (float32; boxes, objects, scores), 350 captions in {captions_file}",
    ]
    store, captions = RegionStore(out), CaptionStore(captions_file)
    assert (store.extractor, store.dtype, store.boxes_known) == ("bottom-up", "float32", True)
    assert store.ids[:2] == ["img0.jpg", "img1.jpg"]
    got = store.read(np.arange(N))
    np.testing.assert_array_equal(got.features, load(folder, "ims"))
    np.testing.assert_array_equal(got.boxes, load(folder, "boxes").astype(np.float32))
    np.testing.assert_array_equal(got.labels, load(folder, "objects"))
    np.testing.assert_array_equal(store.scores, load(folder, "scores"))
    assert captions.texts[:6] == [*(f"caption {j} of 0" for j in range(5)), "caption 0 of 1"]
    np.testing.assert_array_equal(captions.image, np.arange(5 * N) // 5)
    captions.require(store)
    assert "source dev_ims.npy" in check(out)
    assert store._file.attrs["source_sha256"] == hashlib.sha256((folder / "dev_ims.npy").read_bytes()).hexdigest()
    check(captions_file)


def test_five_rows_an_image_give_the_same_store(folder: Path, tmp_path: Path) -> None:
    convert(folder, split="dev", out=tmp_path / "once.h5")
    for name in ("ims", "objects"):  # the others stay once an image
        np.save(folder / f"dev_{name}.npy", np.repeat(load(folder, name), 5, axis=0))
    ids = (folder / "dev_ids.txt").read_text().split()
    (folder / "dev_ids.txt").write_text("\n".join(np.repeat(ids, 5)))
    convert(folder, split="dev", out=tmp_path / "five.h5")
    once, five = RegionStore(tmp_path / "once.h5"), RegionStore(tmp_path / "five.h5")
    assert len(five) == N
    assert once.sha256 == five.sha256
    assert CaptionStore(tmp_path / "once.captions.h5").sha256 == CaptionStore(tmp_path / "five.captions.h5").sha256


def test_scans_own_files_have_neither_boxes_nor_ids(folder: Path, tmp_path: Path) -> None:
    for name in ("dev_boxes.npy", "dev_objects.npy", "dev_scores.npy", "dev_ids.txt"):
        (folder / name).unlink()
    summary = convert(folder, split="dev", out=tmp_path / "dev.h5", captions_out=tmp_path / "c.h5")
    assert summary.endswith("c.h5; boxes are unknown: every region stands for the whole picture")
    store = RegionStore(tmp_path / "dev.h5")
    assert store.ids == [str(i) for i in range(N)]
    assert (store.boxes == [0, 0, 1, 1]).all()
    assert not store.boxes_known
    assert store.labels is None
    assert "boxes      unknown: every region is the whole picture" in check(tmp_path / "dev.h5")
    CaptionStore(tmp_path / "c.h5").require(store)


@pytest.mark.parametrize(
    ("source", "option", "stored"),
    [("f2", "auto", "f2"), ("f4", "auto", "f4"), ("f8", "auto", "f4"), ("f4", "float16", "f2"), ("f2", "float32", "f4")],
)
def test_dtypes(folder: Path, tmp_path: Path, source: str, option: str, stored: str) -> None:
    features = load(folder, "ims").astype(source)
    np.save(folder / "dev_ims.npy", features)
    convert(folder, split="dev", out=tmp_path / "x.h5", dtype=option)
    store = RegionStore(tmp_path / "x.h5")
    assert store.dtype == stored
    np.testing.assert_array_equal(store.read(np.arange(N)).features, features.astype(stored))


def test_trailing_zeros_are_padding(folder: Path, tmp_path: Path) -> None:
    features, boxes = load(folder, "ims"), load(folder, "boxes")
    features[4, 1:] = boxes[4, 1:] = 0
    features[5, 0] = 0  # a real region may be zero where others follow
    np.save(folder / "dev_ims.npy", features)
    np.save(folder / "dev_boxes.npy", boxes)
    convert(folder, split="dev", out=tmp_path / "x.h5")
    counts = RegionStore(tmp_path / "x.h5").counts
    assert (counts[4], counts[5], counts.sum()) == (1, 3, N * R - 2)


def test_line_ends_marks_and_empty_lines(folder: Path, tmp_path: Path) -> None:
    lines = ["a café", "", "  two dogs ", "next\u2028line", "犬"] * N
    (folder / "dev_caps.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    convert(folder, split="dev", out=tmp_path / "x.h5")
    texts = CaptionStore(tmp_path / "x.captions.h5").texts
    assert len(texts) == 5 * N
    assert texts[:5] == ["a café", "", "two dogs", "next\u2028line", "犬"]


def test_same_bytes_twice(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert(folder, split="dev", out=tmp_path / name / "dev.h5")
    for name in ("dev.h5", "dev.captions.h5"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def save(name: str, change) -> object:
    """Rewrite one of the arrays."""
    return lambda folder: np.save(folder / f"dev_{name}.npy", change(load(folder, name)))


def cut(folder: Path) -> None:
    data = (folder / "dev_ims.npy").read_bytes()
    (folder / "dev_ims.npy").write_bytes(data[:-100])


def pickled(folder: Path) -> None:
    ragged = np.empty(N, dtype=object)
    ragged[:] = [np.ones((1 + i % 3, D)) for i in range(N)]
    np.save(folder / "dev_ims.npy", ragged, allow_pickle=True)


def archive(folder: Path) -> None:
    np.savez(folder / "x.npz", a=np.ones(3))
    (folder / "x.npz").rename(folder / "dev_ims.npy")


def latin(folder: Path) -> None:
    lines = (folder / "dev_caps.txt").read_bytes().split(b"\n")
    lines[7] = "un café noir".encode("latin-1")
    (folder / "dev_caps.txt").write_bytes(b"\n".join(lines))


def rewrite(name: str, change) -> object:
    def apply(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join(change(lines)) + "\n")

    return apply


def poison(place: tuple, value: float):
    def change(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return change


BAD = {
    "no features": (lambda f: (f / "dev_ims.npy").unlink(), "dev_ims.npy: no such file; check the folder and the split"),
    "no captions": (lambda f: (f / "dev_caps.txt").unlink(), "dev_caps.txt: cannot be read (No such file or directory)"),
    "truncated": (cut, "dev_ims.npy: expected an array of numbers, got a truncated file; copy it again"),
    "empty file": (
        lambda f: (f / "dev_ims.npy").write_bytes(b""),
        "dev_ims.npy: expected an array of numbers, got a truncated file",
    ),
    "pickled": (pickled, "dev_ims.npy: expected an array of numbers, got pickled Python objects, which are never loaded; save"),
    "not npy": (
        lambda f: (f / "dev_ims.npy").write_bytes(b"x" * 999),
        "dev_ims.npy: expected an array of numbers, got pickled",
    ),
    "npz": (archive, "dev_ims.npy: expected one array, got an .npz archive"),
    "integers": (save("ims", lambda x: x.astype(int)), "dev_ims.npy: expected floating-point numbers, got int64"),
    "pooled": (save("ims", lambda x: x[:, 0]), "dev_ims.npy: expected the shape [rows, R, D], got [70, 5]"),
    "no rows": (save("ims", lambda x: x[:0]), "dev_caps.txt: expected 0 captions for the 0 rows of dev_ims.npy"),
    "nan": (
        save("ims", poison((66, 1, 2), np.nan)),
        "dev_ims.npy: record 66 ('img66.jpg'): expected finite features, got nan in",
    ),
    "too large": (save("ims", lambda x: x.astype("f8") * 1e300), "expected numbers that float32 can hold, got"),
    "zeros": (save("ims", poison((3,), 0)), "dev_ims.npy: record 3 ('img3.jpg'): expected features, got only zeros"),
    "too few images": (
        save("ims", lambda x: x[:-1]),
        "dev_caps.txt: expected 345 captions for the 69 rows of dev_ims.npy (69 if every",
    ),
    "too few captions": (rewrite("dev_caps.txt", lambda x: x[:-1]), "dev_caps.txt: expected 350 captions for the 70 rows of"),
    "no repeats": (
        save("ims", lambda x: np.tile(x, (5, 1, 1))),
        "dev_ims.npy: expected each image 5 times (350 rows, 70 images), got",
    ),
    "Latin-1": (latin, "dev_caps.txt: line 8: expected UTF-8, got byte 0xe9 near 'un café noir'; convert it"),
    "null": (rewrite("dev_caps.txt", lambda x: ["a\0b", *x[1:]]), "dev_caps.txt: record 0: expected Unicode text without null"),
    "ids": (rewrite("dev_ids.txt", lambda x: x[:-1]), "dev_ids.txt: expected 70 ids, or each 5 times, got 69"),
    "same ids": (
        rewrite("dev_ids.txt", lambda x: [*x[:-1], x[0]]),
        "record 69 ('img0.jpg'): expected unique ids, got one that record 0",
    ),
    "caption ids": (
        rewrite("dev_ids.txt", lambda x: map(str, range(350))),
        "dev_ids.txt: line 2: expected each id 5 times, got '1'",
    ),
    "fewer boxes": (save("boxes", lambda x: x[:-1]), "dev_boxes.npy: expected 70 rows, one an image of dev_ims.npy, got 69"),
    "box shape": (save("boxes", lambda x: x[:, :2]), "dev_boxes.npy: expected the shape [rows, 3, 4], got [70, 2, 4]"),
    "pixels": (save("boxes", lambda x: x * 500), "record 0 ('img0.jpg'): expected boxes within [0, 1]"),
    "box repeats": (save("boxes", lambda x: np.tile(x, (5, 1, 1))), "dev_boxes.npy: expected each image 5 times"),
    "float labels": (save("objects", lambda x: x * 1.0), "dev_objects.npy: expected integers, got float64"),
    "nan scores": (save("scores", poison((69, 0), np.nan)), "record 69 ('img69.jpg'): expected finite scores, got nan"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    change(folder)
    with pytest.raises(DataError) as error:
        convert(folder, split="dev", out=tmp_path / "dev.h5")
    assert str(error.value).startswith(str(folder))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["precomp"]


def test_bad_arguments(folder: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((tmp_path / "none", tmp_path / "x.h5"), "none: no such file or folder; check the path"),
        (
            (folder / "dev_ims.npy", tmp_path / "x.h5"),
            "expected the folder of an array, got the file; name .* with --split dev",
        ),
        ((folder, ""), r"^\.: expected the name of a file, got a folder"),
        ((folder, tmp_path), "expected the name of a file, got a folder"),
        (
            (folder, tmp_path / "new" / "f30k.dev"),
            r"f30k\.dev: expected a name that ends in \.h5, got \.dev; name it f30k\.dev\.h5",
        ),
    ):
        with pytest.raises(DataError, match=message):
            convert(*arguments, split="dev")
    assert not (tmp_path / "new").exists()
    with pytest.raises(DataError, match="expected the name of a split, got none; give one of dev"):
        convert(folder, tmp_path / "x.h5")
    with pytest.raises(DataError, match="expected the dtype auto, float16 or float32, got 'int8'"):
        convert(folder, split="dev", out=tmp_path / "x.h5", dtype="int8")


def test_captions_that_cannot_be_written_leave_no_store(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got a folder"):
        convert(folder, split="dev", out=tmp_path / "dev.h5", captions_out=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["precomp"]


def test_what_is_read_is_not_written_over_and_what_cannot_be_written_is_said_first(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    table.write_text("image,caption\n" + "".join(f"img{i}.jpg,a picture\n" for i in range(N)))
    out, file = tmp_path / "dev.h5", tmp_path / "file"
    convert(folder, split="dev", out=out, captions=table)  # the split is that of the features, the table has none
    file.write_text("")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for options, message in (
        (
            {"out": folder / "dev_ims.npy"},
            r"dev_ims.npy: expected a name that ends in \.h5, got \.npy; name it dev_ims\.npy\.h5",
        ),
        ({"out": out, "captions": table, "captions_out": table}, "captions.csv: expected a file of its own"),
        ({"out": out, "captions_out": out}, "dev.h5: expected a file of its own"),
        ({"out": out, "captions_out": file / "x.h5"}, "file/x.h5: cannot be written .*file is no folder"),
    ):
        with pytest.raises(DataError, match=message):
            convert(folder, split="dev", **options)  # type: ignore[arg-type]
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_where_captions_fail_the_files_of_before_stay(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(folder, split="dev", out=tmp_path / "dev.h5", progress=False)
    before = {path: path.read_bytes() for path in tmp_path.glob("dev*")}
    np.save(folder / "dev_ims.npy", load(folder, "ims") + 1)

    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(captions, "captions_hash", full)
    with pytest.raises(DataError, match=r"dev.captions.h5: cannot be written \(No space left on device\)"):
        convert(folder, split="dev", out=tmp_path / "dev.h5", progress=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_memory_is_flat(tmp_path: Path) -> None:
    def peak(images: int) -> int:
        np.save(tmp_path / "x_ims.npy", np.random.default_rng(0).random((images, 36, 64), dtype=np.float32))
        (tmp_path / "x_caps.txt").write_text("a dog\n" * 5 * images)
        tracemalloc.start()
        convert(tmp_path, split="x", out=tmp_path / "x.h5", progress=False)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(300)  # what is imported on the first call is no part of it
    few, many = (min(peak(images) for _ in range(3)) for images in (1200, 2400))  # the thread that hashes falls as it may
    assert many - few < 2_500_000  # captions and ids; the 1,200 images more would be 11 MB


@pytest.mark.skipif(not (SHARED / "flickr8k" / "dev.npz").exists(), reason="../shared/data/flickr8k is absent")
def test_flickr8k_dev(tmp_path: Path) -> None:
    source = tmp_path / "source"  # dev alone: unpack.py writes the splits that it finds
    source.mkdir()
    for path in (SHARED / "flickr8k").glob("dev*"):
        (source / path.name).symlink_to(path)
    subprocess.run([sys.executable, SHARED / "unpack.py", tmp_path, source], check=True, stdout=subprocess.DEVNULL)
    folder = tmp_path / "f8k_precomp"
    convert(folder, split="dev", out=tmp_path / "dev.h5", progress=False)
    assert "1000 images × 36 regions × 160, float32" in check(tmp_path / "dev.h5")
    assert "5 to 5 captions; 0 images have none" in check(tmp_path / "dev.captions.h5")
    rows = np.array([999, 0, 512])
    got = RegionStore(tmp_path / "dev.h5").read(rows)
    np.testing.assert_array_equal(got.features, load(folder, "ims")[rows])
    np.testing.assert_array_equal(got.labels, load(folder, "objects")[rows])


def test_a_file_for_captions_wants_captions(tmp_path: Path):
    np.save(tmp_path / "features.npy", np.ones((2, 3, 4), np.float32))
    (tmp_path / "ids.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"c\.h5: expected captions to write, got none; give them by --captions"):
        convert(tmp_path, out=tmp_path / "o.h5", captions_out=tmp_path / "c.h5")
    assert not (tmp_path / "o.h5").exists()
