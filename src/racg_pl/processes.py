"""Commands of `racg` as processes, several jobs at a time, each with a log of its own.

Processes are forked from one that has imported Lightning already, which takes longer than a test of Scenes.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from racg_pl.errors import DataError

POLL = 0.2  # seconds between two looks at the processes
PROCESSES: Any = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
PROCESSES.set_forkserver_preload(["racg_pl.training"])

Program = Callable[[Sequence[str]], int]  # arguments to exit status; importable, since another process runs it


def is_running(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Slot(NamedTuple):
    """A place for one job among those that run at a time: its threads, and what else it sees in the environment."""

    threads: int
    environment: Mapping[str, str] = {}


class Job:
    """One job under way: its commands one after the other, each a process that writes to FOLDER/log.txt.

    `poll` starts the next command when one has ended; it returns True when the last has and `collect`, which a kind of job defines,
    has taken up what they left, and raises DataError when one failed.
    """

    summary: str  # of a job that has ended, set by `collect`

    def __init__(self, name: str, folder: Path, commands: Mapping[str, Sequence[str]], program: Program, slot: Slot) -> None:
        """name: in messages, such as "row racg".  commands: by verb, in their order."""
        self.name, self.folder, self.commands, self.program, self.slot = name, folder, commands, program, slot
        self.seconds = dict[str, float]()  # wall time by verb
        self.began = time.monotonic()
        self.waiting = list(commands)
        self.log_path = folder / "log.txt"
        self.log_path.write_bytes(b"")
        self._start()

    def _start(self) -> None:
        self.verb, self.started = self.waiting.pop(0), time.monotonic()
        self.process = PROCESSES.Process(
            target=_call, args=(self.program, self.commands[self.verb], self.log_path.absolute(), self.slot)
        )
        self.process.start()

    def poll(self) -> bool:
        if (code := self.process.exitcode) is None:
            return False
        self.seconds[self.verb] = round(time.monotonic() - self.started, 1)
        if code:
            how = f"exit status {code}" if code > 0 else f"signal {-code}"
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((words for line in reversed(lines) if (words := line.split("\r")[-1].strip())), "")
            raise DataError(f"{self.log_path}: {self.name}: racg {self.verb} ended with {how}: {last[:300]}")
        if self.waiting:
            self._start()
            return False
        self.collect()
        return True

    def collect(self) -> None:
        raise NotImplementedError

    def epoch(self) -> int:
        """Epochs of this training that its CSV log knows of."""
        logs = [path for path in self.folder.glob("**/metrics.csv") if path.stat().st_ctime > time.time() - self.elapsed]
        if not logs:
            return 0
        with max(logs, key=lambda path: path.stat().st_mtime).open(encoding="utf-8") as file:
            return max((int(line.get("epoch") or 0) for line in csv.DictReader(file)), default=0)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def stop(self) -> None:
        if self.process.exitcode is None:
            self.process.terminate()
            self.process.join()


def _call(program: Program, command: Sequence[str], log: Path, slot: Slot) -> None:
    """A command in its process, with its output at the end of `log`. Ends when the process that started it has been killed."""
    threading.Thread(target=_outlive_no_one, daemon=True).start()
    with open(os.devnull) as nothing, log.open("ab") as file:
        file.write(f"$ {shlex.join(['racg', *command])}\n".encode())
        file.flush()
        for stream, descriptor in ((nothing, 0), (file, 1), (file, 2)):
            os.dup2(stream.fileno(), descriptor)
    os.environ |= {"OMP_NUM_THREADS": str(slot.threads), "NO_COLOR": "1", **slot.environment}
    if torch := sys.modules.get("torch"):  # which read the environment when it was imported
        torch.set_num_threads(slot.threads)
    sys.exit(program(command))


def _outlive_no_one() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def slots(jobs: int, devices: Sequence[str] = ()) -> list[Slot]:
    """`jobs` places that share the cores, and where there are CUDA devices, by their numbers, these in turn."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // jobs)
    return [Slot(threads, {"CUDA_VISIBLE_DEVICES": devices[place % len(devices)]} if devices else {}) for place in range(jobs)]


def run_all(
    todo: Mapping[str, tuple[str, Callable[[Slot], Job]]], places: Sequence[Slot], epochs: int | None, kind: str = "row"
) -> None:
    """Run jobs, as many at a time as there are places. A job that fails leaves the others.

    Args:
        todo: by name, why it has to run and what starts it.  epochs: of each training, if known.  kind: of job, in messages.
    Raises: DataError, the first failure, after all have ended.
    """
    waiting, active, failures, free = list(todo), dict[str, Job](), list[DataError](), list(places)
    taken = dict[str, Slot]()
    with Board(list(todo), epochs) as board:
        try:
            while waiting or active:
                while waiting and free:
                    name = waiting.pop(0)
                    why, start = todo[name]
                    board.start(name, why)
                    taken[name] = free.pop(0)
                    try:
                        active[name] = start(taken[name])
                    except DataError as error:
                        failures.append(error)
                        free.append(taken.pop(name))
                        board.end(name, 0, f"failed: {error}")
                time.sleep(POLL)
                for name, job in tuple(active.items()):
                    try:
                        if not job.poll():
                            board.move(name, job)
                            continue
                        words = job.summary
                    except DataError as error:
                        failures.append(error)
                        words = f"failed: {error}"
                    del active[name]
                    free.append(taken.pop(name))
                    job.stop()
                    board.end(name, job.elapsed, words)
        finally:
            for job in active.values():
                job.stop()
    if failures:
        others = f" ({len(failures)} {kind}s failed; results of the others are kept)" if len(failures) > 1 else ""
        raise DataError(f"{failures[0]}{others}")


class Board:
    """The jobs on stderr: a line as one starts and ends, and below, where somebody watches a terminal, a bar each."""

    def __init__(self, names: Sequence[str], epochs: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.bars = Progress(*columns, *times, console=console, disable=not console.is_terminal, speed_estimate_period=3600)
        self.tasks = {name: self.bars.add_task(name, start=False, total=epochs, state="waits") for name in names}
        self.epochs, self.done = epochs, 0

    def __enter__(self) -> Board:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def _line(self, words: str) -> None:
        self.bars.console.print(words, soft_wrap=True, highlight=False, markup=False)

    def start(self, name: str, why: str) -> None:
        self._line(f"{name}: starts ({why})")
        self.bars.start_task(self.tasks[name])

    def move(self, name: str, job: Job) -> None:
        if self.bars.disable:
            return
        if job.verb == "fit":
            self.bars.update(self.tasks[name], completed=job.epoch(), state="epochs")
        else:
            self.bars.update(self.tasks[name], completed=self.epochs, state=job.verb)

    def end(self, name: str, seconds: float, words: str) -> None:
        self.done += 1
        self._line(f"{name}: {words} ({seconds:.0f} s; {self.done} of {len(self.tasks)} ended)")
        self.bars.update(self.tasks[name], state=words.split(":")[0])
        self.bars.stop_task(self.tasks[name])
