"""Training and evaluation on a device that is not the processor (elsewhere.py): nothing is left behind, and the numbers are the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from conftest import SMALL_MODEL
from elsewhere import DEVICE, Elsewhere, There, elsewhere, waits
from racg_pl import native
from racg_pl.data import ReadAhead, RetrievalData, ahead
from racg_pl.errors import DataError
from racg_pl.module import RACGModule

SMALL_PEER = {"dim": 16, "word_dim": 8}
STILL = {"dropout": 0.0}  # which is drawn for padding too on a device


def test_the_device_refuses_what_cuda_refuses():
    with elsewhere():
        there, here = torch.ones(3, device=DEVICE), torch.ones(3)
        assert isinstance(there, Elsewhere)
        assert there.is_cuda
        assert not isinstance(there.cpu(), Elsewhere)
        assert torch.equal(there.cpu(), here)
        assert (there + torch.tensor(1.0)).tolist() == [2, 2, 2]
        assert there[torch.tensor([0, 2])].tolist() == [1, 1]
        for mixed in (
            lambda: there + here,
            lambda: here[torch.tensor([0], device=DEVICE)],
            lambda: there.where(torch.ones(3, dtype=torch.bool), 0),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()


def test_a_training_step_hardly_waits_for_the_device(scenes: Path, monkeypatch: pytest.MonkeyPatch):
    """As often for many captions as for few: an H200 stood still at each of the dozens of times that it once was asked."""
    monkeypatch.setattr(native, "available", lambda tensor: False)
    data = RetrievalData(str(scenes), images=6, captions=2)
    known = {name: getattr(data, name) for name in ("feature_dim", "words", "objects")}
    module = RACGModule(**known, **SMALL_MODEL, decode="objects", term_weight=1.0)
    batch = next(iter(data.train_dataloader()))
    with elsewhere():
        module, batch = module.to(DEVICE).train(), move_data_to_device(batch, torch.device(DEVICE))
        counts = []
        for at_once in (64, 6):
            monkeypatch.setattr("racg_pl.module.GPU_CHUNK", at_once)
            waits.clear()
            loss = torch.stack(list(module.losses(batch, hardest=True)[0].values())).sum()
            loss.isfinite().item()
            loss.backward()
            counts.append(len(waits))
    assert counts[0] == counts[1] <= 7


def test_batches_are_read_ahead_for_a_device(scenes: Path):
    data = RetrievalData(str(scenes), images=8, captions=2)
    data.trainer = SimpleNamespace(strategy=There(), global_rank=0, world_size=1)
    loader = data.train_dataloader()
    assert isinstance(loader, ReadAhead)
    data.workers = 1
    assert not isinstance(data.train_dataloader(), ReadAhead)
    plain = RetrievalData(str(scenes), images=8, captions=2).train_dataloader()
    assert not isinstance(plain, ReadAhead)
    assert len(loader) == len(plain)
    for one, two in zip(loader, plain, strict=True):
        assert torch.equal(one.rows, two.rows)
        assert torch.equal(one.regions.features, two.regions.features)
        assert torch.equal(one.sentences.words, two.sentences.words)


def test_what_is_read_ahead():
    asked, second = [], Event()

    def batches() -> Iterator[int]:
        for number in range(3):
            asked.append(number)
            if number == 1:
                second.set()
            yield number
        raise DataError("damaged")

    coming = ahead(batches())
    assert next(coming) == 0
    assert second.wait(10)  # asked for while the first is in use
    assert asked == [0, 1]  # and no further
    assert [next(coming), next(coming)] == [1, 2]
    with pytest.raises(DataError, match="damaged"):
        next(coming)
    abandoned = ahead(iter(range(3)))
    assert next(abandoned) == 0
    abandoned.close()


@pytest.mark.parametrize(
    ("memory", "candidates", "options"),
    [
        (1024, 8, SMALL_MODEL | STILL | {"hide": 0.5, "term_weight": 0.1, "hard_after": 0.0}),
        (0, 0, SMALL_MODEL | STILL | {"decode": "objects", "facets": True, "separate_embeddings": True, "loss": "triplet"}),
        (1024, 0, SMALL_PEER | {"method": "vse_infinity"}),
        (1024, 0, SMALL_PEER | {"method": "scan_i2t", "lse": 6.0}),
        (1024, 0, SMALL_PEER | {"method": "sgr", "align_dim": 8}),
    ],
    ids=["racg", "objects", "vse_infinity", "scan_i2t", "sgr"],
)
def test_a_device_gives_the_numbers_of_the_processor(
    memory: int, candidates: int, options: dict[str, Any], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """SAF is left out, which normalises over the captions that it is given at once, on a device others."""
    monkeypatch.setattr(native, "available", lambda tensor: False)

    def tried(strategy: SingleDeviceStrategy) -> tuple[RACGModule, dict[str, float], list[Tensor]]:
        """A new model, evaluated and then trained for a step: what that logs, and AdamW's first moments, which are its gradients."""
        seed_everything(0, verbose=False)
        data = RetrievalData(str(scenes), images=8, captions=2)
        known = {name: getattr(data, name) for name in ("feature_dim", "words", "objects", "text_source")}
        module = RACGModule(**known, **options)
        module.score_memory_mb, module.two_stage = memory, candidates
        trainer = Trainer(
            strategy=strategy, max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            num_sanity_val_steps=0, enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
            use_distributed_sampler=False, gradient_clip_val=2.0,
        )  # fmt: skip
        trainer.test(module, datamodule=data, verbose=False)
        trainer.fit(module, datamodule=data)
        moments = [state["exp_avg"].cpu() for state in trainer.optimizers[0].state.values()]
        return module, {name: value.item() for name, value in trainer.callback_metrics.items()}, moments

    here, losses, moments = tried(SingleDeviceStrategy("cpu", accelerator=CPUAccelerator()))
    with elsewhere():
        there, *others = tried(There())
        assert all(isinstance(weight, Elsewhere) for weight in there.parameters())
    assert others[0] == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(others[1], moments, rtol=1e-3, atol=1e-6)
    assert there.evaluated.metrics == here.evaluated.metrics
    assert there.evaluated.two_stage == here.evaluated.two_stage
    assert (there.evaluated.scores is None) == (memory == 0)
    if memory:
        torch.testing.assert_close(there.evaluated.scores, here.evaluated.scores, rtol=0, atol=1e-5)
