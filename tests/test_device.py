"""Training and evaluation on a device that is not the processor (elsewhere.py): nothing is left behind, and the numbers are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from conftest import SMALL_MODEL
from elsewhere import DEVICE, Elsewhere, There, elsewhere
from racg_pl import native
from racg_pl.data import RetrievalData
from racg_pl.module import RACGModule

SMALL_PEER = {"dim": 16, "word_dim": 8}


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


@pytest.mark.parametrize(
    ("memory", "candidates", "options"),
    [
        (1024, 8, SMALL_MODEL | {"hide": 0.5, "term_weight": 0.1, "hard_after": 0.0}),
        (0, 0, SMALL_MODEL | {"decode": "objects", "separate_embeddings": True, "loss": "triplet"}),
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
