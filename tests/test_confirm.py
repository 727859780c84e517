"""paper/confirm.py and former.py: what is confirmed, what stays stale and why, and what is left behind.

The code of then and of now is a tiny package in a repository of its own, whose `racg fit` trains nothing: its losses.py decides what it
writes into fit.json.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from racg_pl import plan, source
from racg_pl.cli import main
from racg_pl.data import RetrievalData
from racg_pl.errors import DataError
from racg_pl.paper import confirm, former, make, page
from racg_pl.paper.appendix import appendix
from racg_pl.paper.cut import cut
from racg_pl.paper.declared import Line, Table
from racg_pl.paper.state import Ground, State, listing
from racg_pl.plan import Plan
from racg_pl.scenes import generate
from racg_pl.tables import RECALLS, RESULT
from racg_pl.text_files import prepare_texts

SEEDS = (0, 1, 2)
CONFIG = "{model: {dim: 8}, trainer: {accumulate_grad_batches: 2}}\n"
CLI = """\
import json, os, sys
from pathlib import Path
from racg_pl import losses

def main(arguments):
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    names = [f"trainer.{name}" for name in ("max_steps", "val_check_interval", "check_val_every_n_epoch", "log_every_n_steps")]
    names.append("seed_everything")
    called = [arguments[0], *(options[f"--{name}"] for name in names), os.environ["OMP_NUM_THREADS"], os.environ["WANDB_MODE"]]
    with open("calls.txt", "a") as file:
        print(*called, "then" if "racg_confirm_" in __file__ else "now", file=file)
    if losses.fails():
        sys.exit("racg: the model collapsed")
    left = {"weights": f"w{losses.loss(int(options['--seed_everything']))}", "metrics": {"rsum": losses.loss(7)}}
    Path(options["--out"], "fit.json").write_text(json.dumps(left))
    if losses.LOGGED:
        log = Path(options["--out"], "csv", "version_0", "metrics.csv")
        log.parent.mkdir(parents=True)
        log.write_text("dev/rsum,loss\\n" + "".join(f",{loss}\\n" for loss in losses.LOGGED) + "7,\\n")
    return 0
"""
LOSSES = "LOGGED = [4.0, 3.0]\n\n\ndef loss(x):\n    twice = 2 * x\n    return twice\n\n\ndef fails():\n    return False\n"
RENAMED = LOSSES.replace("twice", "double")
OTHER = LOSSES.replace("2 * x", "3 * x")
ROUNDED = LOSSES.replace("2 * x", "2 * x + 1e-5").replace("3.0]", "3.00001]")


class Known(Ground):
    """Data of which no files are needed."""

    def plan(self, data: str) -> Plan:
        return Plan(data, Path("data", data), self.out, self.runs, "test", "test", {"train": "of the data"})


def git(*words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.hooksPath=/dev/null")
    return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()


def commit(losses: str) -> str:
    Path("src/racg_pl/losses.py").write_text(losses)
    git("add", "src")
    git("commit", "-qm", "losses")
    return git("rev-parse", "--short=12", "HEAD")


@cache
def of_now(method: str, losses: str) -> dict[str, str]:
    """Of these losses, which are in the working folder, and of all else, which is the same in all tests."""
    return former.hashes(Path("src"), method)


def cut_where_there_are_files(root: Path, out: Path, split: str, parser: str, images: int) -> Path:
    """None are here."""
    assert (root, out.name, split, parser, images) == (Path("data/scenes"), "data", "dev", "bundled", 200)
    return root


@pytest.fixture
def place(tmp_path, monkeypatch) -> str:
    """A working folder in a repository, with records that the code of its first commit trained. Returns: that commit."""
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "src" / "racg_pl"
    package.mkdir(parents=True)
    shutil.copy(source.__file__, package)
    for name, text in {"__init__": "", "cli": CLI, "module": "from racg_pl import losses\n"}.items():
        (package / f"{name}.py").write_text(text)
    Path("experiments").mkdir()
    Path("experiments/scenes.yaml").write_text(CONFIG)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(former.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(former, "PACKAGE", package)
    monkeypatch.setattr(confirm, "cut", cut_where_there_are_files)
    monkeypatch.setattr(plan, "source_hashes", lambda method: of_now(method, (package / "losses.py").read_text()))
    git("init", "-q")
    first = commit(LOSSES)
    for seed in SEEDS:
        write(seed, first)
    return first


def table(seeds=SEEDS, **options) -> Table:
    line = Line("racg", "RACG", "", Path("experiments/scenes.yaml"), options, tuple(seeds))
    return Table("I", "Methods", "recalls", "scenes", "racg", (line,))


def ground(shown: Table | None = None) -> Known:
    return Known([shown or table()], {}, Path("results"), Path("runs"), False)


def path(seed: int) -> Path:
    return Path("results/scenes", f"seed{seed}" if seed else "", "racg.json")


def record(seed: int) -> dict:
    return json.loads(path(seed).read_text())


def write(seed: int, of: str, **more) -> None:
    """The record of a run that the code of now has trained."""
    made = {
        "schema": RESULT,
        "data": "scenes",
        "name": "racg",
        "split": "test",
        "found": {},
        "metrics": dict.fromkeys(RECALLS, 50.0) | {"rsum": 400.0},
        "seed": seed,
        "commands": [],
        "wall_time_s": {},
        "commit": of,
    }
    made["fingerprint"] = ground().plan("scenes").fingerprint(table().lines[0].spec(seed))
    path(seed).parent.mkdir(parents=True, exist_ok=True)
    path(seed).write_text(json.dumps(made | more))


def run(shown: Table | None = None, steps: int = 5, jobs: int = 1, rounding: bool = False) -> int:
    shown = shown or table()
    here = ground(shown)
    return confirm.confirm(
        here, [here.state(shown, shown.lines[0], seed) for seed in shown.lines[0].seeds], steps, jobs, rounding
    )


def calls() -> list[str]:
    return Path("calls.txt").read_text().splitlines() if Path("calls.txt").exists() else []


def nothing_is_left() -> bool:
    return not list(Path("temporary").iterdir()) and len(git("worktree", "list").splitlines()) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_change_without_effect_is_confirmed_by_one_seed(place, capsys, jobs):
    before = [record(seed) for seed in SEEDS]
    now = commit(RENAMED)
    assert "seed 1  stale: the source changed (losses)" in listing(ground(), [table()], None, 1)
    assert run(jobs=jobs) == 3
    assert sorted(calls()) == [f"fit 5 10 null 1 0 1 disabled {when}" for when in ("now", "then")]
    assert "scenes/racg seeds 0, 1, 2: confirmed" in capsys.readouterr().err
    for old, seed in zip(before, SEEDS, strict=True):
        note = {"commit": now, "against": place, "steps": 5, "seed": 0, "weights": "w0", "files": ["losses"]}
        new = record(seed)
        assert new.pop("confirmed") == [note | {"source": old["fingerprint"]["source"]}]
        assert new.pop("fingerprint") != old.pop("fingerprint")
        assert new == old
    assert f"seed 1  done (400.0, {place}, confirmed)" in listing(ground(), [table()], None, 1)
    assert nothing_is_left()
    assert run() == 0


def test_a_change_of_numbers_stays_stale(place, capsys):
    before = path(0).read_bytes()
    commit(OTHER)
    assert run(table(seeds=(1,))) == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (f"scenes/racg seed 1: stays stale: its numbers change, against {place}: other weights, rsum 14 is now 21")
    assert path(0).read_bytes() == before
    assert ground().state(table(), table().lines[0], 0).kind == "stale"
    assert nothing_is_left()


def test_numbers_that_differ_by_rounding_are_confirmed_where_that_is_asked_for(place, capsys):
    commit(ROUNDED)
    assert run() == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert "stays stale: its numbers change as by rounding" in said
    assert said.endswith("rsum 14 is now 14.00001, the loss of step 1 3 is now 3.00001; --rounding confirms it")
    assert run(rounding=True) == 3
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("confirmed: numbers differ by rounding: the loss of a step by 3.3e-06 of it at most, rsum after them by 0.0")
    )
    apart = record(2)["confirmed"][0]["rounding"]
    assert apart == {"loss": pytest.approx(1e-5 / 3), "rsum": pytest.approx(1e-5)}
    assert run(rounding=True) == 0
    commit(RENAMED)
    assert run(rounding=True) == 3
    assert "rounding" not in record(2)["confirmed"][-1]  # held against the code that trained


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        (OTHER, "rsum 14 is now 21"),
        (ROUNDED.replace("3.00001", "3.01"), "the loss of step 1 3 is now 3.01"),
        (ROUNDED.replace("3.00001", "float('nan')"), "the loss of step 1 3 is now nan"),
        (ROUNDED.replace(", 3.00001", ""), "no losses of steps say by how much"),
        (ROUNDED.replace("[4.0, 3.00001]", "[]"), "no losses of steps say by how much"),
    ],
)
def test_more_than_rounding_is_never_confirmed(place, capsys, losses, why):
    commit(losses)
    assert run(rounding=True) == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"stays stale: its numbers change, against {place}: " in said
    assert why in said


def test_a_later_change_is_held_against_the_code_that_trained(place):
    commit(RENAMED)
    run()
    later = commit(RENAMED.replace("double", "product"))
    assert run() == 3
    notes = record(2)["confirmed"]
    assert [note["against"] for note in notes] == [place, place]
    assert notes[1]["commit"] == later
    assert notes[0]["source"] == notes[1]["source"]
    commit(LOSSES)
    assert run() == 3
    assert "confirmed" not in record(2)  # no other code than it was trained by
    assert len(calls()) == 4


def test_former_code_is_found_in_the_history(place, capsys):
    now = commit(RENAMED)
    for seed in SEEDS:
        write(seed, f"{now}+", fingerprint=record(seed)["fingerprint"])  # trained with uncommitted code
    assert run() == 3
    assert record(0)["confirmed"][0]["against"] == place
    fingerprint = record(0)["fingerprint"]
    write(0, "0123456789ab", fingerprint=fingerprint | {"source": fingerprint["source"] | {"losses": "lost"}})
    assert run() == 0
    assert "neither that of its commit 0123456789ab nor of the latest ones; train it anew" in capsys.readouterr().err
    assert nothing_is_left()


def test_seeds_that_other_code_trained_are_trained_themselves(place):
    commit(RENAMED)
    write(2, "")
    commit(RENAMED.replace("double", "product"))
    assert run() == 3
    assert [call.split()[5] for call in calls()] == ["0", "0", "2", "2"]
    assert [record(seed)["confirmed"][0]["seed"] for seed in SEEDS] == [0, 0, 2]


def test_other_changes_than_of_source_are_not_confirmed(place, capsys):
    before = path(0).read_bytes()
    commit(RENAMED)
    assert run(table(seeds=(0,), **{"model.dim": 16})) == 0
    said = "scenes/racg seed 0: stays stale: its options changed, the configuration changed, the source changed (losses)\n"
    assert capsys.readouterr().err == said
    assert path(0).read_bytes() == before
    assert calls() == []


def test_a_training_that_fails_is_said(place, capsys):
    commit(LOSSES.replace("False", "True"))
    assert run() == 0
    assert "stays stale: racg fit with the code of now ended with exit status 1: racg: the model collapsed" in (
        capsys.readouterr().err
    )
    assert nothing_is_left()


def test_a_record_that_is_written_meanwhile_is_left(place, monkeypatch, capsys):
    commit(RENAMED)
    train = confirm._train

    def meanwhile(*arguments):
        write(1, "of another")
        return train(*arguments)

    monkeypatch.setattr(confirm, "_train", meanwhile)
    assert run() == 2
    assert "confirmed" not in record(1)
    assert "written meanwhile" in capsys.readouterr().err


def test_an_edit_meanwhile_confirms_nothing(place, monkeypatch, capsys):
    commit(RENAMED)
    train = confirm._train

    def meanwhile(*arguments):
        left = train(*arguments)
        Path("src/racg_pl/losses.py").write_text(OTHER)
        return left

    monkeypatch.setattr(confirm, "_train", meanwhile)
    assert run() == 0
    assert "the code was changed meanwhile" in capsys.readouterr().err


def test_nothing_is_left_of_an_interruption(place, monkeypatch):
    commit(RENAMED)
    before = path(0).read_bytes()
    monkeypatch.setattr(confirm, "_left", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(jobs=2)
    assert nothing_is_left()
    assert path(0).read_bytes() == before


def test_what_is_evaluated_is_the_first_pictures_of_dev(tmp_path):
    whole, root = tmp_path / "data", tmp_path / "cut"
    generate(whole, 60, progress=False)
    prepare_texts(whole, "chain")
    assert cut(whole, root, "dev", "chain", 4) == root
    data = RetrievalData(str(root), "chain")
    few, all_ = data.split("validate"), RetrievalData(str(whole), "chain").split("validate")
    assert len(few) == 4
    assert len(all_) == 6
    assert few.store.ids == all_.store.ids[:4]
    assert few.store.groups.tolist() == all_.store.groups[:4].tolist()
    assert few.texts == [text for text, image in zip(all_.texts, all_.image, strict=True) if image < 4]
    captions = np.flatnonzero(all_.image < 4)
    for one, two in zip(
        (*few.regions(np.arange(4)), *few.sentences(np.arange(len(captions)))),
        (*all_.regions(np.arange(4)), *all_.sentences(captions)),
        strict=True,
    ):
        assert torch.equal(one, two)
    assert (root / "train.h5").resolve() == whole / "train.h5"
    assert cut(whole, tmp_path / "same", "dev", "chain", 6) == whole
    assert not (tmp_path / "same").exists()


# ---- the command and the page ----


def test_the_command(place, monkeypatch, capsys):
    Path("experiments/published.csv").write_text("dataset,method,i2t_r1,i2t_r5,i2t_r10,t2i_r1,t2i_r5,t2i_r10,rsum\n")
    Path("experiments/tables.yaml").write_text(
        "tables: [{table: I, title: A, kind: recalls, data: scenes, seeds: [0, 1, 2], rows: {racg: {label: RACG}}}]\n"
    )
    monkeypatch.setattr(make, "Ground", Known)
    monkeypatch.setattr(page, "write_page", lambda ground, seeds: [ground.out / "tables.html"])
    assert main(["tables", "--confirm"]) == 0
    assert capsys.readouterr().out == "0 runs confirmed\n"
    commit(RENAMED)
    assert main(["tables", "--confirm", "--steps", "3", "--jobs", "1"]) == 0
    said = capsys.readouterr()
    assert said.out == "results/tables.html\nresults/summary.json\n"
    assert said.err.endswith("3 runs confirmed\n")
    assert calls()[0].startswith("fit 3 6 null 1 0 ")
    for arguments, message in (
        (["--confirm", "--list"], "expected --confirm without --list, --page and --keep-stale, got several"),
        (["--rounding"], "expected --rounding beside --confirm, got it alone"),
        (["--confirm", "--steps", "0"], "expected at least 1 step of training, got --steps 0"),
    ):
        assert main(["tables", *arguments]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


def test_outside_a_repository_it_is_one_line(place, capsys, monkeypatch):
    commit(RENAMED)
    shutil.rmtree(".git")
    with pytest.raises(DataError, match=r"racg_pl: expected code in a git repository, .* got none; run racg of a clone"):
        run()
    monkeypatch.setenv("PATH", "")  # nor is there git
    with pytest.raises(DataError, match="got none"):
        run()


def test_an_installed_package_below_a_repository_is_none_of_its_files(place):
    commit(RENAMED)
    git("rm", "-rq", "--cached", "src")
    with pytest.raises(DataError, match="got none"):
        run()


def test_the_page_says_what_a_confirmed_run_shows(place):
    commit(RENAMED)
    more = {"weights": "w" * 64, "hashes": {}, "config": {}}
    write(0, place, **more, fingerprint=record(0)["fingerprint"])
    shown = table(seeds=(0,))
    spec = shown.lines[0].spec(0)
    plain = appendix({"a": (shown, shown.lines[0], [State("scenes", spec, record(0), "done")])})
    assert "has changed since" not in plain
    note = {"files": ["losses", "a<b"], "steps": 40, "seed": 0, "against": place, "commit": "0123456789ab+"}
    said = appendix({"a": (shown, shown.lines[0], [State("scenes", spec, record(0) | {"confirmed": [note]}, "done")])})
    assert (
        "Confirmed: the code has changed since (files losses, a&lt;b); in the first 40 steps, of a schedule shortened to them, "
        f"weights and recalls are the same to the bit (seed 0, {place} and 0123456789ab+)"
    ) in said
    assert "numbers differ by rounding: the loss of a step by 3.3e-06 of it at most, rsum after them by 0.2" in confirm.words(
        {"confirmed": [note, note | {"rounding": {"loss": 3.33e-6, "rsum": 0.2}}]}
    )
