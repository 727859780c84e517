"""Captions into words, and words into a parse: the only module that runs spaCy, before training and never during it.

    parse_captions(["two dogs playing"]).heads  →  [1 1 1]: "two" and "playing" hang on "dogs", the root

Parsers by name: "bundled", trained by data_prep/parser and shipped in racg_pl/parser; "chain", neighbouring words, the
ablation; anything else is an installed spaCy pipeline or its folder. A pipeline that parses no dependencies is an error.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from racg_pl.errors import DataError, writing
from racg_pl.hdf5 import one_line, storable
from racg_pl.progress import progress_bar
from racg_pl.semantics import Edge, semantic_edges

if TYPE_CHECKING:
    from spacy.language import Language

# the universal tags
TAGS: tuple[str, ...] = ("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM")
TAGS += ("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X")
# components whose work no graph needs
UNUSED = ("ner", "entity_linker", "entity_ruler", "lemmatizer", "trainable_lemmatizer", "senter", "spancat", "textcat")
PAD, UNKNOWN = "<pad>", "<unk>"
LONGEST = 10_000  # characters of a sentence or a caption
BATCH = 256  # captions that spaCy takes at once
BLOCK = 4 * BATCH  # captions that a process of several takes at once


@dataclass(frozen=True)
class Parse:
    """The parses of C captions, T words in all, end to end; caption c is `words[offsets[c]:offsets[c + 1]]`, maybe no word.

    `words` [T] as written, not lower-cased.  `heads` int32 [T]: position inside the caption, a root is its own head.
    `labels` int16 [T]: of the arc to the head, index into `label_names`.  `tags` int16 [T]: index into `tag_names`.
    `offsets` int64 [C+1].  `edges` int32 [E,3], `edge_offsets` int64 [C+1]: the semantic graphs, see semantics.py.
    `scheme` of the labels: "ud" (Universal Dependencies), "clear" (spaCy's English) or "chain".
    """

    words: list[str]
    heads: NDArray[np.int32]
    labels: NDArray[np.int16]
    label_names: tuple[str, ...]
    tags: NDArray[np.int16]
    tag_names: tuple[str, ...]
    offsets: NDArray[np.int64]
    edges: NDArray[np.int32]
    edge_offsets: NDArray[np.int64]
    parser: str
    version: str
    scheme: str


@dataclass(frozen=True)
class Parser:
    """A loaded parser. `label_names` are all that it can give, sorted, so that every split has the same list."""

    nlp: Language
    parser: str
    version: str
    scheme: str
    label_names: tuple[str, ...]


class ParsedBy(Protocol):
    """What training and evaluation must agree on: a Parse, a Parser or a ParseStore."""

    @property
    def parser(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def label_names(self) -> Sequence[str]: ...


def load_parser(name: str) -> Parser:
    """Load "bundled", "chain", or an installed pipeline by its name or folder. Raises: DataError that says what to use."""
    import spacy

    if name == "chain":
        return Parser(spacy.blank("en"), "chain", "1", "chain", ("ROOT", "next"))
    try:
        if name == "bundled":
            with as_file(files("racg_pl") / "parser") as folder:
                nlp = spacy.load(folder)
        else:
            nlp = spacy.load(name)
    except Exception as error:  # loading runs the pipeline's own code, which fails in its own ways
        raise DataError(
            f"parser {name!r}: expected bundled, chain or an installed spaCy pipeline, got {one_line(error)}; "
            f"install it (pip install, or python -m spacy download) or use --parser bundled"
        ) from error
    parsers = [pipe for pipe in nlp.pipe_names if "token.dep" in nlp.get_pipe_meta(pipe).assigns]
    if not parsers:
        got = ", ".join(nlp.pipe_names) or "none"
        raise DataError(
            f"parser {name!r}: expected a pipeline with a dependency parser, got the components {got}; "
            f"use --parser bundled, or --parser chain for neighbouring words"
        )
    labels = set(nlp.get_pipe(parsers[-1]).labels)  # type: ignore[attr-defined]
    scheme = "ud" if "obl" in labels else "clear" if "pobj" in labels else None
    if scheme is None:
        got = ", ".join(sorted(labels)[:6])
        raise DataError(
            f"parser {name!r}: expected Universal Dependencies or ClearNLP labels, got {got}…; use --parser bundled"
        )
    for pipe in list(nlp.pipe_names):
        if nlp.get_pipe_meta(pipe).factory in UNUSED:
            nlp.disable_pipe(pipe)
    known_as = "bundled" if name == "bundled" else f"{nlp.meta['lang']}_{nlp.meta['name']}"
    return Parser(nlp, known_as, nlp.meta["version"], scheme, tuple(sorted(labels | {"ROOT", "dep"})))


def parse_captions(texts: Sequence[str], parser: str | Parser = "bundled", *, progress: bool = False) -> Parse:
    """Parse captions as they are written, except that white space, which carries no relation, is made single spaces.

    Args:
        texts: C captions; an empty one has no words, and punctuation counts as words.  parser: a name for `load_parser`, or its
        result.  progress: show a bar on stderr.
    Raises: DataError from `load_parser`.
    """
    from spacy.attrs import DEP, HEAD, POS

    loaded = load_parser(parser) if isinstance(parser, str) else parser
    strings = loaded.nlp.vocab.strings
    label_of = {strings.add(label): index for index, label in enumerate(loaded.label_names)}
    tag_of = {strings.add(tag): index for index, tag in enumerate(TAGS)}
    other_label, other_tag = label_of.get(strings["dep"], 0), TAGS.index("X")
    words: list[str] = []
    heads: list[int] = []
    labels, tags, offsets = [], [], [0]
    edges: list[Edge] = []
    edge_offsets = [0]
    spaced = (" ".join(text.split()) for text in texts)
    with progress_bar(f"parse with {loaded.parser}", len(texts), "captions", shown=progress) as advance:
        for doc in loaded.nlp.pipe(spaced, batch_size=BATCH):
            start = len(words)
            words += [token.text for token in doc]
            offsets.append(len(words))
            if loaded.scheme == "chain":
                heads += [max(place - 1, 0) for place in range(len(doc))]
                labels += [int(place > 0) for place in range(len(doc))]
                tags += [other_tag] * len(doc)
            else:
                columns = doc.to_array([HEAD, DEP, POS])
                heads += (np.arange(len(doc)) + columns[:, 0].astype(np.int64)).tolist()  # spaCy gives the distance, wrapped
                labels += [label_of.get(label, other_label) for label in columns[:, 1].tolist()]
                tags += [tag_of.get(tag, other_tag) for tag in columns[:, 2].tolist()]
            names = [loaded.label_names[label] for label in labels[start:]]
            edges += semantic_edges(words[start:], heads[start:], names, [TAGS[tag] for tag in tags[start:]], loaded.scheme)
            edge_offsets.append(len(edges))
            if len(offsets) % BATCH == 1:
                advance(BATCH)
        advance((len(offsets) - 1) % BATCH)
    return Parse(
        words=words,
        heads=np.array(heads, np.int32),
        labels=np.array(labels, np.int16),
        label_names=loaded.label_names,
        tags=np.array(tags, np.int16),
        tag_names=TAGS,
        offsets=np.array(offsets, np.int64),
        edges=np.array(edges, np.int32).reshape(-1, 3),
        edge_offsets=np.array(edge_offsets, np.int64),
        parser=loaded.parser,
        version=loaded.version,
        scheme=loaded.scheme,
    )


def parse_by_processes(texts: Sequence[str], parser: str, processes: int, *, progress: bool = False) -> Parse:
    """The same as `parse_captions`, to the byte, by several processes; each loads the parser, which takes seconds."""
    blocks = [texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK)]
    parts = []
    with (
        ProcessPoolExecutor(min(processes, len(blocks)), multiprocessing.get_context("spawn"), _load, (parser,)) as pool,
        progress_bar(f"parse with {parser} by {processes} processes", len(texts), "captions", shown=progress) as advance,
    ):
        try:
            for part in pool.map(_parse_block, blocks):
                parts.append(part)
                advance(len(part.offsets) - 1)
        except BrokenProcessPool as error:
            raise DataError(
                f"parse with {parser}: a process was killed, perhaps for want of memory; give racg text --jobs 1"
            ) from error
    return joined(parts)


_loaded: list[Parser] = []  # of a process that parses for another


def _load(parser: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them, and their parent ends them
    _loaded.append(load_parser(parser))


def _parse_block(texts: Sequence[str]) -> Parse:
    return parse_captions(texts, _loaded[-1])


def joined(parts: Sequence[Parse]) -> Parse:
    """Parses by one parser, end to end."""

    def offsets(name: str) -> NDArray[np.int64]:
        starts = np.cumsum([0] + [getattr(part, name)[-1] for part in parts])
        return np.concatenate([[0], *(getattr(part, name)[1:] + start for part, start in zip(parts, starts, strict=False))])

    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("heads", "labels", "tags", "edges")
    }
    ends: dict[str, Any] = {name: offsets(name) for name in ("offsets", "edge_offsets")}
    return replace(parts[0], words=[word for part in parts for word in part.words], **columns, **ends)


def require_same(expected: ParsedBy, got: ParsedBy, file: str | Path) -> None:
    """Raise DataError naming `file`, where `got` is from, unless both have one parser, version, scheme and list of labels."""
    want, have = (f"{parse.parser} {parse.version} ({parse.scheme})" for parse in (expected, got))
    if want == have and list(expected.label_names) != list(got.label_names):
        want, have = (f"{text} with {len(p.label_names)} labels" for text, p in ((want, expected), (have, got)))
        differing = sorted(set(expected.label_names) ^ set(got.label_names))
        have += f" (differing: {', '.join(differing[:4])})" if differing else " in another order"
    elif want == have:
        return
    raise DataError(f"{file}: expected a parse by {want}, got one by {have}; run racg text with --parser {expected.parser}")


class Vocabulary:
    """Words and their ids: 0 pads, 1 is any unknown word, then words seen `threshold` times or more, the most frequent first.

    `words` [V] in the order of their ids (words seen equally often by alphabet), `counts` of all words seen, `sha256` of the
    words in order. Words are lower-cased.
    """

    schema = "racg_pl.vocab/1"

    def __init__(self, counts: Mapping[str, int], threshold: int, source: str | Path = "vocabulary") -> None:
        if type(threshold) is not int or threshold < 1:
            raise DataError(f"{source}: threshold: expected a whole number of 1 or more, got {threshold!r}")
        for word, count in counts.items():
            if type(count) is not int or count < 1 or not word or word != word.lower() or not storable(word):
                raise DataError(
                    f"{source}: counts: {word!r}: expected a lower-cased word with a count of 1 or more, got {count!r}"
                )
        self.threshold = threshold
        self.counts = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        kept = [word for word, count in self.counts.items() if count >= threshold]
        if not kept:
            most = max(counts.values(), default=0)
            raise DataError(f"{source}: expected words seen {threshold} times or more, got at most {most}; lower the threshold")
        self.words = (PAD, UNKNOWN, *kept)
        self._ids = {word: index for index, word in enumerate(kept, start=2)}
        self.sha256 = hashlib.sha256("\n".join(self.words).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def build(cls, words: Iterable[str], threshold: int) -> Vocabulary:
        """Count the words of the training captions. Raises: DataError if none reaches the threshold."""
        return cls(Counter(word.lower() for word in words), threshold)

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Raises: DataError if the file is missing, no JSON or no vocabulary."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            got = getattr(error, "strerror", None) or one_line(error)
            raise DataError(f"{path}: expected a vocabulary in JSON, got: {got}; run racg text") from error
        schema = content.get("schema") if isinstance(content, dict) else type(content).__name__
        if schema != cls.schema:
            raise DataError(f"{path}: expected the schema {cls.schema!r} with counts by word, got {schema!r}; run racg text")
        if not isinstance(content.get("counts"), dict):
            got = type(content.get("counts")).__name__
            raise DataError(f"{path}: counts: expected a count for each word, got {got}; run racg text")
        return cls(content["counts"], content.get("threshold"), path)

    def save(self, path: str | Path) -> None:
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.unfinished")
        with writing(path):
            try:
                unfinished.write_bytes(self._json().encode())
                os.replace(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)

    def _json(self) -> str:
        content = {"schema": self.schema, "threshold": self.threshold, "counts": self.counts}
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    def encode(self, words: Iterable[str]) -> NDArray[np.int64]:
        """Ids [T] of words in any case."""
        return np.array([self._ids.get(word.lower(), 1) for word in words], np.int64)
