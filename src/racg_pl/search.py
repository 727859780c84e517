"""`racg search`: pictures by sentence, and where the words of the sentence lie in them.

Pooled embeddings of all pictures, made once and kept in a file, find candidates; these alone are read, encoded and scored by the cross
graph (two_stage.py). With as many candidates as pictures the ranking is the exact one.

Letters: G pictures, P width of a pooled embedding, K matches, R regions, W words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from racg_pl.attention import Attends
from racg_pl.attention_draw import COLUMNS, Backdrop, Panel, panels_figure
from racg_pl.data import RetrievalData, Split
from racg_pl.errors import DataError, require_apart, require_file, writing
from racg_pl.graph_view import word_kinds
from racg_pl.graphs import Sentences, semantic_relations
from racg_pl.hdf5 import one_line, storable
from racg_pl.method import Encoded
from racg_pl.progress import progress_bar
from racg_pl.scene_truth import Truth
from racg_pl.semantics import Edge
from racg_pl.text import load_parser, parse_captions, require_same
from racg_pl.training import load_module, read_checkpoint, replacing, require_trained_on, weights_hash
from racg_pl.two_stage import CANDIDATES, PooledIndex, rerank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "racg_pl.index/1"
TOP = 10  # matches that are listed
DRAWN = 4  # of them that a figure shows
ENCODED = 64  # pictures encoded at a time
ADDED = 1 << 16  # embeddings handed to FAISS at a time
SILENT = ("function", "negation")  # kinds of words that speak of no region


class Match(NamedTuple):
    """A picture that was found: its row in the store, its id, its score."""

    row: int
    id: str
    score: float


class Answer(NamedTuple):
    """What was found for a sentence, best first.

    words: of the sentence.  said: places of those that speak of something.  weights: float32 [K,W,R], how much each word attends to each
    region of each match; None where the method has no such weights.  scored: candidates that the cross graph scored, of `pictures`.
    """

    words: list[str]
    said: list[int]
    matches: list[Match]
    weights: NDArray[np.float32] | None
    scored: int
    pictures: int

    def __str__(self) -> str:
        """A line a match: place, score, picture, and each word with the region that it attends to most and its share."""
        wide = max((len(match.id) for match in self.matches), default=0)
        lines = [f"{' '.join(self.words)}   ({self.scored:,} of {self.pictures:,} pictures scored)"]
        for place, match in enumerate(self.matches):
            regions = "" if self.weights is None else "  ".join(self._regions(self.weights[place]))
            lines.append(f"{place + 1:4}  {match.score:7.3f}  {match.id:<{wide}}  {regions}".rstrip())
        return "\n".join(lines)

    def _regions(self, weights: NDArray[np.float32]) -> list[str]:
        return [f"{self.words[word]} {weights[word].argmax()} ({weights[word].max():.2f})" for word in self.said]


class Searcher:
    """A trained model over the pictures of one split.

    Args:
        checkpoint: of `racg fit`.  root, split: of a data set parsed as in training.
        index: file of the pooled embeddings, made where it is missing or of other weights or pictures; by default
            index_SPLIT.safetensors in the folder of the run.
    Raises: DataError where a file is missing, damaged or belongs to others, and where the method has no pooled embeddings.
    """

    def __init__(self, checkpoint: Path, root: Path, split: str = "test", index: Path | None = None) -> None:
        require_file(index)
        content = read_checkpoint(checkpoint)
        trained = content["hyper_parameters"]
        parser = trained.get("text_source", "").partition(" ")[0] or "bundled"
        data = RetrievalData(str(root), parser=parser, val=split)
        self.split: Split = data.split("validate")
        require_trained_on(checkpoint, trained, data)
        self.vocabulary = data.vocabulary
        self.parser = load_parser(parser)
        require_same(self.parser, self.split.parse, self.split.parse.path)
        self.model: Any = load_module(checkpoint).model
        path = index or checkpoint.absolute().parent.parent / f"index_{split}.safetensors"
        require_apart([path], [checkpoint, root / "vocab.json", *root.glob("*.h5")])
        of = {"weights": weights_hash(content["state_dict"]), "features": self.split.store.sha256}
        self.index = read_index(path) if path.exists() and stored_of(path) == of else self._make_index(path, of)

    def _make_index(self, path: Path, of: dict[str, str]) -> PooledIndex:
        """Encode all pictures, and keep their pooled embeddings."""
        total = len(self.split)
        width = self._pooled(np.arange(1)).shape[1]
        index, pooled = PooledIndex(width), np.empty((total, width), np.float16)
        with progress_bar("encode", total, "pictures") as advance:
            for start in range(0, total, ENCODED):
                rows = np.arange(start, min(start + ENCODED, total))
                pooled[rows] = self._pooled(rows)
                index.add(torch.from_numpy(pooled[rows]))
                advance(len(rows))
        save_index(path, pooled, of)
        return index

    @torch.inference_mode()
    def _pooled(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        pooled: NDArray[np.float16] = self._encoded(torch.from_numpy(rows)).pooled.half().numpy()
        return pooled

    def _encoded(self, rows: torch.Tensor) -> Encoded:
        """Pictures read and encoded on demand."""
        encoded: Encoded = self.model.encode_image(self.split.regions(rows.numpy()))
        return encoded

    @torch.inference_mode()
    def find(self, sentence: str, top: int = TOP, candidates: int = CANDIDATES) -> Answer:
        """The pictures that fit a sentence best.

        Args:
            top: matches given.  candidates: pictures that the cross graph scores, at least `top`.
        Raises: DataError where the sentence has no words, or either number is below 1.
        """
        if min(top, candidates) < 1:
            raise DataError(f"search: expected at least one match and one candidate, got {top} and {candidates}; raise them")
        if not sentence.split() or not storable(sentence):
            raise DataError(
                f"search: expected a sentence of at least one word, in Unicode, got {sentence!r}; give one in quotes"
            )
        parse = parse_captions([sentence], self.parser)
        words = torch.from_numpy(self.vocabulary.encode(parse.words))[None]
        mask = torch.ones_like(words, dtype=torch.bool)
        edges = torch.from_numpy(parse.edges.astype(np.int64))
        relations = semantic_relations(edges, torch.zeros(len(edges), dtype=torch.int64), mask)
        query: Encoded = self.model.encode_text(Sentences(words, relations, mask))
        chosen = self.index.search(query.pooled, max(top, candidates))[0]
        scores, rows = rerank(self.model, query, chosen, self._encoded, image=False)
        scores, rows = scores[:top], rows[:top]
        ids = self.split.store.ids
        matches = [Match(row, ids[row], score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]
        weights = None
        if isinstance(self.model, Attends):
            same = query.take(torch.zeros(len(rows), dtype=torch.int64))
            weights = self.model.attend(self._encoded(rows), same).float().numpy()
        kinds = word_kinds([parse.tag_names[tag] for tag in parse.tags], [Edge(*edge) for edge in parse.edges.tolist()])
        said = [place for place, kind in enumerate(kinds) if kind not in SILENT]
        return Answer(parse.words, said, matches, weights, len(chosen), len(self.index))

    def backdrop(self, pictures: Path | None = None) -> Backdrop:
        """What its figures are drawn on: image files of a folder, else what Scenes knows of its pictures, else outlines of regions."""
        truth = self.split.store.path.with_suffix(".truth.h5")
        return Backdrop(self.split, Truth(truth) if truth.exists() else None, pictures)


def answer_figure(answer: Answer, backdrop: Backdrop) -> Figure:
    """The first matches, a row each, and in it a panel a word that speaks of something: the regions that it attends to.

    Raises: DataError where there is nothing to draw.
    """
    if answer.weights is None:
        raise DataError(
            "search: expected a method whose words attend to regions, for a figure; leave out --figure, or search by RACG"
        )
    said = answer.said[:COLUMNS] or list(range(len(answer.words)))[:COLUMNS]
    rows = []
    for place, match in enumerate(answer.matches[:DRAWN]):
        shares = [answer.weights[place, word] for word in said]
        panels = [
            Panel(match.row, share, None, f"{answer.words[word]}  {share.max():.2f}")
            for word, share in zip(said, shares, strict=True)
        ]
        rows.append((f"{place + 1}. {match.id}  {match.score:.3f}", panels))
    return panels_figure(rows, backdrop)


def save_index(path: Path, pooled: NDArray[np.float16], of: dict[str, str]) -> None:
    """pooled: [G,P].  of: what they were made of."""
    with writing(path, "name another file by --index"), replacing(path) as unfinished:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        save_file({"pooled": pooled}, unfinished, {SCHEMA: json.dumps(of)})
        unfinished.chmod(mode)  # safetensors lets nobody else read its files


def read_index(path: Path) -> PooledIndex:
    with safe_open(path, "np") as file:
        pooled = file.get_slice("pooled")
        rows, width = pooled.get_shape()
        index = PooledIndex(width)
        for start in range(0, rows, ADDED):
            index.add(torch.from_numpy(pooled[start : min(start + ADDED, rows)]))
    return index


def stored_of(path: Path) -> dict[str, str]:
    """Of what an index was made. Raises: DataError where a file is none, so that nothing else is written over."""
    try:
        with safe_open(path, "np") as file:
            of: dict[str, str] = json.loads((file.metadata() or {})[SCHEMA])
            return of
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: expected an index of racg search, got another or a damaged file ({one_line(error)}); "
            f"remove it, or name another by --index"
        ) from error
