"""reproduce.py, plan.py, tables.py: what runs and what does not, what a failure leaves, and the numbers in the tables.

All but the last test run a stand-in for `racg` that trains nothing: an image and its captions score higher the fewer switches are
off, by how much COST says. It computes its recalls by brute force, and `reproduce` holds them against those of its own ranks.
"""

from __future__ import annotations

import ast
import csv
import inspect
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from racg_pl import plan, processes, runs, source, tables
from racg_pl.captions import CaptionStore
from racg_pl.errors import DataError
from racg_pl.plan import ROWS, Row
from racg_pl.reproduce import reproduce as run_reproduce
from racg_pl.scenes import generate
from racg_pl.tables import RECALLS, TWINS
from racg_pl.text_files import prepare_texts

CONFIG = """\
data: {root: data/scenes, parser: chain, images: 16, captions: 2}
model: {dim: 16, align_dim: 16, word_dim: 16, heads: 2}
trainer: {max_epochs: 1, accelerator: cpu}
"""

COST = {"semantic_graph": 1.5, "intramodal": 1, "reconstruction": 0.0001, "multihead": 0.5, "aggregation": 0.5}


def stand_in(arguments: Sequence[str]) -> int:
    """What `racg fit` and `racg test` leave, without any training."""
    verb, *rest = arguments
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    out, root = Path(options["--out"]), Path(options["--data.root"])
    with open("calls.txt", "a") as file:
        file.write(" ".join([verb, out.name, os.environ["OMP_NUM_THREADS"]]) + "\n")
    trouble = json.loads(Path("trouble.json").read_text()).get(out.name) if Path("trouble.json").exists() else None
    print("a line", "50%\r100%", sep="\n", end="\n\n", flush=True)
    if trouble == verb:
        sys.exit("racg: the model collapsed")
    if trouble == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "late" and verb == "fit":  # killed after an epoch
        (out / "checkpoints").mkdir(exist_ok=True)
        (out / "checkpoints" / "last.ckpt").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "hang":
        time.sleep(600)
    if verb == "fit":
        (out / "checkpoints").mkdir(exist_ok=True)
        (out / "checkpoints" / "best.ckpt").touch()
        return 0
    assert Path(options["--ckpt_path"]).exists()
    assert options["--save_scores"] == "true"
    captions = CaptionStore(root / (options.get("--data.test", "test") + ".captions.h5"))
    image, weight = captions.image, 2.5 - sum(cost for name, cost in COST.items() if options.get(f"--model.{name}") == "false")
    random = np.random.default_rng(seed := int(options["--seed_everything"]))
    own = image[None] == np.arange(captions.images)[:, None]
    scores = (random.standard_normal(own.shape) + weight * own).astype(np.float32)
    i2t = [(row[~right] >= row[right].max()).sum() for row, right in zip(scores, own, strict=True)]
    t2i = [(column[~right] >= column[right].max()).sum() for column, right in zip(scores.T, own.T, strict=True)]
    metrics = {f"{d}_r{k}": 100 * np.mean(np.array(r) < k) for d, r in (("i2t", i2t), ("t2i", t2i)) for k in (1, 5, 10)}
    metrics["rsum"] = sum(metrics.values()) + (trouble == "lie")
    np.save(out / "test_scores.npy", scores)
    record = {"metrics": metrics, "seed": seed, "commit": "abc+", "parameters": 1000, "config": {"model": {"dim": 16}}}
    (out / "test.json").write_text(json.dumps(record))
    return 0


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Scenes of 120 pictures, 40 of them to test, parsed."""
    root = tmp_path_factory.mktemp("files")
    generate(root, 120, progress=False)
    prepare_texts(root, "chain")
    return root


class Place:
    """A working folder with data and a configuration."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.folder, self.config = folder, folder / "experiments" / "scenes.yaml"
        shutil.copytree(files, folder / "data" / "scenes")
        self.config.parent.mkdir()
        self.config.write_text(CONFIG)

    def run(self, rows=ROWS, **options) -> None:
        run_reproduce(rows=rows, program=stand_in, **options)

    def calls(self) -> list[str]:
        """What the stand-in was called for since the last look, as "fit racg 1"."""
        path = self.folder / "calls.txt"
        calls = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return calls

    def trouble(self, **kinds: str) -> None:
        (self.folder / "trouble.json").write_text(json.dumps(kinds))

    def results(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(Path("results").rglob("*")) if path.is_file()}


@pytest.fixture
def place(tmp_path, monkeypatch, files) -> Place:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "POLL", 0.02)
    monkeypatch.setattr(
        plan, "source_hashes", lambda method: {"model": "of now"}
    )  # a test of its own; here nobody's edits shall matter
    return Place(tmp_path, files)


# ---- what the rows are ----


def test_each_part_is_off_in_one_row_and_all_but_the_cross_attention_in_the_last():
    from racg_pl.model import RACG

    switches = [name for name, parameter in inspect.signature(RACG.__init__).parameters.items() if parameter.default is True]
    assert len(switches) == 6
    assert [row.off for row in ROWS[1:-1]] == [(switch,) for switch in switches]
    assert ROWS[0].off == ()
    assert set(ROWS[-1].off) == set(switches) - {"cross_graph"}
    assert len({row.name for row in ROWS}) == len(ROWS)


# ---- what runs ----


def test_what_is_missing_runs_then_nothing_then_what_changed(place, capsys, monkeypatch):
    rows = ROWS[:3]
    place.run(rows)
    first = capsys.readouterr()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert sorted(place.calls()) == sorted(
        f"{verb} {row.name} {max(1, cores // 2)}" for verb in ("fit", "test") for row in rows
    )
    for row in rows:
        assert f"{row.name}: starts (no result yet)\n" in first.err
        assert re.search(rf"^{row.name}: rsum [\d.]+ \(\d+ s; \d of 3 ended\)$", first.err, re.MULTILINE)
        assert {path.name for path in Path("runs/scenes", row.name).iterdir()} == {
            "checkpoints",
            "log.txt",
            "test.json",
        }
    assert (
        Path("runs/scenes/racg/log.txt")
        .read_text()
        .startswith("$ racg fit --config experiments/scenes.yaml --seed_everything 0")
    )
    assert first.out == Path("results/scenes.md").read_text() + "\n"
    written = place.results()

    place.run(rows)
    assert place.calls() == []
    assert place.results() == written
    assert "to run" not in capsys.readouterr().err

    place.config.write_text("# a remark\n" + CONFIG)  # the same configuration
    place.run(rows)
    assert place.calls() == []

    Path("runs/scenes/racg/checkpoints/best.ckpt").unlink()
    Path("results/scenes/no_semantic_graph.json").write_text("{")
    Path("results/scenes/no_intramodal.json").unlink()
    place.run(rows, jobs=1)
    assert [call.split()[:2] for call in place.calls()] == [[verb, row.name] for row in rows for verb in ("fit", "test")]
    said = capsys.readouterr().err
    assert "racg: starts (its checkpoint is missing here)" in said
    assert "no_semantic_graph: starts (its result cannot be read)" in said
    assert "no_intramodal: starts (no result yet)" in said

    place.config.write_text(CONFIG.replace("max_epochs: 1", "max_epochs: 2"))
    monkeypatch.setattr(plan, "source_hashes", lambda method: {"model": "another"})
    place.run(ROWS[:2])
    assert len(place.calls()) == 4
    assert "racg: starts (the configuration changed, the source changed (model))" in capsys.readouterr().err

    generate(Path("data/scenes"), 120, seed=1, progress=False)
    place.run(ROWS[:1])
    assert len(place.calls()) == 2
    assert "racg: starts (the data changed)" in capsys.readouterr().err


def test_source_hashes_are_the_same_by_every_python():
    arguments = "arguments(posonlyargs=[], args=[arg(arg='a')], kwonlyargs=[], kw_defaults=[], defaults=[])"
    function = f"FunctionDef(name='f', args={arguments}, body=[Pass()], decorator_list=[])"
    kind = "ClassDef(name='A', bases=[], keywords=[], body=[Pass()], decorator_list=[])"
    dumped = source._dump(ast.parse("def f(a): pass\nclass A: pass"))
    assert dumped == f"Module(body=[{function}, {kind}], type_ignores=[])"  # as 3.11 has it


def test_source_hashes_see_code_that_a_run_goes_through_and_no_remarks(tmp_path, monkeypatch):
    package = tmp_path / "racg_pl"
    (package / "peers").mkdir(parents=True)
    files = {
        "module": "from racg_pl import peers, native\nfrom racg_pl.model import RACG",
        "model": '"""Words."""\nfrom racg_pl import layers\nx = 1',
        "layers": "",
        "data": "import racg_pl.features",
        "training": "",
        "features": "",
        "bench": "import racg_pl.model",
        "peers/__init__": "from racg_pl.peers import scan, sgr",
        "peers/scan": "",
        "peers/sgr": "from racg_pl.peers.vectors import X",
        "peers/vectors": "import racg_pl.losses",
        "losses": "",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text + "\n")
    monkeypatch.setattr(source, "PACKAGE", package)
    source_hashes = source.source_hashes.__wrapped__
    before, shared = source_hashes("racg"), {"module", "data", "training"}
    assert set(before) == {*shared, "model", "layers"}
    assert set(source_hashes("scan_t2i")) == {*shared, "peers.scan"}  # what only RACG goes through changes no peer's number
    assert set(source_hashes("sgr")) == {*shared, "peers.sgr", "peers.vectors", "losses"}
    assert set(source_hashes("")) == {*before, "peers.scan", "peers.sgr", "peers.vectors", "losses"}
    (package / "model.py").write_text('"""Other words."""\n\nfrom racg_pl import layers\nx = 1  # one\n')
    (package / "peers" / "scan.py").write_text("x = 1")
    assert source_hashes("racg") == before
    (package / "model.py").write_text('"""Words."""\nfrom racg_pl import layers\nx = 2\n')
    assert {name for name, digest in source_hashes("racg").items() if digest != before[name]} == {"model"}


def test_a_file_that_a_run_no_longer_goes_through_makes_no_run_stale():
    stored = {"options": {}, "seed": 0, "config": "c", "data": "d", "source": {"model": "1", "losses": "1"}}
    assert plan.changes(stored, stored | {"source": {"losses": "1"}}) == ""
    assert plan.changes(stored, stored | {"source": {"losses": "2"}}) == "the source changed (losses)"
    assert plan.changes(stored, stored | {"source": {"losses": "1", "new": "1"}}) == "the source changed (new)"


def test_what_was_found_is_kept_in_short():
    rng = np.random.default_rng(0)
    image = np.sort(rng.integers(7, size=30))
    image = image[image != 3]  # an image without captions
    i2t, t2i = rng.integers(15, size=7), rng.integers(15, size=len(image))
    i2t[3] = -1
    found = tables.unpacked(
        tables.packed(i2t, t2i, image, {"twin_kind": np.array([0, 1, 2]), "relation_i2t": np.array([True, False])})
    )
    np.testing.assert_array_equal(found["image"], image)
    for ranks, kept in ((i2t, found["i2t"]), (t2i, found["t2i"])):
        for k in (1, 5, 10):
            np.testing.assert_array_equal(ranks < k, kept < k)
    assert found["i2t"][3] == -1
    assert found["twin_kind"].tolist() == [0, 1, 2]
    assert found["relation_i2t"].tolist() == [True, False]


def test_queries_are_chosen_by_rule():
    ranks = np.array([0, 0, 0, 0, 3, 1, 9, 2])
    scores = np.eye(8) * np.array([4, 3, 2, 1, 0, 0, 0, 0])
    lists = runs.chosen(ranks, scores)
    assert [query["query"] for query in lists["successes"]] == [2, 1, 0]  # leads 1 2 3 4
    assert [query["query"] for query in lists["failures"]] == [7, 4, 6]  # ranks 1 2 3 9
    assert lists["successes"][0]["matches"][0] == [2, 2.0]
    assert len(lists["successes"][0]["matches"]) == runs.TOP
    assert runs.chosen(np.zeros(1, int), np.ones((1, 1)))["failures"] == []


def test_source_edited_under_a_run_means_another_run(place, monkeypatch, capsys):
    monkeypatch.setattr(plan, "source_hashes", lambda method: {"layers": "after" if Path("calls.txt").exists() else "before"})
    place.run(ROWS[:1])
    place.run(ROWS[:1])
    assert "racg: starts (the source changed (layers))" in capsys.readouterr().err
    place.run(ROWS[:1])
    assert len(place.calls()) == 4


def test_scenes_are_generated_where_missing(place, monkeypatch, capsys):
    shutil.rmtree("data")
    monkeypatch.setattr("racg_pl.scenes.generate", lambda root: generate(root, 40, progress=False))
    place.run(ROWS[:1])
    said = capsys.readouterr().err
    assert "generating Scenes in data/scenes" in said
    assert "Scenes of 40 images, seed 0" in said
    assert "relation twins                    50.0" in said
    assert Path("data/scenes/vocab.json").exists()
    assert json.loads(Path("results/scenes/racg.json").read_text())["images"] == 13


# ---- what is refused before anything runs ----


def test_captions_that_are_not_in_the_order_of_their_images_are_said_before_anything_runs(place, monkeypatch):
    class Backwards(CaptionStore):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.image = self.image[::-1]

    monkeypatch.setattr(plan, "CaptionStore", Backwards)
    with pytest.raises(DataError, match=r"test\.captions\.h5: expected captions in the order of their images"):
        place.run(ROWS[:1])
    assert not Path("calls.txt").exists()


def test_runs_are_recorded_in_float32_alone(place, monkeypatch):
    monkeypatch.setenv("RACG_MATMUL", "medium")
    with pytest.raises(
        DataError, match="RACG_MATMUL: expected none where runs are recorded as float32's, got 'medium'; unset it"
    ):
        place.run(ROWS[:1])
    assert not Path("calls.txt").exists()


# ---- what a failure leaves ----


def test_a_run_that_was_broken_off_goes_on_from_its_last_epoch_unless_it_is_another_run(place, monkeypatch):
    log = Path("runs/scenes/racg/log.txt")
    place.trouble(racg="late")
    for _ in range(2):
        with pytest.raises(DataError, match="signal 9"):
            place.run(ROWS[:1])
    assert log.read_text().splitlines()[0].endswith("--ckpt_path last")
    place.trouble()
    place.run(ROWS[:1])
    assert log.read_text().splitlines()[0].endswith("--ckpt_path last")
    record = json.loads(Path("results/scenes/racg.json").read_text())
    assert not any("last" in command for command in record["commands"])  # what gives these numbers
    place.trouble(racg="late")
    monkeypatch.setattr(plan, "source_hashes", lambda method: {"model": "of later"})
    with pytest.raises(DataError, match="signal 9"):
        place.run(ROWS[:1])
    assert "last" not in log.read_text().splitlines()[0]  # other code: from the beginning
    place.trouble()
    monkeypatch.setattr(plan, "source_hashes", lambda method: {"model": "of now"})
    Path("results/scenes/racg.json").unlink()
    place.run(ROWS[:1])
    assert "last" not in log.read_text().splitlines()[0]


def test_failed_and_killed_rows_leave_the_others_and_are_all_that_runs_next(place, capsys):
    place.trouble(no_intramodal="test", no_cross_graph="kill", no_multihead="lie")
    with pytest.raises(DataError) as error:
        place.run()
    message = str(error.value)
    assert "\n" not in message
    assert "runs/scenes/no_" in message
    assert message.endswith("(3 rows failed; results of the others are kept)")
    said = capsys.readouterr().err
    log = "runs/scenes/{0}/log.txt: row {0}: racg {1} ended with {2}: {3}"
    assert log.format("no_intramodal", "test", "exit status 1", "racg: the model collapsed") in said
    assert log.format("no_cross_graph", "fit", "signal 9", "100%") in said
    assert "row no_multihead: expected the metrics of test_scores.npy and seed 0, got rsum" in said
    failed = {"no_intramodal", "no_cross_graph", "no_multihead"}
    assert {path.stem for path in Path("results/scenes").iterdir()} == {row.name for row in ROWS} - failed
    assert not Path("results/scenes.md").exists()
    assert len(place.calls()) == 15
    place.trouble()
    place.run()
    assert {call.split()[1] for call in place.calls()} == failed
    assert Path("results/scenes.md").exists()


def test_scores_stay_where_their_record_cannot_be_written(place, monkeypatch):
    def full(path: Path, content: bytes) -> None:
        if path.name == "racg.json":
            raise OSError(28, "No space left on device")
        tables.write_whole(path, content)

    monkeypatch.setattr(runs, "write_whole", full)
    with pytest.raises(DataError, match=r"racg.json: cannot be written \(No space left on device\)"):
        place.run(ROWS[:1])
    assert Path("runs/scenes/racg/test_scores.npy").exists()


def test_recalls_on_twins_are_of_the_truth_of_their_captions(place):
    rename("dev.truth.h5", "test.truth.h5")  # under a run
    with pytest.raises(DataError, match=r"test.truth.h5: expected the captions with sha256"):
        runs._found(np.zeros((40, 200), np.float32), Path("data/scenes"), "test")


def test_options_of_racg_itself_are_taken(place):
    place.config.write_text(CONFIG + "score_memory_mb: 2048\n")
    place.run(ROWS[:1])
    assert len(place.calls()) == 2


def test_interruption_ends_the_processes_and_leaves_no_result(place, monkeypatch):
    started: list[runs.Run] = []
    original = runs.Run.__init__

    def remember(self, *args, **kwargs) -> None:
        original(self, *args, **kwargs)
        started.append(self)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    place.trouble(racg="hang", no_semantic_graph="hang")
    monkeypatch.setattr(runs.Run, "__init__", remember)
    monkeypatch.setattr(processes.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        place.run()
    assert [run.spec.name for run in started] == ["racg", "no_semantic_graph"]
    assert all(run.process.exitcode for run in started)
    assert list(Path("results/scenes").iterdir()) == []


def test_results_of_an_earlier_run_never_pass_for_new_ones(place):
    place.run(ROWS[:1])
    shutil.copytree("runs/scenes/racg", "earlier")
    Path("results/scenes/racg.json").unlink()
    place.trouble(racg="fit")
    with pytest.raises(DataError, match=r"racg fit ended with exit status 1: racg: the model collapsed$"):
        place.run(ROWS[:1])
    assert not list(Path("runs/scenes/racg").glob("**/best.ckpt"))


def rename(old: str, new: str) -> None:
    os.replace(Path("data/scenes", old), Path("data/scenes", new))


BAD = {
    "jobs": ({"jobs": 0}, None, "expected at least 1 run at a time, got --jobs 0"),
    "data": ({"data": "../scenes"}, None, r"expected the name of a data set, got --data '\.\./scenes'"),
    "no configuration": (
        {"config": Path("none.yaml")},
        None,
        "none.yaml: expected a configuration in YAML, got: .*No such file",
    ),
    "no YAML": (
        {},
        lambda: Path("experiments/scenes.yaml").write_text("a: [1"),
        "scenes.yaml: expected a configuration in YAML, got",
    ),
    "a list": ({}, lambda: Path("experiments/scenes.yaml").write_text("- 1"), r"expected a configuration with .*, got \[1\]"),
    "no data": (
        {"data": "other", "config": Path("experiments/scenes.yaml")},
        None,
        r"data/other/train.h5: no such file; convert",
    ),
    "no captions": (
        {"data": "other", "root": Path("data/scenes"), "config": Path("experiments/scenes.yaml")},
        lambda: rename("dev.captions.h5", "x"),
        r"dev.captions.h5: no such file; convert",
    ),
    "no parse": (
        {"data": "other", "root": Path("data/scenes"), "config": Path("experiments/scenes.yaml")},
        lambda: rename("dev.parse-chain.h5", "x"),
        r"dev.parse-chain.h5: no such file; run racg text data/scenes --parser chain",
    ),
    "no vocabulary": (
        {"data": "other", "root": Path("data/scenes"), "config": Path("experiments/scenes.yaml")},
        lambda: rename("vocab.json", "x"),
        r"vocab.json: no such file; run racg text",
    ),
    "captions of others": (
        {"data": "other", "root": Path("data/scenes"), "config": Path("experiments/scenes.yaml")},
        lambda: rename("dev.captions.h5", "train.captions.h5"),
        r"train.captions.h5: expected the features dev.h5 with sha256",
    ),
    "the truth of others": (
        {"data": "other", "root": Path("data/scenes"), "config": Path("experiments/scenes.yaml")},
        lambda: rename("dev.truth.h5", "test.truth.h5"),
        r"test.truth.h5: expected the captions with sha256 .*, got data/scenes/test.captions.h5",
    ),
    "a text as data": (
        {},
        lambda: Path("experiments/scenes.yaml").write_text(CONFIG.replace("data: {", "data: x\nmore: {")),
        "scenes.yaml: data: expected options with their values, got 'x'",
    ),
    "a folder above": ({"data": ".."}, None, r"expected the name of a data set, got --data '\.\.'"),
    "a file for a folder": (
        {},
        lambda: Path("results").write_text(""),
        "results/scenes: expected a folder to write to, got: .*exists|Not a",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_anything_runs(place, case):
    options, spoil, message = BAD[case]
    if spoil:
        spoil()
    with pytest.raises(DataError, match=message) as error:
        place.run(**options)
    assert "\n" not in str(error.value)
    assert place.calls() == []
    assert not list(Path().glob("**/*.unfinished"))


def test_scenes_never_replace_another_data_set(place):
    from racg_pl.features import RegionWriter

    shutil.rmtree("data/scenes")
    with RegionWriter(Path("data/scenes/train.h5"), 1, 4, extractor="bottom-up") as writer:
        writer.add("a", np.ones((1, 4)), [[0, 0, 1, 1]])
    before = Path("data/scenes/train.h5").read_bytes()
    with pytest.raises(
        DataError, match=r"train.h5: expected Scenes, got regions by 'bottom-up'; name their data set by --data"
    ):
        place.run()
    assert [path.name for path in Path("data/scenes").iterdir()] == ["train.h5"]
    assert Path("data/scenes/train.h5").read_bytes() == before


# ---- what is written ----


def test_dollars_in_the_name_of_a_data_set_are_no_mathematics():
    record = {"method": "RACG", "without": "", "metrics": {"rsum": 300.0}, "split": "dev", "data": "a $_$ b"}
    drawn = tables.figures([tables.Finished(record, {})], [tables.Compared()])
    assert "<!-- rsum, dev split of a $_$ b -->" in drawn["svg"].decode()


def test_tables_figure_and_summary(place):
    place.run()
    page = Path("results/scenes.md").read_text()
    blocks = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert len(blocks) == 2
    recalls, twins = (
        [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()] for block in blocks
    )
    assert {len(line) for line in recalls} == {11}
    assert [line[1] for line in recalls[2:]] == ["–", *(row.without for row in ROWS[1:])]
    assert len({len(line) for line in blocks[0].splitlines()}) == 1  # a table in plain text, too
    deltas = dict(zip((row.name for row in ROWS), (line[-1] for line in recalls[2:]), strict=True))
    assert deltas["racg"] == "–"
    assert deltas["no_cross_graph"] == "+0.0 [+0.0, +0.0] *not separated*"  # the stand-in does not know this switch
    assert "not separated" in deltas["no_reconstruction"]
    assert re.fullmatch(r"−\d+\.\d \[−\d+\.\d, −\d+\.\d\]", deltas["no_semantic_graph"])
    assert re.fullmatch(r"−\d+\.\d \[−\d+\.\d, −\d+\.\d\]", deltas["scan_style"])
    assert [line[0] for line in twins[-2:]] == ["*ceiling: best bag of words*", "*ceiling: best with relations*"]
    assert twins[-2][4:6] == ["50.0", "50.0"]
    assert twins[-1][4] == "100.0"

    records = {row.name: json.loads(Path(f"results/scenes/{row.name}.json").read_text()) for row in ROWS}
    with open("results/scenes.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == [*records, "best bag of words", "best with relations"]
    for line, shown, (name, record) in zip(lines, recalls[2:], records.items(), strict=False):
        assert [float(line[key]) for key in (*RECALLS, "rsum")] == [record["metrics"][key] for key in (*RECALLS, "rsum")]
        assert [float(line[key]) for key in TWINS] == [record["twins"][key] for key in TWINS]
        assert shown[3:10] == [f"{record['metrics'][key]:.1f}" for key in (*RECALLS, "rsum")]
        if name != "racg":
            difference = record["metrics"]["rsum"] - records["racg"]["metrics"]["rsum"]
            assert float(line["delta_rsum"]) == pytest.approx(difference)
            assert float(line["delta_rsum_low"]) <= difference <= float(line["delta_rsum_high"])
            assert line["delta_rsum_separated"] == str("not separated" not in deltas[name])
            for key in ("relation_i2t", "relation_t2i"):
                difference = record["twins"][key] - records["racg"]["twins"][key]
                assert float(line[f"delta_{key}"]) == pytest.approx(difference)

    record = records["scan_style"]
    assert record["commands"][0].split()[:2] == ["racg", "fit"]
    assert all(f"--model.{switch} false" in command for switch in ROWS[-1].off for command in record["commands"])
    assert set(record["wall_time_s"]) == {"fit", "test"}
    assert record["hashes"]["test"]["captions"] == CaptionStore("data/scenes/test.captions.h5").sha256
    assert {key: record[key] for key in ("data", "split", "seed", "images", "captions", "commit")} == {
        "data": "scenes",
        "split": "test",
        "seed": 0,
        "images": 40,
        "captions": 200,
        "commit": "abc+",
    }

    summary = json.loads(Path("results/summary.json").read_text())
    assert [run["name"] for run in summary["runs"]] == list(records)
    assert set(summary["runs"][0]) == {"data", "name", "seed", "split", *RECALLS, "rsum", "command"}
    assert summary["runs"][0]["command"] == " && ".join(records["racg"]["commands"])
    assert set(summary["ceilings"]) == {"scenes"}
    assert set(summary["ceilings"]["scenes"]) == {"bag_of_words", "relations"}
    assert set(summary["ceilings"]["scenes"]["relations"]) == set(TWINS)
    assert summary["ceilings"]["scenes"]["bag_of_words"]["relation_t2i"] == 50

    assert Path("results/scenes.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path("results/scenes.svg").read_text()[:1000]
    assert {path.name for path in Path("results").iterdir()} == {
        "scenes",
        *(f"scenes.{k}" for k in ("md", "csv", "png", "svg")),
        "summary.json",
    }


def test_without_a_test_split_dev_is_tested_and_the_table_says_so(place):
    root = Path("data/photos")
    shutil.copytree("data/scenes", root, ignore=shutil.ignore_patterns("test.*", "*.truth.h5"))
    Path("experiments/photos.yaml").write_text(CONFIG)
    place.run(ROWS[:2])
    Path("results/scenes/notes.json").write_text('{"schema": "mine"}')
    place.run(ROWS[:2], data="photos")
    record = json.loads(Path("results/photos/racg.json").read_text())
    assert record["split"] == "dev"
    assert all("--data.test dev" in command for command in record["commands"])
    assert not {"twins", "ceilings"} & set(record)
    page = Path("results/photos.md").read_text()
    assert (
        "The dev split, 12 images and 60 captions; there is no test split, and the checkpoint was chosen on this one." in page
    )
    assert "Twins" not in page
    summary = json.loads(Path("results/summary.json").read_text())
    assert [(run["data"], run["name"]) for run in summary["runs"]] == [
        (d, r.name) for d in ("photos", "scenes") for r in ROWS[:2]
    ]
    assert set(summary["ceilings"]) == {"scenes"}
    assert "relation_i2t" not in Path("results/photos.csv").read_text()


def test_the_summary_lists_every_seed_once_and_nothing_else(place):
    place.run(ROWS[:3])
    for seed in (10, 2):
        for name in ("no_intramodal", "racg"):
            record = json.loads(Path(f"results/scenes/{name}.json").read_text()) | {"seed": seed}
            Path(f"results/scenes/seed{seed}").mkdir(exist_ok=True)
            Path(f"results/scenes/seed{seed}/{name}.json").write_text(json.dumps(record))
    shutil.copytree("results/scenes", "results/scenes/seeds_of_old")
    Path("results/scenes/seed2/notes.json").write_text('{"schema": "mine"}')
    place.run(ROWS[:3])
    summary = json.loads(Path("results/summary.json").read_text())
    assert [(run["name"], run["seed"]) for run in summary["runs"]] == [
        *(("racg", seed) for seed in (0, 2, 10)),
        ("no_semantic_graph", 0),
        *(("no_intramodal", seed) for seed in (0, 2, 10)),
    ]
    assert all(set(run) == {"data", "name", "seed", "split", *RECALLS, "rsum", "command"} for run in summary["runs"])
    Path("results/scenes/seed2/racg.json").write_text("{")
    with pytest.raises(DataError, match=r"results/scenes/seed2/racg.json: expected the record of a run, got: .*; delete it"):
        place.run(ROWS[:3])


def test_a_vocabulary_of_another_threshold_stays(place, capsys):
    prepare_texts("data/scenes", "chain", 2)
    before = Path("data/scenes/vocab.json").read_bytes()
    place.run(ROWS[:1])
    assert Path("data/scenes/vocab.json").read_bytes() == before
    assert "vocab.json" not in capsys.readouterr().err


def test_a_damaged_record_of_another_data_set_is_named(place):
    Path("results/other").mkdir(parents=True)
    Path("results/other/racg.json").write_text("{")
    with pytest.raises(DataError, match=r"results/other/racg.json: expected the record of a run, got: .*; delete it"):
        place.run(ROWS[:1])


# ---- for real ----


def test_two_rows_for_real(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("racg_pl.scenes.generate", lambda root: generate(root, 60, progress=False))
    checkpoint = (
        "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {monitor: dev/rsum, mode: max, filename: best}}"
    )
    Path("tiny.yaml").write_text(CONFIG[:-2] + f", enable_model_summary: false, callbacks: [{checkpoint}]}}\n")
    rows: tuple[Row, ...] = (ROWS[0], ROWS[-1])
    run_reproduce(config=Path("tiny.yaml"), rows=rows)
    table = capsys.readouterr().out
    assert "SCAN-style" in table
    racg, scan = (json.loads(Path(f"results/scenes/{row.name}.json").read_text()) for row in rows)
    assert racg["config"]["model"]["aggregation"] is True
    assert [scan["config"]["model"][switch] for switch in (*ROWS[-1].off, "cross_graph")] == [False] * 5 + [True]
    assert racg["parameters"] > scan["parameters"]
    assert racg["metrics"]["rsum"] == pytest.approx(sum(racg["metrics"][key] for key in RECALLS))
    assert not list(Path("runs").rglob("test_scores.npy"))
    run_reproduce(config=Path("tiny.yaml"), rows=rows)
    again = capsys.readouterr()
    assert again.out == table
    assert "to run" not in again.err
