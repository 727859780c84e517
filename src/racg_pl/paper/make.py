"""`racg tables`: run what is missing or stale of the declared tables, resume after an interruption, and write all that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from racg_pl.cli import main
from racg_pl.errors import DataError, writing
from racg_pl.paper.declared import Table, read_tables
from racg_pl.paper.state import Ground, State, listing
from racg_pl.plan import ROWS, require_float32, say
from racg_pl.processes import Program, run_all
from racg_pl.runs import Run, places
from racg_pl.tables import write_summary


def tables(
    path: Path = Path("experiments/tables.yaml"),
    data: str | None = None,
    root: Path | None = None,
    out: Path = Path("results"),
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    jobs: int = 2,
    *,
    show: bool = False,
    page: bool = False,
    keep_stale: bool = False,
    confirm: bool = False,
    rounding: bool = False,
    steps: int = 40,
    runs: Path = Path("runs"),
    program: Program = main,
) -> str:
    """Run what is missing, seed by seed through the tables; write OUT/DATA/[seedN/]ROW.json, OUT/tables/*, OUT/tables.html
    and OUT/summary.json.

    Args:
        path: the list.  data, only: restrict what is run to one data set and to tables by number.  root: folder of `data`.
        seeds: to run or list instead of those declared; the page shows both.  jobs: runs at a time.
        show: only say what is done, stale and missing.  page: run nothing, only write.  keep_stale: run what has no result at all.
        confirm: run nothing in whole; keep stale results where trainings of `steps` by the code of then and of now agree, confirm.py.
        rounding: let those agree that differ by rounding.
        runs, program: the folder of checkpoints and logs, and what runs a command of `racg`.
    Returns: what to print.
    Raises: DataError on a bad list or argument, and, after all else has run and is written, where a run failed.
    """
    if jobs < 1:
        raise DataError(f"tables: expected at least 1 run at a time, got --jobs {jobs}; leave it out for the default")
    if confirm and (show or page or keep_stale):
        raise DataError("tables: expected --confirm without --list, --page and --keep-stale, got several of them; choose one")
    if rounding and not confirm:
        raise DataError("tables: expected --rounding beside --confirm, got it alone; add --confirm")
    if steps < 1:
        raise DataError(f"tables: expected at least 1 step of training, got --steps {steps}; leave it out for the default")
    every = read_tables(path)
    chosen = _chosen(every, path, data, only)
    if root is not None and data is None:
        raise DataError("tables: expected the data set that --root is the folder of, got none; add --data NAME")
    wanted = _wanted(chosen, seeds)
    ground = Ground(every, {data: root} if data and root else {}, out, runs, generate=not (show or page or confirm))
    if show:
        return listing(ground, chosen, seeds, jobs)
    if confirm:
        from racg_pl.paper.confirm import confirm as confirm_stale

        if not (number := confirm_stale(ground, _states(ground, wanted), steps, jobs, rounding)):
            return "0 runs confirmed"
        say(f"{number} runs confirmed")
    failure = None if page or confirm else _run(ground, wanted, jobs, keep_stale, program)
    ground.forget()
    ground.measured = frozenset(table.id for table in chosen if not (page or confirm))
    from racg_pl.paper.page import write_page

    written = write_page(ground, seeds or ())
    with writing(out):
        written.append(write_summary(out, [row.name for row in ROWS]))
    if failure:
        raise failure
    return "\n".join(map(str, written))


def _chosen(every: Sequence[Table], path: Path, data: str | None, only: Sequence[str]) -> list[Table]:
    for name, kind, known in ((data, "data", {t.data for t in every}), *((n, "only", {t.number for t in every}) for n in only)):
        if name is not None and name not in known:
            raise DataError(f"{path}: expected --{kind} {', '.join(sorted(known))}, got {name!r}; choose one")
    return [table for table in every if data in (None, table.data) and (not only or table.number in only)]


def _wanted(chosen: Sequence[Table], seeds: Sequence[int] | None) -> list[tuple[Table, str, int]]:
    """Runs of the tables, a run once: the first seed of all tables, then the second, so that each table is soon there in part."""
    wanted: dict[tuple[str, str, int], tuple[int, Table]] = {}
    for table in chosen:
        for line in table.lines:
            for turn, seed in enumerate(seeds or line.seeds):
                wanted.setdefault((table.data, line.name, seed), (turn, table))
    order = sorted(wanted.items(), key=lambda item: item[1][0])  # stable
    return [(table, name, seed) for (_, name, seed), (_, table) in order]


def _states(ground: Ground, wanted: Sequence[tuple[Table, str, int]]) -> list[State]:
    return [ground.state(table, next(line for line in table.lines if line.name == name), seed) for table, name, seed in wanted]


def _run(
    ground: Ground, wanted: Sequence[tuple[Table, str, int]], jobs: int, keep_stale: bool, program: Program
) -> DataError | None:
    """Run what has to be. Returns: the first failure, after all others have ended."""
    todo: list[State] = []
    for (table, name, _), state in zip(wanted, _states(ground, wanted), strict=True):
        if state.kind == "needs":
            say(f"table {table.number}: {name}: not run: needs {state.why}")
        elif state.kind == "missing" or (state.kind == "stale" and not keep_stale):
            todo.append(state)
    if not todo:
        return None
    require_float32()
    say(
        f"{len(todo)} of {len(wanted)} runs to do, {min(jobs, len(todo))} at a time; logs in {ground.runs}/DATA/[seedN/]ROW/log.txt"
    )
    starts = {}
    for state in todo:
        plan = ground.plan(state.data)
        plan.make_folders([state.spec])
        start = partial(Run, plan, state.spec, program, ground.folds[state.data], "run")
        starts[f"{state.data}/{state.spec.name} seed {state.spec.seed}"] = (state.why, start)
    epochs = {(state.spec.settings.get("trainer") or {}).get("max_epochs") for state in todo}
    try:
        run_all(starts, places(jobs), epochs.pop() if len(epochs) == 1 else None, "run")
    except DataError as error:
        return error
    return None
