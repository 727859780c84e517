"""A sweep as its file says it: the format of `wandb sweep`, held to what means the same with W&B and without it.

Traps, each refused in a line: `2e-4`, which YAML reads as text; an unquoted null, which W&B passes on as "None"; `${args_no_hyphens}`,
whose options racg does not take.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from racg_pl.errors import DataError, is_name
from racg_pl.plan import read_settings

PREFIX = ("${env}", "${interpreter}", "-m", "${program}")
PROGRAM = "racg_pl.cli"
KEYS = {"name", "description", "project", "entity", "program", "method", "metric", "parameters", "command", "run_cap"}
DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")
DIGITS = 4  # significant ones of a number drawn
END = 1 << 53  # of what is drawn: up to here a float holds every whole number
METRICS = ("dev/rsum", *(f"dev/{d}_{what}" for d in ("i2t", "t2i") for what in ("r1", "r5", "r10", "median")))

Value = str | int | float | bool
Point = dict[str, Value]  # a value for each parameter


@dataclass(frozen=True)
class Drawn:
    """A parameter that is drawn from low to high."""

    distribution: str
    low: float
    high: float

    def draw(self, random: np.random.Generator) -> Value:
        if self.distribution == "int_uniform":
            return int(random.integers(int(self.low), int(self.high), endpoint=True))
        if self.distribution == "uniform":
            number = random.uniform(self.low, self.high)
        else:
            number = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        return min(max(float(f"{number:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and checked.

    `parameters` by name: the values to take, or what to draw from. `command` is what racg is called with, `${args}` included.
    """

    name: str
    method: str
    metric: str
    maximize: bool
    parameters: Mapping[str, tuple[Value, ...] | Drawn]
    command: tuple[str, ...]
    run_cap: int | None

    @property
    def varied(self) -> list[str]:
        """Parameters that take more than one value."""
        return [name for name, values in self.parameters.items() if isinstance(values, Drawn) or len(values) > 1]

    def points(self) -> Iterator[Point]:
        """What to run, in this order: all of a grid, or distinct random points, the same each time."""
        seen: set[str] = set()
        for point in self._grid() if self.method == "grid" else self._random():
            if len(seen) == self.run_cap:
                return
            if (key := identity(point)) not in seen:
                seen.add(key)
                yield point

    def _grid(self) -> Iterator[Point]:
        values = [given for given in self.parameters.values() if not isinstance(given, Drawn)]
        for chosen in itertools.product(*values):
            yield dict(zip(self.parameters, chosen, strict=True))

    def _random(self) -> Iterator[Point]:
        """Point k depends on k and on the parameters alone, so that a longer sweep begins as a shorter one."""
        for number in range(100 * (self.run_cap or 0)):  # a small space has fewer points than asked for
            random = np.random.default_rng((0, number))
            yield {
                name: given.draw(random) if isinstance(given, Drawn) else given[random.integers(len(given))]
                for name, given in self.parameters.items()
            }

    def arguments(self, point: Point) -> list[str]:
        """What racg is called with at a point, as W&B's agent would call it."""
        flags = [f"--{name}={value}" for name, value in point.items()]
        return [argument for part in self.command for argument in (flags if part == "${args}" else [part])]


def identity(point: Point) -> str:
    """The name of a point's files: the same wherever the point stands in the sweep."""
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:8]


def read_sweep(path: Path) -> Sweep:
    """Raises: DataError naming the key where the file is no sweep that runs with W&B and without it alike."""
    content = read_settings(path, "name the file of a sweep, such as experiments/sweeps/scenes_objective.yaml")

    def fault(key: str, want: str, got: object, mend: str) -> DataError:
        return DataError(f"{path}: {key}: expected {want}, got {got!r}; {mend}")

    if unknown := sorted(map(str, set(content) - KEYS)):
        mend = "run it with W&B alone" if unknown == ["early_terminate"] else "leave it out"
        raise DataError(f"{path}: expected the keys {', '.join(sorted(KEYS))}, got {unknown[0]!r}; {mend}")
    method, metric, parameters = content.get("method"), content.get("metric"), content.get("parameters")
    if method not in ("grid", "random"):
        raise fault("method", "grid or random", method, "bayes needs the server of W&B")
    if not isinstance(metric, dict) or metric.get("name") not in METRICS or metric.get("goal") not in ("maximize", "minimize"):
        raise fault("metric", "a name such as dev/rsum and the goal maximize or minimize", metric, "write both")
    if not isinstance(parameters, dict) or not parameters:
        raise fault("parameters", "options of racg fit with their values", parameters, "write model.lr: {values: [1.0e-3]}")
    given = {str(name): _values(path, str(name), spec) for name, spec in parameters.items()}
    drawn = [name for name, values in given.items() if isinstance(values, Drawn)]
    if method == "grid" and drawn:
        raise fault(drawn[0], "values in a grid", parameters[drawn[0]], "list values, or take method: random")
    run_cap = content.get("run_cap")
    if (run_cap is None and method == "random") or (run_cap is not None and (type(run_cap) is not int or run_cap < 1)):
        raise fault("run_cap", "a number of runs, without which a random sweep never ends", run_cap, "write one")
    command = _command(path, content.get("program"), content.get("command"), fault)
    name = str(content.get("name", path.stem))
    if not is_name(name):
        raise fault("name", "a name for its files", name, "leave it out for that of the file")
    return Sweep(name, method, metric["name"], metric["goal"] == "maximize", given, command, run_cap)


def _command(path: Path, program: Any, command: Any, fault: Any) -> tuple[str, ...]:
    """What comes after the program."""
    want = f"a list that begins with {' '.join(PREFIX)} fit and holds ${{args}} once"
    if program != PROGRAM:
        raise fault("program", PROGRAM, program, "write it so")
    if not isinstance(command, list) or not all(isinstance(part, str) for part in command):
        raise fault("command", want, command, "write it out; put quotes around numbers")
    if macros := [part for part in command if part.startswith("${args") and part != "${args}"]:
        raise fault("command", "${args}, which gives --name=value", macros[0], "write ${args}")
    if tuple(command[:5]) != (*PREFIX, "fit") or command.count("${args}") != 1:
        raise fault("command", want, " ".join(command), "write it so")
    if set(command[5:]) & set(PREFIX) or any(part.partition("=")[0] in ("--out", "--ckpt_path") for part in command):
        raise fault("command", f"{want}, and no --out or --ckpt_path", " ".join(command), "each run gets a folder of its own")
    return tuple(command[4:])


def _values(path: Path, name: str, spec: Any) -> tuple[Value, ...] | Drawn:
    def fault(want: str, got: object, mend: str) -> DataError:
        return DataError(f"{path}: {name}: expected {want}, got {got!r}; {mend}")

    keys = set(spec) if isinstance(spec, dict) else set()
    if keys in ({"value"}, {"values"}):
        values = spec["values"] if "values" in spec else [spec["value"]]
        if not isinstance(values, list) or not values:
            raise fault("a list of values", values, "write values: [1, 2]")
        for value in values:
            if value is None:
                raise fault(
                    "a value", value, 'write "null" in quotes: W&B passes a bare null on as None, which is no option\'s value'
                )
            if not isinstance(value, Value):
                raise fault("text, numbers or truth values", value, "put it into a configuration of its own")
            if isinstance(value, str) and _is_number(value):
                raise fault("numbers, not text", value, "write 2.0e-4 for 2e-4, which YAML reads as text, and no quotes")
        if len(set(map(str, values))) != len(values):  # as racg gets them
            raise fault("different values", values, "give each once")
        return tuple(values)
    if not {"min", "max"} <= keys <= {"min", "max", "distribution"}:
        raise fault("value, values, or min and max with a distribution", spec, f"distributions are {', '.join(DISTRIBUTIONS)}")
    low, high = spec["min"], spec["max"]
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float):
            raise fault("min and max as numbers", end, "write 2.0e-4 for 2e-4, which YAML reads as text")
        if not abs(end) <= END:  # of NaN, nothing holds
            raise fault(f"min and max from -{END} to {END}", end, "give others")
    whole = isinstance(low, int) and isinstance(high, int)
    distribution = spec.get("distribution", "int_uniform" if whole else "uniform")  # as W&B takes it
    if distribution not in DISTRIBUTIONS:
        raise fault(f"one of {', '.join(DISTRIBUTIONS)}", distribution, "choose one")
    if not low < high or (distribution == "log_uniform_values" and low <= 0) or (distribution == "int_uniform" and not whole):
        raise fault(f"min below max, as {distribution} takes them", spec, "mend min and max")
    return Drawn(distribution, low, high)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
