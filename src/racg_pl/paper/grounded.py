"""Where words point: what `racg ground` found of each run of a table, measured by `racg tables` where the run's checkpoint is here.

OUT/ground/DATA/[seedN/]ROW.json is the record of a run. One of another training than the run's own, or of other phrases than are here
now, counts too, and is marked. Whether the code of `racg ground` has changed since is not looked at: the record has its commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from racg_pl.bootstrap import paired_bootstrap
from racg_pl.errors import DataError, writing
from racg_pl.ground_record import MEASURES, REGIONS, asked, read_record, spoken_of, unpacked
from racg_pl.paper.declared import Table
from racg_pl.paper.state import Ground, State
from racg_pl.paper.values import Measured, Value, declared_rows
from racg_pl.plan import Plan, say
from racg_pl.readers.files import file_sha256

BASELINES = {  # of REGIONS, in the words of a table
    "chance": "a region drawn at random",
    "largest": "the largest region",
    "surest": "the detector's surest",
    "best": "the best possible",
}
OTHERS = "it was measured on other phrases"


def measure_grounding(ground: Ground, table: Table, seeds: Sequence[int]) -> list[Measured]:
    """The rows of a table with the percentages of MEASURES in place of recalls. seeds: besides those declared, where they have run."""
    rows = declared_rows(ground, table, seeds)
    for row in rows:
        for state in row.counted:
            found, fits = _record(ground, state, table.id in ground.measured)
            if isinstance(found, str):
                row.left_out[state.spec.seed] = found
                continue
            row.groundings[state.spec.seed] = found
            if not fits:
                row.others.append(state.spec.seed)
    every = [asked(record) for row in rows for record in row.groundings.values()]
    chosen = max(every, key=every.count, default=None)
    for row in rows:
        for seed in [seed for seed, record in row.groundings.items() if asked(record) != chosen]:
            del row.groundings[seed]
            row.left_out[seed] = OTHERS
        row.others = [seed for seed in row.others if seed in row.groundings]
        for name in MEASURES if row.groundings else ():
            row.values[name] = Value.of([record["metrics"][name]["attended"] for record in row.groundings.values()])
    _compare([row for row in rows if row.groundings], table)
    return rows


def _record(ground: Ground, state: State, measured: bool) -> tuple[dict[str, Any] | str, bool]:
    """What was found of a run, or why it is not known; and whether it is of these weights and of the phrases of now.

    Where it is not, and `measured` says so, it is measured anew if the run's checkpoint is here.
    """
    assert state.record is not None
    path, known = ground.grounding_path(state.data, state.spec), None
    checkpoint = Plan(state.data, Path(), ground.out, ground.runs, "", "", {}).checkpoint(state.spec)
    fault = f"it is not measured; racg tables does so where {checkpoint} is of this run"
    if path.exists():
        try:
            known = read_record(path)
        except DataError as error:
            fault = str(error)
    plan = source = None
    with suppress(DataError):  # data or phrases that are not here, with which nothing can be compared
        plan = ground.plan(state.data)
        source = spoken_of(plan.root, plan.split)
    same = known is not None and known["weights"] == state.record["weights"]
    if known is not None and same and (source is None or known["phrases"]["sha256"] == file_sha256(source)):
        return known, True
    if measured and plan is not None and checkpoint.exists():
        try:
            if made := _measured(plan, state, path):
                return made, True
        except DataError as error:  # phrases that are not here, or a method whose words attend to no regions
            fault = str(error)
    return known or fault, False


def _measured(plan: Plan, state: State, path: Path) -> dict[str, Any] | None:
    """The record of a run, written to `path`; None where its checkpoint is of another. Raises: DataError, see `grounding.ground`."""
    assert state.record is not None
    from racg_pl.grounding import ground
    from racg_pl.training import read_checkpoint, weights_hash

    checkpoint = plan.checkpoint(state.spec)
    if weights_hash(read_checkpoint(checkpoint)["state_dict"]) != state.record["weights"]:
        return None
    say(f"{state.data}/{state.spec.name} seed {state.spec.seed}: where words point")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return ground(checkpoint, plan.root, plan.split, out=path).record


def _compare(rows: Sequence[Measured], table: Table) -> None:
    """Set differences to the reference, phrase by phrase."""
    reference = next((row for row in rows if row.line.name == table.reference), None)
    if reference is None:
        return
    first, image = _hits(reference)
    for row in rows:
        if row is not reference:
            own, _ = _hits(row)
            for k, name in enumerate(MEASURES):
                row.differences[name] = paired_bootstrap(own[:, k], first[:, k], clusters=image)


def _hits(row: Measured) -> tuple[Any, Any]:
    """Percent a phrase [S,2], the mean over seeds, and the group of each [S]."""
    every = [unpacked(record["hits"]) for record in row.groundings.values()]
    return np.mean([hits for hits, _ in every], 0), every[0][1]


def baselines(rows: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """What any method has on the same phrases, by name in words and measure."""
    record = next((record for row in rows for record in row.groundings.values()), None)
    if record is None:
        return {}
    known = [region for region in REGIONS if region in BASELINES and region in record["metrics"]["iou"]]
    return {BASELINES[region]: {name: record["metrics"][name][region] for name in MEASURES} for region in known}
