"""Twins of Scenes: how often the best possible scorers tell them apart, and how often a given one does.

Two scorers know everything about every picture and how captions are written; they differ in what they see of a caption.
    bag of words  the unordered bag: which classes, attributes and relations it names, by whatever synonym, but neither which
                  attribute belongs to which object nor who is who. By scene_captions.py the words themselves say no more
                  than that, given the bag.
    relations     all that it says: each object with its own attribute, each relation with its subject and its object.
Both score a pair by the chance that the caption was written for the picture, one of N, all as likely beforehand:
    score(i, c) = P(seen of c | i) / Σ_j P(seen of c | j).
For a caption this ranks the pictures best, and for a picture its first caption is right with the chance that the score
says, so no scorer that sees as much of each caption and judges one caption at a time has a higher expected R@1. A bag fits
a picture and its twin equally well, whatever is known of the pictures: over a pair of twins at most one can win, and R@1 is
at most 50. Captions that leave out what is exchanged keep the second scorer below 100. On relation twins the first bound
also holds for a scorer that reads captions perfectly and sees the regions of a picture one by one, without their places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from racg_pl.scene_captions import FULL, Content, contents
from racg_pl.scene_facts import Facts, Kind

if TYPE_CHECKING:
    from racg_pl.scene_truth import Truth

SAME = 1e-9  # relative difference below which two chances are a tie


@dataclass(frozen=True)
class TwinCeiling:
    """Expected R@1 in percent over the whole gallery, ties broken at random, of the best scorers on one kind of twins."""

    bag_of_words_i2t: float
    bag_of_words_t2i: float
    relations_i2t: float
    relations_t2i: float


@dataclass(frozen=True)
class Ceilings:
    """The ceilings on attribute twins and on relation twins. Prints as a table."""

    attribute: TwinCeiling
    relation: TwinCeiling

    def to_dict(self) -> dict[str, dict[str, float]]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, dict[str, float]]) -> Ceilings:
        return cls(TwinCeiling(**stored["attribute"]), TwinCeiling(**stored["relation"]))

    def __str__(self) -> str:
        lines = [
            "expected R@1 under random ties     best bag of words     best with relations",
            " " * 35 + "i2t       t2i       i2t       t2i",
        ]
        for name, row in self.to_dict().items():
            lines.append(f"{name + ' twins':<32}" + "".join(f"{value:6.1f}    " for value in row.values()).rstrip())
        return "\n".join(lines)


def bag(facts: Facts, content: Content) -> Hashable:
    """What a bag of words shows of a caption: the classes, attributes and relations that it names, each counted.

    "Left of" and "right of" are one relation here, since a caption uses either for the other, turned round.
    """
    classes = sorted(c for c, mention in zip(facts.classes, content.mention, strict=True) if mention)
    attributes = sorted(a for a, mention in zip(facts.attributes, content.mention, strict=True) if mention == FULL)
    relations = sorted(r for (_, r, _), told in zip(facts.relations, content.told, strict=True) if told)
    return tuple(classes), tuple(attributes), tuple(relations)


def statement(facts: Facts, content: Content) -> Hashable:
    """All that a caption says: every object with its attribute (−1 where left out), every relation with its ends in order."""
    triples = zip(facts.classes, facts.attributes, content.mention, strict=True)
    objects = sorted((c, a if mention == FULL else -1) for c, a, mention in triples if mention)
    told = zip(facts.relations, content.told, strict=True)
    relations = sorted((facts.classes[s], r, facts.classes[o]) for (s, r, o), tell in told if tell)
    return tuple(objects), tuple(relations)


def ceilings(
    pictures: Sequence[Facts], captions: Sequence[Content], image: NDArray[np.int64], kind: NDArray[np.int8]
) -> Ceilings:
    """The ceilings of a split, exactly (no sampling).

    Args:
        pictures: [N].  captions: [C] what each says.  image: [C] index of its picture.  kind: [N] the Kind of each
        picture's twin.
    """
    by_bag = expected_hits(pictures, captions, image, bag)
    by_statement = expected_hits(pictures, captions, image, statement)

    def row(wanted: Kind) -> TwinCeiling:
        chosen = (kind == wanted, kind[image] == wanted)
        hits = (*zip(by_bag, chosen, strict=True), *zip(by_statement, chosen, strict=True))
        return TwinCeiling(*(100 * float(hit[queries].mean()) for hit, queries in hits))

    return Ceilings(row(Kind.ATTRIBUTE), row(Kind.RELATION))


def expected_hits(
    pictures: Sequence[Facts], captions: Sequence[Content], image: NDArray[np.int64], seen: Callable[[Facts, Content], Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The chance that each picture [N] and each caption [C] finds its own first, by the best scorer that sees `seen`."""
    keys = [seen(pictures[i], content) for i, content in zip(image, captions, strict=True)]
    likelihood: dict[Hashable, dict[int, float]] = {key: defaultdict(float) for key in keys}
    for index, facts in enumerate(pictures):
        possible = contents(len(facts.classes), len(facts.relations), facts.kind, facts.focus)
        for content, chance in zip(possible.items, possible.chance.tolist(), strict=True):
            table = likelihood.get(seen(facts, content))
            if table is not None:
                table[index] += chance

    t2i = np.zeros(len(keys))
    candidates: list[list[tuple[float, bool]]] = [[] for _ in pictures]  # per picture: score of a caption, and is it its own
    for caption, key in enumerate(keys):
        table, own = likelihood[key], int(image[caption])
        total = sum(table.values())
        for index, chance in table.items():
            candidates[index].append((chance / total, index == own))
        t2i[caption] = _first([(chance, index == own) for index, chance in table.items()])
    return np.array([_first(scored) for scored in candidates]), t2i


def _first(scored: list[tuple[float, bool]]) -> float:
    """The chance that a right one comes first: the share of right ones among the best."""
    best = max((score for score, _ in scored), default=0.0)
    tied = [right for score, right in scored if score >= best * (1 - SAME)]
    return sum(tied) / len(tied) if tied else 0.0


def twin_hits(scores: NDArray, image: NDArray[np.int64], truth: Truth) -> dict[str, NDArray[np.bool_]]:
    """What a scorer makes of the twins, query by query (take the mean, or bootstrap). A tie counts against it.

    Args:
        scores: [N,C], all pictures of the split by all captions.  image: [C] the picture of each caption.  truth: of the split.
    Returns: for each kind ("attribute", "relation")
        {kind}_i2t: per picture that has such a twin: one of its captions beats every caption of the split that is not its own;
        {kind}_t2i: per caption of such pictures: its picture beats every other picture of the split;
        {kind}_i2t_choice: per picture: its best caption beats the best one of its twin;
        {kind}_t2i_choice: per decisive caption: its picture beats the twin. Guessing gets half of the choices right.
    The first two are the R@1 that the ceilings speak of.
    """
    count = len(truth.twin)
    own = image[None, :] == np.arange(count)[:, None]
    low = np.array(-np.inf, scores.dtype)
    best_own, best_other = np.where(own, scores, low).max(1), np.where(own, low, scores).max(1)
    best_of_twin = np.where(image[None, :] == truth.twin[:, None], scores, low).max(1)
    right = scores[image, np.arange(len(image))]
    wrong = np.where(own, low, scores).max(0)
    of_twin = scores[truth.twin[image], np.arange(len(image))]
    hits = {}
    for kind in (Kind.ATTRIBUTE, Kind.RELATION):
        pictures, texts = truth.twin_kind == kind, truth.twin_kind[image] == kind
        name = kind.name.lower()
        hits[f"{name}_i2t"] = (best_own > best_other)[pictures]
        hits[f"{name}_t2i"] = (right > wrong)[texts]
        hits[f"{name}_i2t_choice"] = (best_own > best_of_twin)[pictures]
        hits[f"{name}_t2i_choice"] = (right > of_twin)[texts & truth.decisive]
    return hits
