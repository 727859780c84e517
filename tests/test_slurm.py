"""The script of experiments/slurm.md: what it goes on from. `srun` is a stand-in that says what it was called with."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from conftest import small
from racg_pl.cli import main

ROOT = Path(__file__).resolve().parents[1]


def resumed(folder: Path) -> list[str]:
    """What follows --ckpt_path, as often as it is given."""
    (script,) = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", (ROOT / "experiments" / "slurm.md").read_text(), re.DOTALL)
    (folder / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
    (folder / ".venv" / "bin" / "activate").write_text("srun() { printf '%s\\n' \"$@\"; }\n")
    environment = os.environ | {"SLURM_SUBMIT_DIR": str(folder)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[:3] == ["racg", "fit", "--config"]
    assert done.stderr == ""
    return [words[place + 1] for place, word in enumerate(words) if word == "--ckpt_path"]


@pytest.mark.parametrize(
    "files",  # the oldest first
    [
        [],
        ["checkpoints/last.ckpt"],
        ["hpc_ckpt_1.ckpt"],
        ["checkpoints/last.ckpt", "hpc_ckpt_1.ckpt"],
        ["hpc_ckpt_1.ckpt", "checkpoints/last.ckpt"],
        ["hpc_ckpt_9.ckpt", "checkpoints/last.ckpt", "hpc_ckpt_10.ckpt"],
    ],
)
def test_a_start_goes_on_from_the_newest_checkpoint(files: list[str], tmp_path: Path) -> None:
    for place, name in enumerate(files):
        path = tmp_path / "runs" / "flickr30k" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1e9 + place, 1e9 + place))
    assert resumed(tmp_path) == [f"runs/flickr30k/{name}" for name in files[-1:]]


def test_fit_goes_on_from_a_checkpoint_by_its_path(scenes: Path, run: Path, tmp_path: Path) -> None:
    saved = tmp_path / "hpc_ckpt_1.ckpt"
    saved.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    assert main(["fit", *small(scenes, tmp_path, f"--ckpt_path={saved}", epochs=3)]) == 0
    before, after = (torch.load(path, weights_only=True) for path in (saved, tmp_path / "checkpoints" / "last.ckpt"))
    assert (before["epoch"], after["epoch"]) == (1, 2)
    assert after["global_step"] == before["global_step"] * 3 // 2
