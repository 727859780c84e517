"""The commands, as a user meets them: what they write, and what they say to a user's mistake."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from conftest import SMALL_MODEL, small
from racg_pl import cli
from racg_pl.cli import main
from racg_pl.errors import DataError

EXPERIMENTS = sorted((Path(__file__).resolve().parents[1] / "experiments").glob("*.yaml"))
EXPERIMENTS = [path for path in EXPERIMENTS if path.name != "tables.yaml"]  # a list of runs, not one: test_paper.py


def call(*arguments: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of `racg ARGUMENTS`, in this process. Anything but a clean exit is raised."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return status, out.getvalue(), err.getvalue()


def tree(*folders: Path) -> dict[str, int]:
    """Every file and folder below, with when it was last written."""
    return {str(path): path.stat().st_mtime_ns for folder in folders for path in sorted(folder.rglob("*"))}


def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


# ---- what commands do ----


def test_fit_leaves_a_checkpoint_and_a_record(run: Path, scenes: Path):
    record = json.loads((run / "fit.json").read_text())
    assert record["split"] == "dev"
    assert 0 <= record["metrics"]["rsum"] <= 600
    assert record["config"]["data"]["root"] == str(scenes)
    assert checkpoint(run).stat().st_size > 0


@pytest.fixture(scope="module")
def tested(run: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tested")
    status, said, _ = call("test", *small(scenes, out, f"--ckpt_path={checkpoint(run)}", "--save-scores"))
    assert (status, said.strip().splitlines()[-1]) == (0, str(out / "test.json"))
    return out


def test_test_writes_one_json_with_all_that_a_number_depends_on(tested: Path, run: Path, scenes: Path):
    record = json.loads((tested / "test.json").read_text())
    wanted = {f"{direction}_{value}" for direction in ("i2t", "t2i") for value in ("r1", "r5", "r10", "median")}
    assert set(record["metrics"]) == wanted | {"rsum"}
    assert record["split"] == "test"
    assert record["seed"] == 0
    assert re.fullmatch(r"([0-9a-f]{12}\+?)?", record["commit"])  # empty outside a repository
    assert set(record["data"]) == {"features", "captions", "parse", "vocabulary"}
    with h5py.File(scenes / "test.h5") as store:
        assert record["data"]["features"] == store.attrs["sha256"]
    assert record["wall_time_s"] > 0
    assert record["checkpoint"] == str(checkpoint(run))
    assert {name: record["config"]["model"][name] for name in SMALL_MODEL} == SMALL_MODEL
    weights = torch.load(checkpoint(run), weights_only=True)["state_dict"]
    assert record["parameters"] == sum(weight.numel() for weight in weights.values())


def test_a_split_alone_may_reach_fewer_classes_than_the_model_knows(scenes: Path, tmp_path: Path):
    assert call("fit", *small(scenes, tmp_path / "run", "--data.classes=60", max_steps=1))[0] == 0
    (tmp_path / "alone").mkdir()
    for path in [*scenes.glob("test.*"), scenes / "vocab.json"]:
        shutil.copy(path, tmp_path / "alone")
    trained = checkpoint(tmp_path / "run")
    status, _, err = call("test", *small(tmp_path / "alone", tmp_path / "tested", f"--ckpt_path={trained}"))
    assert status == 0, err
    assert json.loads((tmp_path / "tested" / "test.json").read_text())["config"]["model"]["objects"] == 60


def test_test_keeps_the_scores(tested: Path):
    from racg_pl.metrics import recalls

    scores = torch.from_numpy(np.load(tested / "test_scores.npy", allow_pickle=False))
    assert scores.shape == (20, 100)
    record = json.loads((tested / "test.json").read_text())
    assert recalls(scores, torch.arange(100) // 5) == record["metrics"]


def test_predict_lists_the_best_matches(run: Path, scenes: Path, tested: Path, tmp_path: Path):
    status, said, _ = call("predict", *small(scenes, tmp_path, f"--ckpt_path={checkpoint(run)}"))
    assert (status, said.strip().splitlines()[-1]) == (0, str(tmp_path / "predictions.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [("image" in line, len(line["matches"])) for line in lines] == [(True, 10)] * 20 + [(False, 10)] * 100
    scores = np.load(tested / "test_scores.npy")
    assert lines[0]["image"] == "test-00000"
    np.testing.assert_allclose([score for _, score in lines[0]["matches"]], np.sort(scores[0])[::-1][:10], atol=1e-4)
    best = scores[:, 7].argmax()
    assert lines[20 + 7]["matches"][0] == [f"test-{best:05d}", pytest.approx(scores[best, 7], abs=1e-4)]


def test_the_model_of_a_checkpoint_is_that_of_its_training(run: Path, scenes: Path, tested: Path, tmp_path: Path):
    """Its options win over those of the command line, and the record says so."""
    arguments = small(scenes, tmp_path, f"--ckpt_path={checkpoint(run)}", "--model.dim=32", "--model.aggregation=false")
    assert call("test", *arguments)[0] == 0
    one, two = (json.loads((folder / "test.json").read_text()) for folder in (tmp_path, tested))
    assert one["metrics"] == two["metrics"]
    assert one["config"]["model"] == two["config"]["model"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_experiments_are_valid(path: Path):
    status, printed, err = call("fit", "--config", path, "--print_config")
    assert (status, err) == (0, "")
    whole, said = yaml.safe_load(printed), yaml.safe_load(path.read_text())

    def within(part: Any, all_of_it: Any) -> bool:
        if isinstance(part, dict):
            return all(key in all_of_it and within(value, all_of_it[key]) for key, value in part.items())
        if isinstance(part, list):
            return all(within(*pair) for pair in zip(part, all_of_it, strict=True))
        return part == all_of_it

    assert within(said, whole)
    monitored = [
        callback["init_args"] for callback in said["trainer"]["callbacks"] if "ModelCheckpoint" in callback["class_path"]
    ]
    assert [(keeper["monitor"], keeper["mode"], keeper["save_last"]) for keeper in monitored] == [("dev/rsum", "max", True)]


def test_there_are_experiments():
    assert {"flickr8k.yaml", "scenes.yaml"} <= {path.name for path in EXPERIMENTS}


@pytest.mark.skipif(sys.flags.optimize > 0, reason="a child process inherits -O")
def test_wandb_works_offline_without_an_account(scenes: Path, tmp_path: Path):
    """In a process of its own: W&B keeps state. No key, no network, and the run lies below --out."""
    pytest.importorskip("wandb")
    logger = f"--trainer.logger={{class_path: lightning.pytorch.loggers.WandbLogger, init_args: {{save_dir: {tmp_path}}}}}"
    arguments = small(scenes, tmp_path / "out", logger, max_steps=1, limit_val_batches=0)
    env = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")} | {"HOME": str(tmp_path)}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "racg_pl.cli", "fit", *arguments],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "out" / "wandb").glob("offline-run-*"))


# ---- what they say to mistakes ----


class Case:
    """One mistake: a data set and a folder to make it in, the arguments, and what the one line must say."""

    def __init__(self, scenes: Path, run: Path, here: Path) -> None:
        self.scenes, self.run, self.here = scenes, run, here
        self.out = here / "out"

    def data(self, damage: Callable[[Path], object]) -> Path:
        root = Path(shutil.copytree(self.scenes, self.here / "data"))
        damage(root)
        return root

    def fit(self, *more: str, root: Path | None = None) -> list[str]:
        return ["fit", *small(root or self.scenes, self.out, *more)]

    def broken(self, damage: Callable[[Path], object]) -> list[str]:
        return self.fit(root=self.data(damage))

    def test(self, path: Path, *more: str) -> list[str]:
        return ["test", *small(self.scenes, self.out, f"--ckpt_path={path}", *more)]

    def stored(self, content: object, name: str = "other.ckpt") -> Path:
        if isinstance(content, bytes):
            (self.here / name).write_bytes(content)
        else:
            torch.save(content, self.here / name)
        return self.here / name

    def checkpoint(self, **change: object) -> Path:
        """The run's, changed."""
        return self.stored(torch.load(checkpoint(self.run), weights_only=True) | change)

    def precomp(self, damage: Callable[[Path], object]) -> list[str]:
        folder = self.here / "precomp"
        folder.mkdir()
        np.save(folder / "dev_ims.npy", np.ones((2, 3, 4), np.float32))
        (folder / "dev_caps.txt").write_text("a caption\n" * 10)
        damage(folder)
        return ["convert", str(folder), "--split", "dev", "--out", str(self.here / "dev.h5")]


class Bomb:
    """What a pickle could do to who opens it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("bomb-went-off",)


def put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def spoil(path: Path, name: str, value: Any, at: Any = 0) -> None:
    with h5py.File(path, "r+") as file:
        file[name][at] = value


def copy(folder: Path, source: str, target: str) -> None:
    shutil.copy(folder / source, folder / target)


def options(case: Case, **change: object) -> dict[str, object]:
    return {"hyper_parameters": torch.load(checkpoint(case.run), weights_only=True)["hyper_parameters"] | change}


MISTAKES: dict[str, tuple[Callable[[Case], list], str]] = {
    # the region store, and `racg check`
    "check no such file": (lambda c: ["check", c.here / "no.h5"], "no such file"),
    "check a folder": (lambda c: ["check", c.scenes], "expected a file, got a folder"),
    "check garbage": (lambda c: ["check", c.stored(b"garbage" * 99, "g.h5")], "expected an HDF5 file"),
    "check an empty file": (lambda c: ["check", c.stored(b"", "g.h5")], "expected an HDF5 file"),
    "check a truncated file": (
        lambda c: ["check", c.data(lambda d: os.truncate(d / "train.h5", 10**6)) / "train.h5"],
        "truncated",
    ),
    "check NaN features": (
        lambda c: ["check", c.data(lambda d: spoil(d / "dev.h5", "features", np.nan, (3, 5, 7))) / "dev.h5"],
        "record 3",
    ),
    "check inverted boxes": (
        lambda c: ["check", c.data(lambda d: spoil(d / "dev.h5", "boxes", [0.5, 0.5, 0.1, 0.1], (2, 1))) / "dev.h5"],
        "record 2",
    ),
    "check heads outside the caption": (
        lambda c: ["check", c.data(lambda d: spoil(d / "dev.parse-chain.h5", "heads", 99, 3)) / "dev.parse-chain.h5"],
        "word 3: expected heads inside the caption",
    ),
    "check changed captions": (
        lambda c: ["check", c.data(lambda d: spoil(d / "dev.captions.h5", "text", "other")) / "dev.captions.h5"],
        "it was changed after it was written",
    ),
    # the converter
    "convert no folder": (lambda c: ["convert", str(c.here / "none"), "--out", "x.h5"], "none"),
    "convert NaN": (
        lambda c: c.precomp(lambda d: np.save(d / "dev_ims.npy", np.full((2, 3, 4), np.nan, np.float32))),
        "record 0",
    ),
    "convert too few captions": (lambda c: c.precomp(lambda d: put(d / "dev_caps.txt", "one\n")), "dev_caps.txt"),
    "convert a pickle": (
        lambda c: c.precomp(lambda d: np.save(d / "dev_ims.npy", np.array([{}]), allow_pickle=True)),
        "dev_ims.npy",
    ),
    # scenes
    "scenes too few": (lambda c: ["scenes", c.out, "--images", 10], "expected at least 40 images"),
    "scenes bad seed": (lambda c: ["scenes", c.out, "--images", 40, "--seed", -1], "seed"),
    "scenes into a file": (lambda c: ["scenes", put(c.here / "file", "x"), "--images", 40], "file"),
    "draw no such id": (lambda c: ["scenes", c.scenes, "--draw", "test-99999", "--figure", c.here / "x.png"], "test-99999"),
    "draw no data": (lambda c: ["scenes", c.here / "none", "--draw", "test-00000"], "no such file"),
    "draw into no folder": (
        lambda c: ["scenes", c.scenes, "--draw", "test-00000", "--figure", c.here / "no" / "x.png"],
        "cannot be written",
    ),
    # text
    "text no folder": (lambda c: ["text", c.here / "none"], "expected files SPLIT.captions.h5"),
    "text empty folder": (lambda c: ["text", c.here], "expected files SPLIT.captions.h5"),
    "text no such parser": (lambda c: ["text", c.scenes, "--parser", "en_core_web_nowhere"], "use --parser bundled"),
    "text threshold 0": (lambda c: ["text", c.scenes, "--parser", "chain", "--threshold", 0], "threshold"),
    "text threshold too high": (lambda c: ["text", c.scenes, "--parser", "chain", "--threshold", 10**6], "threshold"),
    # data
    "fit no root": (lambda c: c.fit(root=c.here / "none"), "expected train.h5"),
    "fit no features": (lambda c: c.broken(lambda d: (d / "train.h5").unlink()), "train.h5: no such file"),
    "fit no dev split": (lambda c: c.broken(lambda d: (d / "dev.h5").unlink()), "dev.h5: no such file"),
    "fit no captions": (lambda c: c.broken(lambda d: (d / "train.captions.h5").unlink()), "train.captions.h5: no such file"),
    "fit no parse": (lambda c: c.broken(lambda d: (d / "train.parse-chain.h5").unlink()), "--parser chain"),
    "fit no dev parse": (lambda c: c.broken(lambda d: (d / "dev.parse-chain.h5").unlink()), "racg text"),
    "fit truncated features": (lambda c: c.broken(lambda d: os.truncate(d / "train.h5", 10**6)), "truncated"),
    "fit captions of another split": (
        lambda c: c.broken(lambda d: copy(d, "dev.captions.h5", "train.captions.h5")),
        "dev.h5 with sha256",
    ),
    "fit parse of another split": (
        lambda c: c.broken(lambda d: copy(d, "dev.parse-chain.h5", "train.parse-chain.h5")),
        "parse these captions again",
    ),
    "fit parses of two parsers": (
        lambda c: c.broken(lambda d: copy(d, "dev.parse-bundled.h5", "dev.parse-chain.h5")),
        "got one by bundled",
    ),
    "fit features as captions": (
        lambda c: c.broken(lambda d: copy(d, "train.h5", "train.captions.h5")),
        "expected the schema racg_pl.captions/1",
    ),
    "fit heads outside": (
        lambda c: c.broken(lambda d: spoil(d / "train.parse-chain.h5", "heads", -1)),
        "expected heads inside",
    ),
    "fit no vocabulary": (lambda c: c.broken(lambda d: (d / "vocab.json").unlink()), "run racg text"),
    "fit vocabulary no JSON": (
        lambda c: c.broken(lambda d: put(d / "vocab.json", '{"schema":')),
        "vocab.json: expected a vocabulary in JSON",
    ),
    "fit vocabulary of others": (lambda c: c.broken(lambda d: put(d / "vocab.json", '["a", "b"]')), "expected the schema"),
    # options
    "one image a batch": (lambda c: c.fit("--data.images=1"), "expected images of at least 2, got 1"),
    "no captions a batch": (lambda c: c.fit("--data.captions=0"), "expected captions of at least 1"),
    "labels beyond the classes": (lambda c: c.fit("--data.classes=1"), "train.h5: expected labels of 1 classes, got"),
    "negative classes": (lambda c: c.fit("--data.classes=-1"), "expected classes of at least 0"),
    "negative workers": (lambda c: c.fit("--data.workers=-1"), "expected workers of at least 0"),
    "heads that do not divide": (lambda c: c.fit("--model.heads=3"), "align_dim=8 and heads=3"),
    "relation heads that do not divide": (lambda c: c.fit("--model.relation_heads=5"), "dim=16 and relation_heads=5"),
    "no heads": (lambda c: c.fit("--model.heads=0"), "expected heads of at least 1"),
    "no width": (lambda c: c.fit("--model.dim=0"), "expected dim of at least 1"),
    "no neighbours": (lambda c: c.fit("--model.neighbours=0"), "expected neighbours of at least 1"),
    "dropout of 2": (lambda c: c.fit("--model.dropout=2"), "expected dropout in 0..1"),
    "temperature of 0": (lambda c: c.fit("--model.temperature=0"), "expected a temperature above 0"),
    "negative learning rate": (lambda c: c.fit("--model.lr=-1"), "expected lr"),
    "no such accelerator": (lambda c: c.fit("--trainer.accelerator=abacus"), "accelerator"),
    "out is a file": (lambda c: ["fit", *small(c.scenes, put(c.here / "file", "x"))], "choose another --out"),
    "a part of dev": (lambda c: c.fit("--trainer.limit_val_batches=1"), "limit_val_batches: expected 1.0"),
    "a share of dev": (lambda c: c.fit("--trainer.limit_val_batches=0.5"), "or 0 for none, got 0.5; leave it out"),
    "a part of test": (
        lambda c: c.test(checkpoint(c.run), "--trainer.limit_test_batches=2"),
        "limit_test_batches: expected 1.0, since recalls are those of a whole split, got 2; leave it out",
    ),
    "a training without end": (
        lambda c: c.fit("--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:05"),
        "trainer: expected max_epochs or max_steps",
    ),
    # checkpoints
    "test of no checkpoint": (lambda c: ["test", *small(c.scenes, c.here)], "test: expected a trained model, got none"),
    "validate of no checkpoint": (
        lambda c: ["validate", *small(c.scenes, c.here)],
        "name a checkpoint of racg fit by --ckpt_path",
    ),
    "predict of no checkpoint": (lambda c: ["predict", *small(c.scenes, c.here)], "predict: expected a trained model"),
    "scores of more than may be kept": (
        lambda c: c.test(checkpoint(c.run), "--save-scores", "--score_memory_mb=0"),
        "save_scores: expected a matrix of scores within --score_memory_mb 0, got",
    ),
    "no such checkpoint": (
        lambda c: c.test(c.here / "no.ckpt"),
        "no.ckpt: expected a checkpoint of racg fit, got no such file",
    ),
    "nothing to resume": (lambda c: c.fit("--ckpt_path=last"), "last.ckpt: expected a checkpoint"),
    "a folder as checkpoint": (lambda c: c.test(c.here), "expected a checkpoint"),
    "garbage as checkpoint": (
        lambda c: c.test(c.stored(b"garbage" * 99)),
        "expected a checkpoint of racg fit, got a file that is damaged",
    ),
    "empty checkpoint": (lambda c: c.test(c.stored(b"")), "damaged"),
    "truncated checkpoint": (lambda c: c.test(c.stored(checkpoint(c.run).read_bytes()[:50_000])), "damaged"),
    "checkpoint with code": (lambda c: c.test(c.checkpoint(bomb=Bomb())), "holds code"),
    "pickle as checkpoint": (lambda c: c.test(c.stored(pickle.dumps(Bomb()))), "holds code"),
    "checkpoint of others": (lambda c: c.test(c.stored({"model": torch.ones(2)})), "of another program"),
    "a list as checkpoint": (lambda c: c.test(c.stored([1, 2])), "of another program"),
    "checkpoint of other text": (
        lambda c: c.test(checkpoint(c.run), "--data.parser=bundled"),
        "expected data with text_source 'chain 1",
    ),
    "checkpoint of other features": (
        lambda c: c.test(c.checkpoint(**options(c, feature_dim=9))),
        "expected data with feature_dim 9",
    ),
    "checkpoint of another model": (lambda c: c.test(c.checkpoint(**options(c, dim=32))), "expected the options of the model"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    name: str, scenes: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prepare, says = MISTAKES[name]
    here = tmp_path / "here"
    here.mkdir()
    arguments = prepare(Case(scenes, run, here))
    monkeypatch.chdir(here)
    before = tree(here, scenes, run)
    status, _, err = call(*arguments)
    if name != "checkpoint of another model":  # which only shows when the run has begun, so that its log is there
        assert tree(here, scenes, run) == before
    assert not list(tmp_path.rglob("*bomb-went-off*"))
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("racg: ")
    assert says in err


USAGE = {
    "no command": [],
    "no such command": ["train"],
    "no such option": ["check", "x.h5", "--fast"],
    "an abbreviated option": ["scenes", "out", "--imag", "50"],
    "not a number": ["scenes", "out", "--images", "many"],
    "fit: no such option": ["fit", "--data.root=x", "--model.nosuch=1"],
    "fit: wrong type": ["fit", "--data.root=x", "--model.dim=wide"],
    "fit: wrong choice": ["fit", "--data.root=x", "--model.loss=hinge"],
    "fit: no root": ["fit"],
    "fit: no such config": ["fit", "--config=no.yaml"],
    "fit: bad YAML": ["fit", "--config=bad.yaml"],
    "fit: unknown key": ["fit", "--config=key.yaml"],
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage_is_no_traceback(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The argument parser prints its usage and the error; that of fit, whose usage is a hundred lines, the error alone."""
    put(tmp_path / "bad.yaml", "model: [1\ndata: }")
    put(tmp_path / "key.yaml", "data: {root: x}\nmodel: {dimm: 3}")
    monkeypatch.chdir(tmp_path)
    status, _, err = call(*USAGE[name])
    assert status == 2
    if name.startswith("fit"):
        assert err.startswith("racg: ")
        assert err.endswith("; racg fit --help lists what there is\n")
        assert len(err.splitlines()) == 1
    else:
        assert "error: " in err
    assert "Traceback" not in err
    assert len(list(tmp_path.iterdir())) == 2


def test_of_a_mistake_a_shell_sees_one_line_too(scenes: Path, tmp_path: Path):
    """In a process of its own, with all that libraries print on the way."""
    arguments = [sys.executable, "-m", "racg_pl.cli", *["fit", *small(tmp_path / "none", tmp_path / "out")]]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"racg: {tmp_path / 'none'}: expected train.h5, got no such file; run racg scenes or convert a data set first"
    ]


def test_who_reads_no_further_ends_it_quietly(tmp_path: Path):
    """As `racg parse … | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "racg_pl.cli", "parse", "a dog runs", "--parser", "chain"]
    done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full, the disk that is always full")
@pytest.mark.parametrize("words", ["a dog runs", "a dog runs " * 800])  # in one piece, and in several
def test_output_that_finds_no_room_is_one_line(words: str, tmp_path: Path):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "racg_pl.cli", "parse", words, "--parser", "chain"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env, timeout=300)
    says = "racg: stdout: cannot be written (No space left on device); make room, or send it elsewhere\n"
    assert (done.returncode, done.stderr) == (2, says)


def test_an_error_of_the_system_that_names_no_file_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli.verbs, "check", fail)
    with pytest.raises(OSError, match="No space left"):
        main(["check", "x.h5"])


def test_precision_of_products_is_torchs(monkeypatch):
    monkeypatch.setenv("RACG_MATMUL", "medium")
    try:
        cli.matmul_precision()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    monkeypatch.setenv("RACG_MATMUL", "bf16")
    with pytest.raises(DataError, match="RACG_MATMUL: expected one of highest, high, medium, got 'bf16'"):
        cli.matmul_precision()


def test_scores_that_are_not_finite_are_one_line(scenes: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    content = torch.load(checkpoint(run), weights_only=True)
    content["state_dict"]["model.mix"].fill_(torch.nan)
    torch.save(content, tmp_path / "damaged.ckpt")
    for more in ([], ["--score_memory_mb=0"]):  # as a matrix, and streamed
        assert main(["test", *small(scenes, tmp_path / "out", f"--ckpt_path={tmp_path / 'damaged.ckpt'}", *more)]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("racg: evaluation: expected finite scores, but ")
    assert not (tmp_path / "out" / "test.json").exists()


@pytest.mark.parametrize(
    "arguments", [["check", "{}"], ["convert", "{}", "--out", "x.h5"], ["scenes", "{}"], ["prepare", "{}", "--root", "r"]]
)
def test_a_name_that_no_system_takes_is_one_line(arguments: list[str], tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([argument.format("x" * 300 + ".h5") for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert (said.startswith("racg: "), said.count("\n")) == (True, 1)
    assert list(tmp_path.iterdir()) == []
