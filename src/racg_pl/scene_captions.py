"""What a caption of Scenes says, and in which words.

First the content: which objects are mentioned, with or without their attribute, and which relations are told. Its
distribution is a finite list, so that scene_twins.py can weigh every reading exactly. Then the words: synonyms, actives and
passives, relative clauses and inversions.

The words are drawn so that, given the content, a bag of them says nothing about who is who or whose attribute is whose:
each noun phrase is drawn for its object, before its place in the sentence is known; the subject comes first half of the
time; either name of a spatial relation ("left of", or "right of" turned round) is as likely; phrases in which an attribute
follows its noun stand only where no relation is told. A twin's captions are hence the same bags of words, in other orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from racg_pl.scene_facts import ATTRIBUTES, CLASSES, RELATIONS, SPATIAL, Facts, Kind

CAPTIONS = 5  # a picture
DECISIVE = 0.7  # share of captions that tell a picture from its twin: three or four of five
ABSENT, PLAIN, FULL = 0, 1, 2  # an object is left out, named, or named with its attribute
OTHERS = (0.4, 0.2, 0.4)  # chances of these for an object outside the focus
TOLD = 0.75  # chance that a relation outside the focus is told, where both its ends are mentioned
PERIOD = 0.15

Phrase = list[tuple[str, int]]  # words, each with the object that it speaks of, −1 none

VERBS = {  # present participle, past participle, third person
    "riding": (("riding", "ridden", "rides"),),
    "feeding": (("feeding", "fed", "feeds"),),
    "carrying": (("carrying", "carried", "carries"), ("hauling", "hauled", "hauls")),
    "chasing": (("chasing", "chased", "chases"), ("pursuing", "pursued", "pursues")),
}
# Per spatial relation, as it stands and turned round: phrases before the object, and what follows "with a cat …".
PLACES = {
    "left of": (
        (("to the left of", "on the left of", "on the left side of", "left of"), ("to its left", "on its left side")),
        (("to the right of", "on the right of", "on the right side of", "right of"), ("to its right", "on its right side")),
    ),
    "above": ((("above", "over"), ("above it",)), (("below", "under", "beneath"), ("below it", "underneath it"))),
}


class Content(NamedTuple):
    """What a caption says: mention [n] of ABSENT, PLAIN, FULL; told [relations]. A told relation's ends are mentioned."""

    mention: tuple[int, ...]
    told: tuple[bool, ...]


class Contents(NamedTuple):
    """Every content that a picture's captions may have, its chance, and whether it tells the picture from its twin."""

    items: tuple[Content, ...]
    chance: np.ndarray
    decisive: np.ndarray


@cache
def contents(objects: int, pairs: int, kind: Kind, focus: tuple[int, int]) -> Contents:
    """The distribution of contents; it depends on the shape of a picture's facts only, and is the same for its twin.

    A decisive caption mentions both objects of the focus and what is exchanged between them; any other says nothing of that.
    """
    items: list[Content] = []
    chance: list[float] = []
    decisive: list[bool] = []
    for tells in (True, False):
        found = dict(_contents(objects, pairs, kind, focus, tells))
        total = sum(found.values()) / (DECISIVE if tells else 1 - DECISIVE)
        items += found
        chance += [p / total for p in found.values()]
        decisive += [tells] * len(found)
    return Contents(tuple(items), np.array(chance), np.array(decisive))


def _contents(objects: int, pairs: int, kind: Kind, focus: tuple[int, int], tells: bool) -> Iterator[tuple[Content, float]]:
    """(content, weight) of one side of DECISIVE."""
    ends: dict[tuple[int, int], float]
    if kind is Kind.RELATION:
        one = (0, 0.35, 0.65) if tells else (0.3, 0.25, 0.45)
        ends = {(a, b): one[a] * one[b] for a, b in product(range(3), repeat=2)}
    elif tells:
        ends = {(FULL, FULL): 0.7, (FULL, PLAIN): 0.15, (PLAIN, FULL): 0.15}
    else:
        ends = {(a, b): (0.3, 0.7)[a] * (0.3, 0.7)[b] for a, b in product(range(2), repeat=2)}
    free = [k for k in range(objects) if k not in focus]
    for mention in product(range(3), repeat=objects):
        weight = ends.get((mention[focus[0]], mention[focus[1]]), 0) * prod(OTHERS[mention[k]] for k in free)
        if not weight or sum(map(bool, mention)) < 2:
            continue
        chances = []  # that each relation is told
        for pair in range(pairs):
            if kind is Kind.RELATION and focus == (2 * pair, 2 * pair + 1):
                chances.append(float(tells))
            else:
                chances.append(TOLD if mention[2 * pair] and mention[2 * pair + 1] else 0.0)
        for told in product((False, True), repeat=pairs):
            share = prod(p if t else 1 - p for p, t in zip(chances, told, strict=True))
            if share:
                yield Content(mention, told), weight * share


def draw_contents(facts: Facts, rng: Generator) -> list[tuple[Content, bool]]:
    """The contents of a picture's five captions, three or four of them decisive, in random order, each with whether it is."""
    choice = contents(len(facts.classes), len(facts.relations), facts.kind, facts.focus)
    wanted = np.arange(CAPTIONS) < rng.integers(3, 5)
    drawn = []
    for tells in rng.permutation(wanted):
        weights = choice.chance * (choice.decisive == tells)
        item = rng.choice(len(weights), p=weights / weights.sum())
        drawn.append((choice.items[item], bool(tells)))
    return drawn


def write_caption(facts: Facts, content: Content, rng: Generator) -> tuple[str, list[tuple[int, int, int]]]:
    """A caption that says `content` of `facts`, and its spans (first character, end, object): which word speaks of what."""
    return spell(Writer(facts, content, rng).sentence())


def spell(phrase: Phrase) -> tuple[str, list[tuple[int, int, int]]]:
    """Words as one line, no space before commas and the period, and the spans of the words that speak of an object."""
    text, spans = "", []
    for word, owner in phrase:
        text += " " if text and word not in ",." else ""
        if owner >= 0:
            spans.append((len(text), len(text) + len(word), owner))
        text += word
    return text, spans


class Writer:
    """One caption in the making. Draws every noun phrase first, then builds the sentence about them."""

    def __init__(self, facts: Facts, content: Content, rng: Generator) -> None:
        self.facts, self.content, self.rng = facts, content, rng
        self.nouns: dict[int, str] = {}
        self.attributes: dict[int, str] = {}
        self.articles: dict[int, str] = {}
        for k, mention in enumerate(content.mention):
            if mention:
                self.nouns[k] = self.one(*list(CLASSES.values())[facts.classes[k]])
                self.articles[k] = self.one("a", "a", "a", "the")
            if mention == FULL:
                self.attributes[k] = self.one(*list(ATTRIBUTES.values())[facts.attributes[k]])

    def one(self, *choices: str) -> str:
        """One of the choices, all as likely."""
        return choices[int(self.rng.random() * len(choices))]

    def noun(self, k: int, after: bool = False) -> Phrase:
        """ "a red dog", or "a dog that is red" if after."""
        start = [(self.articles[k], -1)]
        if k not in self.attributes:
            return [*start, (self.nouns[k], k)]
        if after:
            return [*start, (self.nouns[k], k), *words("that is"), (self.attributes[k], k)]
        return [*start, (self.attributes[k], k), (self.nouns[k], k)]

    def listing(self, objects: list[int], after: bool = False) -> Phrase:
        """ "a dog", "a dog and a cat", "a dog, a cat and a ball"."""
        phrase: Phrase = []
        for place, k in enumerate(objects):
            if place:
                phrase += words(("and" if self.rng.random() < 0.8 else "as well as") if place == len(objects) - 1 else ",")
            phrase += self.noun(k, after and self.rng.random() < 0.3)
        return phrase

    def sentence(self) -> Phrase:
        told = [relation for relation, tell in zip(self.facts.relations, self.content.told, strict=True) if tell]
        told = [told[i] for i in self.rng.permutation(len(told))]
        ends = {k for subject, _, other in told for k in (subject, other)}
        rest = [int(k) for k in self.rng.permutation(len(self.content.mention)) if self.content.mention[k] and k not in ends]
        if not told:
            phrase = self.inventory(rest)
        elif self.rng.random() < 0.5:
            phrase = self.fragments(told, rest)
        else:
            phrase = self.clauses(told, rest)
        return phrase + (words(".") if self.rng.random() < PERIOD else [])

    def inventory(self, objects: list[int]) -> Phrase:
        """A caption without any relation."""
        items = self.listing(objects, after=True)
        form = self.one("plain", "plain", "start", "start", "end")
        if form == "start":
            return words(self.one("a picture of", "a photo of", "there is", "we see", "this picture shows")) + items
        return items + (words(self.one("are in the scene", "can be seen", "are here")) if form == "end" else [])

    def fragments(self, told: list[tuple[int, int, int]], rest: list[int]) -> Phrase:
        """Noun phrases: "a picture of a dog chased by a cat, with a red ball nearby"."""
        start = words(self.one("", "", "", "a picture of", "there is", "we see", "a photo of"))
        main = self.fragment(*told[0])
        for relation in told[1:]:
            main += words(", and") + self.fragment(*relation)
        if not rest:
            return start + main
        others = self.listing(rest)
        form = self.one("first", "last", "with", "with", "apart")
        if form == "first":
            return start + others + words(", and") + main
        if form == "last":
            return start + main + words(", and") + others
        if form == "apart":
            return words("apart from") + others + words("there is") + main
        return start + main + words(", with") + others + words(self.one("nearby", "in the background", "further away"))

    def clauses(self, told: list[tuple[int, int, int]], rest: list[int]) -> Phrase:
        """Whole sentences: "a cat is being fed by the robot while a hat and a pig are nearby"."""
        phrase = self.clause(*told[0])
        for relation in told[1:]:
            phrase += words(self.one("while", ", and")) + self.clause(*relation)
        if not rest:
            return phrase
        verb = "is" if len(rest) == 1 else "are"
        others = self.listing(rest)
        if self.rng.random() < 0.5:
            return phrase + words(self.one("while", ", and")) + others + words(f"{verb} {self.one('nearby', 'further away')}")
        return phrase + words(f", and there {verb}") + others

    def fragment(self, subject: int, relation: int, other: int) -> Phrase:
        name = RELATIONS[relation]
        if relation < SPATIAL:
            x, y, where, aside = self.placed(subject, name, other)
            form = self.one("plain", "plain", "that is", "with", "that has")
            if form in ("with", "that has"):
                return y + words(form) + x + words(aside)
            return x + words(where if form == "plain" else f"that is {where}") + y
        doing, done, _ = VERBS[name][int(self.rng.random() * len(VERBS[name]))]
        s, o = self.noun(subject), self.noun(other)
        if self.rng.random() < 0.5:
            return s + words(self.one(doing, doing, f"that is {doing}")) + o
        if self.rng.random() < 0.3:
            return o + words("that") + s + words(f"is {doing}")
        return o + words(f"{self.one('', 'being', 'that is being')} {done} by") + s

    def clause(self, subject: int, relation: int, other: int) -> Phrase:
        name = RELATIONS[relation]
        if relation < SPATIAL:
            x, y, where, aside = self.placed(subject, name, other)
            form = self.one("is", "is", "inverted", "has")
            if form == "has":
                return y + words("has") + x + words(aside)
            if form == "is":
                return x + words(f"is {where}") + y
            return words(where) + y + words(self.one("is", "there is")) + x
        doing, done, does = VERBS[name][int(self.rng.random() * len(VERBS[name]))]
        s, o = self.noun(subject), self.noun(other)
        if self.rng.random() < 0.5:
            form = self.one("is", "is", "does", "cleft")
            return {
                "is": s + words(f"is {doing}") + o,
                "does": s + words(does) + o,
                "cleft": words("it is") + s + words(f"that is {doing}") + o,
            }[form]
        if self.rng.random() < 0.3:
            return words("it is") + o + words("that") + s + words(f"is {doing}")
        return o + words(f"is {self.one('', 'being', 'being')} {done} by") + s

    def placed(self, subject: int, name: str, other: int) -> tuple[Phrase, Phrase, str, str]:
        """x, y, and the phrases of "x … y" and "y with x …": the relation as it stands or turned round, each half the time."""
        turned = self.rng.random() < 0.5
        where, aside = PLACES[name][turned]
        x, y = (other, subject) if turned else (subject, other)
        return self.noun(x), self.noun(y), self.one(*where), self.one(*aside)


def words(text: str) -> Phrase:
    """Words that speak of no object."""
    return [(word, -1) for word in text.split()]
