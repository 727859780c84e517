"""What is in a picture of Scenes: objects, attributes, relations, and the twin that differs in one. No pixels, no words.

Letters: n objects in a picture, numbered from 0. Classes and attributes are drawn without regard to who does what to whom:
a hat may feed a horse. So nothing but the relative place of two regions (scene_pictures.py) can tell the subject of a
relation from its object.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.random import Generator

# Words begin with a consonant throughout: "an" would tell a bag of words which noun follows which attribute.
CLASSES: dict[str, tuple[str, ...]] = {
    "man": ("man", "guy", "gentleman"),
    "woman": ("woman", "lady"),
    "boy": ("boy", "lad"),
    "girl": ("girl", "lass"),
    "baby": ("baby", "toddler"),
    "robot": ("robot", "droid"),
    "dog": ("dog", "puppy", "hound"),
    "cat": ("cat", "kitten"),
    "horse": ("horse", "pony"),
    "cow": ("cow", "heifer"),
    "sheep": ("sheep", "lamb"),
    "goat": ("goat",),
    "pig": ("pig", "hog"),
    "bear": ("bear",),
    "lion": ("lion",),
    "tiger": ("tiger",),
    "monkey": ("monkey", "chimp"),
    "rabbit": ("rabbit", "bunny"),
    "duck": ("duck", "mallard"),
    "hen": ("hen", "chicken"),
    "parrot": ("parrot", "macaw"),
    "turtle": ("turtle", "tortoise"),
    "frog": ("frog", "toad"),
    "snake": ("snake", "serpent"),
    "camel": ("camel",),
    "zebra": ("zebra",),
    "bicycle": ("bicycle", "bike"),
    "car": ("car", "sedan"),
    "truck": ("truck", "lorry"),
    "boat": ("boat", "ship"),
    "ball": ("ball",),
    "kite": ("kite",),
    "chair": ("chair", "stool"),
    "sofa": ("sofa", "couch"),
    "table": ("table", "desk"),
    "lamp": ("lamp", "lantern"),
    "box": ("box", "crate"),
    "bottle": ("bottle", "flask"),
    "hat": ("hat", "cap"),
    "guitar": ("guitar", "banjo"),
}
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "red": ("red",),
    "blue": ("blue",),
    "green": ("green",),
    "yellow": ("yellow",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "brown": ("brown",),
    "black": ("black",),
    "white": ("white",),
    "gray": ("gray", "grey"),
    "striped": ("striped",),
    "spotted": ("spotted", "dotted"),
    "wooden": ("wooden",),
    "shiny": ("shiny", "glossy"),
    "fluffy": ("fluffy", "fuzzy"),
    "rusty": ("rusty",),
}
# A relation is where its subject stands as seen from its object, on the face of a clock. No two share an hour, nor an hour
# with the opposite of another, so the offset tells both which relation it is and who is who. "right of" and "below" are the
# first two, turned.
CLOCK: dict[str, int] = {"left of": 9, "above": 12, "riding": 11, "feeding": 10, "carrying": 7, "chasing": 8}
RELATIONS = tuple(CLOCK)
SPATIAL = 2  # the first two of RELATIONS

MIN_OBJECTS, MAX_OBJECTS = 3, 5


class Kind(IntEnum):
    """What sets a picture apart from its twin, stored as `twin_kind`."""

    NONE = 0
    ATTRIBUTE = 1
    RELATION = 2


@dataclass(frozen=True)
class Facts:
    """A picture's content.

    classes, attributes: one id an object; classes are distinct. relations: (subject, relation, object), on objects 0 and 1
    and, where there is a second, on 2 and 3; the others stand apart. focus: what a twin exchanges and captions tend to
    mention: the two objects whose attributes, or the two ends of the relation whose roles, a twin has the other way round.
    A picture without a twin has one too, so that its captions are like all others.
    """

    classes: tuple[int, ...]
    attributes: tuple[int, ...]
    relations: tuple[tuple[int, int, int], ...]
    kind: Kind
    focus: tuple[int, int]

    def twin(self) -> Facts:
        """The same objects, attributes and relations, with the focus exchanged. Its own inverse."""
        a, b = self.focus
        if self.kind is Kind.ATTRIBUTE:
            attributes = list(self.attributes)
            attributes[a], attributes[b] = attributes[b], attributes[a]
            return replace(self, attributes=tuple(attributes))
        return replace(self, relations=tuple((o, r, s) if {s, o} == {a, b} else (s, r, o) for s, r, o in self.relations))


def draw_facts(rng: Generator, kind: Kind) -> Facts:
    """The content of one picture, with a focus of the given kind."""
    count = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    classes = rng.permutation(len(CLASSES))[:count]
    attributes = rng.integers(len(ATTRIBUTES), size=count)
    pairs = 1 if count < 4 else int(rng.integers(1, 3))
    kinds = rng.permutation(len(RELATIONS))[:pairs]
    relations = []
    for pair in range(pairs):
        subject, other = (2 * pair, 2 * pair + 1) if rng.random() < 0.5 else (2 * pair + 1, 2 * pair)
        relations.append((subject, int(kinds[pair]), other))
    if kind is Kind.RELATION:
        pair = int(rng.integers(pairs))
        focus = (2 * pair, 2 * pair + 1)
    else:
        a, b = sorted(int(k) for k in rng.permutation(count)[:2])
        while attributes[a] == attributes[b]:
            attributes[b] = rng.integers(len(ATTRIBUTES))
        focus = (a, b)
    return Facts(tuple(map(int, classes)), tuple(map(int, attributes)), tuple(relations), kind, focus)


@dataclass(frozen=True)
class Plan:
    """Which group's facts each picture of a split shows, and on which side of the twin.

    group: [N] int, pictures with one number are twins. turned: [N] bool, the picture shows the group's facts with the focus
    exchanged. twin: [N] the index of the other picture, −1 none. kind: [N] the Kind of the twin. focus: [N] the Kind of the
    group's focus.
    """

    group: np.ndarray
    turned: np.ndarray
    twin: np.ndarray
    kind: np.ndarray
    focus: np.ndarray


def plan_split(rng: Generator, count: int) -> Plan:
    """Two fifths of a split in pairs of attribute twins, two fifths in pairs of relation twins, the rest alone, shuffled."""
    pairs = max(1, count // 5)
    groups = np.concatenate([np.repeat(np.arange(2 * pairs), 2), np.arange(2 * pairs, count - 2 * pairs)])
    kinds = np.full(count, Kind.NONE)
    kinds[: 2 * pairs], kinds[2 * pairs : 4 * pairs] = Kind.ATTRIBUTE, Kind.RELATION
    focus = np.where(kinds == Kind.NONE, np.where(np.arange(count) % 2, Kind.ATTRIBUTE, Kind.RELATION), kinds)
    partner = np.full(count, -1)
    partner[: 4 * pairs] = np.arange(4 * pairs) ^ 1
    turned = (np.arange(count) % 2 == 1) & (partner >= 0)
    order = rng.permutation(count)  # order[i] is the slot that picture i takes
    place = np.argsort(order)
    twin = np.where(partner[order] >= 0, place[partner[order]], -1)
    return Plan(groups[order], turned[order], twin, kinds[order], focus[order])
