"""A declared run under way: `racg fit`, then `racg test`, in processes of their own, and the record that it leaves.

The record is written last and whole, so that a killed or failed run leaves none. It holds all that tables and intervals need. A run
whose training was broken off goes on from its last whole epoch, to the same weights, unless anything that decides them has changed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from racg_pl.captions import CaptionStore
from racg_pl.errors import DataError, writing
from racg_pl.hdf5 import one_line
from racg_pl.plan import Plan, Spec, require_order
from racg_pl.processes import Job, Program, Slot, slots
from racg_pl.tables import RESULT, packed
from racg_pl.written import write_whole

LAST = "checkpoints/last.ckpt"
LEFT = ("fit.json", "test.json", "test_scores.npy", "checkpoints/best.ckpt", LAST)  # by an earlier run: could pass for new ones
BEGUN = "begun.json"  # what a training is of, and its seconds before this start
SPARE_MB = 512  # of evaluation, beside the matrix of scores
SHOWN, TOP = 3, 5  # queries of a kind that the page shows, and matches of each


def places(jobs: int, devices: Sequence[str] = ()) -> list[Slot]:
    """As `slots`, each of OMP_NUM_THREADS threads at most: whoever sets that has other use for the rest of the cores."""
    most = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list is of nested levels
    found = slots(jobs, devices)
    return [slot._replace(threads=min(slot.threads, int(most))) for slot in found] if most.isdecimal() and int(most) else found


class LockedJob(Job):
    """A job that has its folder for itself, until it is stopped. Raises: DataError where another process works there."""

    def __init__(self, name: str, folder: Path, program: Program, slot: Slot) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = _locked(folder)
        try:
            super().__init__(name, folder, self.begin(folder), program, slot)
        except BaseException:
            os.close(self.lock)
            raise

    def begin(self, folder: Path) -> Mapping[str, Sequence[str]]:
        """Clear away what an earlier run left in the folder, which is locked by now. Returns: the commands."""
        raise NotImplementedError

    def stop(self) -> None:
        """Of a run under way, or that has ended; once."""
        super().stop()
        os.close(self.lock)


class Run(LockedJob):
    """One run under way.  kind: what messages call it.  folds: of consecutive images, in which it is evaluated besides (COCO 1K)."""

    def __init__(self, plan: Plan, spec: Spec, program: Program, folds: int, kind: str, slot: Slot) -> None:
        self.plan, self.spec, self.folds = plan, spec, folds
        self.fingerprint = plan.fingerprint(spec)  # of now: who edits the source under a run gets another run
        super().__init__(f"{kind} {spec.name}", plan.folder(spec), program, slot)

    def begin(self, folder: Path) -> Mapping[str, Sequence[str]]:
        plan = self.plan
        self.spent_s = _spent(folder, self.fingerprint)
        for stale in LEFT if self.spent_s is None else ():
            (folder / stale).unlink(missing_ok=True)
        begun = {"fingerprint": self.fingerprint, "at": time.time(), "spent_s": self.spent_s or 0.0}
        with writing(path := folder / BEGUN):
            write_whole(path, json.dumps(begun).encode())
        captions = CaptionStore(plan.root / f"{plan.split}.captions.h5")
        matrix_mb = captions.images * len(captions) // (1 << 18)
        self.declared = plan.commands(self.spec, matrix_mb + SPARE_MB if self.folds > 1 else None)
        more = {} if self.spent_s is None else {"fit": [*self.declared["fit"], "--ckpt_path", "last"]}
        return self.declared | more

    def collect(self) -> None:
        """Turn what `racg test` left, its JSON and its scores, into the record. The scores are not kept."""
        plan, spec, tested, scores_path = self.plan, self.spec, self.folder / "test.json", self.folder / "test_scores.npy"
        try:
            result = json.loads(tested.read_text(encoding="utf-8"))
            scores = np.load(scores_path, allow_pickle=False)
            metrics = {name: float(value) for name, value in result["metrics"].items()}
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{tested}: {self.name}: expected metrics and scores, got: {one_line(error)}") from error
        found, measured, twins, lists = _found(scores, plan.root, plan.split)
        if abs(measured["rsum"] - metrics.get("rsum", np.nan)) >= 1e-6 or result.get("seed") != spec.seed:
            got = f"rsum {measured['rsum']} and {metrics.get('rsum')}, seed {result.get('seed')}"
            raise DataError(
                f"{tested}: {self.name}: expected the metrics of {scores_path.name} and seed {spec.seed}, got {got}"
            )
        cost = {f"{verb}_{name}": value for verb in self.commands for name, value in self._left(verb).get("cost", {}).items()}
        record = {
            "schema": RESULT,
            "data": plan.data,
            "split": plan.split,
            "images": len(found["i2t"]),
            "captions": len(found["t2i"].replace(" ", "")),
            "name": spec.name,
            **spec.about,
            "seed": spec.seed,
            "metrics": metrics,
            **twins,
            "parameters": result["parameters"],
            "weights": result.get("weights", ""),
            "commit": result["commit"],
            "commands": [shlex.join(["racg", *command]) for command in self.declared.values()],
            "wall_time_s": self.seconds | {"fit": round(self.seconds["fit"] + (self.spent_s or 0.0), 1)},
            "threads": self.slot.threads,
            "cost": cost,
            "hashes": plan.hashes,
            "config": result["config"],
            "found": found,
            **({"folds": _folds(scores, plan.root, plan.split, self.folds)} if self.folds > 1 else {}),
            "lists": lists,
            "fingerprint": self.fingerprint,
        }
        with writing(path := plan.record_path(spec)):
            write_whole(path, (json.dumps(record, indent=1) + "\n").encode())
        for done in (scores_path, self.folder / BEGUN):
            done.unlink(missing_ok=True)
        self.summary = f"rsum {metrics['rsum']:.1f}"

    def _left(self, verb: str) -> dict[str, Any]:
        path = self.folder / f"{verb}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _locked(folder: Path) -> int:
    """A descriptor of the folder, locked until it is closed. Raises: DataError where another process has this run."""
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise DataError(f"{folder}: another racg works on this run; wait for it") from error
    except OSError:  # a file system that has no such locks
        pass
    return descriptor


def _spent(folder: Path, fingerprint: dict[str, Any]) -> float | None:
    """Seconds of training behind the last whole epoch of a run that was broken off; None where there is none of these numbers."""
    last = folder / LAST
    try:
        begun = json.loads((folder / BEGUN).read_text(encoding="utf-8"))
        if begun["fingerprint"] != fingerprint or (folder / "fit.json").exists():
            return None
        at = last.stat().st_mtime
        return max(0.0, at - begun["at"]) + begun["spent_s"] if at > begun["at"] or begun["spent_s"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _found(
    scores: np.ndarray, root: Path, split: str
) -> tuple[dict[str, str], dict[str, float], dict[str, Any], dict[str, Any]]:
    """What was found of each query, see `packed`; recalls; those on twins, where there are any; and the lists to show."""
    import torch

    from racg_pl.metrics import ranks_i2t, ranks_t2i, recalls_of_ranks

    image = _image(scores, root, split)
    i2t, t2i = (ranks(torch.from_numpy(scores), torch.from_numpy(image)) for ranks in (ranks_i2t, ranks_t2i))
    hits: dict[str, np.ndarray] = {}
    twins: dict[str, Any] = {}
    if (path := root / f"{split}.truth.h5").exists():
        from racg_pl.scenes import Truth, twin_hits

        truth = Truth(path)
        truth.require(CaptionStore(root / f"{split}.captions.h5"))
        hits = twin_hits(scores, image, truth)
        twins["twins"] = {name: 100 * float(hit.mean()) for name, hit in hits.items()}
        twins["ceilings"] = truth.ceilings and truth.ceilings.to_dict()
        hits = hits | {"twin_kind": truth.twin_kind}
    lists = {"i2t": chosen(i2t.numpy(), scores), "t2i": chosen(t2i.numpy(), scores.T)}
    return packed(i2t.numpy(), t2i.numpy(), image, hits), recalls_of_ranks(i2t, t2i), twins, lists


def _folds(scores: np.ndarray, root: Path, split: str, folds: int) -> dict[str, Any]:
    """Recalls of folds of consecutive images, averaged, and what was found in each, end to end."""
    import torch

    from racg_pl.metrics import coco_folds, ranks_i2t, ranks_t2i

    image, size = _image(scores, root, split), len(scores) // folds
    parts: list[list[np.ndarray]] = [[], []]
    for start in range(0, len(scores), size):
        inside = (image >= start) & (image < start + size)
        part = torch.from_numpy(scores[start : start + size, inside]), torch.from_numpy(image[inside] - start)
        for ranks, kept in zip((ranks_i2t, ranks_t2i), parts, strict=True):
            kept.append(ranks(*part).numpy())
    found = packed(np.concatenate(parts[0]), np.concatenate(parts[1]), image)
    return {"number": folds, "metrics": coco_folds(torch.from_numpy(scores), torch.from_numpy(image), folds), "found": found}


def _image(scores: np.ndarray, root: Path, split: str) -> np.ndarray:
    captions = CaptionStore(root / f"{split}.captions.h5")
    if scores.shape != (captions.images, len(captions)):
        raise DataError(f"{root}: expected scores of {captions.images} images and {len(captions)} captions, got {scores.shape}")
    require_order(captions)
    return captions.image


def chosen(ranks: np.ndarray, scores: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Queries to show, chosen by rule, with their best matches and rank.

    Successes: of the queries that found theirs first, sorted by how far ahead of the second it was, those at 1/4, 2/4 and 3/4 of the
    way. Failures: of those that did not, sorted by rank, those at 1/4, 2/4 and 3/4.

    Args: ranks [Q], scores [Q,N] of the queries with all items.
    """
    best = -np.sort(-scores, axis=1)[:, :2]
    lead = best[:, 0] - best[:, -1]
    right, wrong = np.flatnonzero(ranks == 0), np.flatnonzero(ranks > 0)
    kinds = {
        "successes": right[np.argsort(lead[right], kind="stable")],
        "failures": wrong[np.argsort(ranks[wrong], kind="stable")],
    }
    return {
        kind: [
            {
                "query": int(query),
                "rank": int(ranks[query]),
                "matches": [
                    [int(item), round(float(scores[query, item]), 4)]
                    for item in np.argsort(-scores[query], kind="stable")[:TOP]
                ],
            }
            for query in dict.fromkeys(queries[len(queries) * part // (SHOWN + 1)] for part in range(1, SHOWN + 1))
        ]
        if len(queries)
        else []
        for kind, queries in kinds.items()
    }
