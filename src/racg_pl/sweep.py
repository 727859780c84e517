"""`racg sweep`: the file of a `wandb sweep` run offline, several runs at a time, resumed where it stopped; a table and a figure."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from racg_pl.cli import main
from racg_pl.errors import DataError, writing
from racg_pl.hdf5 import one_line
from racg_pl.plan import merged_arguments, prepare_scenes, say, split_hashes, vocabulary_hash
from racg_pl.processes import Program, Slot, run_all
from racg_pl.runs import LockedJob, places
from racg_pl.source import source_hash
from racg_pl.sweep_results import Trial, write_sweep
from racg_pl.sweep_space import Point, Sweep, identity, read_sweep
from racg_pl.written import write_whole

SCHEMA = "racg_pl.sweep/1"
CHANGES = {
    "arguments": "its command changed",
    "config": "the configuration changed",
    "data": "the data changed",
    "source": "the source of the model changed",
}


def sweep(
    path: Path,
    out: Path = Path("results/sweeps"),
    runs: Path = Path("runs/sweeps"),
    jobs: int | None = None,
    *,
    program: Program = main,
) -> str:
    """Run what is missing of a sweep; write OUT/NAME/RUN.json a run and OUT/NAME.{md,csv,png,svg}.

    Args:
        path: the sweep.  out, runs: of results, and of checkpoints and logs.
        jobs: runs at a time; default: one a device, without devices two.  program: what runs a command of `racg`.
    Returns: the table, Markdown.
    Raises: DataError on a bad file, and, after all others have run and the table is written, where a run failed.
    """
    plan = read_sweep(path)
    points = list(plan.points())
    prepared = {identity(point): Prepared(plan, point, out, runs) for point in points}
    settings = next(iter(prepared.values())).settings
    devices = _devices((settings.get("trainer") or {}).get("accelerator", "auto"))
    jobs = len(devices) or min(2, os.cpu_count() or 1) if jobs is None else jobs
    if jobs < 1:
        raise DataError(f"sweep: expected at least 1 run at a time, got --jobs {jobs}; leave it out for the default")
    for folder in (out / plan.name, runs / plan.name):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: expected a folder to write to, got: {one_line(error)}; choose another") from error
    todo = {name: why for name, one in prepared.items() if (why := one.outdated())}
    failure: DataError | None = None
    if todo:
        say(
            f"{len(todo)} of {len(points)} runs to do, {min(jobs, len(todo))} at a time; logs in {runs / plan.name}/RUN/log.txt"
        )
        starts = {_title(plan, prepared[name]): (why, partial(Run, prepared[name], program)) for name, why in todo.items()}
        try:
            run_all(starts, places(jobs, devices), (settings.get("trainer") or {}).get("max_epochs"), "run")
        except DataError as error:
            failure = error
    trials = [Trial(name, one.point, None if one.outdated() else one.record()) for name, one in prepared.items()]
    if not any(trial.record for trial in trials):
        raise failure or DataError(f"{path}: expected a run that ended, got none")
    table = write_sweep(out, plan, trials)
    if failure:
        raise failure
    return table


class Prepared:
    """A point of the sweep with all that decides its numbers."""

    def __init__(self, plan: Sweep, point: Point, out: Path, runs: Path) -> None:
        self.plan, self.point = plan, point
        name = identity(point)
        self.folder, self.path = runs / plan.name / name, out / plan.name / f"{name}.json"
        self.arguments = plan.arguments(point)
        self.settings = merged_arguments(self.arguments[1:], plan.name)  # behind the verb
        data = self.settings.get("data") or {}
        if "root" not in data:
            raise DataError(f"{plan.name}: expected data.root in the configurations or the command, got none; add it")
        self.root, parser = Path(str(data["root"])), str(data.get("parser", "bundled"))
        key = (self.root, parser, str(data.get("train", "train")), str(data.get("val", "dev")))
        if key not in _HASHES:
            if self.root.name == "scenes":
                prepare_scenes(self.root, parser)
            _HASHES[key] = {split: split_hashes(self.root, split, parser) for split in key[2:]}
            _HASHES[key]["vocabulary"] = vocabulary_hash(self.root, parser)
        self.hashes = _HASHES[key]

    def fingerprint(self) -> dict[str, str]:
        """Keys: those of CHANGES."""
        parts = {"arguments": self.arguments, "config": self.settings, "data": self.hashes, "source": source_hash()}
        return {key: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for key, part in parts.items()}

    def record(self) -> dict[str, Any]:
        return json.loads(self.path.read_text(encoding="utf-8"))

    def outdated(self) -> str:
        """Why the point has to run, or ""."""
        if not self.path.exists():
            return "no result yet"
        try:
            stored = self.record()["fingerprint"]
            return ", ".join(words for key, words in CHANGES.items() if stored.get(key) != self.fingerprint()[key])
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return "its result cannot be read"


_HASHES: dict[tuple[Path, str, str, str], dict[str, Any]] = {}  # of data sets, which many points share


class Run(LockedJob):
    """One point under way."""

    def __init__(self, prepared: Prepared, program: Program, slot: Slot) -> None:
        self.prepared, self.fingerprint = prepared, prepared.fingerprint()  # of now, as in reproduce.py
        super().__init__(f"run {prepared.folder.name}", prepared.folder, program, slot)

    def begin(self, folder: Path) -> Mapping[str, Sequence[str]]:
        (folder / "fit.json").unlink(missing_ok=True)
        return {"fit": [*self.prepared.arguments, "--out", str(folder)]}

    def collect(self) -> None:
        """Keep what `racg fit` measured last on dev, which is what W&B shows of a run as well."""
        path, metric = self.folder / "fit.json", self.prepared.plan.metric
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            value = float(result["metrics"][metric.removeprefix("dev/")])
            kept = {key: result[key] for key in ("metrics", "seed", "commit", "data", "parameters", "config")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: expected {metric} of a run, got: {one_line(error)}; does the trainer evaluate?"
            ) from error
        record = {
            "schema": SCHEMA,
            "sweep": self.prepared.plan.name,
            "parameters": self.prepared.point,
            "metric": metric,
            "value": value,
            "weights": result.get("weights", ""),
            "size": kept.pop("parameters"),
            **kept,
            "command": ["racg", *self.commands["fit"]],
            "wall_time_s": self.seconds["fit"],
            "fingerprint": self.fingerprint,
        }
        with writing(self.prepared.path):
            write_whole(self.prepared.path, (json.dumps(record, indent=1) + "\n").encode())
        self.summary = f"{metric} {value:.1f}"


def _title(plan: Sweep, prepared: Prepared) -> str:
    values = (f"{name.rpartition('.')[2]}={prepared.point[name]}" for name in plan.varied)
    return " ".join((prepared.folder.name, *values))


def _devices(accelerator: str) -> list[str]:
    """GPUs that runs may have one of each, by the number that CUDA knows them by."""
    if accelerator not in ("auto", "gpu", "cuda"):
        return []
    import torch

    if not (number := torch.cuda.device_count()):  # or all are hidden, by CUDA_VISIBLE_DEVICES=-1
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:number] if visible else [str(device) for device in range(number)]
