"""What is known of each declared run: done, stale and why, missing, or what it needs; and how long the missing ones will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from racg_pl.captions import CaptionStore
from racg_pl.errors import DataError
from racg_pl.paper.declared import Line, Table
from racg_pl.plan import Plan, Spec, read_record

UNFOLDED = "it was not evaluated in folds"


@dataclass(frozen=True)
class State:
    """One run of a row: its record where there is one, and what is to be said of it."""

    data: str
    spec: Spec
    record: dict[str, Any] | None
    kind: str  # done, stale, missing or needs
    why: str = ""


class Ground:
    """The data sets and the folders of results and runs; states of runs, each looked up once."""

    def __init__(self, tables: Sequence[Table], roots: dict[str, Path], out: Path, runs: Path, generate: bool) -> None:
        """roots: folders of data sets that are not in data/NAME.  generate: whether Scenes may be made where missing."""
        self.tables, self.roots, self.out, self.runs, self.generate = tables, roots, out, runs, generate
        self.plans: dict[str, Plan | DataError] = {}
        self.folds = {data: max(table.folds for table in tables if table.data == data) for data in {t.data for t in tables}}
        self.states: dict[tuple[str, str, int], State] = {}
        self.measured = frozenset[str]()  # ids of tables of where words point that measure what is not known yet

    def plan(self, data: str) -> Plan:
        """Raises: DataError where files of the data set are missing or do not belong together."""
        if data not in self.plans:
            root = self.roots.get(data, Path("data", data))
            first = next(table.lines[0] for table in self.tables if table.data == data)
            try:
                made = Plan.make(data, root, first.spec(0).settings, self.out, self.runs, self.generate)
                self._require_folds(made, self.folds[data])
                self.plans[data] = made
            except DataError as error:
                self.plans[data] = error
        found = self.plans[data]
        if isinstance(found, DataError):
            raise found
        return found

    @staticmethod
    def _require_folds(plan: Plan, folds: int) -> None:
        """Before hours of training, not after them."""
        if folds > 1 and (images := CaptionStore(plan.root / f"{plan.split}.captions.h5").images) % folds:
            raise DataError(f"{plan.root}: expected folds that divide the {images} images of {plan.split}, got {folds}")

    def grounding_path(self, data: str, spec: Spec) -> Path:
        """Where the record of `racg ground` of a run lies."""
        return Plan(data, Path(), self.out / "ground", self.runs, "", "", {}).record_path(spec)

    def state(self, table: Table, line: Line, seed: int) -> State:
        key = (table.data, line.name, seed)
        if key not in self.states:
            self.states[key] = self._look(table, line.spec(seed))
        return self.states[key]

    def forget(self) -> None:
        """What was looked up: runs have ended since."""
        self.states.clear()

    def _look(self, table: Table, spec: Spec) -> State:
        data = table.data
        bare = Plan(data, Path(), self.out, self.runs, "", "", {})
        try:
            record = read_record(bare.record_path(spec))
        except DataError:
            return State(data, spec, None, "missing", "its result is of an older kind, or damaged")
        if missing := next((path for path in spec.configs if not path.exists()), None):
            return State(data, spec, record, "needs", f"the configuration {missing}")
        whole = record is None or in_folds(record, self.folds[data])
        try:
            plan = self.plan(data)
        except DataError as error:
            if record is not None and whole:
                return State(data, spec, record, "done", f"taken as recorded, since its data are not here: {error}")
            what = _needs(self.roots.get(data, Path("data", data)), error)
            return State(data, spec, record, "needs", what if whole else f"{what}, to be evaluated in folds")
        if record is None:
            return State(data, spec, None, "missing", "no result yet")
        why = plan.outdated(spec) or ("" if whole else UNFOLDED)
        return State(data, spec, record, "stale" if why else "done", why)


def in_folds(record: Mapping[str, Any], folds: int) -> bool:
    """Whether a run was evaluated in so many folds, where there are any."""
    return folds == 1 or record.get("folds", {}).get("number") == folds


def _needs(root: Path, error: DataError) -> str:
    """What a data set lacks; how to make it where there is nothing of it yet."""
    recipe = Path("experiments", "data", f"{root.name}.yaml")
    if root.exists() or not recipe.exists():
        return str(error)
    return f"racg prepare {recipe} --root {root}"


def seconds(states: Sequence[State], wanted: State) -> float | None:
    """About how long a run takes: as long as its own record says, else as the same row of other seeds, else as any on these data."""

    def taken(some: Sequence[State]) -> list[float]:
        return [sum(state.record["wall_time_s"].values()) for state in some if state.record]

    same = [state for state in states if state.data == wanted.data]
    for times in (taken([wanted]), taken([s for s in same if s.spec.name == wanted.spec.name]), taken(same)):
        if times:
            return median(times)
    return None


def listing(ground: Ground, tables: Sequence[Table], seeds: Sequence[int] | None, jobs: int) -> str:
    """Each table with the state of its runs, and how long what is missing will take."""
    every = [ground.state(table, line, seed) for table in ground.tables for line in table.lines for seed in seeds or line.seeds]
    lines, due = list[str](), dict[tuple[str, str, int], float | None]()
    for table in tables:
        states = [ground.state(table, line, seed) for line in table.lines for seed in seeds or line.seeds]
        remark = next((state.why for state in states if state.kind == "done" and state.why), "")  # the same of all of them
        lines.append(f"{table.id}  {table.title} ({table.data})" + (f": {remark}" if remark else ""))
        width = max(len(line.name) for line in table.lines)
        for state in states:
            words = state.kind + (f": {state.why}" if state.why and state.kind != "done" else "")
            if state.kind in ("missing", "stale"):
                about = due.setdefault((table.data, state.spec.name, state.spec.seed), seconds(every, state))
                words += f", about {about / 60:.0f} min" if about else ""
            elif state.record:
                confirmed = ", confirmed" if state.record.get("confirmed") else ""
                words += f" ({state.record['metrics']['rsum']:.1f}, {state.record['commit'] or 'no commit'}{confirmed})"
                if table.kind == "grounding" and not ground.grounding_path(state.data, state.spec).exists():
                    words += "; where its words point is not measured, for which its checkpoint must be in the folder of runs"
            lines.append(f"  {state.spec.name.ljust(width)}  seed {state.spec.seed}  {words}")
    known = [about for about in due.values() if about]
    guess = f", about {sum(known) / jobs / 60:.0f} min at {jobs} at a time" if known else ""
    guess += f" and {len(due) - len(known)} of unknown length" if known and len(known) < len(due) else ""
    lines.append(f"{len(due)} runs to do{guess}")
    return "\n".join(lines)
