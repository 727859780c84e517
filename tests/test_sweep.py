"""sweep_space.py, sweep.py, sweep_results.py: what a sweep file says, what W&B would run, what runs, and the table of it."""

from __future__ import annotations

import csv
import errno
import fcntl
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from racg_pl import processes, sweep, sweep_results, sweep_space
from racg_pl.cli import main
from racg_pl.errors import DataError
from racg_pl.plan import merged_arguments
from racg_pl.runs import places
from racg_pl.sweep import sweep as run_sweep
from racg_pl.sweep_space import Drawn, read_sweep
from racg_pl.text_files import prepare_texts

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
CONFIG = """\
data: {root: ROOT, parser: chain, images: 16, captions: 2}
model: {dim: 16, align_dim: 16, word_dim: 16, heads: 2}
trainer: {max_epochs: 1, accelerator: cpu, enable_model_summary: false, enable_progress_bar: false}
"""
GRID = {
    "program": "racg_pl.cli",
    "method": "grid",
    "metric": {"name": "dev/rsum", "goal": "maximize"},
    "parameters": {
        "model.lr": {"values": [1e-3, 4e-3]},
        "model.neighbours": {"values": ["null", 6]},
        "model.depth": {"value": 1},
    },
    "command": ["${env}", "${interpreter}", "-m", "${program}", "fit", "--config", "tiny.yaml", "${args}"],
}
RANDOM = GRID | {
    "method": "random",
    "run_cap": 5,
    "parameters": {
        "model.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "model.dropout": {"min": 0.0, "max": 0.5},
        "model.depth": {"min": 1, "max": 2},
        "model.aggregation": {"values": [True, False]},
    },
}


def stand_in(arguments: Sequence[str]) -> int:
    """What `racg fit` leaves, without any training: rsum falls with the distance of lr from 1e-3."""
    options = dict(part.removeprefix("--").split("=", 1) for part in arguments if "=" in part)
    out = Path(arguments[arguments.index("--out") + 1])
    with open("calls.txt", "a") as file:
        file.write(out.name + "\n")
    lr = float(options["model.lr"])
    if Path("trouble.txt").exists() and lr > 2e-3:
        sys.exit("racg: the model collapsed")
    rsum = 300 - 50 * abs(math.log10(lr) + 3) + (options.get("model.neighbours") == "6")
    record = {"metrics": {"rsum": rsum, "i2t_r1": 10.0}, "seed": int(options.get("seed_everything", 0))}
    record |= {"commit": "abc", "data": {}, "parameters": 1000}
    (out / "fit.json").write_text(json.dumps(record | {"config": {"model": {}}}))
    return 0


def calls() -> int:
    """How many runs there were since the last look."""
    path = Path("calls.txt")
    count = len(path.read_text().splitlines()) if path.exists() else 0
    path.unlink(missing_ok=True)
    return count


def write(content: dict, name: str = "tiny_sweep.yaml") -> Path:
    Path(name).write_text(yaml.safe_dump(content, sort_keys=False))
    return Path(name)


@pytest.fixture
def place(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "POLL", 0.02)
    monkeypatch.setattr(sweep, "source_hash", lambda: "of now")
    monkeypatch.setattr(sweep, "_HASHES", {})
    Path("tiny.yaml").write_text(CONFIG.replace("ROOT", str(scenes)))
    return tmp_path


# ---- the file ----


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweeps_are_valid_and_so_is_each_of_their_runs(path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(ROOT)
    plan = read_sweep(path)
    assert plan.name == path.stem
    points = list(plan.points())
    assert len(points) == (plan.run_cap or math.prod(len(values) for values in plan.parameters.values()))
    for point in (points[0], points[-1]):
        assert main_prints(plan.arguments(point), capsys)


def main_prints(arguments: list[str], capsys) -> bool:
    """Whether racg takes the arguments, and takes them for what `merged_arguments` does."""
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--print_config"])
    assert not end.value.code
    whole, want = yaml.safe_load(capsys.readouterr().out), merged_arguments(arguments[1:])["model"]
    return {name: whole["model"][name] for name in want} == want


def test_there_are_sweeps():
    assert {read_sweep(path).method for path in SWEEPS} == {"grid", "random"}


@pytest.mark.parametrize("content", [GRID, RANDOM], ids=["grid", "random"])
def test_commands_are_those_of_wandb(content: dict, place: Path):
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    plan = read_sweep(write(content))
    for point in plan.points():
        command = utils.create_sweep_command(list(content["command"]))
        variables = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})
        variables |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [content["program"]]}
        expanded = [word for part in command for word in (variables[part[2:-1]] if part.startswith("${") else [part])]
        assert expanded == ["/usr/bin/env", "python", "-m", "racg_pl.cli", *plan.arguments(point)]


def test_a_grid_is_every_combination_once(place: Path):
    points = list(read_sweep(write(GRID)).points())
    assert [tuple(point.values()) for point in points] == [(1e-3, "null", 1), (1e-3, 6, 1), (4e-3, "null", 1), (4e-3, 6, 1)]
    assert len(list(read_sweep(write(GRID | {"run_cap": 3})).points())) == 3


def test_random_points_are_in_range_distinct_and_begin_alike(place: Path):
    points = list(read_sweep(write(RANDOM | {"run_cap": 400})).points())
    assert list(read_sweep(write(RANDOM)).points()) == points[:5]
    rates = np.array([point["model.lr"] for point in points])
    assert rates.min() >= 1e-4
    assert rates.max() <= 1e-2
    assert 150 < (rates < 1e-3).sum() < 250  # the middle of the logarithm
    assert {point["model.depth"] for point in points} == {1, 2}
    assert {type(point["model.dropout"]) for point in points} == {float}
    assert {point["model.aggregation"] for point in points} == {True, False}
    few = RANDOM | {"run_cap": 9, "parameters": {"model.depth": {"min": 1, "max": 3}}}
    assert sorted(point["model.depth"] for point in read_sweep(write(few)).points()) == [1, 2, 3]


def test_distributions_are_guessed_as_wandb_does(place: Path):
    given = read_sweep(write(RANDOM)).parameters
    assert given["model.depth"] == Drawn("int_uniform", 1, 2)
    assert given["model.dropout"] == Drawn("uniform", 0.0, 0.5)


def lr(**spec: object) -> dict:
    return {"parameters": {"model.lr": spec}}


def command(*parts: object) -> dict:
    return {"command": ["${env}", "${interpreter}", "-m", "${program}", *parts]}


MISTAKES: dict[str, tuple[dict, str]] = {
    "2e-4 is text": (lr(values=["2e-4"]), "model.lr: expected numbers, not text, got '2e-4'; write 2.0e-4"),
    "a null": ({"parameters": {"model.neighbours": {"values": [None, 6]}}}, 'write "null" in quotes'),
    "no hyphens": (command("fit", "--config", "tiny.yaml", "${args_no_hyphens}"), "got '${args_no_hyphens}'; write ${args}"),
    "no args": (command("fit", "--config", "tiny.yaml"), "holds ${args} once"),
    "another verb": (command("test", "${args}"), "begins with ${env} ${interpreter} -m ${program} fit"),
    "an out": (command("fit", "--out=x", "${args}"), "no --out"),
    "a number in the command": (command("fit", 3, "${args}"), "put quotes around numbers"),
    "no command": ({"command": None}, "command: expected a list"),
    "another program": ({"program": "train.py"}, "program: expected racg_pl.cli"),
    "bayes": ({"method": "bayes"}, "bayes needs the server of W&B"),
    "early end": ({"early_terminate": {"type": "hyperband"}}, "got 'early_terminate'; run it with W&B alone"),
    "an unknown key": ({"seeds": 3}, "got 'seeds'; leave it out"),
    "no metric": ({"metric": {"name": "rsum", "goal": "maximize"}}, "metric: expected a name such as dev/rsum"),
    "no parameters": ({"parameters": {}}, "parameters: expected options"),
    "no values": (lr(values=[]), "model.lr: expected a list of values"),
    "a list as value": (lr(values=[[1]]), "expected text, numbers or truth values"),
    "twice the same": (lr(values=[1e-3, 1e-3]), "expected different values"),
    "a range in a grid": (lr(min=1e-4, max=1e-3), "model.lr: expected values in a grid"),
    "no such spec": (lr(mu=1), "expected value, values, or min and max"),
    "random without end": ({"method": "random"}, "run_cap: expected a number of runs"),
    "no runs": ({"run_cap": 0}, "run_cap: expected a number of runs"),
    "a text as min": ({"method": "random", "run_cap": 2} | lr(min="2e-4", max=1.0), "min and max as numbers, got '2e-4'"),
    "min above max": ({"method": "random", "run_cap": 2} | lr(min=2.0, max=1.0), "expected min below max"),
    "log of 0": ({"method": "random", "run_cap": 2} | lr(distribution="log_uniform_values", min=0, max=1), "min below max"),
    "too far apart": ({"method": "random", "run_cap": 2} | lr(min=-1e308, max=1e308), "expected min and max from -9007199254740992 to"),
    "a whole number of 401 digits": ({"method": "random", "run_cap": 2} | lr(min=1, max=10**400), "to 9007199254740992, got 1000"),
    "no end": ({"method": "random", "run_cap": 2} | lr(min=1.0, max=math.inf), "to 9007199254740992, got inf"),
    "no YAML": (lr(values=["[1"]), "tiny_sweep: model.lr: expected a value in YAML, got '[1' ("),
    "no YAML in the command": (command("fit", "--model.x=a: b: c", "${args}"), "tiny_sweep: model.x: expected a value in YAML"),
    "a trainer that is none": (command("fit", "--trainer=cpu", "${args}"), "tiny_sweep: trainer: expected options with their values"),
    "twice the same to racg": (lr(values=[True, "True"]), "expected different values"),
    "a folder above": ({"name": ".."}, "name: expected a name for its files"),
    "no such distribution": ({"method": "random", "run_cap": 2} | lr(distribution="beta", min=0, max=1), "one of uniform"),
    "a name with a folder": ({"name": "a/b"}, "name: expected a name for its files"),
    "no configuration": (command("fit", "--config", "none.yaml", "${args}"), "none.yaml: expected a configuration in YAML"),
    "no data": (command("fit", "${args}"), "expected data.root"),
    "missing data": (command("fit", "--config", "tiny.yaml", "--data.root=none", "${args}"), "train.h5: no such file"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_anything_runs(name: str, place: Path, capsys: pytest.CaptureFixture[str]):
    change, says = MISTAKES[name]
    before = sorted([*place.rglob("*"), place / "tiny_sweep.yaml"])
    assert main(["sweep", str(write(GRID | change))]) == 2
    err = capsys.readouterr().err
    assert err.startswith("racg: ")
    assert len(err.splitlines()) == 1
    assert says in err
    assert sorted(place.rglob("*")) == before


# ---- what runs ----


def test_a_sweep_that_is_not_there_is_asked_for_by_its_name(tmp_path: Path):
    with pytest.raises(DataError, match=r"none.yaml: expected a configuration in YAML.*; name the file of a sweep"):
        read_sweep(tmp_path / "none.yaml")


def test_what_is_missing_runs_then_nothing_then_what_changed(place: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    path = write(GRID)
    table = run_sweep(path, program=stand_in)
    assert calls() == 4
    files = {file: file.read_bytes() for file in Path("results").rglob("*") if file.is_file()}
    assert run_sweep(path, program=stand_in) == table
    assert calls() == 0
    assert {file: file.read_bytes() for file in Path("results").rglob("*") if file.is_file()} == files
    more = GRID | {"parameters": GRID["parameters"] | {"model.lr": {"values": [1e-2, 1e-3, 4e-3]}}}
    run_sweep(write(more), program=stand_in)
    assert calls() == 2  # those of the new value
    next(Path("results/sweeps/tiny_sweep").glob("*.json")).write_text("{")
    run_sweep(path, program=stand_in)
    assert calls() == 1
    run_sweep(write(GRID), program=stand_in)
    assert calls() == 0  # a value fewer
    capsys.readouterr()
    Path("tiny.yaml").write_text(Path("tiny.yaml").read_text().replace("max_epochs: 1", "max_epochs: 2"))
    run_sweep(path, program=stand_in)
    assert calls() == 4
    assert capsys.readouterr().err.count("the configuration changed") == 4
    monkeypatch.setattr(sweep, "source_hash", lambda: "of later")
    run_sweep(path, program=stand_in)
    assert calls() == 4


def test_another_vocabulary_makes_trials_stale(place: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    shutil.copytree(scenes, "data")
    Path("tiny.yaml").write_text(CONFIG.replace("ROOT", "data"))
    path = write(GRID)
    run_sweep(path, program=stand_in)
    assert calls() == 4
    prepare_texts("data", "chain", 3)
    monkeypatch.setattr(sweep, "_HASHES", {})  # as another process has them
    run_sweep(path, program=stand_in)
    assert calls() == 4
    assert capsys.readouterr().err.count("starts (the data changed)") == 4
    Path("data/vocab.json").unlink()
    monkeypatch.setattr(sweep, "_HASHES", {})
    with pytest.raises(DataError, match=r"vocab\.json: no such file; run racg text data --parser chain"):
        run_sweep(path, program=stand_in)


def test_failed_runs_leave_the_others_and_are_all_that_runs_next(place: Path):
    Path("trouble.txt").touch()
    path = write(GRID)
    with pytest.raises(
        DataError, match=r"log\.txt: run \w{8}: racg fit ended with exit status 1: racg: the model collapsed \(2 runs"
    ):
        run_sweep(path, program=stand_in)
    assert calls() == 4
    page = Path("results/sweeps/tiny_sweep.md").read_text()
    assert len(re.findall(r"\| +failed \|", page)) == 2
    assert "2 failed; racg sweep tries them again" in page
    Path("trouble.txt").unlink()
    assert "failed" not in run_sweep(path, program=stand_in)
    assert calls() == 2


def test_a_run_that_another_sweep_works_on_is_left_to_it(place: Path):
    path = write(GRID)
    run_sweep(path, program=stand_in)
    calls()
    result = next(Path("results/sweeps/tiny_sweep").glob("*.json"))
    result.unlink()
    folder = Path("runs/sweeps/tiny_sweep") / result.stem
    other = os.open(folder, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(DataError, match=rf"{folder}: another racg works on this run; wait for it"):
        run_sweep(path, program=stand_in)
    assert calls() == 0
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    os.close(other)
    run_sweep(path, program=stand_in)
    assert calls() == 1


def test_a_full_disk_is_said_in_a_line_and_nothing_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sweep, "write_whole", full)
    with pytest.raises(DataError, match=r"tiny_sweep/\w{8}\.json: cannot be written \(No space left on device\)"):
        run_sweep(write(GRID), program=stand_in)
    assert not list(Path("results").rglob("*.json"))


def test_a_sweep_of_which_every_run_fails_has_no_table(place: Path):
    Path("trouble.txt").touch()
    with pytest.raises(DataError, match="the model collapsed"):
        run_sweep(write(GRID | lr(values=[4e-3])), program=stand_in)
    assert not list(Path("results").rglob("*.md"))


def test_table_figure_and_numbers(place: Path):
    page = run_sweep(write(GRID), program=stand_in)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    assert rows[0][:3] == ["lr", "neighbours", "dev/rsum"]  # what does not vary is no column
    assert [row[:3] for row in rows[2:6]] == [
        ["0.001", "6", "301.0"], ["0.001", "null", "300.0"], ["0.004", "6", "270.9"], ["0.004", "null", "269.9"]
    ]  # fmt: skip
    effects = {(row[0], row[1]): row[2:] for row in rows[8:]}
    assert effects["model.lr", "0.001"] == ["2", "300.5", "301.0"]
    assert effects["model.neighbours", "null"] == ["2", "284.9", "300.0"]
    with open("results/sweeps/tiny_sweep.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert float(lines[-1]["rsum"]) == 300 - 50 * abs(math.log10(4e-3) + 3)
    assert Path("results/sweeps/tiny_sweep.png").read_bytes().startswith(b"\x89PNG")
    svg = Path("results/sweeps/tiny_sweep.svg").read_text()
    assert svg.count('id="patch_') >= 4  # a line a run
    least = run_sweep(write(GRID | {"metric": {"name": "dev/rsum", "goal": "minimize"}}), program=stand_in)
    assert re.search(r"-: \|\n\| 0\.004 +\| null +\| +269\.9", least)


def test_values_that_python_holds_equal_are_told_apart(place: Path):
    values = [1, True, 1.0]
    page = run_sweep(
        write(GRID | {"parameters": {"model.lr": {"value": 1e-3}, "model.x": {"values": values}}}), program=stand_in
    )
    for shown in ("1", "True", "1.0"):
        assert re.search(rf"^\| model\.x +\| {re.escape(shown)} +\| +1 \|", page, re.MULTILINE)
    plan = read_sweep(Path("tiny_sweep.yaml"))
    trials = [sweep_results.Trial("", {"model.x": value}, None) for value in values]
    assert len(set(sweep_results._axis(plan, "model.x", trials).places)) == 3


def test_all_seeds_and_commits_are_named(place: Path):
    seeds = {"parameters": {"model.lr": {"value": 1e-3}, "seed_everything": {"values": [1, 0]}}}
    assert "grid, seeds 0, 1, commit abc. " in run_sweep(write(GRID | seeds), program=stand_in)
    path = next(Path("results/sweeps/tiny_sweep").glob("*.json"))
    path.write_text(path.read_text().replace('"commit": "abc"', '"commit": ""'))
    assert "grid, seeds 0, 1, commits abc, none. " in run_sweep(write(GRID | seeds), program=stand_in)


def test_ends_near_zero_are_drawn(place: Path):
    ends = {"model.lr": {"distribution": "log_uniform_values", "min": 1e-200, "max": 1e-190}}
    assert "model.lr" in run_sweep(write(RANDOM | {"parameters": ends}), program=stand_in)


def test_dollars_are_no_mathematics(place: Path):
    parameters = {"model.lr": {"value": 1e-3}, "model.neighbours": {"values": ["$_$", 6]}}
    run_sweep(write(GRID | {"name": "a $_$ b", "parameters": parameters}), program=stand_in)
    svg = Path("results/sweeps/a $_$ b.svg").read_text()
    assert "<!-- $_$ -->" in svg
    assert "<!-- a $_$ b: 2 runs, the best in orange -->" in svg


def test_drawn_parameters_are_told_by_halves(place: Path):
    page = run_sweep(write(RANDOM), program=stand_in)
    assert calls() == 5
    assert re.search(r"\| model\.lr +\| up to \S+ +\| +3 \|", page)
    assert re.search(r"\| model\.lr +\| above \S+ +\| +2 \|", page)


def test_places_share_cores_and_devices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    assert [dict(slot.environment) for slot in places(3, ["0", "2"])] == [{"CUDA_VISIBLE_DEVICES": name} for name in "020"]
    assert [dict(slot.environment) for slot in places(2)] == [{}, {}]
    assert [places(jobs)[0].threads for jobs in (1, 2, 3, 9)] == [8, 4, 2, 1]
    for most, threads in (("1", [1, 1]), ("4", [4, 2]), ("6,2", [6, 2]), ("", [8, 2]), ("0", [8, 2]), ("many", [8, 2])):
        monkeypatch.setenv("OMP_NUM_THREADS", most)
        assert [places(jobs)[0].threads for jobs in (1, 4)] == threads


def test_devices_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert sweep._devices("auto") == ["0", "1"]
    assert sweep._devices("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert sweep._devices("gpu") == ["3", "5"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # CUDA reads as far as the first that is none
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,-1,5")
    assert sweep._devices("gpu") == ["3"]


@pytest.mark.parametrize("hidden", ["-1", "", "none"])
def test_hidden_devices_are_none(monkeypatch: pytest.MonkeyPatch, hidden: str):
    """So that several runs go on at a time, on the CPU."""
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert sweep._devices("auto") == []


def test_under_an_agent_a_run_has_a_folder_of_its_own(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from conftest import small

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert main(["fit", *small(scenes, tmp_path / "out", max_steps=1, logger="false")]) == 0
    assert (tmp_path / "runs" / "sweeps" / "s1" / "r1" / "checkpoints").is_dir()
    assert "WANDB_MODE" not in sweep.os.environ  # the agent hears of it


# ---- for real ----


def test_a_tiny_sweep_for_real(place: Path, scenes: Path, capsys: pytest.CaptureFixture[str]):
    assert sweep_space.identity({"a": 1}) == sweep_space.identity({"a": 1})
    path = write(GRID | {"parameters": {"model.neighbours": {"values": ["null", 3]}, "model.lr": {"value": 2e-3}}})
    shutil.copytree(scenes, "data")
    Path("tiny.yaml").write_text(CONFIG.replace("ROOT", "data"))
    assert main(["sweep", str(path)]) == 0
    table = capsys.readouterr().out
    records = [json.loads(file.read_text()) for file in sorted(Path("results/sweeps/tiny_sweep").glob("*.json"))]
    assert {record["config"]["model"]["neighbours"] for record in records} == {None, 3}
    assert [record["config"]["model"]["lr"] for record in records] == [2e-3] * 2
    assert all(record["value"] == record["metrics"]["rsum"] for record in records)
    assert len({record["weights"] for record in records}) == 2
    assert main(["sweep", str(path)]) == 0
    again = capsys.readouterr()
    assert again.out == table
    assert "to do" not in again.err


def test_keys_of_any_kind_are_told(place: Path):
    with pytest.raises(DataError, match=r"expected the keys .*, got"):
        run_sweep(write(GRID | {True: 1, "foo": 2}), program=stand_in)
