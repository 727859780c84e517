"""Dependency trees of captions in one scheme: ClearNLP's arcs become Universal Dependencies'.

Universal Dependencies hang function words on content words ("on" on "ladder", "is" on "red"); ClearNLP, the scheme of spaCy's own
English pipelines, does the reverse. Only what semantics.py asks for is turned round.
"""

from __future__ import annotations

from collections.abc import Sequence

from racg_pl.word_classes import BE, NEGATIONS

NOMINAL = frozenset(("NOUN", "PROPN", "PRON", "NUM"))
COMPLEMENTS = ("attr", "acomp", "obl", "advmod")  # of "is": the first there is, is the predicate
RENAMED = {
    "dobj": "obj",
    "dative": "iobj",
    "nsubjpass": "nsubj:pass",
    "csubjpass": "csubj:pass",
    "auxpass": "aux:pass",
    "relcl": "acl:relcl",
    "poss": "nmod:poss",
    "prt": "compound:prt",
    "neg": "advmod",
    "npadvmod": "obl:unmarked",
    "quantmod": "advmod",
    "predet": "det:predet",
    "preconj": "cc:preconj",
    "attr": "xcomp",
    "acomp": "xcomp",
    "oprd": "xcomp",
    "prep": "advmod",
    "agent": "advmod",
    "pobj": "obl",
    "pcomp": "advcl",
    "intj": "discourse",
    "meta": "dep",
}


class Tree:
    """A parse that may be changed: words in lower case, heads (a root's is itself), labels and universal tags, all [W]."""

    def __init__(self, words: Sequence[str], heads: Sequence[int], labels: Sequence[str], tags: Sequence[str]) -> None:
        self.words, self.tags = [word.lower() for word in words], list(tags)
        self.heads, self.labels = list(heads), list(labels)

    def __len__(self) -> int:
        return len(self.words)

    def children(self, i: int) -> list[int]:
        return [c for c, head in enumerate(self.heads) if head == i != c]

    def move(self, i: int, head: int, label: str) -> bool:
        """Hang i on head, or make it a root where both are one. False, and nothing done, where head hangs below i."""
        above = head
        for _ in self.words:
            if above == i != head:
                return False
            above = self.heads[above]
        self.heads[i], self.labels[i] = head, "ROOT" if head == i else label
        return True

    def replace(self, old: int, new: int, label: str) -> None:
        """Put `new`, which hangs on `old`, in its place: it takes old's head, label and dependents, and old hangs on it as `label`."""
        head, role = self.heads[old], self.labels[old]
        for child in self.children(old):
            self.heads[child] = new
        self.heads[new], self.labels[new] = (new if head == old else head), role
        self.heads[old], self.labels[old] = new, label


def to_universal(tree: Tree) -> None:
    """Turn ClearNLP's arcs into Universal Dependencies', in place."""
    tree.labels = ["compound" if label == "nmod" else label for label in tree.labels]  # the same name for another thing
    _adpositions(tree)
    _copulas(tree)
    tree.labels = [RENAMED.get(label, label) for label in tree.labels]


def _adpositions(tree: Tree) -> None:
    """man →prep on →pobj ladder becomes man →nmod ladder →case on; "out of the water" has two cases."""
    words, heads, labels, tags = tree.words, tree.heads, tree.labels, tree.tags
    above = {
        i: (heads[i], labels[i]) for i in range(len(words)) if labels[i] in ("prep", "agent", "dative") or tags[i] == "ADP"
    }
    for inner in range(len(words)):
        if labels[inner] not in ("pobj", "pcomp") or heads[inner] not in above:
            continue
        cases, place = [], heads[inner]
        while place in above and place not in cases and above[place][0] != place:
            cases.append(place)
            head, role = above[place]
            if role == "conj" and head in above:  # "on the table and under the lamp": the lamp is a conjunct of the table
                place = next((c for c in tree.children(head) if labels[c] in ("case", "pobj")), heads[head])
                break
            place = head
        if not cases or place == inner:
            continue
        last = above[cases[-1]][1]
        clause, noun = labels[inner] == "pcomp", tags[place] in NOMINAL
        role = "conj" if last == "conj" else "obl:agent" if last == "agent" else "nmod" if noun else "obl"
        if not tree.move(inner, place, ("acl" if noun else "advcl") if clause and role != "conj" else role):
            continue
        for case in cases:
            for child in tree.children(case):
                if child != inner and labels[child] not in ("conj", "pobj", "pcomp"):
                    heads[child] = inner
            heads[case], labels[case] = inner, "mark" if clause else "case"


def _copulas(tree: Tree) -> None:
    """car ←nsubj is →acomp red becomes car ←nsubj red →cop is; after "there", what is there becomes the subject."""
    labels = tree.labels
    for be, word in enumerate(tree.words):
        if word not in BE or labels[be].startswith("aux"):
            continue
        children = tree.children(be)
        if any(labels[c] == "expl" for c in children):
            for child in children:
                if labels[child] == "attr":
                    labels[child] = "nsubj"
            continue
        ranks = [(COMPLEMENTS.index(labels[c]), c) for c in children
                 if labels[c] in COMPLEMENTS and tree.words[c] not in NEGATIONS]  # fmt: skip
        if not ranks:
            continue
        rank, predicate = min(ranks)
        if rank == 0 or labels[be] == "relcl" or any(labels[c].startswith("nsubj") for c in children):
            tree.replace(be, predicate, "cop")
