"""Two processes over gloo train what one trains: the same batches, the same metric, the same weights within rounding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import by_two_processes, small
from racg_pl.cli import main
from racg_pl.data import RetrievalData
from racg_pl.gather import padded

EXACT = (
    "--model.dropout=0",
    "--model.hide=1",
    "--model.lr=0.005",
    "--model.hard_after=0.4",
)  # dropout and what is hidden differ by process
DOUBLE = {"epochs": 2, "precision": "64-true", "limit_val_batches": 0}


def arguments(scenes: Path, out: Path, gather: str, *more: str, **trainer: object) -> list[str]:
    keep = ["--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.save_last=true"]
    options = small(scenes, out, *EXACT, *keep, f"--model.gather_negatives={gather}", *more, **trainer)
    return ["fit", *options]


def two(scenes: Path, out: Path, gather: str, *more: str) -> Path:
    """`racg fit` on two processes."""
    by_two_processes(arguments(scenes, out, gather, *more, strategy="ddp", devices=2, **DOUBLE), out.parent)
    return out


def difference(one: Path, other: Path) -> float:
    """The largest between any two weights."""
    states = [torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for out in (one, other)]
    assert list(states[0]) == list(states[1])
    return max((states[0][name] - states[1][name]).abs().max().item() for name in states[0])


def test_two_processes_train_what_one_trains(scenes: Path, tmp_path: Path):
    one = tmp_path / "one"
    assert main(arguments(scenes, one, "true", **DOUBLE)) == 0  # which changes nothing for one process
    both = two(scenes, tmp_path / "both", "true")
    local = two(scenes, tmp_path / "local", "false")
    assert difference(one, both) < 1e-7
    assert difference(one, local) > 1e-4  # there negatives are those of a process, and so is the mean
    for out in (one, both):
        path = out / "checkpoints" / "last.ckpt"
        assert main(["validate", *small(scenes, out, f"--ckpt_path={path}")]) == 0
    records = [json.loads((out / "validate.json").read_text()) for out in (one, both)]
    assert records[0]["metrics"] == records[1]["metrics"]


def test_two_processes_train_by_triplets(scenes: Path, tmp_path: Path):
    """Whose loss has no temperature: DDP refuses weights that nothing trains."""
    one, triplet = tmp_path / "one", "--model.loss=triplet"
    assert main(arguments(scenes, one, "true", triplet, **DOUBLE)) == 0
    assert difference(one, two(scenes, tmp_path / "both", "true", triplet)) < 1e-7


@pytest.mark.parametrize("more", ["--model.separate_embeddings=true", "--model.decode=objects"])
def test_two_processes_train_other_forms(scenes: Path, tmp_path: Path, more: str):
    """With encoders of its own for each embedding, and with words decoded from objects."""
    one, short = tmp_path / "one", DOUBLE | {"epochs": 1}
    assert main(arguments(scenes, one, "true", more, **short)) == 0
    by_two_processes(arguments(scenes, tmp_path / "both", "true", more, strategy="ddp", devices=2, **short), tmp_path)
    assert difference(one, tmp_path / "both") < 1e-7


def test_padding_is_behind():
    assert padded(torch.ones(1, 2), (2, 3)).tolist() == [[1, 1, 0], [0, 0, 0]]
    assert padded(torch.ones(2, dtype=torch.bool), (3,)).tolist() == [True, True, False]


def test_a_process_needs_two_images(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr(RetrievalData, "_rank", lambda self: {"rank": 0, "world": 8})
    assert main(["fit", *small(scenes, tmp_path)]) == 2
    assert "expected images of at least 2 for each of 8 processes, got 8; raise data.images" in capsys.readouterr().err
