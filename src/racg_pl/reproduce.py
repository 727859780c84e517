"""`racg reproduce`: RACG, RACG without each of its parts and a graph-free row, trained, tested, and told apart.

Each row is two commands in processes of their own, `racg fit` and `racg test`, whose output goes to RUNS/DATA/ROW/log.txt
(processes.py). A row's record is written last and whole, so that a killed or failed run leaves none, and a second call runs what is
missing (plan.py).
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from racg_pl.captions import CaptionStore
from racg_pl.cli import main
from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.plan import ROWS, SEED, Plan, Row, say
from racg_pl.processes import Job, Program, Slot, run_all, slots
from racg_pl.tables import RESULT, write_results, write_whole


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
        say(f"{len(todo)} of {len(rows)} rows to run, {min(jobs, len(todo))} at a time; logs in {runs / data}/ROW/log.txt")
        starts = {row.name: (why, partial(Run, plan, row, program)) for row, why in todo.items()}
        run_all(starts, slots(jobs), (plan.settings.get("trainer") or {}).get("max_epochs"))
    print(write_results(out, data, [plan.finished(row) for row in rows]))


class Run(Job):
    """One row under way."""

    def __init__(self, plan: Plan, row: Row, program: Program, slot: Slot) -> None:
        self.plan, self.row = plan, row
        self.fingerprint = plan.fingerprint(row)  # of now: who edits the source under a run gets another run
        folder = plan.folder(row)
        folder.mkdir(parents=True, exist_ok=True)
        for stale in ("test.json", "test_scores.npy", "ranks.npz", "checkpoints/best.ckpt"):  # or they could pass for new ones
            (folder / stale).unlink(missing_ok=True)
        super().__init__(f"row {row.name}", folder, plan.commands(row), program, slot)

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
