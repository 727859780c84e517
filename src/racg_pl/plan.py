"""What runs are declared, the data they need, and which of them are still missing or no longer of now.

A run is done when its record OUT/DATA/NAME.json (of seed 0; OUT/DATA/seedN/NAME.json of others) has the fingerprint of now: options,
seed, configuration, data and source.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from racg_pl.captions import CaptionStore, ParseStore
from racg_pl.errors import DataError
from racg_pl.features import RegionStore
from racg_pl.hdf5 import one_line
from racg_pl.scene_truth import Truth
from racg_pl.source import source_hashes
from racg_pl.tables import RESULT, Finished, unpacked
from racg_pl.yaml_file import load_yaml

SEED = 0
CHANGES = {
    "options": "its options changed",
    "seed": "the seed changed",
    "config": "the configuration changed",
    "data": "the data changed",
    "source": "the source changed",
}


SILENT = (
    "root",
    "workers",
    "logger",
    "log_every_n_steps",
    "enable_model_summary",
    "enable_progress_bar",
)  # options without effect


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
class Spec:
    """One run as declared: the name of its files, its configurations, later ones over earlier, options over them, and its seed."""

    name: str
    configs: tuple[Path, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  # such as {"model.heads": 2}
    seed: int = SEED
    about: Mapping[str, Any] = field(default_factory=dict)  # for people, kept in the record: method, without

    @classmethod
    def of(cls, row: Row, config: Path) -> Spec:
        about = {"method": row.method, "without": row.without, "off": list(row.off)}
        return cls(row.name, (config,), {f"model.{switch}": False for switch in row.off}, SEED, about)

    @property
    def arguments(self) -> list[str]:
        """What `racg fit` and `racg test` both take."""
        configs = [argument for path in self.configs for argument in ("--config", str(path))]
        options = [argument for name, value in self.options.items() for argument in (f"--{name}", _argument(value))]
        return [*configs, "--seed_everything", str(self.seed), *options]

    @property
    def settings(self) -> dict[str, Any]:
        """What all of it comes to, but for the seed, for where things are, and for what only speaks to people."""
        settings = merged_arguments([argument for path in self.configs for argument in ("--config", str(path))])
        for name, value in self.options.items():
            settings = merged(settings, _nested(name, value))
        return {
            part: {key: value for key, value in (content or {}).items() if key not in SILENT}
            if isinstance(content, Mapping | None)
            else content
            for part, content in settings.items()
            if part not in ("seed_everything", "out")
        }

    @property
    def method(self) -> str:
        return str((self.settings.get("model") or {}).get("method", "racg"))


@dataclass(frozen=True)
class Plan:
    """What all runs on a data set share: the data, and where things go."""

    data: str
    root: Path
    out: Path
    runs: Path
    split: str  # that is tested
    declared: str  # the split that the configuration would test
    hashes: dict[str, Any]

    @classmethod
    def make(cls, data: str, root: Path, settings: Mapping[str, Any], out: Path, runs: Path, generate: bool = True) -> Plan:
        """Make sure of the data, before anything is trained. Scenes are generated where missing, if they may be."""
        options = settings.get("data") or {}
        parser = options.get("parser", "bundled")
        if data == "scenes" and generate:
            prepare_scenes(root, parser)
        train, dev, declared = (options.get(key, name) for key, name in (("train", "train"), ("val", "dev"), ("test", "test")))
        test = declared if (root / f"{declared}.h5").exists() else dev
        hashes: dict[str, Any] = {split: split_hashes(root, split, parser) for split in dict.fromkeys((train, dev, test))}
        hashes["vocabulary"] = vocabulary_hash(root, parser)
        require_order(CaptionStore(root / f"{test}.captions.h5"))
        return cls(data, root, out, runs, test, declared, hashes)

    def folder(self, spec: Spec) -> Path:
        return self.runs / self.data / _place(spec)

    def record_path(self, spec: Spec) -> Path:
        return self.out / self.data / f"{_place(spec)}.json"

    def checkpoint(self, spec: Spec) -> Path:
        return self.folder(spec) / "checkpoints" / "best.ckpt"

    def make_folders(self, specs: Sequence[Spec]) -> None:
        for folder in dict.fromkeys(path for spec in specs for path in (self.record_path(spec).parent, self.folder(spec))):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{folder}: expected a folder to write to, got: {one_line(error)}; choose another") from error

    def commands(self, spec: Spec, score_mb: int | None = None) -> dict[str, list[str]]:
        """What `racg` is called with, by verb.  score_mb: memory of evaluation, where its default is too little."""
        shared = [*spec.arguments, "--data.root", str(self.root), "--out", str(self.folder(spec))]
        if self.split != self.declared:
            shared += ["--data.test", self.split]
        if score_mb is not None:
            shared += ["--score_memory_mb", str(score_mb)]
        return {
            "fit": ["fit", *shared],
            "test": ["test", *shared, "--ckpt_path", str(self.checkpoint(spec)), "--save_scores", "true"],
        }

    def fingerprint(self, spec: Spec) -> dict[str, Any]:
        """All that decides a run's numbers. Keys: those of CHANGES."""
        parts = {"config": spec.settings, "data": self.hashes}
        digests = {key: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for key, part in parts.items()}
        return {"options": dict(spec.options), "seed": spec.seed, **digests, "source": source_hashes(spec.method)}

    def outdated(self, spec: Spec) -> str:
        """Why a run has to be made (anew), or ""."""
        try:
            record = read_record(self.record_path(spec))
        except DataError:
            return "its result cannot be read"
        return "no result yet" if record is None else changes(record["fingerprint"], self.fingerprint(spec))

    def finished(self, row: Row, spec: Spec) -> Finished:
        """The row as it was run, under its name of now."""
        record = read_record(self.record_path(spec))
        assert record is not None
        return Finished(record | row._asdict(), unpacked(record["found"]))


def changes(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In words what of a fingerprint is no longer as stored, or ""."""
    words = []
    for key, what in CHANGES.items():
        if (was := stored.get(key)) != (now := wanted[key]):
            if key == "source" and isinstance(was, dict):
                files = [name for name in sorted(now) if was.get(name) != now[name]]
                if not files:  # a file that the run no longer goes through
                    continue
                what += f" ({', '.join(files)})"
            words.append(what)
    return ", ".join(words)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a run; None where there is none. Raises: DataError where it is none of this kind, or damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != RESULT or not {"fingerprint", "found", "metrics", "seed", "commands"} <= record.keys():
            raise ValueError(f"schema {record['schema']}")
        return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected the record of a run, got: {one_line(error)}; delete it and run again") from error


def _place(spec: Spec) -> str:
    return spec.name if spec.seed == SEED else f"seed{spec.seed}/{spec.name}"


# ---- configurations ----


def read_settings(config: Path, mend: str = "give one by --config") -> dict[str, Any]:
    try:
        settings = load_yaml(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{config}: expected a configuration in YAML, got: {one_line(error)}; {mend}") from error
    if not isinstance(settings, dict):
        raise DataError(f"{config}: expected a configuration with data, model and trainer, got {settings!r}; {mend}")
    require_parts(settings, str(config))
    return settings


def require_parts(settings: Mapping[str, Any], where: str) -> None:
    """Raises: DataError where data, model or trainer is a value and not options with theirs."""
    for part in ("data", "model", "trainer"):
        if not isinstance(value := settings.get(part), Mapping | None):
            raise DataError(f"{where}: {part}: expected options with their values, got {value!r}; write {part}.OPTION")


def merged_arguments(arguments: Sequence[str], where: str = "racg") -> dict[str, Any]:
    """What configurations and options come to, as nested dictionaries; enough to tell which data a run reads and what changed.

    where: what gives the arguments, in messages.
    """
    settings: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        option, equals, value = rest.pop(0).removeprefix("--").partition("=")
        if not equals:
            value = rest.pop(0) if rest else ""
        if option == "config":
            above = read_settings(Path(value))
        else:
            above = _nested(option, _value(value, f"{where}: {option}"))
            require_parts(above, where)
        settings = merged(settings, above)
    return settings


def _value(text: str, where: str) -> Any:
    """What an argument comes to."""
    try:
        return load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        raise DataError(f"{where}: expected a value in YAML, got {text!r} ({one_line(error)}); correct it") from error


def merged(below: Any, above: Any) -> Any:
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}
    return above


def _nested(option: str, value: Any) -> Any:
    for name in reversed(option.split(".")):
        value = {name: value}
    return value


def _argument(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


# ---- what has to be there ----


def prepare_scenes(root: Path, parser: str) -> None:
    """Scenes and their parse, where missing. Never writes over another data set."""
    from racg_pl.scenes import SPLITS, generate, refuse_others
    from racg_pl.text_files import prepare_texts

    refuse_others(root, "name their data set by --data")
    if not all((root / f"{split}{kind}.h5").exists() for split in SPLITS for kind in ("", ".captions", ".truth")):
        say(f"generating Scenes in {root}")
        generate(root)
    prepare_texts(root, parser, progress=True, processes=os.cpu_count() or 1)
    truth = Truth(root / "test.truth.h5")
    say(f"Scenes of {truth.images} images, seed {truth.seed}, in {root}\n{truth.ceilings}")


def require_float32() -> None:
    """Raises: DataError where the environment asks runs for less, of which their records would say nothing."""
    if (precision := os.environ.get("RACG_MATMUL", "highest")) != "highest":
        raise DataError(f"RACG_MATMUL: expected none where runs are recorded as float32's, got {precision!r}; unset it")


def require_order(captions: CaptionStore) -> None:
    """Raises: DataError unless captions come in the order of their images, by which records keep what was found."""
    if (np.diff(captions.image) < 0).any():
        raise DataError(f"{captions.path}: expected captions in the order of their images, got others; write them so")


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
        Truth(truth).require(captions)
        hashes["truth"] = hashlib.sha256(truth.read_bytes()).hexdigest()
    return hashes


def vocabulary_hash(root: Path, parser: str) -> str:
    """sha256 of vocab.json, which must be there."""
    path = root / "vocab.json"
    if not path.exists():
        raise DataError(f"{path}: no such file; run racg text {root} --parser {parser}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
