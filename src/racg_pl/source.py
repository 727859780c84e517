"""Which of this package's code can change the numbers of a run, and its hashes.

That is whatever `module`, `data` and `training` import, directly or by way of others, with two exceptions: code that only reads
files whose content has a hash of its own, and methods that the run does not use. Comments, docstrings and layout change no number.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
ROOTS = ("module", "data", "training", "scene_twins")
# readers and writers of hashed files, and what speaks to people
APART = {"errors", "progress", "memory", "hdf5", "record", "captions", "features", "text", "semantics", "pretrained", "written"}
APART |= {"scene_truth", "scene_facts", "scene_captions"}
RACG, PEERS = "model", "peers"  # a file, and a folder of one file a method


@cache
def source_hashes(method: str = "racg") -> dict[str, str]:
    """The first 12 hex digits of a sha256 by file that can change a number of this method's runs ("": of any), sorted by name."""
    found, new = dict[str, str](), [*ROOTS, *_own(method)]
    while new:
        name = new.pop()
        path = _path(name)
        if path is None or name in found or name.split(".")[0] in APART:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = name.startswith(PEERS)
        new += [
            other for other in sorted(_imports(tree)) if other != RACG and (inside or not other.startswith(PEERS))
        ]  # else every method comes along
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""
        found[name] = _digest(_dump(tree).encode())
        if path.name == "__init__.py":
            found |= {file.name: _digest(file.read_bytes()) for file in path.parent.iterdir() if file.suffix in (".cpp", ".h")}
    return dict(sorted(found.items()))


def _dump(tree: ast.AST) -> str:
    """As Python 3.11 dumps it: later ones have type parameters too, and leave out what is empty."""
    for node in ast.walk(tree):
        if not getattr(node, "type_params", True):
            vars(node).pop("type_params")
    if sys.version_info >= (3, 13):
        return ast.dump(tree, show_empty=True)
    return ast.dump(tree)


def _own(method: str) -> list[str]:
    """The file of a method: a peer's is named as it or as it begins (scan.py holds scan_t2i); all of them of a name that none has."""
    if method == "racg":
        return [RACG]
    files = [f"{PEERS}.{path.stem}" for path in sorted(PACKAGE.glob(f"{PEERS}/*.py")) if path.stem != "__init__"]
    own = [name for name in files if f"{method}_".startswith(f"{name.partition('.')[2]}_")]
    return own or [RACG, *files]


def source_hash() -> str:
    """Of all of them, for runs of any method."""
    return _digest("".join(source_hashes("")).encode() + "".join(source_hashes("").values()).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _path(name: str) -> Path | None:
    """The file of a module, given by its name below the package; None where it is none of its modules."""
    base = PACKAGE.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(tree: ast.AST) -> set[str]:
    """Names below the package that a file imports, those inside functions included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "racg_pl":
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("racg_pl.") for name in names if name.startswith("racg_pl.")}
