"""`racg eval`: recalls of score matrices and of their mean, and one line for each wrong matrix."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from racg_pl import evaluate as evaluate_module
from racg_pl.captions import CaptionStore
from racg_pl.cli import main
from racg_pl.evaluate import evaluate
from racg_pl.metrics import coco_folds, recalls


@pytest.fixture
def matrices(scenes: Path, tmp_path: Path) -> list[Path]:
    """Three noisy scorers of the 20 test pictures and their 100 captions, in three dtypes; their scales are alike."""
    captions = CaptionStore(scenes / "test.captions.h5")
    own = captions.image[None] == np.arange(captions.images)[:, None]
    paths = []
    for seed, dtype in enumerate((np.float32, np.float64, np.float16)):
        random = np.random.default_rng(seed)
        path = tmp_path / f"{seed}.npy"
        np.save(path, (random.standard_normal(own.shape) + 1.2 * own).astype(dtype))
        paths.append(path)
    return paths


def image(scenes: Path) -> torch.Tensor:
    return torch.from_numpy(CaptionStore(scenes / "test.captions.h5").image)


def test_recalls_of_each_and_of_the_mean(
    matrices: list[Path], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, captions = tmp_path / "out.json", scenes / "test.captions.h5"
    assert main(["eval", *map(str, matrices), "--captions", str(captions), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    record = json.loads(out.read_text())
    arrays = [torch.from_numpy(np.load(path).astype(np.float64)) for path in matrices]
    for path, array in zip(matrices, arrays, strict=True):
        assert record["metrics"][str(path)] == recalls(array, image(scenes))
        assert record["files"][str(path)] == hashlib.sha256(path.read_bytes()).hexdigest()
    together = recalls(torch.stack(arrays).mean(0), image(scenes))
    assert record["metrics"]["mean of 3"] == pytest.approx(together)
    assert together["rsum"] > max(record["metrics"][str(path)]["rsum"] for path in matrices)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()]
    columns = [f"{d} {what}" for d in ("i2t", "t2i") for what in ("R@1", "R@5", "R@10", "median")]
    assert rows[0] == ["scores", *columns, "rsum"]
    assert [row[0] for row in rows[2:]] == [*map(str, matrices), "mean of 3"]
    assert rows[-1][4] == f"{together['i2t_median']:.1f}"
    assert rows[-1][-1] == f"{together['rsum']:.1f}"
    assert (record["images"], record["queries"], record["folds"]) == (20, 100, 1)
    assert record["captions_sha256"] == CaptionStore(captions).sha256


def test_one_matrix_has_no_mean_and_folds_are_averaged(matrices: list[Path], scenes: Path):
    result = evaluate(matrices[:1], scenes / "test.captions.h5", folds=5)
    assert result.metrics == {str(matrices[0]): coco_folds(torch.from_numpy(np.load(matrices[0])), image(scenes))}
    assert result.record["folds"] == 5


def put(path: Path, array: np.ndarray) -> Path:
    np.save(path, array, allow_pickle=True)
    return path


def spoiled(path: Path, value: float) -> Path:
    array = np.load(path)
    array[3, 7] = value
    return put(path, array)


def archive(path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), scores=np.load(path))
    return path.with_suffix(".npz")


def garbage(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


MISTAKES: dict[str, tuple[Callable[[Path], list], str]] = {
    "no file": (lambda good: [good.with_name("none.npy")], "none.npy: expected a score matrix by numpy.save, got: No such file"),
    "a folder": (lambda good: [good.parent], "expected a score matrix"),
    "garbage": (lambda good: [garbage(good, b"garbage" * 99)], "0.npy: expected a score matrix"),
    "empty": (lambda good: [garbage(good, b"")], "0.npy: expected a score matrix"),
    "truncated": (lambda good: [garbage(good, good.read_bytes()[:999])], "0.npy: expected a score matrix"),
    "a pickle": (lambda good: [put(good, np.array([{}]))], "0.npy: expected a score matrix"),
    "another kind": (lambda good: [garbage(good, b"\x89HDF")], "got: objects, or a file of another kind; save the scores anew"),
    "a broken archive": (lambda good: [garbage(good, b"PK\x03\x04" + b"0" * 99)], "0.npy: expected a score matrix"),
    "a broken header": (lambda good: [garbage(good, good.read_bytes().replace(b"{'descr'", b"{'descr("))], "0.npy: expected"),
    "an archive": (lambda good: [archive(good)], "expected one array by numpy.save, got an archive"),
    "integers": (lambda good: [put(good, np.zeros((20, 100), np.int32))], "expected scores in float16, float32, float64, got int32"),
    "complex": (lambda good: [put(good, np.zeros((20, 100), np.complex64))], "got complex64"),
    "transposed": (lambda good: [put(good, np.load(good).T)], "= [20, 100], got [100, 20]; transpose it"),
    "another split": (lambda good: [put(good, np.load(good)[:, :90])], "= [20, 100], got [20, 90]; is it of this split?"),
    "three axes": (lambda good: [put(good, np.load(good)[None])], "got [1, 20, 100]"),
    "NaN": (lambda good: [spoiled(good, np.nan)], "1 of 2000 scores are not finite; the first is nan for image 3 and caption 7"),
    "infinity": (lambda good: [spoiled(good, np.inf)], "the first is inf for image 3 and caption 7"),
    "the second is wrong": (lambda good: [good, put(good.with_name("b.npy"), np.zeros(3))], "b.npy: expected scores [images"),
    "the same twice": (
        lambda good: [put(good.with_name("c.npy"), np.load(good)), good, good], "0.npy: expected different files",
    ),
    "the same by another name": (
        lambda good: [good, good.parent / ".." / good.parent.name / good.name], "expected different files, got this one twice",
    ),
    "folds that do not divide": (lambda good: [good, "--folds", 3], "folds that divide its 20 images, got --folds 3"),
    "no folds": (lambda good: [good, "--folds", 0], "got --folds 0"),
    "a folder to write to": (lambda good: [good, "--out", good.parent], "expected the name of a file, got a folder"),
    "nowhere to write": (lambda good: [good, "--out", good.parent / "no" / "out.json"], "out.json: cannot be written (there is no folder"),
    "over its own scores": (lambda good: [good, "--out", good], "0.npy: expected a file of its own to write to"),
}  # fmt: skip


def test_bytes_of_another_machine_count_alike(matrices: list[Path], scenes: Path):
    foreign = put(matrices[0].with_name("foreign.npy"), np.load(matrices[0]).astype(">f8"))
    ours, theirs, _ = evaluate([matrices[0], foreign], scenes / "test.captions.h5").metrics.values()
    assert ours == theirs


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, matrices: list[Path], scenes: Path, capsys: pytest.CaptureFixture[str]):
    prepare, says = MISTAKES[name]
    arguments = prepare(matrices[0])
    before = sorted(matrices[0].parent.rglob("*"))
    status = main(["eval", *map(str, arguments), "--captions", str(scenes / "test.captions.h5")])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("racg: ")
    assert len(err.splitlines()) == 1
    assert says in err
    assert sorted(matrices[0].parent.rglob("*")) == before


def test_captions_are_not_written_over_and_no_score_is_computed_in_vain(
    matrices: list[Path], copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    captions = copy / "test.captions.h5"
    before = captions.read_bytes()
    monkeypatch.setattr(evaluate_module, "_recalls", None)
    for out, says in (
        (captions, "test.captions.h5: expected a file of its own"),
        (copy / "no" / "x.json", "x.json: cannot be"),
    ):
        assert main(["eval", str(matrices[0]), "--captions", str(captions), "--out", str(out)]) == 2
        assert says in capsys.readouterr().err
    assert captions.read_bytes() == before


def test_captions_are_needed(matrices: list[Path], capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(matrices[0]), "--captions", str(matrices[0].with_name("no.captions.h5"))]) == 2
    assert "no.captions.h5: no such file" in capsys.readouterr().err
