"""The semantic graph of a caption: what a parse says of objects, their attributes, and who does what to whom, where.

    "a cat is chased by the robot"  →  chased –agent→ robot, chased –patient→ cat, robot –acts on→ cat

All words are nodes. Verbs, adpositions and possession are relations with roles, whatever construction says so: actives,
passives, participles, relative clauses, clefts and inversions end in one graph. The list of edge types is closed and the same
for every parser: trees.py brings the label schemes together, so that the rules here know Universal Dependencies alone.
No torch here: the processes that parse must not load it.
"""

# ruff: noqa: SIM905 (lists of words read best as text)
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from racg_pl.trees import BE, NOMINAL, Tree, mend, to_universal

VERSION = "1"  # of the rules: a change that gives any caption another graph raises it

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


# Closed classes, for what neither labels nor universal tags say
HAVE = frozenset("has have had having".split())
NEGATIONS = frozenset("no not n't never neither nor without".split())
RELATIVE = frozenset("that who which whom".split())
EXPLETIVE = frozenset("it there this these that those".split())  # as subjects of "is": "it is a dog that barks"
WEAK = frozenset("of to from at in on by with for".split())  # beside another adposition these say nothing: "next to"
NO_RELATION = frozenset("while as than 's '".split())  # words that parsers label as adpositions
# nouns that say where, like adpositions: "to the left of a plate"
PLACES = frozenset("left right front back top bottom side middle center centre edge rear inside outside".split())
PICTURES = frozenset("picture photo photograph image view shot close-up closeup drawing painting".split())
GROUPS = frozenset("group crowd couple pair bunch herd flock pack set row lot lots number variety kind type sort pile".split())
CLAUSE = (
    "acl",
    "acl:relcl",
    "advcl",
    "advcl:relcl",
    "xcomp",
    "ccomp",
    "parataxis",
    "conj",
    "ROOT",
    "dep",
    "list",
    "csubj",
    "appos",
)
ATTRIBUTES = ("amod", "nummod", "compound", "nmod:desc", "nmod:unmarked", "flat", "goeswith")
PARTICIPLES = ("ed", "en", "wn", "rn")
IRREGULAR = frozenset("held fed led caught brought built bought hit cut led made lit kept left hung put sat".split())


def semantic_edges(
    words: Sequence[str], heads: Sequence[int], labels: Sequence[str], tags: Sequence[str], scheme: str
) -> list[Edge]:
    """The semantic graph of one caption, sorted; no two edges join the same two words, and every word hangs together with all others.

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


class _Reading:
    """One caption being read. Words are places; the tree is Universal Dependencies'."""

    def __init__(self, tree: Tree) -> None:
        self.words, self.heads, self.labels, self.tags = tree.words, tree.heads, tree.labels, tree.tags
        self.children: list[list[int]] = [[] for _ in self.words]
        for i, head in enumerate(self.heads):
            if head != i:
                self.children[head].append(i)
        self.verbs = [self.is_verb(i) for i in range(len(self.words))]
        self.cases = [[c for c in self.kids(i, "case") if self.words[c] not in NO_RELATION] for i in range(len(self.words))]
        self.found: dict[tuple[int, int], Edge] = {}
        self.direct: list[tuple[list[int], list[int], str]] = []  # edges past "with" and "has", for whom nothing else links
        self.asked: set[int] = set()  # whose subject is being looked for

    def edges(self) -> list[Edge]:
        for i in range(len(self.words)):
            if self.verbs[i]:
                self.verb(i)
            self.word(i)
            if self.cases[i] or self.words[i] in ("left", "right"):
                self.adposition(i)
        for sources, targets, name in self.direct:
            self.add(sources, targets, name)
        self.join()
        return sorted(self.found.values())

    def add(self, sources: Iterable[int], targets: Iterable[int], name: str) -> None:
        kind = ROLES[name]
        targets = list(targets)
        for source in sources:
            for target in targets:
                pair = (source, target) if source < target else (target, source)
                if source != target and kind < (self.found[pair].type if pair in self.found else len(TYPES)):
                    self.found[pair] = Edge(source, target, kind)

    # ---- what a word is ----

    def kids(self, i: int, *labels: str) -> list[int]:
        return [c for c in self.children[i] if self.labels[c] in labels]

    def is_verb(self, i: int) -> bool:
        label, inside = self.labels[i], {self.labels[c] for c in self.children[i]}
        if self.tags[i] == "VERB":
            return label in CLAUSE or (
                not inside & {"det", "case", "amod"} and label not in (*ATTRIBUTES, "case", "mark", "cc")
            )
        if self.tags[i] == "AUX":
            return label in CLAUSE
        return self.tags[i] in NOMINAL and "obj" in inside and label in CLAUSE  # "plays" taken for a noun

    def is_passive(self, verb: int) -> bool:
        word, inside = self.words[verb], {self.labels[c] for c in self.children[verb]}
        if word.endswith("ing") or word in BE:
            return False
        if inside & {"aux:pass", "nsubj:pass", "obl:agent"}:
            return True
        if "obj" in inside:
            return False
        if any(self.words[c] in BE for c in self.kids(verb, "aux", "cop")):
            return True
        participle = word.endswith(PARTICIPLES) or word in IRREGULAR
        alone = self.labels[verb] == "acl" and not inside & {"nsubj", "mark", "aux"}
        return participle and (alone or bool(self.doers(verb)))

    def doers(self, verb: int) -> list[int]:
        """Whoever stands after "by"."""
        by = [c for c in self.kids(verb, "obl", "obl:agent", "nmod") if [self.words[k] for k in self.cases[c]] == ["by"]]
        return by or self.kids(verb, "obl:agent")

    # ---- who stands for a word ----

    def core(self, i: int) -> int:
        """What "a group of dogs" and "a picture of dogs" speak of."""
        if self.words[i] in PICTURES or self.words[i] in GROUPS:
            for c in self.kids(i, "nmod"):
                if c > i and [self.words[k] for k in self.cases[c]] == ["of"]:
                    return self.core(c)
        return i

    def members(self, i: int) -> list[int]:
        """A word with those coordinated with it. Two words are joined by "and" alone: ", and" after one word begins something new."""
        rest, open_ = [], [i]
        while open_:
            found = [c for c in self.kids(open_.pop(), "conj") if c not in rest]
            rest += found
            open_ += found
        group = [self.core(i)]
        last = i
        for c in sorted(rest):
            if c < i or self.cases[c] or (self.verbs[c] and not self.verbs[i]):
                continue
            joint = next((k for k in range(c - 1, last, -1) if self.tags[k] == "CCONJ" or self.labels[k] == "cc"), None)
            if joint is not None and self.words[joint - 1] == "," and len(group) == 1:
                break
            group.append(self.core(c))
            last = c
        return group

    def subjects(self, i: int) -> list[int]:
        """Of a verb or a predicate, in a passive too; those that it shares with another verb included."""
        if i in self.asked:
            return []
        self.asked.add(i)
        try:
            return self._subjects(i)
        finally:
            self.asked.remove(i)

    def _subjects(self, i: int) -> list[int]:
        label, head = self.labels[i], self.heads[i]
        own = self.kids(i, "nsubj", "nsubj:pass", "nsubj:outer")
        real = [c for c in own if not self.is_relative(c, i)]
        if real:
            return [m for c in real for m in self.members(c)]
        if label in ("acl", "acl:relcl"):
            if self.verbs[head] and label == "acl:relcl" and (outer := self.kids(head, "nsubj")):
                head = outer[0]
            return [m for m in self.members(head) if m < i] or [self.core(head)]
        if label == "conj":
            return self.subjects(head)
        if label == "xcomp" and (given := self.kids(head, "obj")):
            return self.members(given[0])
        if label in ("xcomp", "advcl"):
            return self.subjects(head) if self.verbs[head] else [self.core(head)]
        return []

    def is_relative(self, pronoun: int, verb: int) -> bool:
        return self.words[pronoun] in RELATIVE and (
            self.labels[verb] == "acl:relcl" or (self.tags[pronoun] != "NOUN" and pronoun > 0)
        )

    # ---- the rules ----

    def verb(self, verb: int) -> None:
        """Roles of a verb."""
        if self.words[verb] in BE:
            return
        objects = [m for c in self.kids(verb, "obj") if not self.is_relative(c, verb) for m in self.members(c)]
        subjects = self.subjects(verb)
        if self.is_passive(verb):
            agents, patients = [m for c in self.doers(verb) for m in self.members(c)], subjects
        else:
            agents, patients = subjects, objects
            own = [c for c in self.kids(verb, "nsubj") if not self.is_relative(c, verb)]
            if self.labels[verb] in ("acl", "acl:relcl") and own and not objects:  # "the horse that a robot is riding"
                patients = [self.core(self.heads[verb])]
        self.add([verb], agents, "agent")
        self.add([verb], patients, "patient")
        self.add([verb], [m for c in self.kids(verb, "iobj") for m in self.members(c)], "recipient")
        if self.words[verb] in HAVE:
            self.direct.append((patients, agents, "possessor"))
        else:
            self.add(agents, patients, "acts on")

    def word(self, i: int) -> None:
        """What the label of a word's own arc says."""
        label, head, word = self.labels[i], self.heads[i], self.words[i]
        if label in ("conj", "appos"):
            self.add([head], [i], "coordinate")
        if head == i:
            pass
        elif word in NEGATIONS and label in ("det", "advmod", "case", "cc", "cc:preconj", "aux", "mark"):
            self.add([head], [i], "negation")
        elif label in ATTRIBUTES or (label == "acl" and self.tags[i] == "ADJ"):
            if word not in PLACES or self.words[head] != "side":
                self.add([head], self.members(i), "manner" if self.verbs[head] else "attribute")
        elif label == "nmod:poss":
            self.add([head], self.members(i), "possessor")
        elif label in ("advmod", "obl:unmarked") or (label == "obl" and not self.cases[i]):
            self.add([head], [i], "attribute" if self.tags[head] in NOMINAL and not self.verbs[head] else "manner")
        elif label in ("xcomp", "ccomp", "advcl", "parataxis"):
            self.add([head], [i], "event" if self.verbs[i] else "manner")
        if not self.verbs[i] and not self.cases[i] and (self.kids(i, "cop") or label == "xcomp"):
            subjects = [s for s in self.subjects(i) if self.words[s] not in EXPLETIVE]
            self.add(subjects, [i], "attribute")
        if word in GROUPS and self.core(i) != i:
            self.add([self.core(i)], [i], "attribute")

    def adposition(self, inner: int) -> None:
        """The relation of which `inner` is the ground, or the place itself as in "to the left of a plate"."""
        words, head, cases = self.words, self.heads[inner], self.cases[inner]
        place = inner if words[inner] in PLACES and (cases or words[inner + 1 : inner + 2] == ["of"]) else None
        if words[inner] in ("left", "right") and words[head] == "side" and not cases:
            return
        if place is None and not cases:
            return
        names = [words[c] for c in cases]
        if place is None and names == ["of"] and not self.verbs[head]:
            if words[head] not in PLACES and self.core(head) == head and head != inner:
                self.add([head], self.members(inner), "possessor")
            return
        if names == ["by"] and self.verbs[head] and inner in self.doers(head) and self.is_passive(head):
            return
        if place is None:
            relation = next((c for c in cases if words[c] not in WEAK), cases[0])
            grounds = self.members(inner)
        else:
            relation = next((c for c in self.kids(place, *ATTRIBUTES) if words[c] in PLACES), place)
            grounds = self.wholes(place)
        figures = self.figures(inner)
        pronoun = next((k for k in (inner, *self.kids(inner, "nmod:poss")) if words[k] in ("it", "its", "them", "their")), None)
        if pronoun is not None and (known := self.antecedents(pronoun)):
            figures, grounds = known
        self.add([relation], [c for c in (*cases, inner) if c != relation and (place is not None or c != inner)], "function")
        self.add([relation], figures, "figure")
        self.add([relation], grounds, "ground")
        if self.verbs[head] and head not in figures and words[head] not in BE | HAVE:
            self.add([head], [relation], "manner")
        if words[relation] == "with":
            self.direct.append((figures, grounds, "relative to"))
        elif words[relation] != "without":
            self.add(figures, grounds, "relative to")

    def wholes(self, place: int) -> list[int]:
        """What a place is the left, the front … of."""
        found = [
            c for c in self.kids(place, "nmod", "obl") if "of" in [words for k in self.cases[c] for words in [self.words[k]]]
        ]
        if not found and self.words[place + 1 : place + 2] == ["of"]:
            found = [self.heads[place + 1]] if self.labels[place + 1] == "case" and self.heads[place + 1] > place else []
        return [m for c in (found or self.kids(place, "nmod:poss")) for m in self.members(c)]

    def figures(self, i: int) -> list[int]:
        """What a place or the ground of an adposition says the place of."""
        label, head = self.labels[i], self.heads[i]
        if self.kids(i, "nsubj", "nsubj:outer") or label == "acl:relcl":
            return self.subjects(i)
        if label == "conj" and self.cases[head]:
            return self.figures(head)
        if head == i:
            return []
        if self.verbs[head] or self.kids(head, "nsubj"):
            given = self.kids(head, "obj") if self.words[head] in HAVE else []
            return [m for c in given for m in self.members(c)] or self.subjects(head) or [head]
        return [m for m in self.members(head) if m < i] or [self.core(head)]

    def antecedents(self, pronoun: int) -> tuple[list[int], list[int]] | None:
        """Figures and grounds of "a plate with a cup to its left", "a plate that has a cup on it": cup and plate."""
        for k in range(pronoun - 1, 0, -1):
            if self.words[k] in (",", "while"):
                return None
            if self.words[k] in HAVE:
                figures = [m for c in self.kids(k, "obj") if c < pronoun for m in self.members(c)]
                grounds = self.subjects(k)
            elif self.words[k] == "with":
                owned = self.heads[k]
                figures = self.members(owned) if k < owned < pronoun else []
                before = k - 1 if self.tags[k - 1] in NOMINAL else self.heads[owned]
                grounds = self.subjects(before) if self.verbs[before] else [self.core(before)]
            else:
                continue
            return (figures, grounds) if figures and grounds else None
        return None

    def join(self) -> None:
        """Hang on its head by the weakest type whatever the rules have left apart from it, so that the graph is connected."""
        parent = list(range(len(self.words)))

        def top(i: int) -> int:
            while parent[i] != i:
                parent[i] = i = parent[parent[i]]
            return i

        for source, target, _ in self.found.values():
            parent[top(source)] = top(target)
        root = next((i for i, head in enumerate(self.heads) if head == i), 0)
        for i, head in enumerate(self.heads):
            head = root if head == i else head
            if top(i) != top(head):
                parent[top(i)] = top(head)
                self.add([head], [i], "function")
