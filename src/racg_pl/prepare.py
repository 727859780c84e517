"""`racg prepare RECIPE --root DIR`: check what was brought, convert it, parse, validate, and end with a data card.

    DIR/{split}.h5  {split}.captions.h5  {split}.parse-{parser}.h5  {split}.phrases.json  vocab.json  card/  prepare.json

Killed at any moment it goes on where it stopped: files take their names only when they are whole, and prepare.json, written last of
each step, says what was made from which files (by size and time of change) and which content was validated. Splits are converted
two at a time. The stores are the same bytes however often it was killed.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty
from threading import Thread
from typing import Any, NamedTuple

from racg_pl.captions import CaptionStore
from racg_pl.check import check
from racg_pl.convert import split_of_captions, write_store
from racg_pl.errors import DataError
from racg_pl.features import RegionStore
from racg_pl.hdf5 import ContentHash, one_line
from racg_pl.processes import is_running
from racg_pl.progress import progress_bar
from racg_pl.readers import open_regions, own, recognise
from racg_pl.readers.captions import CaptionFile, read_captions
from racg_pl.readers.picture import Regions
from racg_pl.recipe import Recipe, Split, read_recipe
from racg_pl.written import write_json, write_whole

JOURNAL, SCHEMA = "prepare.json", "racg_pl.prepare/1"
CONTEXT = multiprocessing.get_context("spawn")
POLL = 0.2  # seconds between two looks at the processes
GRACE = 5.0  # seconds that a worker whose parent was killed may take to notice and end


class Opened(NamedTuple):
    """One split before it is converted: its regions, its captions in the order of the images, what both are made from."""

    regions: Regions
    captions: CaptionFile
    fingerprint: str


def prepare(
    recipe: str | Path, root: str | Path, source: str | Path | None = None, parser: str = "bundled", *, progress: bool = True
) -> str:
    """Make everything that training reads from what a recipe names; what is up to date stays.

    Args:
        recipe: its YAML file.  root: folder of the results.  source: folder of what the user brings, by default `root`.
        parser: as in `racg text`.  progress: show bars on stderr.
    Returns: what was done, a line a step.
    Raises: DataError before anything is written where a file is missing, or is not what the recipe says.
    """
    from racg_pl.card import write_card
    from racg_pl.text import load_parser
    from racg_pl.text_files import prepare_texts

    plan, root = read_recipe(recipe), Path(root)
    folder = root if source is None else Path(source)
    plan.require(folder)
    parses = load_parser(parser).parser
    opened = open_splits(plan, folder, progress)
    said = []
    with locked(root):
        journal = _Journal(root)
        due = [name for name, split in opened.items() if not journal.converted(name, split.fingerprint)]
        for name in due:
            journal.refuse_others(name, plan.extractor, opened[name].regions.path.name)
        _convert(plan, root, {name: opened[name] for name in due}, journal, progress)
        said.append(f"converted: {', '.join(due) or 'nothing, all up to date'}")
        for path in (root / f"{name}.parse-{parses}.h5" for name in plan.splits):
            if path.exists() and not journal.sound(path):
                path.unlink()
        parsed = prepare_texts(root, parser, plan.threshold, progress=progress, processes=os.cpu_count() or 1)
        said.append(f"parsed: {', '.join(path.name for path in parsed) or 'nothing, all up to date'}")
        files = [root / f"{name}{end}" for name in plan.splits for end in (".h5", ".captions.h5", f".parse-{parses}.h5")]
        files += [root / "vocab.json"]
        for path in files:
            journal.validate(path)
        said.append(
            f"validated: {', '.join(path.name for path in files if path.name in journal.looked_at) or 'nothing, all up to date'}"
        )
        if any(split.phrases for split in plan.splits.values()):
            brought = _bring_phrases(plan, folder, root, parses, due)
            said.append(f"phrases: {', '.join(path.name for path in brought) or 'nothing, all up to date'}")
        said.append(f"data card: {write_card(plan, root, parses)}")
    return "\n".join(said)


def open_splits(recipe: Recipe, folder: Path, progress: bool = False) -> dict[str, Opened]:
    """Open every split and hold it against the recipe; a source that several splits share is read through once.

    Raises: DataError naming the first file that is not what the recipe says.
    """
    sources: dict[tuple[str, ...], Regions] = {}
    tables: dict[Path, CaptionFile] = {}
    opened = {}
    for name, split in recipe.splits.items():
        path = folder / split.source
        layout = split.layout or recognise(path)
        table = folder / split.captions if split.captions else own.table_of(path) if layout in ("own", "folder") else None
        if table is not None and table not in tables:
            tables[table] = read_captions(table)
        given = tables[table] if table is not None else None
        key = (split.source, layout, (split.split or "") if layout in ("precomp", "vse-infinity") else "")
        if key not in sources:
            sources[key] = open_regions(path, layout, split.split, given, progress)
        regions = sources[key]
        chosen = given or regions.captions
        if chosen is None:
            raise DataError(f"{recipe.path}: splits: {name}: expected captions for {path}, got none; name a file of captions")
        captions = chosen.select(split_of_captions(given, split.split, layout), recipe.per_image)
        _require(recipe, name, split, regions, captions)
        opened[name] = Opened(regions, captions, _fingerprint(recipe, split, regions, captions))
    return opened


def _bring_phrases(recipe: Recipe, folder: Path, root: Path, parser: str, due: list[str]) -> list[Path]:
    """Copy phrases that are new, or whose split is (`due`), if they speak of its images. Raises: DataError naming the first that do not."""
    from racg_pl.data import RetrievalData
    from racg_pl.phrases import phrases_file, read_phrases

    brought = []
    for name, split in recipe.splits.items():
        if split.phrases is None:
            continue
        source, path = folder / split.phrases, root / f"{name}.phrases.json"
        opened = RetrievalData(str(root), parser=parser, val=name).split("validate")
        content = phrases_file(source, opened)
        if name in due or not path.exists() or path.read_bytes() != content:
            read_phrases(source, opened, content)
            write_whole(path, content)
            brought.append(path)
    return brought


def _require(recipe: Recipe, name: str, split: Split, regions: Regions, captions: CaptionFile) -> None:
    """Shapes and counts are what the recipe says."""
    for what, want, got in (("dim", recipe.dim, regions.dim), ("regions", recipe.regions, regions.regions)):
        if got > want or (what == "dim" and got != want):
            most = "" if what == "dim" else "at most "
            raise DataError(
                f"{regions.path}: expected {most}{want} {what}, as {recipe.path} says, got {got}; is this the right file?"
            )
    if len(captions.images) != split.images:
        raise DataError(
            f"{captions.path}: expected {split.images} images in split {name}, as {recipe.path} says, got {len(captions.images)}; "
            "is this the right file?"
        )
    captions.match(regions.ids, regions.path)


def _fingerprint(recipe: Recipe, split: Split, regions: Regions, captions: CaptionFile) -> str:
    content = ContentHash(
        split=[split.source, split.images, split.split, split.layout, split.captions],
        per_image=recipe.per_image,
        dtype=recipe.dtype,
        extractor=recipe.extractor,
        layout=regions.layout,
    )
    for path in dict.fromkeys((*regions.files, captions.path)):
        stat = path.stat()
        content.add(str(path.absolute()), f"{stat.st_size} {stat.st_mtime_ns}")
    return content.hexdigest()


# ---- what was done already ----


class _Journal:
    """prepare.json: of each split the fingerprint of its sources, and the content of every file that was validated."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / JOURNAL
        self.looked_at = set[str]()  # files that this run has validated
        try:
            content = json.loads(self.path.read_bytes())
        except (OSError, ValueError):  # lost or damaged: everything is looked at again
            content = {}
        fits = isinstance(content, dict) and content.get("schema") == SCHEMA
        fits = fits and all(isinstance(content.get(part), dict) for part in ("splits", "validated"))
        self.content: dict[str, Any] = content if fits else {"schema": SCHEMA, "splits": {}, "validated": {}}

    def converted(self, name: str, fingerprint: str) -> bool:
        """Whether the files of a split are there, sound, belong together and were made from these sources."""
        try:
            store, captions = RegionStore(self.root / f"{name}.h5"), CaptionStore(self.root / f"{name}.captions.h5")
            captions.require(store)
        except DataError:  # missing, stale or damaged: converting again mends all three
            return False
        same = self.content["splits"].get(name) == [fingerprint, store.sha256, captions.sha256]
        return same and self.sound(store.path) and self.sound(captions.path)

    def refuse_others(self, name: str, extractor: str, source: str) -> None:
        """Raises: DataError where a region store stands there that was made from something else, and not by this command."""
        path = self.root / f"{name}.h5"
        if name in self.content["splits"] or not path.exists():
            return
        try:
            store = RegionStore(path)
        except DataError:  # damaged: nothing to lose
            return
        if (store.extractor, store.source) != (extractor, source):
            raise DataError(
                f"{path}: expected no file, or regions of {source} by {extractor!r}, got regions of {store.source or 'arrays'} by "
                f"{store.extractor!r}; choose another --root, or remove it"
            )

    def note(self, name: str, fingerprint: str) -> None:
        hashes = [
            kind(self.root / f"{name}{end}").sha256 for kind, end in ((RegionStore, ".h5"), (CaptionStore, ".captions.h5"))
        ]
        self.content["splits"][name] = [fingerprint, *hashes]
        self._save()

    def sound(self, path: Path) -> bool:
        """Whether a file of an earlier run holds what its schema and its hash say; else it is to be made again."""
        try:
            self.validate(path)
        except DataError:
            return False
        return True

    def validate(self, path: Path) -> None:
        """Hold a file against its schema and its hash, unless it has not changed since that was done. Raises: DataError."""
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns]
        if self.content["validated"].get(path.name) == mark:
            return
        check(path)
        self.looked_at.add(path.name)
        self.content["validated"][path.name] = mark
        self._save()

    def _save(self) -> None:
        write_json(self.path, self.content)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """A folder that no other `racg prepare` works in; what killed ones left unfinished is removed. Raises: DataError."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = os.open(root, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{root}: expected a folder to write to, got: {one_line(error)}; choose another --root") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{root}: another racg prepare works in this folder; wait for it, or choose another --root"
            ) from error
        _tidy(root)
        yield
        _tidy(root)  # a worker takes POLL to notice that its parent was killed, and may have begun a file by then
    finally:
        os.close(folder)


def _tidy(root: Path) -> None:
    """Remove what killed processes left unfinished."""
    for left in (path for pattern in (".*.h5.tmp-*", ".*.unfinished") for path in root.glob(pattern) if path.is_file()):
        until, number = time.monotonic() + GRACE, left.suffix.removeprefix(".tmp-")
        while (alive := number.isdigit() and is_running(int(number))) and time.monotonic() < until:
            time.sleep(POLL)
        if not alive:  # else some other command writes it
            left.unlink(missing_ok=True)


# ---- conversion, two splits at a time ----

_told: Any = None  # of a worker: where it says how many images it has written
_stop: Any = None  # set where another split has failed


def _begin(told: Any, stop: Any, parent: int) -> None:
    global _told, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them, and their parent stops them
    _told, _stop = told, stop
    Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A pool's worker whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(1)


def _advance(images: int) -> None:
    if _stop.is_set():
        raise DataError("conversion stopped")  # and what it has written goes
    _told.put(images)


def _convert_split(name: str, split: Opened, out: Path, extractor: str, dtype: str) -> str:
    write_store(split.regions, split.captions, out, extractor=extractor, dtype=dtype, progress=False, advance=_advance)
    return name


def _convert(recipe: Recipe, root: Path, splits: dict[str, Opened], journal: _Journal, progress: bool) -> None:
    """Convert splits, the largest first. Raises: the DataError of the first that fails, when the others have stopped."""
    if not splits:
        return
    told, stop = CONTEXT.Queue(), CONTEXT.Event()
    total = sum(recipe.splits[name].images for name in splits)
    workers = min(2, os.cpu_count() or 1, len(splits))
    with (
        ProcessPoolExecutor(workers, CONTEXT, _begin, (told, stop, os.getpid())) as pool,
        progress_bar(f"convert {', '.join(splits)}", total, "images", progress) as advance,
    ):
        pending: set[Future[str]] = {
            pool.submit(_convert_split, name, splits[name], root / f"{name}.h5", recipe.extractor, recipe.dtype)
            for name in sorted(splits, key=lambda name: -recipe.splits[name].images)
        }
        shown = 0
        try:
            while pending:
                done, pending = wait(pending, POLL, FIRST_COMPLETED)
                for future in done:
                    name = future.result()
                    journal.note(name, splits[name].fingerprint)
                with suppress(Empty):
                    while True:
                        images = told.get_nowait()
                        shown += images
                        advance(images)
        except BaseException as error:
            stop.set()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise DataError(
                    f"{root}: a process that converts was killed, perhaps for want of memory; run it again, it goes on from there"
                ) from error
            raise
        advance(total - shown)
