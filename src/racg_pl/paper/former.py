"""Code of former commits, taken out of git into a temporary folder, and the hashes that it gives itself."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from racg_pl.errors import DataError
from racg_pl.source import PACKAGE

HISTORY = 60  # commits that are looked through for code of which no commit is known
HASHES = "import json, sys, racg_pl, racg_pl.source as s; print(json.dumps([racg_pl.__file__, s.source_hashes(sys.argv[1])]))"


def python(source: Path, program: str, *arguments: str) -> dict[str, Any]:
    """Of `subprocess`, a program over the package in the folder `source`: neither that of the working folder nor an installed one."""
    environment = {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    return {"args": [sys.executable, "-P", "-c", program, *arguments], "env": os.environ | environment | {"NO_COLOR": "1"}}


def hashes(source: Path, method: str) -> dict[str, str]:
    """What the code in a folder says of itself, by its own rules; nothing where it says nothing, as code before source.py."""
    done = subprocess.run(**python(source, HASHES, method), capture_output=True, text=True)
    try:
        file, found = json.loads(done.stdout)
    except ValueError:
        return {}
    return found if Path(file).resolve().is_relative_to(source.resolve()) else {}


def git(*words: str) -> str:
    """Raises: OSError without git, CalledProcessError where it refuses."""
    return subprocess.run(["git", "-C", str(PACKAGE), *words], capture_output=True, check=True, text=True).stdout.strip()


def commit_of_now() -> str:
    """As in records, with "+" where files differ from it."""
    return git("describe", "--always", "--abbrev=12", "--dirty=+")


class Former:
    """The package as it was in commits, a folder a commit, which are there until the end of a `with`, however it ends.

    Raises: DataError where this code is in no repository.
    """

    def __init__(self) -> None:
        try:
            git("rev-parse", "HEAD")
            known = git("ls-files", "source.py")  # nothing where a repository only lies above an installed package
        except (OSError, subprocess.CalledProcessError):
            known = ""
        if not known:
            raise DataError(
                f"{PACKAGE}: expected code in a git repository, which still has that of the records, got none; "
                "run racg of a clone, or leave out --confirm to train anew"
            )
        self.now = PACKAGE.parent  # the folder that holds the package
        self.trees, self.known = dict[str, Path](), dict[tuple[str, str], dict[str, str]]()

    def __enter__(self) -> Former:
        self.folder = Path(tempfile.mkdtemp(prefix="racg_confirm_"))
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def find(self, likely: Iterable[str], method: str, wanted: Mapping[str, str]) -> tuple[str, Path] | None:
        """The commit whose code has these hashes, and its folder: the first of `likely`, else the latest of the history; or None."""
        for commit in (*self._whole(likely), *self._history()):
            if (commit, method) not in self.known:
                self.known[commit, method] = hashes(self._tree(commit), method)
            if self.known[commit, method] == wanted:
                return commit[:12], self._tree(commit)
            self._remove(commit)
        return None

    def _tree(self, commit: str) -> Path:
        if commit not in self.trees:
            # no `git worktree`, which a process that is killed would leave in the user's repository
            done = subprocess.run(["git", "-C", str(PACKAGE), "archive", "--format=tar", commit], capture_output=True)
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip()[-200:]
                raise DataError(f"{PACKAGE}: git has no such folder in {commit[:12]}: {said}")
            self.trees[commit] = self.folder / commit
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as packed:
                packed.extractall(self.trees[commit] / PACKAGE.name, filter="data")
        return self.trees[commit]

    def _remove(self, commit: str) -> None:
        shutil.rmtree(self.trees.pop(commit, self.folder / commit), ignore_errors=True)

    @staticmethod
    def _whole(commits: Iterable[str]) -> Sequence[str]:
        """Commits in all their digits; those that this repository does not have are left out."""
        found = []
        for commit in filter(None, commits):
            try:
                found.append(git("rev-parse", "--verify", "--quiet", f"{commit.removesuffix('+')}^{{commit}}"))
            except subprocess.CalledProcessError:
                continue
        return found

    @staticmethod
    def _history() -> Sequence[str]:
        return git("log", f"-{HISTORY}", "--format=%H", "HEAD", "--", ".").split()  # what touched the package
