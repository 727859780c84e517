"""The semantic graph of a caption: what a parse says of objects, their attributes, and who does what to whom, where.

    "a cat is chased by the robot"  →  chased –agent→ robot, chased –patient→ cat, robot –acts on→ cat

All words are nodes. Verbs, adpositions and possession are relations with roles, whatever construction says so: actives,
passives, participles, relative clauses, clefts and inversions end in one graph. The list of edge types is closed and the same
for every parser: trees.py brings the label schemes together, so that the rules here know Universal Dependencies alone.
No torch here: the processes that parse must not load it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from racg_pl.mend import mend
from racg_pl.trees import NOMINAL, Tree, to_universal
from racg_pl.word_classes import (
    ADPOSITIONS,
    BE,
    EXPLETIVE,
    GROUPS,
    HAVE,
    IRREGULAR,
    NEGATIONS,
    NO_ADPOSITION,
    PARTICIPLES,
    PICTURES,
    PLACES,
    POSSESSIVES,
    PRONOUNS,
    RELATIVE,
    SHOW,
    SIDES,
    WEAK,
)  # fmt: skip

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

CLAUSES = frozenset(
    ("acl", "acl:relcl", "advcl", "advcl:relcl", "xcomp", "ccomp", "parataxis", "conj", "ROOT", "dep", "list", "csubj", "appos")
)
ATTRIBUTES = frozenset(("amod", "nummod", "compound", "nmod:desc", "nmod:unmarked", "flat", "goeswith"))
FUNCTIONS = frozenset(("det", "punct", "case", "aux", "aux:pass", "cop", "mark", "cc", "cc:preconj", "fixed", "expl"))


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


class _Reading:
    """One caption being read. Words are places; the tree is Universal Dependencies'."""

    def __init__(self, tree: Tree) -> None:
        self.words, self.heads, self.labels, self.tags = tree.words, tree.heads, tree.labels, tree.tags
        self.by_label: dict[tuple[int, str], list[int]] = {}
        for i, head in enumerate(self.heads):
            if head != i:
                self.by_label.setdefault((head, self.labels[i]), []).append(i)
        self.cases = [[c for c in self.kids(i, "case") if self.words[c] not in NO_ADPOSITION] for i in range(len(self.words))]
        self.verbs = [self.is_verb(i) for i in range(len(self.words))]
        self.found: dict[tuple[int, int], Edge] = {}
        self.indirect: list[tuple[list[int], list[int], str]] = []  # edges past "with" and "has", where nothing else links
        self.asked: set[int] = set()  # whose subject is being looked for

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

    # ---- what a word is ----

    def kids(self, i: int, *labels: str) -> list[int]:
        """The words that hang on i by one of the labels."""
        return [c for label in labels for c in self.by_label.get((i, label), ())]

    def is_verb(self, i: int) -> bool:
        label, tag = self.labels[i], self.tags[i]
        if tag == "VERB":
            return label in CLAUSES or (label not in ATTRIBUTES | FUNCTIONS and not self.kids(i, "det", "case", "amod"))
        return label in CLAUSES and (tag == "AUX" or (tag in NOMINAL and bool(self.kids(i, "obj"))))

    def is_passive(self, verb: int) -> bool:
        word = self.words[verb]
        if word.endswith("ing") or word in BE:
            return False
        if self.kids(verb, "aux:pass", "nsubj:pass", "obl:agent"):
            return True
        if self.kids(verb, "obj"):
            return False
        if any(self.words[c] in BE for c in self.kids(verb, "aux", "cop")):
            return True
        participle = word.endswith(PARTICIPLES) or word in IRREGULAR
        alone = self.labels[verb] == "acl" and not self.kids(verb, "nsubj", "mark", "aux")
        return participle and (alone or bool(self.doers(verb)))

    def doers(self, verb: int) -> list[int]:
        """Whoever stands after "by"."""
        by = [c for c in self.kids(verb, "obl", "obl:agent", "nmod") if self.only(c, "by")]
        return by or self.kids(verb, "obl:agent")

    def only(self, i: int, adposition: str) -> bool:
        return len(self.cases[i]) == 1 and self.words[self.cases[i][0]] == adposition

    def is_relative(self, pronoun: int, verb: int) -> bool:
        return (
            self.words[pronoun] in RELATIVE
            and pronoun > 0
            and (self.labels[verb] == "acl:relcl" or self.tags[pronoun] != "NOUN")
        )

    def antecedent(self, pronoun: int) -> int | None:
        """The noun that "which" or "whose" stands for: that of the relative clause around it."""
        i = pronoun
        for _ in self.words:
            if self.labels[i] in ("acl", "acl:relcl"):
                return self.core(self.heads[i])
            i = self.heads[i]
        return None

    def stood_for(self, i: int) -> list[int]:
        """A word's members, or what the relative pronoun "on which", "whose" stands for."""
        known = self.antecedent(i) if self.words[i] in RELATIVE or self.words[i] == "whose" else None
        return self.members(i) if known is None else [known]

    def has_gap(self, i: int) -> bool:
        """Is this a relative clause with a subject of its own?"""
        return self.labels[i] in ("acl", "acl:relcl") and any(not self.is_relative(c, i) for c in self.kids(i, "nsubj"))

    # ---- who stands for a word ----

    def core(self, i: int) -> int:
        """What "a group of dogs" and "a picture of dogs" speak of."""
        close_up = self.words[i] == "up" and self.words[max(i - 2, 0) : i] == ["close", "-"]
        if close_up or self.words[i] in PICTURES or self.words[i] in GROUPS:
            for c in self.kids(i, "nmod"):
                if c > i and self.only(c, "of"):
                    return self.core(c)
        return i

    def members(self, i: int) -> list[int]:
        """A word with those coordinated with it. Two words are joined by "and" alone: ", and" after one word begins something new."""
        rest, unseen = [], [i]
        while unseen:
            found = [c for c in self.kids(unseen.pop(), "conj") if c not in rest]
            rest += found
            unseen += found
        group, last = [self.core(i)], i
        for c in sorted(rest):
            if c < i or self.cases[c] or self.kids(c, "cop", "nsubj", "expl") or (self.verbs[c] and not self.verbs[i]):
                continue
            joint = next((k for k in range(c - 1, last, -1) if self.tags[k] == "CCONJ" or self.labels[k] == "cc"), None)
            if joint is not None and self.words[joint - 1] == "," and len(group) == 1:
                break
            group.append(self.core(c))
            last = c
        return group

    def before(self, noun: int, i: int) -> list[int]:
        """Those of a noun's members that i, hanging on the noun, speaks of: the ones before it."""
        return [m for m in self.members(noun) if m < i] or [self.core(noun)]

    def subjects(self, i: int) -> list[int]:
        """Of a verb or a predicate, in a passive too; those that it shares with another verb included."""
        if i in self.asked:
            return []
        self.asked.add(i)
        found = self._subjects(i)
        self.asked.remove(i)
        return found

    def _subjects(self, i: int) -> list[int]:
        label, head = self.labels[i], self.heads[i]
        own = [c for c in self.kids(i, "nsubj", "nsubj:pass", "nsubj:outer") if not self.is_relative(c, i)]
        if own:
            return self.members(max(own, key=lambda c: (c < i, c)))  # the nearest before it, where a parser gives several
        if label in ("acl", "acl:relcl"):
            if self.verbs[head] and label == "acl:relcl" and (outer := self.kids(head, "nsubj")):
                head = outer[0]
            if (
                label == "acl"
                and self.only(head, "in")
                and self.words[i].endswith("ing")
                and self.tags[self.heads[head]] in NOMINAL
            ):
                head = self.heads[head]  # "a man in a red shirt holding a cup": no shirt holds
            return self.before(head, i)
        if label == "conj":
            return self.subjects(head)
        if (label == "xcomp" or self.words[head] in SHOW) and (given := self.kids(head, "obj")):
            return self.members(given[0])
        if label in ("xcomp", "advcl"):
            return self.subjects(head) if self.verbs[head] else [self.core(head)]
        return []

    # ---- the rules ----

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

    def is_agent(self, i: int) -> bool:
        head = self.heads[i]
        return self.verbs[head] and self.only(i, "by") and self.is_passive(head)

    def is_place(self, i: int) -> bool:
        """Is this noun a relation here? "To the left", "on top of a car", "at its side"; not "a tank top", "on its back"."""
        word, of = self.words[i], self.words[i + 1 : i + 2] == ["of"]
        if word not in PLACES or (self.words[self.heads[i]] == "side" and not self.cases[i]):
            return False
        if not self.cases[i]:
            return word in SIDES and of
        return word in SIDES or of or (word != "back" and any(self.words[c] in POSSESSIVES for c in self.kids(i, "nmod:poss")))

    def wholes(self, place: int) -> list[int]:
        """What a place is the left, the front … of."""
        found = [c for c in self.kids(place, "nmod", "obl") if self.only(c, "of")]
        if not found and self.words[place + 1 : place + 2] == ["of"] and self.heads[place + 1] > place:
            found = [self.heads[place + 1]]
        return [m for c in (found or self.kids(place, "nmod:poss")) for m in self.members(c)]

    def figures(self, i: int) -> list[int]:
        """What a place, or the ground of an adposition, says the place of."""
        label, head = self.labels[i], self.heads[i]
        if label == "acl:relcl" or self.kids(i, "nsubj", "nsubj:outer"):
            return self.subjects(i)
        if label == "conj" and self.cases[head]:
            return self.figures(head)
        if head == i:
            return []
        if self.tags[head] == "ADJ" and self.labels[head] in ("amod", "acl") and not self.verbs[head]:
            head = self.heads[head]  # "a man asleep on a bench": who is asleep is on it
        if self.verbs[head] or self.kids(head, "nsubj"):
            given = self.kids(head, "obj") if self.words[head] in HAVE | SHOW else []
            return [m for c in given for m in self.members(c)] or self.subjects(head) or [head]
        return self.before(head, i)

    def owned(self, start: int) -> tuple[list[int], list[int]] | None:
        """Before a phrase with a pronoun, "to its left", that begins at `start`: the cup and the plate of "a plate with a cup",
        "a plate that has a cup". None where the words before it say something else."""
        last = start - 1
        if last < 1 or self.verbs[last] or self.tags[last] in ("ADP", "DET", "PUNCT", "PRON", "AUX", "CCONJ", "SCONJ", "PART"):
            return None
        first = last
        while self.labels[first] == "conj":
            first = self.heads[first]
        things = self.members(first) if last in self.members(first) else [last]
        for k in range(last - 1, -1, -1):
            if self.words[k] in HAVE:
                return (things, owners) if (owners := self.subjects(k)) else None
            if self.words[k] == "with" and k:
                holder = k - 1 if self.verbs[k - 1] or self.tags[k - 1] in NOMINAL else self.heads[last]
                owners = self.subjects(holder) if self.verbs[holder] else [self.core(holder)]
                return (things, owners) if owners else None
            if self.verbs[k] or self.tags[k] in ("ADP", "PUNCT", "PRON", "AUX", "SCONJ"):
                return None
        return None

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
