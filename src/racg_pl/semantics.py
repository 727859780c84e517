"""The semantic graph of a caption: what a parse says of objects, their attributes, and who does what to whom, where.

    "a cat is chased by the robot"  →  chased –agent→ robot, chased –patient→ cat, robot –acts on→ cat

All words are nodes. Verbs, adpositions and possession are relations with roles, whatever construction says so: actives,
passives, participles, relative clauses, clefts and inversions end in one graph. The list of edge types is closed and the same
for every parser: trees.py brings the label schemes together and clauses.py says who stands for a word, so that the rules here
know Universal Dependencies alone. No torch here: the processes that parse must not load it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from racg_pl.clauses import ATTRIBUTES, FUNCTIONS, Clauses
from racg_pl.mend import mend
from racg_pl.trees import NOMINAL, Tree, to_universal
from racg_pl.word_classes import (
    ADPOSITIONS,
    BE,
    EXPLETIVE,
    GROUPS,
    HAVE,
    NEGATIONS,
    PLACES,
    POSSESSIVES,
    PRONOUNS,
    RELATIVE,
    SIDES,
    WEAK,
)

VERSION = "3"  # of the rules: a change that gives any caption another graph raises it

# Edge types, from source to target. Two words have one edge at most; where several rules speak of them, the first type here wins.
TYPES = (
    "agent",  # verb → who does it
    "patient",  # verb → whom it is done to
    "recipient",  # verb → to or for whom
    "negation",  # what is negated → no, not, without
    "figure",  # adposition, or "left", "front" … → what is placed
    "ground",  # the same → against what it is placed
    "possessor",  # object → whose it is, or the whole of which it is part
    "attribute",  # object → adjective, number, kind, predicate
    "acts on",  # agent → patient, directly
    "relative to",  # figure → ground, directly
    "manner",  # verb or attribute → adverb, or the adposition that says where
    "event",  # verb → verb: purpose, complement, what goes on at the same time
    "coordinate",  # a member of an enumeration → a later one
    "function",  # word → function word that hangs on it; also any arc without which the graph would fall apart
    "next",  # word → the word after it; of the chain, which has no other type
)
ROLES = {name: number for number, name in enumerate(TYPES)}


class Edge(NamedTuple):
    """Words by place in the caption, and an index into TYPES."""

    source: int
    target: int
    type: int


def semantic_edges(
    words: Sequence[str], heads: Sequence[int], labels: Sequence[str], tags: Sequence[str], scheme: str
) -> list[Edge]:
    """The semantic graph of one caption, sorted; no two edges join the same two words, and all words hang together.

    Args:
        words: [W] as written.  heads: places in the caption, a root's its own.  labels: of the arcs.  tags: universal.
        scheme: of the labels: "ud", "clear" or "chain".
    """
    if scheme == "chain":
        return [Edge(i - 1, i, ROLES["next"]) for i in range(1, len(words))]
    tree = Tree(words, heads, labels, tags)
    if scheme == "clear":
        to_universal(tree)
    mend(tree)
    return _Reading(tree).edges()


class _Reading(Clauses):
    """The rules, and the edges that they have found so far."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree)
        self.found: dict[tuple[int, int], Edge] = {}
        self.indirect: list[tuple[list[int], list[int], str]] = []  # edges past "with" and "has", where nothing else links

    def edges(self) -> list[Edge]:
        for i, label in enumerate(self.labels):
            if self.verbs[i]:
                self.verb(i)
            if self.words[i] in NEGATIONS:
                if self.heads[i] != i:
                    self.add([self.heads[i]], [i], "negation")
            elif label not in FUNCTIONS:
                self.arc(i)
                self.predicate(i)
            if self.cases[i] or self.words[i] in SIDES:
                self.adposition(i)
        for sources, targets, name in self.indirect:
            self.add(sources, targets, name)
        self.join()
        return sorted(self.found.values())

    def add(self, sources: Iterable[int], targets: Iterable[int], name: str) -> None:
        kind, targets = ROLES[name], list(targets)
        for source in sources:
            for target in targets:
                pair = (source, target) if source < target else (target, source)
                if source != target and (pair not in self.found or kind < self.found[pair].type):
                    self.found[pair] = Edge(source, target, kind)

    def verb(self, verb: int) -> None:
        """Roles of a verb."""
        if self.words[verb] in BE:
            return
        given = [c for c in self.kids(verb, "obj") if not self.is_relative(c, verb)]
        if not given and self.labels[verb] == "conj":  # "cuts and eats a cake": what follows both is done to both
            given = [c for c in self.kids(self.heads[verb], "obj") if c > verb]
        receivers = self.kids(verb, "iobj") or given[:-1]  # "gives a girl a flower"
        objects = [m for c in given if c not in receivers for m in self.members(c)]
        subjects = self.subjects(verb)
        agents, patients = subjects, objects
        if self.is_passive(verb):
            agents, patients = [m for c in self.doers(verb) for m in self.members(c)], subjects
        elif not objects and self.has_gap(verb):  # "the horse that a robot is riding", "the mat that a cat sleeps on"
            stranded = [c for c in self.kids(verb, "advmod", "obl", "compound:prt", "case") if self.words[c] in ADPOSITIONS]
            placed = [
                c for c in self.kids(verb, "obl") if self.words[c] in RELATIVE and self.cases[c]
            ]  # "a mat on which a cat sleeps"
            if stranded:
                self.relate(stranded[-1], subjects, [self.core(self.heads[verb])])
            elif not placed:
                patients = [self.core(self.heads[verb])]
        self.add([verb], agents, "agent")
        self.add([verb], patients, "patient")
        self.add([verb], [m for c in receivers for m in self.members(c)], "recipient")
        if self.words[verb] in HAVE:
            self.indirect.append((patients, agents, "possessor"))
        else:
            self.add(agents, patients, "acts on")

    def arc(self, i: int) -> None:
        """What the label of a word's own arc says."""
        label, head = self.labels[i], self.heads[i]
        thing = self.tags[head] in NOMINAL and self.tags[head] != "NUM" and not self.verbs[head]
        if head == i:
            return
        if label in ("conj", "appos"):
            self.add([head], [i], "coordinate")
        elif label in ATTRIBUTES or (label == "acl" and self.tags[i] == "ADJ"):
            if self.words[i] not in SIDES or self.words[head] != "side":
                self.add([head], self.members(i), "manner" if self.verbs[head] else "attribute")
        elif label == "nmod:poss":
            self.add([head], self.stood_for(i), "possessor")
        elif label in ("advmod", "obl:unmarked") or (label == "obl" and not self.cases[i]):
            self.add([head], [i], "attribute" if thing else "manner")
        elif label in ("xcomp", "ccomp", "advcl", "parataxis"):
            self.add([head], [i], "event" if self.verbs[i] else "manner")

    def predicate(self, i: int) -> None:
        """ "The dog is red", "the dog that is red"; "the mat that a cat is on"; "a group of dogs"."""
        if self.words[i] in ADPOSITIONS and self.has_gap(i):
            self.relate(i, self.subjects(i), [self.core(self.heads[i])])
        elif not self.verbs[i] and not self.cases[i] and (self.labels[i] == "xcomp" or self.kids(i, "cop")):
            alike = [m for m in self.members(i) if m == i or (self.tags[m] == self.tags[i] and not self.kids(m, "det"))]
            self.add([s for s in self.subjects(i) if self.words[s] not in EXPLETIVE], alike, "attribute")
        if self.words[i] in GROUPS:
            self.add([self.core(i)], [i], "attribute")

    def adposition(self, inner: int) -> None:
        """The relation of which `inner` is the ground, or the place itself as in "to the left of a plate"."""
        words, head, cases = self.words, self.heads[inner], self.cases[inner]
        side = next((c for c in self.kids(inner, *ATTRIBUTES) if words[c] in SIDES), None) if words[inner] == "side" else None
        place = self.is_place(inner) or side is not None
        if not place and (not cases or self.is_agent(inner)):
            return
        if not place and self.only(inner, "of") and not self.verbs[head]:
            if words[head] not in PLACES and self.core(head) == head:
                self.add([head], self.members(inner), "possessor")
            return
        strong = [c for c in cases if words[c] not in WEAK]
        relation = (inner if side is None else side) if place else (strong or cases)[-1]
        figures, grounds = self.figures(inner), self.wholes(inner) if place else self.stood_for(inner)
        pronouns = [c for c in self.kids(inner, "nmod:poss") if words[c] in POSSESSIVES]
        if (pronouns or words[inner] in PRONOUNS) and (known := self.owned(min(cases, default=inner))):
            figures, owners = known
            if place or not pronouns:
                grounds = owners
            else:
                self.add([inner], owners, "possessor")
        self.add([relation], [c for c in (*cases, inner) if place or c != inner], "function")
        self.relate(relation, figures, grounds)
        if self.verbs[head] and head not in figures and words[head] not in BE | HAVE:
            self.add([head], [relation], "manner")

    def relate(self, relation: int, figures: list[int], grounds: list[int]) -> None:
        self.add([relation], figures, "figure")
        self.add([relation], grounds, "ground")
        if self.words[relation] == "with":
            self.indirect.append((figures, grounds, "relative to"))
        elif self.words[relation] != "without":
            self.add(figures, grounds, "relative to")

    def join(self) -> None:
        """Hang on its head by the weakest type whatever the rules have left apart from it, so that the graph is connected."""
        part = list(range(len(self.words)))

        def top(i: int) -> int:
            while part[i] != i:
                part[i] = i = part[part[i]]
            return i

        for source, target in self.found:
            part[top(source)] = top(target)
        root = next((i for i, head in enumerate(self.heads) if head == i), 0)
        for i, head in enumerate(self.heads):
            one, other = top(i), top(root if head == i else head)
            if one != other:
                part[one] = other
                self.add([root if head == i else head], [i], "function")
