"""What several test files share: one small generated data set, one trained run on it, the arguments that make runs small, and the
two ways that operators run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lightning.pytorch  # noqa: F401  here: its log keeps the stderr of its first import, which in a test that captures is closed after
import pytest

# a model of a few thousand parameters and a trainer that says nothing: enough for every path, fast on one core
SMALL_MODEL = {"dim": 16, "align_dim": 8, "word_dim": 8, "relation_dim": 16, "heads": 2}
QUIET = {"accelerator": "cpu", "enable_progress_bar": "false", "enable_model_summary": "false"}


def small(root: Path, out: Path, *more: str, epochs: int = 1, **trainer: object) -> list[str]:
    """Arguments of `racg fit` for a run of seconds."""
    options = {"seed_everything": 0, "data.root": root, "data.parser": "chain", "data.images": 8, "out": out}
    options |= {f"model.{name}": value for name, value in SMALL_MODEL.items()}
    options |= {f"trainer.{name}": value for name, value in ({"max_epochs": epochs} | QUIET | trainer).items()}
    return [f"--{name}={value}" for name, value in options.items()] + list(more)


def by_two_processes(arguments: list[str], cwd: Path) -> None:
    """`racg` with these arguments, which ask for DDP over gloo."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "racg_pl.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of 60 pictures, parsed by the bundled parser and by the chain. Read only: take `copy` to change it."""
    from racg_pl.scenes import generate
    from racg_pl.text_files import prepare_texts

    root = tmp_path_factory.mktemp("scenes") / "data"
    generate(root, 60, 0, progress=False)
    for parser in ("bundled", "chain"):
        prepare_texts(root, parser, threshold=2)
    return root


@pytest.fixture(params=["native", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compiled operators, or plain torch in their place; skipped where nothing is compiled."""
    import torch

    from racg_pl import native

    if request.param == "plain":
        monkeypatch.setattr(native, "available", lambda tensor: False)
    elif not native.available(torch.zeros(1)):
        pytest.skip("no compiler")
    return str(request.param)


@pytest.fixture
def copy(scenes: Path, tmp_path: Path) -> Path:
    """A data set of one's own, to be damaged."""
    return Path(shutil.copytree(scenes, tmp_path / "data"))


@pytest.fixture(scope="session")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `racg fit` for two epochs on `scenes`: checkpoints/last.ckpt, fit.json, config.yaml."""
    from racg_pl.training import run

    out = tmp_path_factory.mktemp("run")
    run(["fit", *small(scenes, out, epochs=2)])
    return out
