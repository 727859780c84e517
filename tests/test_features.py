"""The region store: what goes in comes out, in any process, in flat memory, and nothing is left behind by a failure."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from racg_pl import hdf5
from racg_pl.errors import DataError
from racg_pl.features import BUFFER, RegionStore, RegionWriter
from racg_pl.record import all_finite

R, D = 4, 6


def image(index: int, count: int = R) -> dict:
    """A record with everything, its numbers exact in float16."""
    rng = np.random.default_rng(index)
    corner = rng.random((count, 2)) / 2
    return {
        "id": f"picture-{index}-é",
        "features": rng.integers(0, 2048, (count, D)) / 4,
        "boxes": np.concatenate([corner, corner + 0.25], axis=1).astype(np.float32),
        "labels": rng.integers(-1, 80, count),
        "scores": rng.random(count, dtype=np.float32),
        "size": (640, 480 + index),
        "group": index // 2,
    }


def write(path: Path, records: Iterable[dict], dtype: str = "float16", **options) -> Path:
    with RegionWriter(path, R, D, dtype=dtype, extractor="test", **options) as writer:
        for record in records:
            writer.add(**record)
    return path


@pytest.fixture
def store(tmp_path: Path) -> RegionStore:
    """150 images (more than two of the writer's buffers), image i with 1 + i % R real regions."""
    return RegionStore(write(tmp_path / "train.h5", [image(i, 1 + i % R) for i in range(150)]))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    records = [image(i, 1 + i % R) for i in range(130)]
    store = RegionStore(
        write(tmp_path / "new" / "x.h5", records, dtype, source=tmp_path / "a" / "ims.npy", source_sha256="abc")
    )
    assert (len(store), store.regions, store.dim, store.dtype, store.extractor) == (130, R, D, dtype, "test")
    assert store.ids == [record["id"] for record in records]
    assert store.boxes_known
    got = store.read(np.arange(130))
    assert (got.features.dtype, got.boxes.dtype, got.counts.dtype, got.labels.dtype) == ("float32", "float32", "int32", "int32")
    for i, record in enumerate(records):
        count = 1 + i % R
        assert got.counts[i] == count
        np.testing.assert_array_equal(got.features[i, :count], record["features"])
        np.testing.assert_array_equal(got.boxes[i, :count], record["boxes"])
        np.testing.assert_array_equal(got.labels[i, :count], record["labels"])
        np.testing.assert_array_equal(store.scores[i, :count], record["scores"])
        assert not got.features[i, count:].any()
        assert not got.boxes[i, count:].any()
        assert (got.labels[i, count:] == -1).all()
    np.testing.assert_array_equal(store.sizes, [record["size"] for record in records])
    np.testing.assert_array_equal(store.groups, [record["group"] for record in records])
    with h5py.File(store.path) as file:
        assert file["features"].chunks == (1, R, D)
        assert dict(file.attrs) | {"sha256": ""} == {
            "schema": "racg_pl.regions/1",
            "extractor": "test",
            "source": "ims.npy",
            "source_sha256": "abc",
            "sha256": "",
        }


@pytest.mark.parametrize("indices", [[], [7], [149, 0, 149, 3, 4, 5, 3], list(range(64, 100)), list(range(149, -1, -1))])
def test_read_in_any_order_with_repeats(store: RegionStore, indices: list[int]) -> None:
    whole, got = store.read(np.arange(150)), store.read(np.array(indices, dtype=np.int64))
    for field, expected in zip(got, whole, strict=True):
        np.testing.assert_array_equal(field, expected[indices])
    assert store.read(indices, store.dtype).features.dtype == np.float16
    np.testing.assert_array_equal(store.read(indices, store.dtype).features, got.features)


def test_one_image_and_indices_out_of_range(store: RegionStore) -> None:
    np.testing.assert_array_equal(store[5].features, store.read([5]).features[0])
    assert store[5].counts == 2
    for wrong in ([150], [0, -1]):
        with pytest.raises(IndexError, match=r"0\.\.149"):
            store.read(wrong)


def test_optional_fields_may_all_be_absent(tmp_path: Path) -> None:
    bare = [{k: v for k, v in image(i).items() if k in ("id", "features", "boxes")} for i in range(3)]
    store = RegionStore(write(tmp_path / "x.h5", bare, boxes_known=False))
    assert store.labels is store.scores is store.sizes is store.groups is None
    assert not store.boxes_known
    assert (store.read([2]).labels == -1).all()


def test_same_records_same_bytes(tmp_path: Path) -> None:
    records = [image(i) for i in range(100)]
    first, second = (write(tmp_path / name, records) for name in ("a.h5", "b.h5"))
    assert first.read_bytes() == second.read_bytes()
    changed = {RegionStore(first).sha256}
    for i, change in enumerate(({"id": "z"}, {"size": (1, 2)}, {"group": 9}, {"scores": np.zeros(R)}, {"labels": [0] * R})):
        changed.add(RegionStore(write(tmp_path / f"{i}.h5", [records[0] | change, *records[1:]])).sha256)
    changed.add(RegionStore(write(tmp_path / "wide.h5", records, "float32")).sha256)
    changed.add(RegionStore(write(tmp_path / "short.h5", records[:-1])).sha256)
    assert len(changed) == 8


def test_the_content_hash_is_what_the_docstrings_say(tmp_path: Path) -> None:
    """Anew, by hashlib and struct: the header, then id, count, features, boxes, labels, scores, size and group of each record."""
    content = hashlib.sha256()

    def add(data: bytes) -> None:
        content.update(struct.pack("<Q", len(data)) + data)

    optional = ["groups", "labels", "scores", "sizes"]
    header = {"schema": "racg_pl.regions/1", "dtype": "float16", "regions": R, "dim": D, "optional": optional}
    add(json.dumps(header, sort_keys=True).encode())
    for index in range(70):
        record = image(index)
        add(record["id"].encode())
        add(struct.pack("<i", R))
        add(record["features"].astype("<f2").tobytes())
        add(record["boxes"].astype("<f4").tobytes())
        add(record["labels"].astype("<i4").tobytes())
        add(record["scores"].astype("<f4").tobytes())
        add(struct.pack("<2i", *record["size"]))
        add(struct.pack("<i", record["group"]))
    assert RegionStore(write(tmp_path / "x.h5", map(image, range(70)))).sha256 == content.hexdigest()


def test_what_a_killed_process_left_of_a_file_goes_when_it_is_written(tmp_path: Path) -> None:
    names = [f".[x].h5.tmp-{number}" for number in (99999999, os.getppid(), "own")] + [".y.h5.tmp-99999999"]
    for name in names:
        (tmp_path / name).touch()
    write(tmp_path / "[x].h5", [image(0)])
    assert {path.name for path in tmp_path.iterdir()} == {"[x].h5", *names[1:]}  # those of others, and of other files, stay


def test_the_disk_may_begin_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "a.h5", map(image, range(150)))
    monkeypatch.setattr(hdf5, "BEGIN", 1000)
    assert write(tmp_path / "b.h5", map(image, range(150))).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("sign", [1, -1])
def test_all_finite(dtype: str, sign: int) -> None:
    greatest = float(np.finfo(dtype).max)
    for value in (0.0, 1.0, greatest, float(np.finfo(dtype).tiny) / 2):
        assert all_finite(np.array([[0, value * sign], [1, 2]], dtype))
    for value in (np.inf, np.nan):
        for rest in (0.0, -1.0):
            numbers = np.array([[rest, np.copysign(value, sign)], [1, rest]], dtype)
            assert np.signbit(numbers[0, 1]) == (sign < 0)
            assert not all_finite(numbers)
    assert all_finite(np.zeros((0, 3), dtype))


class Batches(Dataset):
    """Scattered batches of a store, as a data module would ask for them."""

    def __init__(self, store: RegionStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int):
        rows = np.random.default_rng(index).integers(0, 150, 16)
        return rows, self.store.read(rows).features


def test_two_workers_read_what_one_process_reads(store: RegionStore) -> None:
    whole = store.read(np.arange(150)).features  # the parent's handle is open before the workers start
    loader = DataLoader(Batches(store), batch_size=None, num_workers=2, multiprocessing_context="fork")
    batches = list(loader)
    np.testing.assert_array_equal(store.read([1, 0]).features, whole[[1, 0]])
    assert len(batches) == 40
    for rows, features in batches:
        np.testing.assert_array_equal(features, whole[rows])


def test_a_pickle_holds_no_handle(store: RegionStore) -> None:
    assert len(store.ids) == 150
    data = pickle.dumps(store)
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).read([3]).features, store.read([3]).features)


def test_writing_is_flat_in_memory(tmp_path: Path) -> None:
    def peak(images: int) -> int:
        rng = np.random.default_rng(0)
        boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (36, 1))
        tracemalloc.start()
        with RegionWriter(tmp_path / "x.h5", 36, 64, extractor="test") as writer:
            for index in range(images):
                writer.add(str(index), rng.random((36, 64), dtype=np.float32), boxes)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    few, many = peak(200), peak(2000)  # the difference is the ids and what waits to be hashed: all features would be 9 MB
    assert many - few < 1_500_000


WRONG = {
    "one region too many": ({"features": np.ones((R + 1, D))}, "features: expected 1 to 4 regions, got [5, 6]"),
    "no region": ({"features": np.ones((0, D))}, "features: expected 1 to 4 regions, got [0, 6]"),
    "width": ({"features": np.ones((R, D - 1))}, "features: expected the shape [4, 6], got [4, 5]"),
    "rank": ({"features": 1.0}, "features: expected 1 to 4 regions, got []"),
    "unequal rows": ({"features": [[1.0], [1.0, 2.0]]}, "features: expected an array, got rows of unequal length"),
    "text": ({"features": np.full((R, D), "a")}, "features: expected numbers, got <U1"),
    "complex": ({"features": np.ones((R, D), complex)}, "features: expected numbers, got complex128"),
    "nan": ({"features": np.full((R, D), np.nan)}, "expected finite features, got nan in region 0, dimension 0"),
    "infinite": ({"features": np.full((R, D), -np.inf)}, "expected finite features, got -inf in region 0"),
    "overflow": ({"features": np.full((R, D), 70000.0)}, "expected numbers that float16 can hold, got 70000; store float32"),
    "too few boxes": ({"boxes": np.ones((R - 1, 4))}, "boxes: expected the shape [4, 4], got [3, 4]"),
    "pixels": (
        {"boxes": np.tile([0, 0, 640, 480], (R, 1))},
        "expected boxes within [0, 1], got [0.0, 0.0, 640.0, 480.0] in region 0",
    ),
    "left of the image": ({"boxes": np.tile([-0.1, 0, 1, 1], (R, 1))}, "expected boxes within [0, 1], got [-0.1, "),
    "nan box": ({"boxes": np.full((R, 4), np.nan)}, "expected boxes finite numbers, got [nan, "),
    "inverted": (
        {"boxes": np.tile([0.5, 0, 0.4, 1], (R, 1))},
        "expected boxes with x1 < x2 and y1 < y2, got [0.5, 0.0, 0.4, 1.0]",
    ),
    "empty box": ({"boxes": np.tile([0, 0.5, 1, 0.5], (R, 1))}, "expected boxes with x1 < x2 and y1 < y2"),
    "float labels": ({"labels": np.zeros(R)}, "labels: expected integers, got float64"),
    "big labels": ({"labels": np.full(R, 2**40)}, "labels: expected numbers that int32 can hold"),
    "negative labels": ({"labels": np.full(R, -2)}, "expected labels of −1 (unknown) or more, got -2"),
    "scores": ({"scores": np.full(R, np.nan)}, "expected finite scores, got nan"),
    "size": ({"size": (640,)}, "size: expected the shape [2], got [1]"),
    "negative size": ({"size": (640, -1)}, "expected a width and a height (0 unknown), got [640, -1]"),
    "group": ({"group": -2}, "expected a group of −1 (none) or more, got -2"),
    "same id": ({"id": image(0)["id"]}, "expected unique ids, got one that record 0 has too"),
    "no id": ({"id": ""}, "expected an id that is a text"),
    "number as id": ({"id": 7}, "expected an id that is a text of at least one character, got 7"),
    "labels forgotten": (
        {"labels": None},
        "expected labels, scores, sizes, groups, as record 0 has, got scores, sizes, groups",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_record_is_named_and_nothing_is_left(tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    with pytest.raises(DataError) as error:
        write(tmp_path / "x.h5", [image(0), image(1), image(2) | change])
    assert str(error.value).startswith(f"{tmp_path / 'x.h5'}: record 2 (")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_messages_name_the_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^/data/ims\.npy: record 0 "):
        write(tmp_path / "x.h5", [image(0) | {"group": -2}], source="/data/ims.npy")


def test_an_interrupt_keeps_the_old_file(tmp_path: Path) -> None:
    old = write(tmp_path / "x.h5", [image(0)]).read_bytes()

    def interrupted() -> Iterator[dict]:
        yield image(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x.h5", interrupted())
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
    assert (tmp_path / "x.h5").read_bytes() == old


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on the size of files stands in for a full disk."""
    code = f"""
import numpy as np, resource, signal
from racg_pl.errors import DataError
from racg_pl.features import RegionWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]}))
try:
    with RegionWriter({str(tmp_path / "x.h5")!r}, 36, 64, extractor="test") as writer:
        for index in range(500):
            writer.add(str(index), np.ones((36, 64)), np.tile([0, 0, 1, 1], (36, 1)))
except DataError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout == f"{tmp_path / 'x.h5'}: cannot be written (File too large); make room or use another disk\n", run.stderr
    assert not run.stderr
    assert not list(tmp_path.iterdir())


def test_writer_arguments(tmp_path: Path) -> None:
    for regions, dim, dtype in ((R, D, "float64"), (0, D, "float16"), (R, 0, "float16")):
        with pytest.raises(DataError, match="expected"):
            RegionWriter(tmp_path / "x.h5", regions, dim, dtype=dtype, extractor="test")
    with pytest.raises(DataError, match="at least one image"):
        write(tmp_path / "x.h5", [])
    with pytest.raises(DataError, match="got a folder"):
        write(tmp_path, [image(0)])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "file" / "x.h5", [image(0)])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_that_are_no_store(tmp_path: Path, store: RegionStore) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(DataError) as error:
            RegionStore(path)
        assert str(error.value).startswith(f"{path}: ")
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    refused(tmp_path / "missing.h5", "no such file")
    refused(tmp_path, "got a folder")
    (tmp_path / "text.h5").write_text("no HDF5")
    refused(tmp_path / "text.h5", "got no HDF5 file")
    (tmp_path / "empty.h5").touch()
    refused(tmp_path / "empty.h5", "expected an HDF5 file")
    (tmp_path / "short.h5").write_bytes(store.path.read_bytes()[:-1000])
    refused(tmp_path / "short.h5", "got a truncated file")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["features"] = np.zeros(3)
    refused(tmp_path / "other.h5", "expected the schema racg_pl.regions/1, got None")


@pytest.mark.parametrize("count", [BUFFER, 2 * BUFFER])
def test_as_many_images_as_fill_the_buffer(tmp_path, count):
    with RegionWriter(tmp_path / "full.h5", 2, 3, extractor="x") as writer:
        for index in range(count):
            writer.add(str(index), np.full((2, 3), index, np.float32), np.tile([0.1, 0.1, 0.5, 0.5], (2, 1)))
    store = RegionStore(tmp_path / "full.h5")
    assert len(store) == count
    assert store.read(np.array([count - 1])).features.min() == count - 1


@pytest.mark.parametrize(("name", "extractor"), [("caf\udce9.h5", "x"), ("x.h5", "caf\udce9"), ("x.h5", "a\0b")])
def test_names_that_no_file_can_hold(tmp_path: Path, name: str, extractor: str):
    with pytest.raises(DataError, match="expected names in UTF-8 of the file, its source and its extractor, got"):
        RegionWriter(tmp_path / name, 36, 64, extractor=extractor)
    assert list(tmp_path.iterdir()) == []
