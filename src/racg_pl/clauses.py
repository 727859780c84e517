"""What the words of a caption are in their clauses, and who stands for them: members of an enumeration, the subject of a passive or of a
participle, the noun of a relative pronoun, the whole of "to the left". semantics.py makes edges of it.
"""

from __future__ import annotations

from racg_pl.trees import NOMINAL, Tree
from racg_pl.word_classes import (
    BE,
    GROUPS,
    HAVE,
    IRREGULAR,
    NO_ADPOSITION,
    PARTICIPLES,
    PICTURES,
    PLACES,
    POSSESSIVES,
    RELATIVE,
    SHOW,
    SIDES,
)

CLAUSES = frozenset(
    ("acl", "acl:relcl", "advcl", "advcl:relcl", "xcomp", "ccomp", "parataxis", "conj", "ROOT", "dep", "list", "csubj", "appos")
)
ATTRIBUTES = frozenset(("amod", "nummod", "compound", "nmod:desc", "nmod:unmarked", "flat", "goeswith"))
FUNCTIONS = frozenset(("det", "punct", "case", "aux", "aux:pass", "cop", "mark", "cc", "cc:preconj", "fixed", "expl"))


class Clauses:
    """One caption being read. Words are places; the tree is Universal Dependencies'."""

    def __init__(self, tree: Tree) -> None:
        self.words, self.heads, self.labels, self.tags = tree.words, tree.heads, tree.labels, tree.tags
        self.by_label: dict[tuple[int, str], list[int]] = {}
        for i, head in enumerate(self.heads):
            if head != i:
                self.by_label.setdefault((head, self.labels[i]), []).append(i)
        self.cases = [[c for c in self.kids(i, "case") if self.words[c] not in NO_ADPOSITION] for i in range(len(self.words))]
        self.verbs = [self.is_verb(i) for i in range(len(self.words))]
        self.asked: set[int] = set()  # whose subject is being looked for

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

    # ---- what is placed, and against what ----

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
