"""paper/: what is declared, run, resumed and stale; the numbers, and that what shows them holds together.

Runs are those of the stand-in of test_reproduce.py, which trains nothing.
"""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from racg_pl import plan, processes
from racg_pl.bootstrap import paired_bootstrap, rsum_bootstrap
from racg_pl.cli import main
from racg_pl.errors import DataError
from racg_pl.ground_record import MEASURES, SCHEMA, packed
from racg_pl.paper.declared import read_tables
from racg_pl.paper.make import tables
from racg_pl.paper.markup import DIGITS, escaped
from racg_pl.readers.files import file_sha256
from racg_pl.scenes import generate
from racg_pl.tables import unpacked
from racg_pl.text_files import prepare_texts
from test_reproduce import CONFIG, stand_in

ROOT = Path(__file__).resolve().parents[1]
LIST = """\
tables:
  - {table: I, title: "A & B_1, 100 % of #1", kind: recalls, data: corpus, rows: {racg: {label: RACG (ours)}}, published: f1k, folds: 5}
  - table: IV
    title: Methods
    kind: recalls
    data: scenes
    seeds: [0, 1]
    rows:
      racg: {label: RACG}
      plain: {label: Plain, without: "graphs & <relations>", set: {model.semantic_graph: false}}
  - table: VI
    title: Options
    kind: sensitivity
    data: scenes
    rows: {racg: {label: RACG}}
    vary: {model.heads: [1, 2], model.margin: {values: [0.1], set: {model.loss: triplet}}}
  - {table: VII, title: Cost, kind: cost, data: scenes, rows: IV, seeds: [0, 1]}
  - {table: VIII, title: Lists, kind: pictures, data: scenes, rows: {racg: {label: RACG}}}
"""
PUBLISHED = """\
dataset,method,text_encoder,models,i2t_r1,i2t_r5,i2t_r10,t2i_r1,t2i_r5,t2i_r10,rsum,read_from
f1k,Other <1>,BiGRU,single,1,2,3,4,5,6,21,"Table 2, ""Other"" authors"
f1k,Ours,,,,,,,,,,not found
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("files")
    generate(root, 120, progress=False)
    prepare_texts(root, "chain")
    return root


@pytest.fixture
def place(tmp_path, monkeypatch, files) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "POLL", 0.02)
    monkeypatch.setattr(plan, "source_hashes", lambda method: {"model": "of now"})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "scenes").symlink_to(files)
    (tmp_path / "experiments").mkdir()
    for name, text in {"scenes.yaml": CONFIG, "corpus.yaml": CONFIG, "tables.yaml": LIST, "published.csv": PUBLISHED}.items():
        Path("experiments", name).write_text(text)
    return tmp_path


def run(**options) -> list[str]:
    """Make tables. Returns: what the stand-in was called for, as "fit plain"."""
    tables(program=stand_in, **options)
    return calls()


def calls() -> list[str]:
    path = Path("calls.txt")
    lines = [line.rpartition(" ")[0] for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


class Page(HTMLParser):
    """Elements that nest as they should, what they fetch, where they lead and what is there."""

    VOID = {"meta", "img", "br", "wbr", "path", "use", "link"}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes) -> None:
        self.handle_startendtag(tag, attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes) -> None:
        self.tags[tag] += 1
        for name, value in attributes:
            if name in ("src", "srcset", "data") or (tag == "link" and name == "href"):
                self.fetched.append(value)
            elif tag == "a" and name == "href":
                self.links.append(value)
            elif name == "id":
                self.ids[value] += 1

    def handle_endtag(self, tag) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


# ---- what runs ----


def test_interrupted_resumed_done_and_stale(place, monkeypatch, capsys):
    def interrupt(_: float) -> None:
        if len(list(Path("results").glob("scenes/**/*.json"))) >= 2:
            raise KeyboardInterrupt
        sleep(0.02)

    sleep = processes.time.sleep
    with monkeypatch.context() as patched:
        patched.setattr(processes.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(jobs=1)
    before = {path: path.read_bytes() for path in Path("results").glob("scenes/**/*.json")}
    assert 2 <= len(before) < 6
    calls()
    again = run()
    assert sorted(call for call in again if call.startswith("test")) == sorted(
        f"test {path.stem}" for path in Path("results").glob("scenes/**/*.json") if path not in before
    )
    names = {"racg", "plain", "heads_1", "margin_0.1", "seed1/racg", "seed1/plain"}
    records = {str(path.relative_to("results/scenes").with_suffix("")) for path in Path("results").glob("scenes/**/*.json")}
    assert records == names
    assert all(path.read_bytes() == content for path, content in before.items())
    page = Path("results/tables.html").read_bytes()
    assert run() == []
    assert Path("results/tables.html").read_bytes() == page
    capsys.readouterr()

    changed = yaml.safe_load(LIST)
    changed["tables"][1]["rows"]["plain"]["set"]["model.dim"] = 32
    Path("experiments/tables.yaml").write_text(yaml.safe_dump(changed))
    assert "  plain  seed 0  stale: its options changed, the configuration changed, about 0 min" in tables(show=True)
    assert calls() == []
    assert run(keep_stale=True) == []
    assert (
        "† Plain without graphs & <relations>: stale, since its options changed, the configuration changed."
        in Path("results/tables/IV.md").read_text()
    )
    assert "2 stale" in Path("results/tables.html").read_text()
    assert sorted(run()) == ["fit plain", "fit plain", "test plain", "test plain"]
    assert "†" not in Path("results/tables/IV.md").read_text()
    monkeypatch.setattr(plan, "source_hashes", lambda method: {"model": "of later", "layers": "new"})
    assert "stale: the source changed (layers, model)" in tables(show=True, data="scenes")


def test_what_is_chosen_runs(place, capsys):
    assert set(run(only=["VI"], seeds=[3])) == {
        f"{verb} {name}" for verb in ("fit", "test") for name in ("racg", "heads_1", "margin_0.1")
    }
    assert json.loads(Path("results/scenes/seed3/racg.json").read_text())["seed"] == 3
    assert run(data="corpus") == []
    assert "table I: racg: not run: needs data/corpus/train.h5: no such file" in capsys.readouterr().err
    assert "not run: needs" in Path("results/tables/I.md").read_text()
    for options, message in (
        ({"only": ["X"]}, "expected --only I, IV, VI, VII, VIII, got 'X'"),
        ({"data": "coco"}, "expected --data corpus, scenes, got 'coco'"),
        ({"root": Path()}, "--root is the folder of, got none; add --data"),
        ({"jobs": 0}, "got --jobs 0"),
    ):
        with pytest.raises(DataError, match=message):
            run(**options)


def test_a_page_shows_the_seeds_declared_and_those_given(place):
    run(data="scenes")
    page, table = Path("results/tables.html").read_bytes(), Path("results/tables/IV.md").read_bytes()
    tables(page=True, seeds=[0])
    assert Path("results/tables.html").read_bytes() == page
    assert Path("results/tables/IV.md").read_bytes() == table
    tables(page=True, seeds=[5])  # which has not run
    assert Path("results/tables.html").read_bytes() == page
    assert run(only=["VIII"], seeds=[5]) == ["fit racg", "test racg"]
    with open("results/tables/IV.csv", newline="") as file:
        assert [row["seeds"] for row in csv.DictReader(file)] == ["0 1 5", "0 1"]
    assert "plain  seed 1" not in tables(show=True, seeds=[0])


def test_the_summary_is_written_with_the_page(place):
    run(data="scenes")
    path = Path("results/summary.json")
    runs = [(entry["name"], entry["seed"]) for entry in json.loads(path.read_text())["runs"]]
    assert runs == [("racg", 0), ("racg", 1), ("heads_1", 0), ("margin_0.1", 0), ("plain", 0), ("plain", 1)]
    before = path.read_bytes()
    path.unlink()
    assert "results/summary.json" in tables(page=True).splitlines()
    assert path.read_bytes() == before


def test_a_failed_run_leaves_the_others_and_a_page(place):
    Path("trouble.json").write_text(json.dumps({"plain": "fit"}))
    with pytest.raises(DataError, match=r"run plain: racg fit ended with exit status 1: .*\(2 runs failed; .*kept\)"):
        run(only=["IV"])
    assert "not run yet" in Path("results/tables/IV.md").read_text()
    assert "| RACG" in Path("results/tables/IV.md").read_text()


def test_results_show_without_their_data(place):
    run()
    Path("data/scenes").unlink()
    tables(page=True)
    assert "| 2 |" in Path("results/tables/IV.md").read_text().replace("     ", " ")
    assert "The pictures need the data set" in Path("results/tables.html").read_text()
    assert "taken as recorded" in Path("results/tables.html").read_text()
    shown = tables(show=True).splitlines()
    said = [line for line in shown if "taken as recorded" in line]
    assert said
    assert not any(line.startswith(" ") for line in said), "once a table, not once a run"


def test_folds_are_evaluated_too(place, files):
    content = yaml.safe_load(LIST)
    content["tables"] = [{**content["tables"][0], "data": "scenes", "seeds": [0]}]
    Path("experiments/tables.yaml").write_text(yaml.safe_dump(content))
    run()
    record = json.loads(Path("results/scenes/racg.json").read_text())
    assert "--score_memory_mb" in record["commands"][1]
    found = unpacked(record["folds"]["found"])
    assert record["folds"]["metrics"]["i2t_r5"] == pytest.approx(100 * np.mean(found["i2t"] < 5))
    assert record["folds"]["metrics"]["rsum"] > record["metrics"]["rsum"]
    assert f"{record['folds']['metrics']['rsum']:.1f}" in Path("results/tables/I.md").read_text()


def folded(*tables: dict) -> None:
    first = yaml.safe_load(LIST)["tables"][0]
    content = [{**first, "data": "scenes", "seeds": [0, 1], **table} for table in tables]
    Path("experiments/tables.yaml").write_text(yaml.safe_dump({"tables": content}))


def test_without_folds_a_run_counts_in_no_table_of_folds(place):
    folded({"table": "II"}, {"table": "III", "folds": 1})
    run()
    for seed in ("", "seed1"):
        path = Path("results/scenes", seed, "racg.json")
        record = json.loads(path.read_text())
        rsum = f"{record['metrics']['rsum']:.1f}"
        del record["folds"]
        path.write_text(json.dumps(record))
        tables(page=True)
        if not seed:
            assert (
                "Left out: RACG (ours), seed 0, since it was not evaluated in folds."
                in Path("results/tables/II.md").read_text()
            )
    assert "left out, since it was not evaluated in folds" in Path("results/tables/II.md").read_text()
    assert "stale: it was not evaluated in folds" in tables(show=True)
    Path("data/scenes").unlink()
    tables(page=True)
    page = Path("results/tables/II.md").read_text()
    assert re.search(r"not run: needs data/scenes/.* no such file.*, to be evaluated in folds", page)
    assert rsum not in page
    assert "| 2 |" in Path("results/tables/III.md").read_text().replace("     ", " ")
    assert re.search(r"racg  seed 0  needs: .*, to be evaluated in folds", tables(show=True))


def test_runs_on_other_data_are_no_seeds_of_one_row_and_show_no_pictures(place):
    run()
    Path("data/scenes").unlink()
    generate(Path("data/scenes"), 60, seed=1, progress=False)
    prepare_texts(Path("data/scenes"), "chain")
    tables(page=True)
    assert "not shown, since it was run on other data than are here now" in Path("results/tables.html").read_text()
    before = Path("results/tables/IV.md").read_text()
    assert "Left out" not in before
    run(only=["IV"], seeds=[1])
    tables(page=True)
    page = Path("results/tables/IV.md").read_text()
    assert "Left out: RACG, seed 0, since it was run on other data." in page
    assert "Left out: Plain without graphs & <relations>, seed 0, since it was run on other data." in page
    for name in ("racg", "plain"):
        assert f"{json.loads(Path(f'results/scenes/seed1/{name}.json').read_text())['metrics']['rsum']:.1f}" in page
    assert "seed 0" not in before
    assert re.search(r"\| +[−+]\d+\.\d \[", page)  # rows of the same data are compared
    shutil.rmtree("data/scenes")
    tables(page=True)
    assert "Left out: RACG, seed" in Path("results/tables/IV.md").read_text()
    assert "Left out: RACG, seed" in Path("results/tables/VII.md").read_text()


# ---- what is written ----


def test_numbers_intervals_and_what_is_bold(place):
    run()
    records = {
        name: [json.loads(Path("results/scenes", folder, f"{name}.json").read_text()) for folder in ("", "seed1")]
        for name in ("racg", "plain")
    }
    with open("results/tables/IV.csv", newline="") as file:
        racg, plain = csv.DictReader(file)
    rsums = [record["metrics"]["rsum"] for record in records["racg"]]
    assert float(racg["rsum_mean"]) == pytest.approx(np.mean(rsums))
    assert float(racg["rsum_sd"]) == pytest.approx(np.std(rsums, ddof=1))
    assert float(plain["delta_rsum"]) == pytest.approx(float(plain["rsum_mean"]) - float(racg["rsum_mean"]))
    assert float(plain["delta_rsum_high"]) < 0  # the stand-in costs it much
    assert "rsum" in racg["best"].split()
    assert plain["best"] == ""
    assert racg["seeds"] == "0 1"
    page = Path("results/tables/IV.md").read_text()
    assert f"**{np.mean(rsums):.1f}** ±{np.std(rsums, ddof=1):.1f}" in page
    with open("results/tables/VI.csv", newline="") as file:
        first, heads, _ = csv.DictReader(file)
    found = [unpacked(json.loads(Path(f"results/scenes/{name}.json").read_text())["found"]) for name in ("heads_1", "racg")]
    want = rsum_bootstrap(*((one["i2t"], one["t2i"]) for one in found), found[0]["image"])
    assert float(heads["delta_rsum_low"]) == pytest.approx(want.low)
    assert heads["best"] == first["best"] == ""  # the stand-in knows no heads
    assert (first["model.heads"], heads["model.heads"]) == ("2", "1")
    places = [
        len(value.partition(".")[2]) for row in (racg, plain) for key, value in row.items() if key.endswith(("_mean", "_sd"))
    ]
    assert max(places) == DIGITS  # no digit that the machine made


def test_a_row_of_one_seed_beside_others_is_named_by_its_part(place):
    run(only=["IV"])
    assert "One seed only" not in Path("results/tables/IV.md").read_text()
    Path("results/scenes/seed1/plain.json").unlink()
    tables(page=True)
    assert "One seed only: Plain without graphs & <relations>." in Path("results/tables/IV.md").read_text()


def test_the_page_stands_alone_and_each_figure_leads_to_its_run(place):
    run()
    text = Path("results/tables.html").read_text()
    page = Page(text)
    assert page.fetched
    assert all(link.startswith("data:image/png;base64,") for link in page.fetched)
    assert not re.search(r"<script|@import|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\s\"<)]+", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert {link.removeprefix("#") for link in page.links} <= page.ids.keys()
    assert max(count for name, count in page.ids.items() if name.startswith(("run-", "data-", "table-"))) == 1
    assert {"run-scenes-plain", "run-scenes-plain-seed1", "table-I", "table-VIII"} <= page.ids.keys()
    assert page.tags["svg"] == 2
    for record in Path("results/scenes").glob("**/*.json"):
        content = json.loads(record.read_text())
        assert all(command in text for command in content["commands"])
        assert content["hashes"]["test"]["features"] in text
    assert "graphs &amp; &lt;relations&gt;" in text
    assert "Other &lt;1&gt;" in text


def test_sources_of_published_figures_stand_below_in_every_form(place):
    more = 'f1k,Third,,single,1,2,3,4,5,6,21,A page\nf1k,Fourth,,single,1,2,3,4,5,6,21,"Table 2, ""Other"" authors"\n'
    Path("experiments/published.csv").write_text(PUBLISHED + more)
    tables(page=True)  # with no run of its own
    page = Path("results/tables/I.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    column = rows[0].index("source")
    assert [row[column] for row in rows if row[0] in ("Other <1>", "Third", "Fourth", "RACG (ours)")] == [
        "[1]",
        "[2]",
        "[1]",
        "",
    ]
    assert next(row for row in rows if row[0] == "Ours")[column:][:2] == ["", "*not found*"]
    note = 'Sources: [1] Table 2, "Other" authors; [2] A page.'
    assert note in page
    assert note in Path("results/tables/I.tex").read_text()
    assert note in html.unescape(Path("results/tables.html").read_text())
    assert "source" not in Path("results/tables/IV.md").read_text()


def test_the_appendix_tells_rows_of_one_label_apart_and_says_a_confirmation_once(place):
    content = yaml.safe_load(LIST)
    other = {"label": "RACG", "set": {"model.dim": 32}}
    content["tables"] = [content["tables"][1] | {"seeds": [0, 1, 2], "rows": {"racg": {"label": "RACG"}, "wide": other}}]
    Path("experiments/tables.yaml").write_text(yaml.safe_dump(content))
    run()
    note = {"commit": "b" * 12, "against": "a" * 12, "steps": 6, "seed": 0, "weights": "", "files": ["model"], "source": {}}
    for seed in ("", "seed1", "seed2"):
        for name in ("racg", *(["wide"] if seed else [])):
            path = Path("results/scenes", seed, f"{name}.json")
            path.write_text(json.dumps(json.loads(path.read_text()) | {"confirmed": [note]}))
    tables(page=True)
    text = Path("results/tables.html").read_text()
    Page(text)
    titles = re.findall(r"<article[^>]*><h3>(.*?)</h3>", text)
    assert titles[:2] == ["RACG, scenes: <code>racg</code>", "RACG, scenes: <code>wide</code>"]
    assert len(set(titles)) == len(titles)
    first, second = (
        text.partition(f'<article id="run-scenes-{name}">')[2].partition("</article>")[0] for name in ("racg", "wide")
    )
    assert re.findall(">(done[^<]*)<", first) == ["done, confirmed"] * 3
    assert re.findall(">(done[^<]*)<", second) == ["done", "done, confirmed", "done, confirmed"]
    assert re.findall('<p class="note">(.*?: the code has changed)', first) == ["Confirmed: the code has changed"]
    assert re.findall('<p class="note">(.*?: the code has changed)', second) == ["Seeds 1, 2, confirmed: the code has changed"]
    assert "<code>scenes/<wbr>seed1/<wbr>racg.json</code>" in first


def test_latex_is_escaped_and_compiles(place):
    run()
    text = Path("results/tables/I.tex").read_text()
    assert r"\caption{A \& B\_1, 100 \% of \#1." in text
    assert r"Other \textless{}1\textgreater{}" in text
    assert escaped(r"~^\{}") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}\{\}"
    files = sorted(Path("results/tables").glob("*.tex"))
    for path in files:
        said = path.read_text()
        assert said.isascii() or set(re.sub(r"[\x00-\x7f]", "", said)) <= set("éöü"), path
        assert said.count("{") - said.count(r"\{") == said.count("}") - said.count(r"\}")
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed: escapes are checked, compilation is not")
    inputs = "\n".join(rf"\input{{{path.as_posix()}}}" for path in files)
    Path("all.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{inputs}\end{{document}}"
    )
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:]


def tabled() -> dict[str, bytes]:
    """Weights of a run and the tables, but for what a run costs."""
    record = json.loads(Path("results/scenes/racg.json").read_text())
    files = [path for path in Path("results/tables").iterdir() if path.stem != "VII"]
    return {"weights": record["weights"].encode(), **{path.name: path.read_bytes() for path in files}}


def test_a_real_run_its_words_and_their_regions_and_the_same_again(place):
    """Trains a tiny RACG, twice."""
    keep = (
        "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {monitor: dev/rsum, mode: max, filename: best}}"
    )
    Path("experiments/scenes.yaml").write_text(CONFIG[:-2] + f", enable_model_summary: false, callbacks: [{keep}]}}\n")
    grounding = "  - {table: IX, title: Words, kind: grounding, data: scenes, rows: {racg: {label: RACG}}}\n"
    Path("experiments/tables.yaml").write_text(LIST + grounding)
    tables(only=["VIII", "IX"])
    words = json.loads(Path("results/ground/scenes/racg.json").read_text())
    assert rows_of("results/tables/IX.md")[0][1] == f"{words['metrics']['centre']['attended']:.1f}"
    record = json.loads(Path("results/scenes/racg.json").read_text())
    assert words["weights"] == record["weights"]
    shown = [str(query["query"]) for kind in ("successes", "failures") for query in record["lists"]["t2i"][kind]]
    assert list(record["attention"]) == sorted(shown, key=shown.index)
    assert set(record["cost"]) == {f"{verb}_{what}" for verb in ("fit", "test") for what in ("peak_mb", "pairs_per_s")}
    assert record["cost"]["test_pairs_per_s"] > 0
    for words in record["attention"].values():
        for regions in words:
            weights = [weight for _, weight in regions]
            assert weights == sorted(weights, reverse=True)
            assert 0 < sum(weights) <= 1.001
    page = Path("results/tables.html").read_text()
    assert page.count("regions of its own picture") == len(shown)
    first = tabled()
    assert {"IV.md", "IX.csv", "VI.png"} <= first.keys()
    shutil.rmtree("runs")
    tables(page=True)
    assert Path("results/tables.html").read_text() == page
    shutil.rmtree("results")
    tables(only=["VIII", "IX"])
    assert tabled() == first
    shutil.rmtree("runs")
    del record["attention"]
    Path("results/scenes/racg.json").write_text(json.dumps(record))
    tables(page=True)
    assert "which regions words attend to is not shown: runs/scenes/racg/checkpoints/best.ckpt is not here" in (
        Path("results/tables.html").read_text()
    )


# ---- where words point ----

GROUNDING = "  - {table: XIII, title: Words, kind: grounding, data: scenes, rows: IV, seeds: [0, 1]}\n"
IMAGES = [0, 0, 0, 1, 1, 2]


def grounded(name: str, seed: int, centre: str, iou: str, weights: str = "", phrases: str = "") -> None:
    """A record of `racg ground`, of the run of that name."""
    folder = f"seed{seed}/" if seed else ""
    hits = np.array([[digit == "1" for digit in row] for row in (centre, iou)]).T
    metrics = {
        measure: {"attended": 100 * float(hits[:, k].mean()), "chance": 20.0 + k, "largest": 30.0, "best": 90.0}
        for k, measure in enumerate(MEASURES)
    }
    record = {
        "schema": SCHEMA,
        "weights": weights or json.loads(Path(f"results/scenes/{folder}{name}.json").read_text())["weights"],
        "commit": "c0ffee",
        "split": "test",
        "data": {"captions": "b"},
        "phrases": {"file": "some/where/p.json", "sha256": phrases or file_sha256(Path("data/scenes/test.truth.h5"))},
        "metrics": {"phrases": len(hits), **metrics},
        "hits": packed(hits, IMAGES),
    }
    path = Path(f"results/ground/scenes/{folder}{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def rows_of(path: str) -> list[list[str]]:
    lines = [line for line in Path(path).read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_where_words_point_stands_beside_what_any_method_has(place):
    Path("experiments/tables.yaml").write_text(LIST + GROUNDING)
    run()
    assert "expected a checkpoint of racg fit" in rows_of("results/tables/XIII.md")[0][2]  # the stand-in's is none
    tables(page=True)  # which does not look at it
    why = "it is not measured; racg tables does so where runs/scenes/racg/checkpoints/best.ckpt is of this run"
    assert rows_of("results/tables/XIII.md")[0][2] == f"*left out, since {why}*"
    assert tables(only=["XIII"], show=True).count("; where its words point is not measured") == 4
    grounded("racg", 0, "111011", "100010")
    grounded("racg", 1, "111010", "000000")
    grounded("plain", 1, "010000", "000000", weights="of another training")
    tables(page=True)
    racg, plain, *others = rows_of("results/tables/XIII.md")
    assert racg == ["RACG", "–", "75.0 ±11.8", "–", "16.7 ±23.6", "–", "2"]
    apart = paired_bootstrap(np.array([0, 100, 0, 0, 0, 0]), np.array([100, 100, 100, 0, 100, 50]), clusters=IMAGES)
    low, high = (f"{value:+.1f}".replace("-", "−") for value in (apart.low, apart.high))
    assert plain[:4] == ["Plain‡", "graphs & <relations>", "16.7", f"−58.3 [{low}, {high}]"]
    assert others == [
        ["a region drawn at random", "–", "20.0", "–", "21.0", "–", "–"],
        ["the largest region", "–", "30.0", "–", "30.0", "–", "–"],
        ["the best possible", "–", "90.0", "–", "90.0", "–", "–"],
    ]
    page = Path("results/tables/XIII.md").read_text()
    assert "Percent of the 6 phrases of the test split" in page
    assert "By racg ground at commit c0ffee, of p.json" in page
    assert "‡ Plain without graphs & <relations>: seed 1 measured on another training" in page
    assert "One seed only: Plain without" in page
    with open("results/tables/XIII.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["centre_mean"] for line in lines] == ["75.0", "16.666667", "20.0", "30.0", "90.0"]
    assert float(lines[1]["delta_centre_low"]) == pytest.approx(apart.low, abs=1e-6)
    Page(Path("results/tables.html").read_text())


def test_records_of_other_phrases_or_damaged_ones_do_not_count(place):
    Path("experiments/tables.yaml").write_text(LIST + GROUNDING)
    run()
    for name in ("racg", "plain"):
        grounded(name, 0, "111011", "100010")
        grounded(name, 1, "111011", "100010", phrases="other" if name == "plain" else "")
    Path("results/ground/scenes/seed1/racg.json").write_text("{}")
    tables(page=True)
    assert [row[-1] for row in rows_of("results/tables/XIII.md")[:2]] == ["1", "1"]
    page = Path("results/tables/XIII.md").read_text()
    assert "‡" not in page
    assert "Left out: Plain without graphs & <relations>, seed 1, since it was measured on other phrases." in page
    assert "seed 1, since results/ground/scenes/seed1/racg.json: expected what racg ground wrote" in page


def test_records_of_other_phrases_than_those_of_now_are_marked(place):
    Path("experiments/tables.yaml").write_text(LIST + GROUNDING)
    run()
    for name in ("racg", "plain"):
        grounded(name, 0, "111011", "100010", phrases="of before")
    tables(page=True)
    assert [row[0] for row in rows_of("results/tables/XIII.md")[:2]] == ["RACG‡", "Plain‡"]
    Path("results/ground/scenes/racg.json").unlink()  # nothing to compare with
    tables(page=True)
    assert "difference to RACG" not in Path("results/tables/XIII.md").read_text()
    Path("data/scenes").unlink()  # nor data
    tables(page=True)
    assert rows_of("results/tables/XIII.md")[1][0] == "Plain"


# ---- what is declared ----


def test_the_declared_tables_are_whole(monkeypatch):
    monkeypatch.chdir(ROOT)  # as paths of configurations are read
    found = read_tables(ROOT / "experiments" / "tables.yaml")
    numbers = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII", "XIV"]
    assert list(dict.fromkeys(table.number for table in found)) == numbers
    peers = next(table for table in found if table.number == "IV")
    names = ["racg", "vse_infinity", "scan_t2i", "scan_i2t", "saf", "sgr"]
    first, second, *lines = [line.name for line in peers.lines]
    assert (first, second) == ("racg_objects", "racg_separate")
    assert lines == [f"{name}_lr_3.0e-3" for name in names]  # the same rate for all
    assert all(line.spec(0).settings["model"]["lr"] == 3.0e-3 for line in peers.lines)
    trials = {line.name for table in found if table.number == "IX" for line in table.lines}
    assert trials >= {*names, *lines}
    varied = {point.option for table in found for line in table.lines for point in line.points}
    assert {name.rpartition(".")[2] for name in varied} == {"heads", "depth", "temperature", "margin", "reconstruction_weight"}
    assert {table.data for table in found if table.number == "V"} == {"scenes", "flickr8k"}
    more = next(table for table in found if table.number == "XII")
    assert [(line.name, line.seeds) for line in more.lines] == [
        (name, (0, 1, 2)) for name in ("racg", "whole_heads", "no_multihead")
    ]
    for table in found:
        ours = [figures for figures in table.figures if figures["method"].startswith("RACG")]
        assert all(not figures["rsum"] for figures in ours)  # nobody knows them
        assert len(ours) == bool(table.published)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: cost", "kind: costs", "table VII: expected the kind .*, got 'costs'"),
        ("table: IV", "table: I", "table I: expected a number of its own"),
        ("seeds: [0, 1]\n", "seeds: 3\n", r"table IV: seeds: expected a list .*, got 3"),
        ("label: Plain", "lable: Plain", "table IV: row plain: .* 'lable' is unknown"),
        ("rows: IV", "rows: V", "table VII: rows: expected .*, got 'V'"),
        ("published: f1k", "published: f2k", r"published.csv \(f1k\), got 'f2k'"),
        ("model.heads: [1, 2]", "model.heads: [1, 2e-4]", "vary: model.heads: expected numbers, got '2e-4'"),
        (
            "Lists, kind: pictures, data: scenes, rows: {racg: {",
            "Lists, kind: pictures, data: scenes, rows: {racg: {set: {a.b: 8}, ",
            "one run",
        ),
        (
            "{table: VIII,",
            "{table: 1, title: A, kind: recalls, data: scenes, rows: IV}\n  - {table: 1,",
            "table 1: expected a number of its own",
        ),
        ("table: IV\n", "table: IV\n    folds: five\n", "table IV: folds: expected a whole number from 1, got 'five'"),
        ("table: IV\n", "table: IV\n    config: 5\n", "table IV: config: expected the path of a configuration, got 5"),
        (
            "table: IV\n",
            "table: IV\n    config: {scene: a.yaml}\n",
            "table IV: config: expected the keys scenes, but 'scene' is unknown",
        ),
        ("set: {model.semantic_graph: false}", "set: [1]", r"row plain: set: expected options with their values, got \[1\]"),
        ("set: {model.semantic_graph: false}", "set: {model: 3}", "row plain: set: model: expected options .*, got 3"),
        ("set: {model.semantic_graph: false}", "set: {3: 4}", "row plain: set: expected options with their values, got {3: 4}"),
        ("model.heads: [1, 2]", "model: [1, 2]", r"table VI: vary: model: expected options .*, got \[1, 2\]"),
        ("model.heads: [1, 2]", "3: [1, 2]", "table VI: vary: expected options with their values, got {3:"),
        ("published: f1k", "published: [1]", r"published.csv \(f1k\), got \[1\]"),
        ("      plain: {", "      ..: {", r"row \.\.: expected a name of letters"),
        ("data: corpus", "data: ..", r"table I: data: expected the name of a data set, got '\.\.'"),
        ("vary: {", "vary: [1]\n    note: {", "table VI: vary: expected options with their values, got"),
        ("rows: {racg: {label: RACG (ours)}}", "rows: I", "table I: rows: expected parts, the number of a table above"),
        ("model.heads: [1, 2]", "model.heads: 3", "vary: model.heads: expected a list of numbers, got 3"),
        ("model.heads: [1, 2]", "model.heads: [1, 2], data.heads: [1]", "table VI: row heads_1: expected one configuration"),
        ("model.heads: [1, 2]", "model.heads: " + "[" * 3000, "expected the list of tables in YAML"),
        ("tables:", "tabels:", "expected tables, a list"),
        ("title: Methods", "title: [", "expected the list of tables in YAML"),
    ],
)
def test_a_bad_list_is_one_line(place, old, new, message, capsys):
    assert old in LIST
    Path("experiments/tables.yaml").write_text(LIST.replace(old, new, 1))
    assert main(["tables", "--list"]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert said.count("\n") == 1


def test_one_of_several_data_sets_has_a_configuration_of_its_own(place):
    table = yaml.safe_load(LIST)["tables"][1] | {"data": ["scenes", "corpus"], "config": {"corpus": "experiments/other.yaml"}}
    Path("experiments/tables.yaml").write_text(yaml.safe_dump({"tables": [table]}))
    of = {table.data: {line.config for line in table.lines} for table in read_tables(Path("experiments/tables.yaml"))}
    assert of == {"scenes": {Path("experiments/scenes.yaml")}, "corpus": {Path("experiments/other.yaml")}}


def test_folds_that_do_not_divide_are_said_before_a_run(place, capsys):
    content = yaml.safe_load(LIST)
    content["tables"] = [{**content["tables"][0], "data": "scenes", "folds": 7}]
    Path("experiments/tables.yaml").write_text(yaml.safe_dump(content))
    assert run() == []
    assert re.search(r"not run: needs .*: expected folds that divide the \d+ images of test, got 7", capsys.readouterr().err)


def test_a_seed_counts_once_and_is_no_negative(place, capsys):
    run(data="scenes", only=["IV"], seeds=[0])
    assert main(["tables", "--page", "--seeds", "0,0"]) == 0
    assert "| RACG " in Path("results/tables/IV.md").read_text()
    assert "±" not in Path("results/tables/IV.md").read_text().partition("\n\n")[2].partition("\n\n")[0]
    for bad in ("-1", "", "one"):
        with pytest.raises(SystemExit) as stopped:
            main(["tables", "--page", f"--seeds={bad}"])
        assert stopped.value.code == 2
        assert "--seeds" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_one_line(place, capsys):
    Path("afile").write_text("")
    assert main(["tables", "--page", "--out", "afile"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("racg: afile: cannot be written (")
    assert err.count("\n") == 1


def test_bad_published_figures_are_named(place):
    path = Path("experiments/published.csv")
    path.write_text(PUBLISHED.replace(",21,", ",~21,"))
    with pytest.raises(DataError, match=r"published.csv: line 2: rsum: expected percent or nothing, got '~21'"):
        read_tables(Path("experiments/tables.yaml"))
    path.write_bytes(PUBLISHED.replace("Other <1>", "Othér").encode("latin-1"))
    with pytest.raises(DataError, match=r"published.csv: expected UTF-8, got another encoding"):
        read_tables(Path("experiments/tables.yaml"))


@pytest.mark.parametrize(("value", "name"), [(0.001, "0.001"), (1e-5, "1e-05"), (3, "3"), (1.0000001, "1.0000001")])
def test_values_that_differ_have_names_that_differ(value: float, name: str):
    from racg_pl.paper.declared import _figure

    assert _figure(value) == name


def test_panels_have_ranges_of_their_own_but_none_that_shows_noise_as_an_effect():
    from types import SimpleNamespace

    from racg_pl.paper.figures import HEIGHT, _limits

    def row(rsum: float, low: float = 0.0, high: float = 0.0) -> SimpleNamespace:
        return SimpleNamespace(
            values={"rsum": SimpleNamespace(mean=rsum)}, differences={"rsum": SimpleNamespace(low=low, high=high)}
        )

    first, alike, far = row(292.0), row(293.0, -1.0, 3.0), row(250.0, -50.0, -34.0)
    low, high = _limits([first, alike], first)
    assert high - low == pytest.approx(HEIGHT)
    assert (low + high) / 2 == pytest.approx((291 + 295) / 2)
    low, high = _limits([far], first)  # the line of the method as it is stands in every panel
    assert low < 242
    assert 292 < high < 300
    assert _limits([first], None) == pytest.approx((286, 298))


def test_no_other_row_passes_for_the_reference_of_a_figure():
    from types import SimpleNamespace

    from racg_pl.paper.figures import _reference

    rows = [
        SimpleNamespace(records=records, line=SimpleNamespace(name=name), differences={})
        for name, records in (("heads_1", [{}]), ("racg", []))
    ]
    table = SimpleNamespace(reference="racg")
    assert _reference(table, rows) is None
    rows[1].records = [{}]
    assert _reference(table, rows) is rows[1]
