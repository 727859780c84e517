"""Which of this package's code can change the numbers of a run, and its hashes.

That is whatever `module`, `data` and `training` import, directly or by way of others, with two exceptions: code that only reads
files whose content has a hash of its own, and methods that the run does not use. Comments, docstrings and layout change no number.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
ROOTS = ("module", "data", "training", "scene_twins")
# readers and writers of hashed files, and what speaks to people
APART = {"errors", "progress", "hdf5", "record", "captions", "features", "text", "semantics", "pretrained"}
APART |= {"scene_truth", "scene_facts", "scene_captions"}
METHODS = "peers"  # one file a method


@cache
def source_hashes(method: str = "racg") -> dict[str, str]:
    """The first 12 hex digits of a sha256 by file that can change a number of this method's runs, sorted by name."""
    found, new = dict[str, str](), list(ROOTS)
    while new:
        name = new.pop()
        path = _path(name)
        if path is None or name in found or name.split(".")[0] in APART or not _used(name, method):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        new += sorted(_imports(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""
        found[name] = _digest(ast.dump(tree).encode())
        if path.name == "__init__.py":
            found |= {file.name: _digest(file.read_bytes()) for file in path.parent.iterdir() if file.suffix in (".cpp", ".h")}
    return dict(sorted(found.items()))


def source_hash() -> str:
    """Of all of them, for runs of any method."""
    return _digest("".join(source_hashes("")).encode() + "".join(source_hashes("").values()).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _path(name: str) -> Path | None:
    """The file of a module, given by its name below the package; None where it is none of its modules."""
    base = PACKAGE.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _used(name: str, method: str) -> bool:
    """Whether runs of a method ("": of any) go through a module: RACG's through no peer's, a peer's through its own file."""
    first, _, below = name.partition(".")
    if first != METHODS or not method:
        return True
    return method != "racg" and (not below or below in method or not _path_of_method(method))


def _path_of_method(method: str) -> Path | None:
    """The file of `METHODS` whose name the method's begins with, such as scan.py of scan_t2i."""
    return next((path for path in sorted(PACKAGE.glob(f"{METHODS}/*.py")) if method.startswith(path.stem)), None)


def _imports(tree: ast.AST) -> set[str]:
    """Names below the package that a file imports, those inside functions included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "racg_pl":
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("racg_pl.") for name in names if name.startswith("racg_pl.")}
