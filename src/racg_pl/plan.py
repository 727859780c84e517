"""What `racg reproduce` is to run: the rows of the table, the data they need, and which of them are still missing.

A row is done when its record OUT/DATA/ROW.json stands beside its ranks RUNS/DATA/ROW/ranks.npz and the fingerprint in the record,
of switches, seed, configuration, data and source, is that of now.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from racg_pl.captions import CaptionStore, ParseStore
from racg_pl.errors import DataError
from racg_pl.features import RegionStore
from racg_pl.hdf5 import one_line
from racg_pl.tables import Finished

SEED = 0
# what a number depends on besides configuration and data, which have hashes of their own
SOURCES = ("graphs", "layers", "model", "losses", "module", "data", "scoring", "metrics", "training", "scene_twins")
CHANGES = {
    "row": "its switches changed",
    "seed": "the seed changed",
    "config": "the configuration changed",
    "data": "the data changed",
    "source": "the source of the model changed",
}


class Row(NamedTuple):
    """One line of the table: the name of its files, its method, what it goes without, and the switches that are off."""

    name: str
    method: str
    without: str = ""
    off: tuple[str, ...] = ()


ROWS = (  # differences are to the first
    Row("racg", "RACG"),
    Row("no_semantic_graph", "RACG", "semantic graph", ("semantic_graph",)),
    Row("no_intramodal", "RACG", "intramodal relations", ("intramodal",)),
    Row("no_cross_graph", "RACG", "cross-graph encoder", ("cross_graph",)),
    Row("no_reconstruction", "RACG", "feature reconstruction", ("reconstruction",)),
    Row("no_multihead", "RACG", "multihead alignment", ("multihead",)),
    Row("no_aggregation", "RACG", "relation-aggregated embeddings", ("aggregation",)),
    Row(
        "scan_style",
        "SCAN-style (graph-free)",
        "all but the cross attention",
        ("semantic_graph", "intramodal", "reconstruction", "multihead", "aggregation"),
    ),
)


@dataclass(frozen=True)
class Plan:
    """What all rows share: the configuration, the data, and where things go."""

    data: str
    root: Path
    config: Path
    settings: dict[str, Any]  # what `config` says
    out: Path
    runs: Path
    split: str  # that is tested
    hashes: dict[str, Any]

    @classmethod
    def make(cls, data: str, root: Path, config: Path, out: Path, runs: Path) -> Plan:
        """Read the configuration and make sure of the data and the folders, before anything is trained."""
        settings = read_settings(config)
        options = settings.get("data") or {}
        parser = options.get("parser", "bundled")
        if data == "scenes":
            prepare_scenes(root, parser)
        train, dev, test = (options.get(key, name) for key, name in (("train", "train"), ("val", "dev"), ("test", "test")))
        if not (root / f"{test}.h5").exists():
            test = dev
        hashes: dict[str, Any] = {split: split_hashes(root, split, parser) for split in dict.fromkeys((train, dev, test))}
        vocabulary = root / "vocab.json"
        if not vocabulary.exists():
            raise DataError(f"{vocabulary}: no such file; run racg text {root} --parser {parser}")
        hashes["vocabulary"] = hashlib.sha256(vocabulary.read_bytes()).hexdigest()
        for folder in (out / data, runs / data):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{folder}: expected a folder to write to, got: {one_line(error)}; choose another") from error
        return cls(data, root, config, settings, out, runs, test, hashes)

    def folder(self, row: Row) -> Path:
        return self.runs / self.data / row.name

    def commands(self, row: Row) -> dict[str, list[str]]:
        """What `racg` is called with, by verb."""
        shared = ["--config", str(self.config), "--seed_everything", str(SEED), "--data.root", str(self.root)]
        shared += ["--out", str(self.folder(row))]
        shared += [argument for switch in row.off for argument in (f"--model.{switch}", "false")]
        if self.split != ((self.settings.get("data") or {}).get("test", "test")):
            shared += ["--data.test", self.split]
        checkpoint = self.folder(row) / "checkpoints" / "best.ckpt"
        return {
            "fit": ["fit", *shared],
            "test": ["test", *shared, "--ckpt_path", str(checkpoint), "--save_scores", "true"],
        }

    def fingerprint(self, row: Row) -> dict[str, Any]:
        """All that decides a row's numbers. Keys: those of CHANGES."""
        parts = {"config": self.settings, "data": self.hashes, "source": source_hash()}
        digests = {key: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for key, part in parts.items()}
        return {"row": list(row.off), "seed": SEED, **digests}

    def record_path(self, row: Row) -> Path:
        return self.out / self.data / f"{row.name}.json"

    def ranks_path(self, row: Row) -> Path:
        return self.folder(row) / "ranks.npz"

    def outdated(self, row: Row) -> str:
        """Why a row has to run, or ""."""
        if not self.record_path(row).exists():
            return "no result yet"
        try:
            record = json.loads(self.record_path(row).read_text(encoding="utf-8"))
            stored, ranks = record["fingerprint"], record["ranks_sha256"]
        except (ValueError, KeyError, TypeError):
            return "its result cannot be read"
        wanted = self.fingerprint(row)
        if changed := [words for key, words in CHANGES.items() if stored.get(key) != wanted[key]]:
            return ", ".join(changed)
        path = self.ranks_path(row)
        same = path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == ranks
        return "" if same else "its ranks are missing here"

    def finished(self, row: Row) -> Finished:
        """The row as it was run, under its name of now."""
        record = json.loads(self.record_path(row).read_text(encoding="utf-8"))
        with np.load(self.ranks_path(row), allow_pickle=False) as ranks:
            return Finished(record | row._asdict(), dict(ranks))


# ---- what has to be there ----


def read_settings(config: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{config}: expected a configuration in YAML, got: {one_line(error)}; give one by --config") from error
    if not isinstance(settings, dict):
        raise DataError(
            f"{config}: expected a configuration with data, model and trainer, got {settings!r}; give one by --config"
        )
    return settings


def prepare_scenes(root: Path, parser: str) -> None:
    """Scenes and their parse, where missing. Never writes over another data set."""
    from racg_pl.scenes import SPLITS, Truth, generate
    from racg_pl.text import prepare_texts

    for store in (RegionStore(path) for split in SPLITS if (path := root / f"{split}.h5").exists()):
        if store.extractor != "scenes":
            raise DataError(f"{store.path}: expected Scenes, got regions by {store.extractor!r}; name their data set by --data")
    if not all((root / f"{split}{kind}.h5").exists() for split in SPLITS for kind in ("", ".captions", ".truth")):
        say(f"generating Scenes in {root}")
        generate(root)
    prepare_texts(root, parser, progress=True, processes=os.cpu_count() or 1)
    truth = Truth(root / "test.truth.h5")
    say(f"Scenes of {truth.images} images, seed {truth.seed}, in {root}\n{truth.ceilings}")


def split_hashes(root: Path, split: str, parser: str) -> dict[str, str]:
    """Content hashes of a split's files, which must be there and belong together."""
    convert = "convert the data set first (racg convert)"
    needed = {"": convert, ".captions": convert, f".parse-{parser}": f"run racg text {root} --parser {parser}"}
    for kind, mend in needed.items():
        if not (path := root / f"{split}{kind}.h5").exists():
            raise DataError(f"{path}: no such file; {mend}")
    store, captions = RegionStore(root / f"{split}.h5"), CaptionStore(root / f"{split}.captions.h5")
    parse = ParseStore(root / f"{split}.parse-{parser}.h5")
    captions.require(store)
    parse.require(captions)
    hashes = {"features": store.sha256, "captions": captions.sha256, "parse": parse.sha256}
    if (truth := root / f"{split}.truth.h5").exists():
        hashes["truth"] = hashlib.sha256(truth.read_bytes()).hexdigest()
    return hashes


def source_hash() -> str:
    """Of SOURCES as Python reads them: comments, docstrings and layout change no number."""
    source = hashlib.sha256()
    for name in SOURCES:
        tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""
        source.update(ast.dump(tree).encode())
    return source.hexdigest()


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
