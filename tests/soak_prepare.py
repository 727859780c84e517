"""`make soak`: `racg prepare` killed at 20 random moments, each time resumed, ends in the bytes of a run that was let alone."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import layouts
from racg_pl.check import check
from racg_pl.hdf5 import one_line
from test_prepare import brought, contents

KILLS = 20
PHOTOS = layouts.corpus(3000)


def started(recipe: Path, root: Path) -> subprocess.Popen:
    """`racg prepare` in a process."""
    command = [
        sys.executable,
        "-m",
        "racg_pl.cli",
        "prepare",
        recipe,
        "--source",
        recipe.parent,
        "--root",
        root,
        "--parser",
        "chain",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    recipe, rng = brought(tmp_path / "source", PHOTOS), random.Random(0)
    begun = time.monotonic()
    whole = started(recipe, tmp_path / "whole")
    _, err = whole.communicate()
    assert whole.returncode == 0, err
    seconds = time.monotonic() - begun
    root, seen, killed = tmp_path / "root", set[str](), 0
    for kill in range(KILLS):
        if kill % 4 == 0 and root.exists():  # from the start again, so that every step is hit
            root.rename(tmp_path / f"root-{kill}")
        going = started(recipe, root)
        time.sleep(rng.uniform(0.1, 1) * seconds)
        killed += going.poll() is None
        going.send_signal(signal.SIGKILL)
        going.communicate()
        if root.exists():
            seen.add(" ".join(sorted(path.name for path in root.iterdir() if ".tmp-" not in path.name)))
        for path in root.glob("[!.]*.h5"):
            check(path)
    assert killed >= KILLS // 2, "most runs ended before they were killed"
    assert len(seen) >= 3, f"every kill came at the same step: {seen}"
    folders = [root, *tmp_path.glob("root-*")]
    for folder in folders:
        last = started(recipe, folder)
        _, err = last.communicate()
        assert last.returncode == 0, one_line(RuntimeError(err))
        assert contents(folder) == contents(tmp_path / "whole")
    print(f"{killed} runs killed, {len(seen)} states of the folder, {len(folders)} folders ended in the same bytes")
