"""The package as a whole: who may import whom, what is pinned, what a wheel holds, and how fast `racg --help` answers."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "racg_pl"
CONFIG = ConfigParser()
CONFIG.read(ROOT / "setup.cfg", encoding="utf-8")
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
}


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively; write racg_pl.…"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


MODULES = {path.stem: imports(path) for path in PACKAGE.glob("*.py")}
USES = {
    name: {other for other in MODULES if other != name and f"racg_pl.{other}" in imported} for name, imported in MODULES.items()
}


def reach(name: str) -> set[str]:
    """The modules that importing one brings in, by way of others too."""
    found, new = set(), {name}
    while new:
        found |= new
        new = set().union(*(USES[module] for module in new)) - found
    return found - {name}


def test_package_imports_no_script() -> None:
    for name, imported in MODULES.items():
        outside = {module.split(".")[0] for module in imported} & {"experiments", "data_prep", "notebooks", "tests"}
        assert not outside, f"{name} imports {outside}"


@pytest.mark.parametrize(
    "chain",
    [
        "graphs layers model module cli",
        "graphs nodes model module cli",
        "graphs losses module cli",
        "metrics module cli",
        "features data cli",
        "text data cli",
    ],
)
def test_layers_import_downwards_only(chain: str) -> None:
    names = chain.split()
    for place, name in enumerate(names):
        assert not reach(name) & set(names[place + 1 :]), f"{name} imports what is built on it"


@pytest.mark.parametrize("name", ["graphs", "layers", "model", "losses", "metrics", "scoring"])
def test_model_and_metric_never_import_data(name: str) -> None:
    data = {"features", "hdf5", "captions", "check", "convert", "text", "data", "scenes"}
    assert not {module for module in reach(name) if module in data or module.startswith("scene_")}


@pytest.mark.parametrize("path", sorted((PACKAGE / "peers").glob("*.py")), ids=lambda path: path.stem)
def test_peers_build_on_nodes_and_not_on_racg(path: Path) -> None:
    below = {"errors", "graphs", "layers", "method", "nodes", "peers", "pooling", "pretrained"}
    used = {name.split(".")[1] for name in imports(path) if name.startswith("racg_pl.")}
    assert used <= below, f"{path.name} imports {used - below}"


def requirements(extra: str = "") -> list[Requirement]:
    listed = CONFIG["options.extras_require"][extra] if extra else CONFIG["options"]["install_requires"]
    return [Requirement(line) for line in listed.split("\n") if line]


def test_stolen_releases_of_lightning_are_excluded() -> None:
    (lightning,) = (requirement for requirement in requirements() if requirement.name == "lightning")
    assert not [version for version in ("2.6.2", "2.6.3") if version in lightning.specifier]
    for name in ("lightning", "pytorch-lightning"):
        assert PINS[name] not in ("2.6.2", "2.6.3")


def test_constraints_pin_what_setup_asks_for() -> None:
    for requirement in requirements() + requirements("test"):
        name = canonicalize_name(requirement.name)
        assert name in PINS, f"{name} is not in constraints.txt"
        assert PINS[name] in requirement.specifier, f"{requirement} against {PINS[name]}"


def test_constraints_work_on_another_machine() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    assert lines[0].startswith("torch==")  # the Makefile reads this line
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line), f"no exact public version: {line}"
        assert Version(line.split("==")[1]).local is None
    assert lines[1:] == sorted(lines[1:], key=str.lower)


def test_wheel_holds_every_file_of_the_package() -> None:
    patterns = [line.replace("**/", "*").replace("**", "*") for line in CONFIG["options.package_data"]["racg_pl"].split()]
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in files:
        name = path.relative_to(PACKAGE).as_posix()
        listed = path.suffix == ".py" and (path.parent / "__init__.py").exists()
        assert listed or any(fnmatch(name, pattern) for pattern in patterns), f"{name} would be missing from a wheel"


def test_ci_runs_the_tests() -> None:
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    assert run.read_text().endswith("make test\n")


def test_make_alone_prints_help() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"  {target} " in done.stdout for target in ("help", "venv", "test", "lint", "reproduce", "sweep", "clean"))


def test_help_answers_in_two_seconds() -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "racg_pl.cli", "--help"], capture_output=True, text=True, check=False)
        times.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert "racg" in done.stdout
    assert min(times) < 2
