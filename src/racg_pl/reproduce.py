"""`racg reproduce`: RACG, RACG without each of its parts and a graph-free row, trained, tested, and told apart.

Each row is a run (runs.py) whose checkpoints and log go to RUNS/DATA/ROW; a second call runs what is missing here (plan.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from racg_pl.cli import main
from racg_pl.errors import DataError, is_name
from racg_pl.plan import ROWS, Plan, Row, Spec, require_float32, say
from racg_pl.processes import Program, run_all
from racg_pl.runs import Run, places
from racg_pl.tables import write_results


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

    Unlike `racg tables`, it takes no record's word for a run that was made elsewhere: a row counts when its checkpoint is here.

    Args:
        data: name of the data set. "scenes" is generated where missing, others must have been converted.
        root: its folder (default data/DATA).  config: of all rows (default experiments/DATA.yaml).
        jobs: rows at a time, which share the cores.
        rows, runs, program: the lines of the table, the folder of checkpoints and logs, and what runs a command of `racg`.
    Raises: DataError on a bad argument or missing file, and, after all other rows, where a row failed: its log and its last line.
    """
    if jobs < 1:
        raise DataError(f"reproduce: expected at least 1 run at a time, got --jobs {jobs}; leave it out for the default")
    if not is_name(data):
        raise DataError(f"reproduce: expected the name of a data set, got --data {data!r}; give its folder by --root")
    specs = {row: Spec.of(row, config or Path("experiments", f"{data}.yaml")) for row in rows}
    settings = specs[rows[0]].settings
    plan = Plan.make(data, root or Path("data", data), settings, out, runs)
    require_float32()
    plan.make_folders(list(specs.values()))
    todo = {row: why for row, spec in specs.items() if (why := plan.outdated(spec) or _absent(plan, spec))}
    if todo:
        say(f"{len(todo)} of {len(rows)} rows to run, {min(jobs, len(todo))} at a time; logs in {runs / data}/ROW/log.txt")
        starts = {row.name: (why, partial(Run, plan, specs[row], program, 1, "row")) for row, why in todo.items()}
        run_all(starts, places(jobs), (settings.get("trainer") or {}).get("max_epochs"))
    print(write_results(out, data, [plan.finished(row, spec) for row, spec in specs.items()]))


def _absent(plan: Plan, spec: Spec) -> str:
    return "" if plan.checkpoint(spec).exists() else "its checkpoint is missing here"
