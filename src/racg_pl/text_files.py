"""`racg text`: the captions of a data set parsed, once, into files, and the vocabulary of its training captions.

prepare_texts(root)  →  {split}.parse-bundled.h5 beside each {split}.captions.h5, and vocab.json
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from racg_pl.captions import CaptionStore, ParseStore, write_parse
from racg_pl.errors import DataError
from racg_pl.text import BLOCK, LONGEST, Parser, Vocabulary, load_parser, parse_by_processes, parse_captions, require_same

THRESHOLD = 4  # of a new vocabulary


def prepare_texts(
    root: str | Path, parser: str = "bundled", threshold: int | None = None, *, progress: bool = False, processes: int = 1
) -> list[Path]:
    """Parse each `{split}.captions.h5` in `root` into `{split}.parse-{parser}.h5`; write `vocab.json` from the train split.

    With `processes` above 1, those of many captions are parsed by several; a script that asks for it needs the usual
    `if __name__ == "__main__"`.
    What is up to date (same captions, parser and version) stays. With `progress`, bars and rates go to stderr, and what becomes of a
    vocabulary that was there.

    Args:
        threshold: of the vocabulary; None keeps that of vocab.json, and is 4 where there is none that can be read.
    Returns: the files written. Raises: DataError.
    """
    root = Path(root)
    if threshold is not None and (type(threshold) is not int or threshold < 1):
        raise DataError(f"{root}: threshold: expected a whole number of 1 or more, got {threshold!r}; 1 keeps every word")
    if processes < 1:
        raise DataError(f"{root}: expected at least 1 process to parse, got --jobs {processes}; leave it out for the default")
    captions = sorted(root.glob("*.captions.h5"))
    if not captions:
        raise DataError(f"{root}: expected files SPLIT.captions.h5, got none; convert or generate a data set first")
    vocab, counted = root / "vocab.json", root / "train.captions.h5"
    if threshold is not None and counted not in captions:
        raise DataError(f"{counted}: expected the captions that a threshold is of, got no such file; leave out --threshold")
    loaded = load_parser(parser)
    written = []
    for source in captions:
        split = source.name.removesuffix(".captions.h5")
        store = CaptionStore(source)
        path = root / f"{split}.parse-{loaded.parser}.h5"
        if not _up_to_date(path, loaded, store):
            _require_no_book(store)
            start = time.perf_counter()
            shared = processes > 1 and len(store.texts) > 2 * BLOCK
            if shared:
                parse = parse_by_processes(store.texts, parser, processes, progress=progress)
            else:
                parse = parse_captions(store.texts, loaded, progress=progress)
            write_parse(path, parse, store)  # type: ignore[arg-type]  # frozen, where its protocol is writable
            written.append(path)
            if progress:
                count, seconds = len(store.texts), time.perf_counter() - start
                by = f", {processes} processes and their start" if shared else ""
                print(f"{path}: {count} captions in {seconds:.1f} s, {count / seconds:,.0f} a second{by}", file=sys.stderr)
        if source == counted:
            before = _stored(vocab)
            if threshold is None:
                threshold = before.threshold if before else THRESHOLD
            vocabulary = Vocabulary.build(ParseStore(path).words, threshold)
            if not vocab.exists() or vocab.read_bytes() != vocabulary._json().encode():
                vocabulary.save(vocab)
                written.append(vocab)
                if progress and before:
                    fits = "" if before.sha256 == vocabulary.sha256 else "; models trained before do not fit it"
                    print(f"{vocab}: {_told(before)} became {_told(vocabulary)}{fits}", file=sys.stderr)
    if progress and counted not in captions and not vocab.exists():
        print(
            f"{vocab}: not written, since there is no {counted.name}, whose words it counts; copy the vocab.json that the model was "
            f"trained with, or convert the train split into {root}",
            file=sys.stderr,
        )
    return written


def _require_no_book(captions: CaptionStore) -> None:
    """Raises: DataError at a caption longer than any sentence, which would take spaCy and training all their memory."""
    for place, text in enumerate(captions.texts):
        if len(text) > LONGEST:
            raise DataError(
                f"{captions.path}: record {place}: expected a caption of at most {LONGEST:,} characters, got {len(text):,}; "
                "shorten it and convert it again"
            )


def _stored(path: Path) -> Vocabulary | None:
    """A vocabulary that is there; one that is damaged counts for none, since writing it again mends it."""
    try:
        return Vocabulary.load(path)
    except DataError:
        return None


def _told(vocabulary: Vocabulary) -> str:
    return f"{len(vocabulary) - 2} words seen {vocabulary.threshold} times or more"


def _up_to_date(path: Path, parser: Parser, captions: CaptionStore) -> bool:
    if not path.exists():
        return False
    try:
        stored = ParseStore(path)
        stored.require(captions)
        require_same(parser, stored, path)
    except DataError:  # stale, foreign or damaged: parsing again mends all three
        return False
    return True
