"""`racg search`: pictures by sentence, and where the words of the sentence lie in them.

Pooled embeddings of all pictures, made once and kept (index_file.py), find candidates; these alone are read, encoded and scored by the
cross graph (two_stage.py). With as many candidates as pictures the ranking is the exact one.

Letters: K matches, R regions, W words.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from racg_pl.attention import Attends
from racg_pl.attention_draw import COLUMNS, Backdrop, Panel, panels_figure
from racg_pl.data import RetrievalData, Split
from racg_pl.errors import DataError, require_apart, require_file
from racg_pl.features import RegionStore
from racg_pl.figure import figure_path, save_figure
from racg_pl.graph_view import require_sentence, word_kinds
from racg_pl.graphs import Sentences, semantic_relations
from racg_pl.index_file import ENCODED, read_index, write_index
from racg_pl.method import Encoded
from racg_pl.scene_truth import Truth
from racg_pl.semantics import Edge
from racg_pl.text import load_parser, parse_captions, require_same
from racg_pl.training import load_module, require_trained_on, trained_options, weights_hash
from racg_pl.two_stage import CANDIDATES, PooledIndex, rerank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = 10  # matches that are listed
DRAWN = 4  # of them that a figure shows
SILENT = ("function", "negation")  # kinds of words that speak of no region
UNKNOWN = 1  # id of a word that is not in the vocabulary


class Match(NamedTuple):
    """A picture that was found: its row in the store, its id, its score."""

    row: int
    id: str
    score: float


class Answer(NamedTuple):
    """What was found for a sentence, best first.

    words: of the sentence.  unknown: those that the model does not know.  said: places of those that speak of something, of all where
    none does.  weights: float32 [K,W,R], how much each word attends to each region of each match; None where the method has no such
    weights.  scored: candidates that the cross graph scored, of `pictures`.
    """

    words: list[str]
    unknown: list[str]
    said: list[int]
    matches: list[Match]
    weights: NDArray[np.float32] | None
    scored: int
    pictures: int

    def __str__(self) -> str:
        """A line a match: place, score, picture, and each word with the region that it attends to most and its share."""
        wide = max((len(match.id) for match in self.matches), default=0)
        unknown = f"; unknown: {' '.join(self.unknown)}" if self.unknown else ""
        lines = [f"{' '.join(self.words)}   ({self.scored:,} of {self.pictures:,} pictures scored{unknown})"]
        for place, match in enumerate(self.matches):
            regions = "" if self.weights is None else "  ".join(self._regions(self.weights[place]))
            lines.append(f"{place + 1:4}  {match.score:7.3f}  {match.id:<{wide}}  {regions}".rstrip())
        return "\n".join(lines)

    def _regions(self, weights: NDArray[np.float32]) -> list[str]:
        return [f"{self.words[word]} {weights[word].argmax()} ({weights[word].max():.2f})" for word in self.said]


def _require_width(store: RegionStore, trained: Mapping[str, Any]) -> None:
    """trained: options of the model. Raises: DataError where it was trained on other numbers a region."""
    if store.dim != (wanted := trained.get("feature_dim", store.dim)):
        raise DataError(
            f"{store.path}: expected {wanted} numbers a region, as in training, got {store.dim}; use the extractor of the training data"
        )


class Pictures(Split):
    """A region store alone: pictures without captions, which nothing but their regions is asked of."""

    def __init__(self, path: Path, trained: Mapping[str, Any], known: RegionStore) -> None:
        """trained: options of the model.  known: of its data set.

        Raises: DataError where it was trained on other numbers a region, other classes or none, or where one of the two has no boxes.
        """
        self.store = RegionStore(path)
        _require_width(self.store, trained)
        reached, classes = 0 if self.store.labels is None else int(self.store.labels.max()) + 1, trained.get("objects", 0)
        if classes and not 0 < reached <= classes:
            raise DataError(
                f"{path}: expected labels of {classes} classes, got {reached or 'none'}; use the detector of the training data"
            )
        if self.store.boxes_known != known.boxes_known:
            boxes = ("regions without boxes", "regions with boxes")
            raise DataError(
                f"{path}: expected {boxes[known.boxes_known]}, as in {known.path}, got {boxes[self.store.boxes_known]}; "
                "convert both from the same kind of features"
            )


class Searcher:
    """A trained model over the pictures of one split, or of a region store.

    Args:
        checkpoint: of `racg fit`.  root, split: of a data set parsed as in training.
        gallery: region store whose pictures are searched in place of the split's, and need no captions.
        parser: a pipeline's folder, where that of the training is not installed by its name.
        index: file of the pooled embeddings, made where it is missing or of other weights or pictures; by default
            index_SPLIT_CKPT.h5, or index_gallery_NAME_CKPT.h5, in the folder of the run.
        top: matches of a sentence.  candidates: pictures that the cross graph scores, at least `top`.
    Raises: DataError where a file is missing, damaged or belongs to others.
    """

    def __init__(
        self,
        checkpoint: Path,
        root: Path,
        split: str = "test",
        parser: str | None = None,
        index: Path | None = None,
        gallery: Path | None = None,
        top: int = TOP,
        candidates: int = CANDIDATES,
    ) -> None:
        if min(top, candidates) < 1:
            raise DataError(f"search: expected at least one match and one candidate, got {top} and {candidates}; raise them")
        self.top, self.candidates = top, max(top, candidates)
        trained = trained_options(checkpoint)
        searched = split if gallery is None else f"gallery_{gallery.stem}"
        self.path = index or checkpoint.absolute().parent.parent / f"index_{searched}_{checkpoint.stem}.h5"
        require_file(self.path)
        self.read = [checkpoint, root / "vocab.json", *root.glob("*.h5"), *([] if gallery is None else [gallery])]
        require_apart([self.path], self.read)
        name = trained.get("text_source", "").partition(" ")[0] or "bundled"
        if gallery is not None:  # any split says how sentences are read
            split = next((other for other in (split, "train", "dev") if (root / f"{other}.captions.h5").exists()), split)
        data = RetrievalData(str(root), parser=name, val=split, classes=trained.get("objects", 0))
        self.split: Split = data.split("validate")
        _require_width(self.split.store, trained)  # before it is compared with other splits
        require_trained_on(checkpoint, trained, data)
        self.pictures = self.split if gallery is None else Pictures(gallery, trained, self.split.store)
        self.vocabulary = data.vocabulary
        self.parser = load_parser(parser or name)
        require_same(self.split.parse, self.parser, f"parser {parser or name!r}")
        module = load_module(checkpoint)
        self.model: Any = module.model
        self.weights = weights_hash(module.state_dict())

    @cached_property
    def index(self) -> PooledIndex:
        """Of all pictures: from its file, or made. Raises: DataError where the method has no pooled embeddings."""
        of = (self.weights, self.pictures.store.sha256)
        if self.path.exists():
            if (index := read_index(self.path, *of)) is not None:
                return index
            print(f"{self.path}: of other weights or pictures, and made anew", file=sys.stderr)

        @torch.inference_mode()
        def pooled(rows: NDArray[np.int64]) -> torch.Tensor:
            return self._encoded(torch.from_numpy(rows)).pooled

        return write_index(self.path, *of, pooled, len(self.pictures))

    def _encoded(self, rows: torch.Tensor) -> Encoded:
        """Pictures read and encoded on demand."""
        encoded: Encoded = self.model.encode_image(self.pictures.regions(rows.numpy()))
        return encoded

    @torch.inference_mode()
    def find(self, sentence: str) -> Answer:
        """The pictures that fit a sentence best. Raises: DataError where it has no words, is no Unicode, or a book."""
        require_sentence(sentence, "search")
        parse = parse_captions([sentence], self.parser)
        words = torch.from_numpy(self.vocabulary.encode(parse.words))[None]
        mask = torch.ones_like(words, dtype=torch.bool)
        edges = torch.from_numpy(parse.edges.astype(np.int64))
        relations = semantic_relations(edges, torch.zeros(len(edges), dtype=torch.int64), mask)
        query: Encoded = self.model.encode_text(Sentences(words, relations, mask))
        scores, rows, scored = self._ranked(query)
        ids = self.pictures.store.ids
        kinds = word_kinds([parse.tag_names[tag] for tag in parse.tags], [Edge(*edge) for edge in parse.edges.tolist()])
        return Answer(
            parse.words,
            [word for word, known in zip(parse.words, words[0].tolist(), strict=True) if known == UNKNOWN],
            [place for place, kind in enumerate(kinds) if kind not in SILENT] or list(range(len(kinds))),
            [Match(row, ids[row], score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)],
            self._attended(query, rows) if isinstance(self.model, Attends) else None,
            scored,
            len(self.index),
        )

    def _ranked(self, query: Encoded) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Scores and rows of the matches, best first, and how many candidates there were."""
        candidates = self.index.search(query.pooled, self.candidates)[0]
        scores, rows = rerank(self.model, query, candidates, self._encoded, image=False)
        return scores[: self.top], rows[: self.top], len(candidates)

    def _attended(self, query: Encoded, rows: torch.Tensor) -> NDArray[np.float32]:
        """[K,W,R], see Answer."""
        found = []
        for block in rows.split(ENCODED):
            same = query.take(torch.zeros(len(block), dtype=torch.int64))
            found.append(self.model.attend(self._encoded(block), same).float().numpy())
        return np.concatenate(found)

    def find_each(self, lines: Iterable[bytes]) -> Iterator[Answer]:
        """An answer for each line that is not empty. What is no sentence is named on stderr, and the others go on.

        Raises: DataError at the end where there was any such line.
        """
        refused = 0
        for place, line in enumerate(lines, start=1):
            sentence = line.decode("utf-8", "surrogateescape").removeprefix("\ufeff").strip()
            if not sentence:
                continue
            try:
                require_sentence(sentence, "search")
            except DataError as error:
                refused += 1
                print(f"racg: stdin: line {place}: {error}", file=sys.stderr)
            else:
                yield self.find(sentence)
        if refused:
            raise DataError(f"stdin: expected a sentence a line, got {refused} of other lines, named above; correct them")

    def draw(self, sentence: str, figure: Path, pictures: Path | None = None) -> Answer:
        """`find`, and a figure of the first matches.

        Args:
            figure: picture file.  pictures: folder of image files named by their ids, to draw on.
        Raises: DataError where the method's words attend to no regions, and before anything long where a path will not do.
        """
        require_file(figure_path(figure))
        if not isinstance(self.model, Attends):
            raise DataError(
                "search: expected a method whose words attend to regions, for a figure; leave out --figure, or search by RACG"
            )
        truth = self.split.store.path.with_suffix(".truth.h5")
        known = truth.exists() and self.pictures is self.split
        backdrop = Backdrop(self.pictures, Truth(truth) if known else None, pictures)
        require_apart([self.path, figure], [*self.read, *backdrop.files.values()])
        answer = self.find(sentence)
        save_figure(answer_figure(answer, backdrop), figure)
        return answer


def answer_figure(answer: Answer, backdrop: Backdrop) -> Figure:
    """The first DRAWN matches, a row each, and in it the first COLUMNS words that speak of something: the regions they attend to."""
    assert answer.weights is not None
    rows: list[tuple[str, list[Panel]]] = []
    for match, weights in zip(answer.matches[:DRAWN], answer.weights, strict=False):
        shown = [(answer.words[word], weights[word]) for word in answer.said[:COLUMNS]]
        panels = [Panel(match.row, shares, None, f"{word}  {shares.max():.2f}") for word, shares in shown]
        rows.append((f"{len(rows) + 1}. {match.id}  {match.score:.3f}", panels))
    return panels_figure(rows, backdrop)
