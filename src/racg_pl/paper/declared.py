"""experiments/tables.yaml: the tables as a declared list.

tables:
  - table: IV                        number; one of several data sets makes a table each
    title: "…"                       note: "…" goes below it
    kind: recalls                    recalls, sensitivity, cost, pictures or grounding
    data: flickr8k                   or a list; its folder is data/NAME
    config: experiments/x.yaml       of all rows; default experiments/DATA.yaml; {DATA: experiments/x.yaml} for one of several data sets
    seeds: [0, 1, 2]
    reference: racg                  the row that differences are to
    rows:
      racg: {label: RACG}
      saf: {label: SAF, config: experiments/peers/saf.yaml, set: {model.depth: 2}, seeds: [0]}
    published: flickr30k_1k          rows of experiments/published.csv to stand beside them
    folds: 5                         of consecutive images, averaged: COCO 1K
    vary:                            of a sensitivity: an option and its values; with others set along with it
      model.heads: [1, 2, 4]
      model.margin: {values: [0.1, 0.2], set: {model.loss: triplet}}

`rows: parts` are RACG's six parts, plan.ROWS; `rows: IV` are those of another table. A row is a run for each seed; rows of one name on
one data set are one run in all tables.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from racg_pl.errors import DataError, is_name
from racg_pl.hdf5 import one_line
from racg_pl.plan import ROWS, Spec, require_parts
from racg_pl.yaml_file import load_yaml

KINDS = ("recalls", "sensitivity", "cost", "pictures", "grounding")
KEYS = {"table", "title", "note", "kind", "data", "config", "seeds", "reference", "rows", "published", "folds", "vary"}
ROW_KEYS = {"label", "without", "config", "set", "seeds"}
PUBLISHED = (
    "dataset",
    "method",
    "text_encoder",
    "models",
    "i2t_r1",
    "i2t_r5",
    "i2t_r10",
    "t2i_r1",
    "t2i_r5",
    "t2i_r10",
    "rsum",
)


class Point(NamedTuple):
    """Where on an axis of a sensitivity a row stands."""

    option: str
    value: float


@dataclass(frozen=True)
class Line:
    """A declared row: the name of its runs' files, what it is called, how it is run, and where it stands in a sensitivity."""

    name: str
    label: str
    without: str
    config: Path
    options: Mapping[str, Any]
    seeds: tuple[int, ...]
    points: tuple[Point, ...] = ()

    @property
    def title(self) -> str:
        """What it is called outside its table, where no column says what it is without."""
        return f"{self.label} without {self.without}" if self.without else self.label

    def spec(self, seed: int) -> Spec:
        return Spec(self.name, (self.config,), self.options, seed, {"method": self.label, "without": self.without})


@dataclass(frozen=True)
class Table:
    """A declared table on one data set."""

    number: str
    title: str
    kind: str
    data: str
    reference: str
    lines: tuple[Line, ...]
    note: str = ""
    published: str = ""
    folds: int = 1
    split: bool = False  # one of several of this number
    figures: tuple[Mapping[str, str], ...] = field(default=())  # published rows

    @property
    def id(self) -> str:
        """The name of its files."""
        return f"{self.number}_{self.data}" if self.split else self.number


def read_tables(path: Path) -> list[Table]:
    """Raises: DataError naming the first table, row or key that is not as it has to be."""
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path}: expected the list of tables in YAML, got: {one_line(error)}; give one by --tables") from error
    if not isinstance(content, dict) or not isinstance(content.get("tables"), list):
        raise DataError(f"{path}: expected tables, a list; see racg_pl/paper/declared.py")
    published = read_published(path.with_name("published.csv"))
    declared: dict[str, Mapping[str, Any]] = {}
    tables: list[Table] = []
    for place, entry in enumerate(content["tables"]):
        where = f"{path}: table {entry.get('table', place) if isinstance(entry, dict) else place}"
        _keys(entry, KEYS, {"table", "title", "kind", "data", "rows"}, where)
        if entry["kind"] not in KINDS:
            raise DataError(f"{where}: expected the kind {', '.join(KINDS)}, got {entry['kind']!r}; choose one")
        if not re.fullmatch(r"[\w-]+", str(entry["table"])) or str(entry["table"]) in declared:
            raise DataError(f"{where}: expected a number of its own, of letters and digits; rename it")
        sets = entry["data"] if isinstance(entry["data"], list) else [entry["data"]]
        if isinstance(entry.get("config"), dict):
            _keys(entry["config"], set(map(str, sets)), set(), f"{where}: config")
        for data in sets:
            if not isinstance(data, str) or not is_name(data):
                raise DataError(f"{where}: data: expected the name of a data set, got {data!r}; its folder is data/NAME")
            tables.append(_table(entry, data, len(sets) > 1, declared, published, where))
        declared[str(entry["table"])] = entry
    _one_run_a_name(tables, path)
    return tables


def _table(
    entry: Mapping[str, Any],
    data: str,
    split: bool,
    declared: Mapping[str, Mapping[str, Any]],
    published: Mapping[str, Sequence[Mapping[str, str]]],
    where: str,
) -> Table:
    seeds = _seeds(entry.get("seeds", [0]), where)
    given = entry.get("config")
    if isinstance(given, dict):
        given = given.get(data)
    config = _config(f"experiments/{data}.yaml" if given is None else given, where)
    lines = [_line(name, row, config, seeds, f"{where}: row {name}") for name, row in _rows(entry, declared, where).items()]
    lines += _varied(entry.get("vary") or {}, lines, where)
    reference = entry.get("reference", lines[0].name)
    if reference not in [line.name for line in lines]:
        raise DataError(f"{where}: reference: expected the name of a row, got {reference!r}; choose one")
    key = entry.get("published") or ""
    folds = entry.get("folds", 1)
    if type(folds) is not int or folds < 1:
        raise DataError(f"{where}: folds: expected a whole number from 1, got {folds!r}")
    if key and (not isinstance(key, str) or key not in published):
        raise DataError(f"{where}: published: expected a dataset of published.csv ({', '.join(published)}), got {key!r}")
    return Table(
        str(entry["table"]), str(entry["title"]), entry["kind"], data, reference, tuple(_merged(lines, where)), str(entry.get("note", "")),
        key, folds, split, tuple(published.get(key, ())),
    )  # fmt: skip


def _rows(entry: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, Mapping[str, Any]]:
    rows = entry["rows"]
    if rows == "parts":
        return {
            row.name: {"label": row.method, "without": row.without, "set": {f"model.{switch}": False for switch in row.off}}
            for row in ROWS
        }
    if isinstance(rows, str):
        if rows not in declared:
            raise DataError(f"{where}: rows: expected parts, the number of a table above, or rows by name, got {rows!r}")
        return _rows(declared[rows], declared, where)
    if not isinstance(rows, dict) or not rows:
        raise DataError(f"{where}: rows: expected at least one row by its name, got {rows!r}")
    return {str(name): row or {} for name, row in rows.items()}


def _line(name: str, row: Mapping[str, Any], config: Path, seeds: tuple[int, ...], where: str) -> Line:
    _keys(row, ROW_KEYS, set(), where)
    if not re.fullmatch(r"[\w.-]+", name) or not is_name(name):
        raise DataError(f"{where}: expected a name of letters, digits, points and dashes, for its files; rename it")
    own = _seeds(row["seeds"], where) if "seeds" in row else seeds
    options = _options(row, where)
    return Line(
        name, str(row.get("label", name)), str(row.get("without", "")), _config(row.get("config", config), where), options, own
    )


def _varied(vary: Mapping[str, Any], lines: Sequence[Line], where: str) -> list[Line]:
    """A row for each value of each option, from the first row. A value that the first row has anyway is that row."""
    varied = []
    if not isinstance(vary, dict) or not all(isinstance(option, str) for option in vary):
        raise DataError(f"{where}: vary: expected options with their values, got {vary!r}; see racg_pl/paper/declared.py")
    for option, given in vary.items():
        given = given if isinstance(given, dict) else {"values": given}
        _keys(given, {"values", "set"}, {"values"}, f"{where}: vary: {option}")
        base, along = lines[0], _options(given, f"{where}: vary: {option}")
        if not isinstance(given["values"], list):
            raise DataError(f"{where}: vary: {option}: expected a list of numbers, got {given['values']!r}")
        require_parts({option: given["values"]}, f"{where}: vary")
        for value in given["values"]:
            if type(value) not in (int, float):
                raise DataError(f"{where}: vary: {option}: expected numbers, got {value!r}; 2e-4 is written 2.0e-4")
            options = {**base.options, **along, option: value}
            point, short = (Point(option, value),), option.rpartition(".")[2]
            if not along and _default(base, option) == value:
                varied.append(Line(base.name, base.label, base.without, base.config, base.options, base.seeds, point))
            else:
                label = f"{base.label}, {short.replace('_', ' ')} {_figure(value)}"
                varied.append(Line(f"{short}_{_figure(value)}", label, "", base.config, options, base.seeds, point))
    return varied


def _figure(value: float) -> str:
    """Short where that says it all: 0.001 and 1e-05, but 1.0000001."""
    return short if float(short := f"{value:g}") == value else repr(value)


def _default(line: Line, option: str) -> Any:
    """The value of an option of the model in a row that does not vary it."""
    import inspect

    from racg_pl.module import RACGModule

    part, _, name = option.partition(".")
    settings = (line.spec(0).settings.get(part) or {}) if line.config.exists() else {}
    if name in settings or part != "model":
        return settings.get(name)
    parameter = inspect.signature(RACGModule.__init__).parameters.get(name)
    return None if parameter is None else parameter.default


def _merged(lines: Sequence[Line], where: str) -> list[Line]:
    """One row a name, with all of its points. Raises: DataError where two runs have one name."""
    kept: dict[str, Line] = {}
    for line in lines:
        before = kept.get(line.name, line)
        if (before.config, dict(before.options)) != (line.config, dict(line.options)):
            raise DataError(
                f"{where}: row {line.name}: expected one configuration and one set of options, since rows of one name are one run, "
                f"got {dict(before.options)} and {dict(line.options)}; rename the row, or vary options of different names"
            )
        points = dict.fromkeys((*before.points, *line.points))
        kept[line.name] = Line(line.name, before.label, before.without, line.config, line.options, line.seeds, tuple(points))
    return list(kept.values())


def _one_run_a_name(tables: Sequence[Table], path: Path) -> None:
    seen: dict[tuple[str, str], tuple[Table, Line]] = {}
    for table in tables:
        for line in table.lines:
            other, first = seen.setdefault((table.data, line.name), (table, line))
            if (first.config, dict(first.options)) != (line.config, dict(line.options)):
                raise DataError(
                    f"{path}: table {table.number}: row {line.name}: expected the configuration and options that it has in table "
                    f"{other.number}, since rows of one name are one run, got others; rename one"
                )


def read_published(path: Path) -> dict[str, list[Mapping[str, str]]]:
    """Published figures by data set, as they stand in the file, empty where nobody knows them."""
    if not path.exists():
        return {}
    by_set: dict[str, list[Mapping[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for place, row in enumerate(_decoded(csv.DictReader(file), path), start=2):
            where = f"{path}: line {place}"
            if missing := [name for name in (*PUBLISHED, "read_from") if row.get(name) is None]:
                raise DataError(f"{where}: expected the columns {', '.join(PUBLISHED)} and read_from, {missing[0]} is missing")
            for name in PUBLISHED[4:]:
                if row[name] and not re.fullmatch(r"\d+(\.\d+)?", row[name]):
                    raise DataError(f"{where}: {name}: expected percent or nothing, got {row[name]!r}; correct it")
            by_set.setdefault(row["dataset"], []).append(row)
    return by_set


def _decoded(rows: Iterator[dict[str, str]], path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, got another encoding ({one_line(error)}); save it anew") from error


def _config(given: object, where: str) -> Path:
    if not isinstance(given, str | Path):
        raise DataError(f"{where}: config: expected the path of a configuration, got {given!r}")
    return Path(given)


def _options(given: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    options = given.get("set") or {}
    if not isinstance(options, dict) or not all(isinstance(option, str) for option in options):
        raise DataError(f"{where}: set: expected options with their values, got {options!r}")
    require_parts(options, f"{where}: set")
    return options


def _seeds(given: object, where: str) -> tuple[int, ...]:
    if not isinstance(given, list) or not given or any(type(seed) is not int or seed < 0 for seed in given):
        raise DataError(f"{where}: seeds: expected a list of whole numbers, such as [0, 1, 2], got {given!r}")
    return tuple(dict.fromkeys(given))


def _keys(given: object, allowed: set[str], needed: set[str], where: str) -> None:
    if not isinstance(given, dict):
        raise DataError(f"{where}: expected keys with values, got {type(given).__name__}; see racg_pl/paper/declared.py")
    for keys, fault in ((needed - given.keys(), "is missing"), ({str(key) for key in given} - allowed, "is unknown")):
        if keys:
            raise DataError(f"{where}: expected the keys {', '.join(sorted(allowed))}, but {min(keys)!r} {fault}")
