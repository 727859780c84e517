"""Jobs side by side: what becomes of the others where one cannot start, and of all where the command that started them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from racg_pl.errors import DataError
from racg_pl.processes import Job, Slot, run_all, slots


def nothing(arguments: Sequence[str]) -> int:
    return 0


def sleeper(arguments: Sequence[str]) -> int:
    Path(arguments[0]).write_text(str(os.getpid()))
    time.sleep(300)
    return 0


class Small(Job):
    def __init__(self, folder: Path, program, command: Sequence[str], slot: Slot) -> None:
        folder.mkdir()
        super().__init__(folder.name, folder, {"fit": command}, program, slot)

    def collect(self) -> None:
        self.summary = "done"


def refuse(slot: Slot) -> Job:
    raise DataError("captions: expected a file, got none")


def test_a_job_that_cannot_start_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture):
    jobs = {"one": ("new", refuse), "two": ("new", partial(Small, tmp_path / "two", nothing, ["x"]))}
    with pytest.raises(DataError, match=r"captions: expected a file, got none"):
        run_all(jobs, slots(1), None)
    said = capsys.readouterr().err
    assert "one: failed: captions: expected a file, got none (0 s; 1 of 2 ended)" in said
    assert "two: done" in said


def test_jobs_end_with_the_command_that_started_them(tmp_path: Path):
    here = Path(__file__).parent
    job = f"partial(Small, Path({str(tmp_path / 'one')!r}), sleeper, [{str(tmp_path / 'pid')!r}])"
    program = f"import sys; sys.path.insert(0, {str(here)!r})\nfrom test_processes import *\n"
    program += f"run_all({{'one': ('new', {job})}}, slots(1), None)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parent / "src"), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stderr=subprocess.DEVNULL) as command:
        pid = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
        command.send_signal(signal.SIGKILL)
    wait_for(lambda: not alive(pid))


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def wait_for(what):
    """Its value, once it is true; a busy machine takes its time to import torch."""
    until = time.monotonic() + 60
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


def test_one_run_is_under_way_once(tmp_path: Path):
    from racg_pl.errors import DataError
    from racg_pl.runs import _locked

    lock = _locked(tmp_path)
    with pytest.raises(DataError, match="another racg works on this run; wait for it"):
        _locked(tmp_path)
    os.close(lock)
    os.close(_locked(tmp_path))
    assert list(tmp_path.iterdir()) == []
