"""`racg tables --confirm`: keep records whose code has changed since, where a short training shows that it changes no number.

Trainings are deterministic. So a run that is stale by its source alone is trained for N steps twice, by the code that trained it, which
git still has, and by that of now; where weights and recalls are the same to the bit, its record gets the fingerprint of now and a
note. With `--rounding` so it does where the loss of no step is further apart than a thousandth, and rsum than one: code that adds up in
another order ends elsewhere within the spread of seeds. That the change is of this kind is said by who asks for it, since one of small
effect, such as a weight decay of a tenth more, would pass too; the note says how far apart they were.

This is a shortcut. It goes through warm-up, decay and hard negatives, which are shares of the steps, and one evaluation, of the first
pictures of dev; it does not go through what needs more steps, such as the look for a collapse every 50 or a second epoch, nor through
`racg test`; recalls are counts, which scores that differ in their last digits may leave as they are; and it trains one seed a row. Both
trainings have one thread and the libraries of this machine, whatever those of the record were.
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from racg_pl.errors import DataError, writing
from racg_pl.hdf5 import one_line
from racg_pl.paper.cut import cut
from racg_pl.paper.former import Former, commit_of_now, hashes, python
from racg_pl.paper.state import Ground, State
from racg_pl.plan import Plan, Spec, changes, read_record, say
from racg_pl.written import write_whole

LOSS, RSUM = (
    1e-3,
    1.0,
)  # how far apart trainings are at most that differ by rounding: of any step's loss, in parts of it; in percent
PICTURES = 200  # of dev that are evaluated: a thousand take SGR, with all their captions, longer than all the rest
FIT = "import sys; from racg_pl.cli import main; sys.exit(main(sys.argv[1:]))"


class Trained(NamedTuple):
    """What a short training leaves: the hash of its weights, metrics of dev, and the loss of each step where they were logged."""

    weights: str
    metrics: dict[str, float]
    losses: list[float]


def confirm(ground: Ground, states: Sequence[State], steps: int, jobs: int, rounding: bool = False) -> int:
    """Confirm stale ones of these runs, a training of the first stale seed for all seeds of a row that the same code trained.

    Args:
        steps: of both trainings.  jobs: with more than one, both go on at a time.
        rounding: whether trainings may differ by it.
    Returns: how many runs. What becomes of each row is said in one line.
    Raises: DataError where something is to be confirmed and this code is in no repository.
    """
    groups: dict[tuple[str, str, str], list[State]] = {}
    for state in states:
        if state.kind == "stale" and state.record:
            if not _by_source_alone(ground.plan(state.data), state):
                say(f"{state.data}/{state.spec.name} seed {state.spec.seed}: stays stale: {state.why}")
                continue
            groups.setdefault((state.data, state.spec.name, json.dumps(_trained_by(state.record), sort_keys=True)), []).append(
                state
            )
    confirmed = 0
    if groups:
        with Former() as former:
            for (data, name, _), group in groups.items():
                seeds = ", ".join(str(state.spec.seed) for state in group)
                row = f"{data}/{name} seed{'s' if len(group) > 1 else ''} {seeds}"
                say(f"{row}: {group[0].why}; {steps} steps of seed {group[0].spec.seed} with the code of then and of now")
                try:
                    note = _compared(former, ground.plan(data), group[0], steps, jobs, rounding)
                    confirmed += sum(_write(ground.plan(data), state, note) for state in group)
                    say(f"{row}: {f'confirmed: {_same(note)}' if note else 'done: the code is that of its training again'}")
                except DataError as error:
                    say(f"{row}: stays stale: {error}")
    return confirmed


def words(record: Mapping[str, Any]) -> str:
    """What a confirmed record's note shows, for people; "" of others."""
    if not record.get("confirmed"):
        return ""
    note = record["confirmed"][-1]
    return (
        f"confirmed: the code has changed since (files {', '.join(note['files'])}); in the first {note['steps']} steps, of a schedule "
        f"shortened to them, {_same(note)} (seed {note['seed']}, {note['against']} and {note['commit']})"
    )


def _same(note: Mapping[str, Any]) -> str:
    of = f" of {note['pictures']} pictures" if "pictures" in note else ""
    if "rounding" not in note:
        return f"weights and recalls{of} are the same to the bit"
    apart = note["rounding"]
    loss, rsum = f"{apart['loss']:.1e}", f"{apart['rsum']:.1f}"
    return f"numbers differ by rounding: the loss of a step by {loss} of it at most, rsum{of} after them by {rsum}"


def _by_source_alone(plan: Plan, state: State) -> bool:
    assert state.record
    stored, now = state.record["fingerprint"], plan.fingerprint(state.spec)
    but_for_source = changes(stored | {"source": now["source"]}, now)
    return isinstance(stored.get("source"), dict) and bool(changes(stored, now)) and not but_for_source


def _trained_by(record: Mapping[str, Any]) -> dict[str, str]:
    """The source hashes of the code that trained a run: later code, by which it was confirmed, is no ground to stand on."""
    return record["confirmed"][0]["source"] if record.get("confirmed") else record["fingerprint"]["source"]


def _compared(former: Former, plan: Plan, state: State, steps: int, jobs: int, rounding: bool) -> dict[str, Any] | None:
    """The note of a run whose code of then and of now train alike; None where they are the same code again.

    Raises: DataError with the reason where they do not, in words.
    """
    assert state.record
    spec, then = state.spec, _trained_by(state.record)
    now: dict[str, str] = plan.fingerprint(spec)["source"]
    if then == now:
        return None
    notes = state.record.get("confirmed", [])
    found = former.find([*(note["against"] for note in notes), state.record["commit"]], spec.method, then)
    if found is None:
        had = state.record["commit"] or "(none)"
        raise DataError(f"the code that trained it is neither that of its commit {had} nor of the latest ones; train it anew")
    commit, tree = found
    with tempfile.TemporaryDirectory(dir=former.folder) as folder:
        options = spec.settings.get("data") or {}
        root, val = plan.root, options.get("val", "dev")
        if val != options.get("train", "train"):
            root = cut(root, Path(folder, "data"), val, options.get("parser", "bundled"), PICTURES)
        plans = [replace(plan, root=root, runs=Path(folder, name)) for name in ("then", "now")]
        old, new = _train([tree, former.now], plans, spec, steps, jobs)
    if hashes(former.now, spec.method) != now:
        raise DataError("the code was changed meanwhile; confirm again")
    files = [name for name in sorted(then | now) if then.get(name) != now.get(name)]
    note = {"commit": commit_of_now(), "against": commit, "steps": steps, "seed": spec.seed, "weights": new.weights}
    note |= {} if root == plan.root else {"pictures": PICTURES}
    if (old.weights, old.metrics) != (new.weights, new.metrics):
        note["rounding"] = _apart(old, new, commit, rounding)
    return note | {"files": files, "source": then}


def _apart(old: Trained, new: Trained, commit: str, allowed: bool) -> dict[str, float]:
    """How far apart two trainings are that differ by rounding.

    Raises: DataError with the reason where they differ by more, or at all where that is not `allowed`.
    """
    different = [
        f"{key} {old.metrics.get(key)} is now {value}" for key, value in new.metrics.items() if old.metrics.get(key) != value
    ]
    said = ["other weights" if old.weights != new.weights else "the same weights", *(different or ["the same recalls"])]
    if not old.losses or len(old.losses) != len(new.losses):
        raise DataError(f"its numbers change, against {commit}: {', '.join(said)}; no losses of steps say by how much")
    losses = list(zip(old.losses, new.losses, strict=True))
    apart = [abs(a - b) / max(abs(a), 1e-9) if math.isfinite(a) and math.isfinite(b) else math.inf for a, b in losses]
    loss, step = max((far, step) for step, far in enumerate(apart))
    rsum = abs(old.metrics["rsum"] - new.metrics["rsum"])
    said += ["the loss of step {} {:.7g} is now {:.7g}".format(step, *losses[step])] if loss else []
    if not (loss <= LOSS and rsum <= RSUM):
        raise DataError(f"its numbers change, against {commit}: {', '.join(said)}")
    if not allowed:
        raise DataError(f"its numbers change as by rounding, against {commit}: {', '.join(said)}; --rounding confirms it")
    return {"loss": loss, "rsum": rsum}


def _train(sources: Sequence[Path], plans: Sequence[Plan], spec: Spec, steps: int, jobs: int) -> list[Trained]:
    """What `racg fit` leaves, by the code in each folder; each writes where its plan says."""
    batches = steps * int((spec.settings.get("trainer") or {}).get("accumulate_grad_batches") or 1)
    cut = ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(batches)]
    cut += ["--trainer.check_val_every_n_epoch", "null"]  # the interval counts through epochs
    cut += ["--trainer.log_every_n_steps", "1"]
    processes: list[subprocess.Popen] = []
    try:
        for source, plan in zip(sources, plans, strict=True):
            plan.folder(spec).mkdir(parents=True)
            with (plan.folder(spec) / "log.txt").open("wb") as log:
                command = python(source, FIT, *plan.commands(spec)["fit"], *cut)
                processes.append(subprocess.Popen(**command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            if jobs == 1:
                processes[-1].wait()
        return [_left(process, plan.folder(spec), plan.runs.name) for process, plan in zip(processes, plans, strict=True)]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _left(process: subprocess.Popen, folder: Path, when: str) -> Trained:
    code, which = process.wait(), f"racg fit with the code of {when}"
    if code:
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        raise DataError(f"{which} ended with {'exit status' if code > 0 else 'signal'} {abs(code)}: {last[:300]}")
    try:
        result = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
        return Trained(str(result["weights"]), dict(result["metrics"]), _losses(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{which} left no weights and metrics ({one_line(error)}); give --steps that its training has"
        ) from error


def _losses(folder: Path) -> list[float]:
    """Of each step, from the log of CSVLogger; none where the configuration has none."""
    path = next(iter(sorted(folder.glob("csv/*/metrics.csv"))), None)
    if path is None:
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")]


def _write(plan: Plan, state: State, note: Mapping[str, Any] | None) -> bool:
    """The record anew; not where somebody has written it meanwhile, which is theirs. Raises: DataError where it cannot be."""
    path = plan.record_path(state.spec)
    if read_record(path) != state.record or not state.record:
        say(f"{path}: written meanwhile; left as it is")
        return False
    record = state.record | {"fingerprint": plan.fingerprint(state.spec)}
    if note is None:
        record.pop("confirmed", None)
    else:
        record["confirmed"] = [*state.record.get("confirmed", [])[:1], note]  # the first says by which code it was trained
    with writing(path):
        write_whole(path, (json.dumps(record, indent=1) + "\n").encode())
    return True
