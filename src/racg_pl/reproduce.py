"""`racg reproduce`: RACG, RACG without each of its parts and a graph-free row, trained, tested, and told apart.

Each row is two commands in processes of their own, `racg fit` and `racg test`, whose output goes to RUNS/DATA/ROW/log.txt. They are
forked from one that has imported Lightning already, which takes longer than a test. A row's record is written last and whole, so
that a killed or failed run leaves none, and a second call runs what is missing (plan.py).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from racg_pl.captions import CaptionStore
from racg_pl.cli import main
from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.plan import ROWS, SEED, Plan, Row, say
from racg_pl.tables import RESULT, write_results, write_whole

POLL = 0.2  # seconds between two looks at the processes
PROCESSES: Any = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
PROCESSES.set_forkserver_preload(["racg_pl.training"])

Program = Callable[[Sequence[str]], int]  # arguments to exit status; importable, since another process runs it


def reproduce(
    data: str = "scenes",
    root: Path | None = None,
    out: Path = Path("results"),
    config: Path | None = None,
    jobs: int = 2,
    *,
    rows: Sequence[Row] = ROWS,
    runs: Path = Path("runs"),
    program: Program = main,
) -> None:
    """Run the rows that are missing, write OUT/DATA/ROW.json, OUT/DATA.{md,csv,png,svg} and OUT/summary.json, print the table.

    Args:
        data: name of the data set. "scenes" is generated where missing, others must have been converted.
        root: its folder (default data/DATA).  config: of all rows (default experiments/DATA.yaml).
        jobs: rows at a time, which share the cores.
        rows, runs, program: the lines of the table, the folder of checkpoints and logs, and what runs a command of `racg`.
    Raises: DataError on a bad argument or missing file, and, after all other rows, where a row failed: its log and its last line.
    """
    if jobs < 1:
        raise DataError(f"reproduce: expected at least 1 run at a time, got --jobs {jobs}; leave it out for the default")
    if Path(data).name != data:
        raise DataError(f"reproduce: expected the name of a data set, got --data {data!r}; give its folder by --root")
    plan = Plan.make(data, root or Path("data", data), config or Path("experiments", f"{data}.yaml"), out, runs)
    todo = {row: why for row in rows if (why := plan.outdated(row))}
    if todo:
        _run(plan, todo, len(rows), jobs, program)
    print(write_results(out, data, [plan.finished(row) for row in rows]))


class Run:
    """One row under way: its commands one after the other, each a process that writes to the row's log.

    `poll` starts the next command when one has ended; it returns True when the last has, and raises DataError when one failed.
    """

    def __init__(self, plan: Plan, row: Row, program: Program, threads: int) -> None:
        self.plan, self.row, self.program, self.threads = plan, row, program, threads
        self.commands, self.seconds = plan.commands(row), dict[str, float]()
        self.fingerprint = plan.fingerprint(row)  # of now: who edits the source under a run gets another run
        self.began = time.monotonic()
        self.folder = plan.folder(row)
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in ("test.json", "test_scores.npy", "ranks.npz", "checkpoints/best.ckpt"):  # or they could pass for new ones
            (self.folder / stale).unlink(missing_ok=True)
        self.log_path = self.folder / "log.txt"
        self.log_path.write_bytes(b"")
        self._start("fit")

    def _start(self, verb: str) -> None:
        self.verb, self.started = verb, time.monotonic()
        self.process = PROCESSES.Process(
            target=_call, args=(self.program, self.commands[verb], self.log_path.absolute(), self.threads)
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
            raise DataError(f"{self.log_path}: row {self.row.name}: racg {self.verb} ended with {how}: {last[:300]}")
        if self.verb == "fit":
            self._start("test")
            return False
        self.collect()
        return True

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

    def collect(self) -> None:
        """Turn what `racg test` left, its JSON and its scores, into ranks and the row's record. The scores are not kept."""
        plan, tested, scores_path = self.plan, self.folder / "test.json", self.folder / "test_scores.npy"
        try:
            result = json.loads(tested.read_text(encoding="utf-8"))
            scores = np.load(scores_path, allow_pickle=False)
            metrics = {name: float(value) for name, value in result["metrics"].items()}
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{tested}: row {self.row.name}: expected metrics and scores, got: {one_line(error)}") from error
        ranks, measured = _ranks(scores, plan.root, plan.split)
        if abs(measured["rsum"] - metrics.get("rsum", np.nan)) >= 1e-6 or result.get("seed") != SEED:
            got = f"rsum {measured['rsum']} and {metrics.get('rsum')}, seed {result.get('seed')}"
            raise DataError(
                f"{tested}: row {self.row.name}: expected the metrics of {scores_path.name} and seed {SEED}, got {got}"
            )
        buffer = io.BytesIO()
        np.savez(buffer, **ranks)  # type: ignore[arg-type]  # its stub takes the names for allow_pickle
        write_whole(plan.ranks_path(self.row), buffer.getvalue())
        scores_path.unlink()
        record = {
            "schema": RESULT,
            "data": plan.data,
            "split": plan.split,
            "images": len(ranks["i2t"]),
            "captions": len(ranks["t2i"]),
            **self.row._asdict(),
            "seed": SEED,
            "metrics": metrics,
            **_twins(ranks, plan.root, plan.split),
            "parameters": result["parameters"],
            "commit": result["commit"],
            "commands": [shlex.join(["racg", *command]) for command in self.commands.values()],
            "wall_time_s": self.seconds,
            "hashes": plan.hashes,
            "config": result["config"],
            "ranks_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            "fingerprint": self.fingerprint,
        }
        write_whole(plan.record_path(self.row), (json.dumps(record, indent=1) + "\n").encode())
        self.summary = f"rsum {metrics['rsum']:.1f}"

    def stop(self) -> None:
        if self.process.exitcode is None:
            self.process.terminate()
            self.process.join()


def _call(program: Program, command: Sequence[str], log: Path, threads: int) -> None:
    """A command in its process, with its output at the end of `log`."""
    with open(os.devnull) as nothing, log.open("ab") as file:
        file.write(f"$ {shlex.join(['racg', *command])}\n".encode())
        file.flush()
        for stream, descriptor in ((nothing, 0), (file, 1), (file, 2)):
            os.dup2(stream.fileno(), descriptor)
    os.environ |= {"OMP_NUM_THREADS": str(threads), "NO_COLOR": "1"}
    if torch := sys.modules.get("torch"):  # which read the environment when it was imported
        torch.set_num_threads(threads)
    sys.exit(program(command))


def _ranks(scores: np.ndarray, root: Path, split: str) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Ranks of both directions with their image map, and the hits on twins where there are any; and the recalls."""
    import torch

    from racg_pl.metrics import ranks_i2t, ranks_t2i, recalls_of_ranks

    captions = CaptionStore(root / f"{split}.captions.h5")
    if scores.shape != (captions.images, len(captions)):
        raise DataError(f"{root}: expected scores of {captions.images} images and {len(captions)} captions, got {scores.shape}")
    matrix, image = torch.from_numpy(scores), torch.from_numpy(captions.image)
    i2t, t2i = ranks_i2t(matrix, image), ranks_t2i(matrix, image)
    ranks = {"i2t": i2t.numpy(), "t2i": t2i.numpy(), "image": captions.image}
    if (path := root / f"{split}.truth.h5").exists():
        from racg_pl.scenes import Truth, twin_hits

        ranks |= twin_hits(scores, captions.image, truth := Truth(path)) | {"twin_kind": truth.twin_kind}
    return ranks, recalls_of_ranks(i2t, t2i)


def _twins(ranks: dict[str, np.ndarray], root: Path, split: str) -> dict[str, Any]:
    """Recalls at 1 on twins in percent, and the ceilings of the split."""
    if "twin_kind" not in ranks:
        return {}
    from racg_pl.scenes import Truth

    ceilings = Truth(root / f"{split}.truth.h5").ceilings
    hits = {name: hit for name, hit in ranks.items() if name.startswith(("attribute_", "relation_"))}
    return {
        "twins": {name: 100 * float(hit.mean()) for name, hit in hits.items()},
        "ceilings": ceilings and ceilings.to_dict(),
    }


def _run(plan: Plan, todo: dict[Row, str], total: int, jobs: int, program: Program) -> None:
    """Run rows, `jobs` at a time. A row that fails leaves the others; the first failure is raised after all have ended."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting, active, failures = list(todo), list[Run](), list[DataError]()
    say(f"{len(todo)} of {total} rows to run, {min(jobs, len(todo))} at a time; logs in {plan.runs / plan.data}/ROW/log.txt")
    with Board(list(todo), (plan.settings.get("trainer") or {}).get("max_epochs")) as board:
        try:
            while waiting or active:
                while waiting and len(active) < jobs:
                    row = waiting.pop(0)
                    board.start(row, todo[row])
                    active.append(Run(plan, row, program, max(1, cores // jobs)))
                time.sleep(POLL)
                for run in tuple(active):
                    try:
                        if not run.poll():
                            board.move(run)
                            continue
                        words = run.summary
                    except DataError as error:
                        failures.append(error)
                        words = f"failed: {error}"
                    active.remove(run)
                    run.stop()
                    board.end(run, words)
        finally:
            for run in active:
                run.stop()
    if failures:
        others = f" ({len(failures)} rows failed; results of the others are kept)" if len(failures) > 1 else ""
        raise DataError(f"{failures[0]}{others}")


class Board:
    """The rows on stderr: a line as one starts and ends, and below, where somebody watches a terminal, a bar each."""

    def __init__(self, rows: Sequence[Row], epochs: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.bars = Progress(*columns, *times, console=console, disable=not console.is_terminal, speed_estimate_period=3600)
        self.tasks = {row: self.bars.add_task(row.name, start=False, total=epochs, state="waits") for row in rows}
        self.epochs, self.done = epochs, 0

    def __enter__(self) -> Board:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def _line(self, words: str) -> None:
        self.bars.console.print(words, soft_wrap=True, highlight=False, markup=False)

    def start(self, row: Row, why: str) -> None:
        self._line(f"{row.name}: starts ({why})")
        self.bars.start_task(self.tasks[row])

    def move(self, run: Run) -> None:
        if self.bars.disable:
            return
        if run.verb == "fit":
            self.bars.update(self.tasks[run.row], completed=run.epoch(), state="epochs")
        else:
            self.bars.update(self.tasks[run.row], completed=self.epochs, state="test")

    def end(self, run: Run, words: str) -> None:
        self.done += 1
        self._line(f"{run.row.name}: {words} ({run.elapsed:.0f} s; {self.done} of {len(self.tasks)} ended)")
        self.bars.update(self.tasks[run.row], state=words.split(":")[0])
        self.bars.stop_task(self.tasks[run.row])
