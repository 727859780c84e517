"""A corpus by its recipe: what is made, what stays, what is refused, and what a killed run leaves to the next."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

import layouts
from racg_pl import card
from racg_pl import prepare as prepare_module
from racg_pl.captions import CaptionStore
from racg_pl.check import check
from racg_pl.cli import main
from racg_pl.convert import convert, store_arrays
from racg_pl.errors import DataError
from racg_pl.features import RegionStore
from racg_pl.prepare import prepare
from racg_pl.recipe import Recipe, read_recipe

RECIPES = Path(__file__).parents[1] / "experiments" / "data"
PHOTOS = layouts.corpus(24)
HELD = {"train": ("train", "restval"), "dev": ("val",), "test": ("test",)}
COUNTS = {name: sum(photo.split in splits for photo in PHOTOS) for name, splits in HELD.items()}


def brought(here: Path, photos: list[layouts.Photo] = PHOTOS, **changes: Any) -> Path:
    """A TSV, Karpathy's captions and the recipe of both, some of its keys changed."""
    here.mkdir(parents=True, exist_ok=True)
    layouts.tsv(here / "a.tsv", photos)
    layouts.karpathy(here / "c.json", photos)
    said = {
        "name": "small",
        "regions": 4,
        "dim": layouts.DIM,
        "per_image": 5,
        "threshold": 2,
        "extractor": "made",
        "dtype": "auto",
    }
    said["bring"] = [
        {"path": "a.tsv", "what": "region features", "where": "nowhere.example/features"},
        {"path": "c.json", "what": "captions", "where": "nowhere.example/captions"},
    ]
    said["splits"] = {
        name: {"source": "a.tsv", "captions": "c.json", "split": "val" if name == "dev" else name}
        | {"images": sum(photo.split in splits for photo in photos)}
        for name, splits in HELD.items()
    }
    (here / "recipe.yaml").write_text(yaml.safe_dump(said | changes, sort_keys=False))
    return here / "recipe.yaml"


def killed(*_: object) -> None:
    """As a worker, where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def contents(root: Path) -> dict[str, bytes]:
    """Every file but the journal, which knows when sources were changed."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "prepare.json"
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of what was brought, and the root made of it. Read only."""
    here = tmp_path_factory.mktemp("prepare")
    prepare(brought(here / "source"), here / "root", here / "source", "chain", progress=False)
    return here / "source", here / "root"


def test_everything_is_made_as_by_single_commands(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    source, root = prepared
    made = contents(root)
    files = {f"{name}{end}" for name in HELD for end in (".h5", ".captions.h5", ".parse-chain.h5")}
    assert set(made) == files | {"vocab.json", "card/README.md", "card/histograms.png", "card/boxes.png"}
    for name in (*files, "vocab.json"):
        check(root / name)
    for name, split in (("train", "train"), ("dev", "val"), ("test", "test")):
        out = tmp_path / f"{name}.h5"
        convert(source / "a.tsv", out, captions=source / "c.json", split=split, per_image=5, extractor="made", progress=False)
        assert made[f"{name}.h5"] == out.read_bytes()
        assert made[f"{name}.captions.h5"] == out.with_suffix(".captions.h5").read_bytes()
        assert len(RegionStore(out)) == COUNTS[name]


def test_the_same_input_gives_the_same_bytes(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    source, root = prepared
    prepare(source / "recipe.yaml", tmp_path / "again", source, "chain", progress=False)
    assert contents(tmp_path / "again") == contents(root)


def phrases(here: Path, image: str, first: str = "a word") -> None:
    entry = {"caption": 0, "phrase": first, "type": "people", "boxes": [[0.0, 0.0, 1.0, 1.0]]}
    (here / "p.json").write_text(json.dumps({image: [entry]}))


def test_phrases_are_brought_if_they_speak_of_their_split(tmp_path: Path) -> None:
    recipe, root = brought(tmp_path / "s"), tmp_path / "root"
    said = yaml.safe_load(recipe.read_text())
    said["splits"]["dev"]["phrases"] = "p.json"

    def again() -> list[str]:
        return prepare(recipe, root, tmp_path / "s", "chain", progress=False).splitlines()

    assert not any(line.startswith("phrases:") for line in again())
    recipe.write_text(yaml.safe_dump(said))
    with pytest.raises(DataError, match=r"p\.json: expected phrases of dev, as .*recipe.yaml says, got no such file"):
        again()
    phrases(tmp_path / "s", "nowhere")
    with pytest.raises(DataError, match=r"p\.json: nowhere: expected an image of .*dev\.h5"):
        again()
    assert not (root / "dev.phrases.json").exists()
    phrases(tmp_path / "s", RegionStore(root / "dev.h5").ids[0])
    assert again()[0].startswith("converted: nothing")  # phrases decide no features
    assert (root / "dev.phrases.json").read_bytes() == (tmp_path / "s" / "p.json").read_bytes()
    assert "phrases: nothing, all up to date" in again()
    phrases(tmp_path / "s", RegionStore(root / "dev.h5").ids[0], "others")
    assert "phrases: dev.phrases.json" in again()


def test_card_counts_and_hashes(prepared: tuple[Path, Path]) -> None:
    _, root = prepared
    card = (root / "card" / "README.md").read_text()
    for name, count in COUNTS.items():
        assert re.search(rf"^\| {name} \| {count} \| \d to \d.* \| {5 * count} \| 5 \| ", card, re.MULTILINE)
        assert f"| {name}.h5 | `{RegionStore(root / f'{name}.h5').sha256}` |" in card
        assert f"| {name}.captions.h5 | `{CaptionStore(root / f'{name}.captions.h5').sha256}` |" in card
    for name in re.findall(r"!\[.*?\]\((.*?)\)", card):
        assert (root / "card" / name).read_bytes().startswith(b"\x89PNG")


def test_what_is_up_to_date_stays_and_the_rest_is_made_again(tmp_path: Path) -> None:
    recipe, root = brought(tmp_path / "source"), tmp_path / "root"
    prepare(recipe, root, recipe.parent, "chain", progress=False)
    expected, before = contents(root), {path: path.stat().st_mtime_ns for path in root.glob("*.h5")}
    said = prepare(recipe, root, recipe.parent, "chain", progress=False)
    assert said.count("nothing, all up to date") == 3
    assert {path: path.stat().st_mtime_ns for path in root.glob("*.h5")} == before
    (root / "dev.captions.h5").unlink()
    (root / "test.parse-chain.h5").write_bytes(b"damaged")
    (root / ".train.h5.tmp-99999999").write_bytes(b"left by a killed run")
    (root / ".vocab.json.unfinished").write_bytes(b"")
    (root / ".scenes-99999999.unfinished").mkdir()  # racg scenes removes its own
    said = prepare(recipe, root, recipe.parent, "chain", progress=False)
    assert "converted: dev\nparsed: test.parse-chain.h5\n" in said
    assert contents(root) == expected
    brought(tmp_path / "source", per_image=2)
    assert "converted: train, dev, test\n" in prepare(recipe, root, recipe.parent, "chain", progress=False)
    assert len(CaptionStore(root / "dev.captions.h5")) == 2 * COUNTS["dev"]
    (root / "prepare.json").write_text('{"schema": "racg_pl.prepare/1"}')  # damaged: all is made again
    assert "converted: train, dev, test\n" in prepare(recipe, root, recipe.parent, "chain", progress=False)
    layouts.tsv(recipe.parent / "a.tsv", [photo._replace(features=photo.features + 1) for photo in PHOTOS])
    assert "converted: train, dev, test\n" in prepare(recipe, root, recipe.parent, "chain", progress=False)
    (row,) = [photo for photo in PHOTOS if photo.name == RegionStore(root / "dev.h5").ids[0]]
    np.testing.assert_array_equal(RegionStore(root / "dev.h5").read([0]).features[0, : len(row.features)], row.features + 1)


def test_what_was_damaged_after_it_was_validated_is_made_again(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    source, root = prepared[0], Path(shutil.copytree(prepared[1], tmp_path / "root"))
    expected = contents(root)
    for name, field in (("dev.h5", "features"), ("train.captions.h5", "image"), ("test.parse-chain.h5", "heads")):
        with h5py.File(root / name, "r+") as file:
            file[field][...] = file[field][...] * 0
        with pytest.raises(DataError):
            check(root / name)
    said = prepare(source / "recipe.yaml", root, source, "chain", progress=False)
    assert said.splitlines()[:2] == ["converted: train, dev", "parsed: test.parse-chain.h5"]
    assert "validated: train.h5, train.captions.h5, " in said
    assert contents(root) == expected


def test_a_file_that_a_killed_run_began_late_goes_too(
    prepared: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, root = prepared
    write_card = card.write_card

    def meanwhile(recipe: Recipe, root: Path, parser: str) -> Path:
        (root / ".test.h5.tmp-99999999").write_bytes(b"begun by a worker whose parent was killed")
        return write_card(recipe, root, parser)

    monkeypatch.setattr(card, "write_card", meanwhile)
    prepare(source / "recipe.yaml", tmp_path, source, "chain", progress=False)
    assert contents(tmp_path) == contents(root)


DAMAGED = {
    "a missing file": (
        lambda here: (here / "a.tsv").unlink(),
        {},
        "a.tsv: expected region features, got no such file or folder; get ",
    ),
    "both missing": (
        lambda here: [(here / name).unlink() for name in ("a.tsv", "c.json")],
        {},
        "nowhere.example/features, or name another folder with --source; missing too: c.json",
    ),
    "no recipe": (
        lambda here: (here / "recipe.yaml").unlink(),
        {},
        "recipe.yaml: cannot be read (No such file or directory); check the path\n",
    ),
    "another width": (None, {"dim": 7}, "a.tsv: expected 7 dim, as "),
    "more regions": (None, {"regions": 3}, "a.tsv: expected at most 3 regions, as "),
    "fewer captions": (None, {"per_image": 6}, "expected at least 6 captions, got 5"),
    "a key that is none": (None, {"widht": 7}, "but 'widht' is unknown"),
    "a number in quotes": (None, {"dim": "6"}, "dim: expected a whole number of at least 1, got '6'"),
    "no splits": (None, {"splits": {}}, "expected bring as a list and splits as names with a source each"),
    "another count": (
        None,
        {"splits": {"train": {"source": "a.tsv", "captions": "c.json", "split": "train", "images": 99}}},
        "c.json: expected 99 images in split train, as ",
    ),
    "no train": (
        None,
        {"splits": {"dev": {"source": "a.tsv", "captions": "c.json", "split": "val", "images": COUNTS["dev"]}}},
        "splits: expected train among them",
    ),
    "no date at all": (
        lambda here: (here / "recipe.yaml").write_text("name: 2020-13-45"),
        {},
        "recipe.yaml: expected YAML, got something else",
    ),
    "no YAML": (lambda here: (here / "recipe.yaml").write_text("a: [1"), {}, "recipe.yaml: expected YAML, got something else"),
    "code in YAML": (
        lambda here: (here / "recipe.yaml").write_text("!!python/object/apply:os.mkdir [bomb]"),
        {},
        "recipe.yaml: expected YAML, got something else (could not determine a constructor",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_one_line_before_anything_is_written(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, changes, message = DAMAGED[case]
    recipe, root = brought(tmp_path / "source", **changes), tmp_path / "root"
    if damage:
        damage(recipe.parent)
    assert main(["prepare", str(recipe), "--root", str(root), "--source", str(recipe.parent)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("racg: ")
    assert err.count("\n") == 1
    assert message in err
    assert not root.exists()


def test_a_parser_that_is_not_there_is_said_before_the_long_step(tmp_path: Path) -> None:
    recipe, root = brought(tmp_path / "source"), tmp_path / "root"
    with pytest.raises(DataError, match="parser 'nope': expected bundled, chain or an installed"):
        prepare(recipe, root, recipe.parent, "nope", progress=False)
    assert not root.exists()


def test_a_card_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    recipe, root = brought(tmp_path / "source"), tmp_path / "root"
    root.mkdir()
    (root / "card").write_text("")
    with pytest.raises(DataError, match=r"card: cannot be written \(File exists\)"):
        prepare(recipe, root, recipe.parent, "chain", progress=False)


def test_a_split_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    bad = next(k for k, photo in enumerate(PHOTOS) if photo.split == "val")
    photos = [p._replace(features=p.features * np.float32(np.nan)) if k == bad else p for k, p in enumerate(PHOTOS)]
    recipe, root = brought(tmp_path / "source", photos), tmp_path / "root"
    with pytest.raises(DataError, match="expected finite features, got nan"):
        prepare(recipe, root, recipe.parent, "chain", progress=False)
    assert {path.name for path in root.iterdir()} <= {"prepare.json"} | {
        f"{name}{end}" for name in ("train", "test") for end in (".h5", ".captions.h5")
    }


def test_a_killed_worker_is_one_line_and_leaves_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, root = brought(tmp_path / "source"), tmp_path / "root"
    monkeypatch.setattr(prepare_module, "_begin", killed)
    with pytest.raises(DataError, match="root: a process that converts was killed, perhaps for want of memory; run it again"):
        prepare(recipe, root, recipe.parent, "chain", progress=False)
    monkeypatch.undo()
    assert "converted: train, dev, test\n" in prepare(recipe, root, recipe.parent, "chain", progress=False)


def test_an_interruption_is_left_to_the_parent() -> None:
    """Ctrl-C reaches every process of the terminal, and each that does not ignore it prints a traceback."""
    told, stop = prepare_module.CONTEXT.Queue(), prepare_module.CONTEXT.Event()
    with ProcessPoolExecutor(1, prepare_module.CONTEXT, prepare_module._begin, (told, stop, os.getpid())) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


def test_regions_of_another_data_set_are_not_written_over(tmp_path: Path) -> None:
    recipe, root = brought(tmp_path / "source"), tmp_path / "root"
    mine = np.ones((2, 3, 8), np.float32)
    store_arrays(root / "train.h5", mine, np.tile([0.0, 0.0, 0.5, 0.5], (2, 3, 1)), [["a"], ["b"]], extractor="mine")
    before = contents(root)
    with pytest.raises(
        DataError, match=r"train\.h5: expected no file, or regions of a\.tsv by 'made', got regions of arrays by 'mine'"
    ):
        prepare(recipe, root, tmp_path / "source", "chain", progress=False)
    assert contents(root) == before


def test_two_do_not_work_in_one_folder(tmp_path: Path) -> None:
    recipe, root = brought(tmp_path / "source"), tmp_path / "root"
    root.mkdir()
    folder = os.open(root, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(DataError, match="another racg prepare works in this folder"):
        prepare(recipe, root, recipe.parent, "chain", progress=False)
    os.close(folder)


@pytest.mark.parametrize("sign", ["train.h5", "train.captions.h5", "train.parse-chain.h5", "card"])
def test_killed_it_goes_on_and_ends_in_the_same_bytes(sign: str, prepared: tuple[Path, Path], tmp_path: Path) -> None:
    source, root = prepared
    command = [sys.executable, "-m", "racg_pl.cli", "prepare", source / "recipe.yaml", "--source", source, "--parser", "chain"]
    started = subprocess.Popen([*command, "--root", tmp_path], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (tmp_path / sign).exists() and started.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert (tmp_path / sign).exists()
    for path in tmp_path.glob("[!.]*.h5"):
        check(path)
    prepare(source / "recipe.yaml", tmp_path, source, "chain", progress=False)
    assert contents(tmp_path) == contents(root)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("flickr30k", (29000, 1014, 1000)), ("coco", (113287, 5000, 5000)), ("flickr8k", (6000, 1000))],
)
def test_shipped_recipes(name: str, counts: tuple[int, ...]) -> None:
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    assert recipe.name == name
    assert tuple(split.images for split in recipe.splits.values()) == counts
    needed = {split.source for split in recipe.splits.values()} | {split.captions for split in recipe.splits.values()} - {None}
    assert needed == {item.path for item in recipe.bring}
