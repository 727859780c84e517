"""Where words point: what `racg ground` found of each run of a table, measured where the run's checkpoint is here.

OUT/ground/DATA/[seedN/]ROW.json is the record of a run. One of another training than the run's own counts too, and is marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from racg_pl.bootstrap import paired_bootstrap
from racg_pl.errors import DataError, writing
from racg_pl.ground_record import MEASURES, REGIONS, asked, read_record, unpacked
from racg_pl.paper.declared import Table
from racg_pl.paper.state import Ground, State
from racg_pl.paper.values import Measured, Value, declared_rows
from racg_pl.plan import Plan, say

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
            found = _record(ground, state)
            if isinstance(found, str):
                row.left_out[state.spec.seed] = found
            else:
                row.groundings[state.spec.seed] = found
    every = [asked(record) for row in rows for record in row.groundings.values()]
    for row in rows:
        chosen = max(map(asked, row.groundings.values()), key=every.count, default=None)
        for seed in [seed for seed, record in row.groundings.items() if asked(record) != chosen]:
            del row.groundings[seed]
            row.left_out[seed] = OTHERS
        for name in MEASURES if row.groundings else ():
            values = [record["metrics"][name]["attended"] for record in row.groundings.values()]
            row.values[name] = Value.of(values)
    _compare([row for row in rows if row.groundings], table)
    return rows


def _record(ground: Ground, state: State) -> dict[str, Any] | str:
    """What was found of a run, or why it is not known. Where its checkpoint is here, and no record is of its weights, it is measured."""
    assert state.record is not None
    bare = Plan(state.data, Path(), ground.out / "ground", ground.runs, "", "", {})
    path, known = bare.record_path(state.spec), None
    fault = f"it is not measured, and {bare.checkpoint(state.spec)} is not here or of another run"
    if path.exists():
        try:
            known = read_record(path)
        except DataError as error:
            fault = str(error)
    if known is not None and known["weights"] == state.record["weights"]:
        return known
    try:
        made = _measured(ground.plan(state.data), state, path)
    except DataError as error:  # data that are not here, or a method whose words attend to no regions
        made, fault = None, fault if known is None and path.exists() else str(error)
    return made or known or fault


def _measured(plan: Plan, state: State, path: Path) -> dict[str, Any] | None:
    """The record of a run whose checkpoint is here, written to `path`; else None. Raises: DataError, see `grounding.ground`."""
    assert state.record is not None
    checkpoint = plan.checkpoint(state.spec)
    if not checkpoint.exists():
        return None
    from racg_pl.grounding import ground
    from racg_pl.training import read_checkpoint, weights_hash

    if weights_hash(read_checkpoint(checkpoint)["state_dict"]) != state.record["weights"]:
        return None
    say(f"{state.data}/{state.spec.name} seed {state.spec.seed}: where words point")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return ground(checkpoint, plan.root, plan.split, out=path).record


def _compare(rows: Sequence[Measured], table: Table) -> None:
    """Set differences to the reference, phrase by phrase."""
    reference = next((row for row in rows if row.line.name == table.reference), None)
    if reference is None or len({asked(record) for row in rows for record in row.groundings.values()}) > 1:
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


def others(row: Measured) -> list[int]:
    """Seeds whose record is of another training than the run's."""
    weights = {state.spec.seed: state.record["weights"] for state in row.counted if state.record}
    return [seed for seed, record in row.groundings.items() if record["weights"] != weights[seed]]
