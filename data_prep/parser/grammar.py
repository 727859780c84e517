"""A small grammar of captions with their trees. A web treebank rarely says "a woman plays tennis", and a parser that has learnt
from it alone reads that verb as a noun. Words and rules are this project's own; the analyses follow UD English EWT.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from spacy.tokens import Doc
from spacy.vocab import Vocab

WORDS = {kind: words.split(", ") for kind, words in json.loads((Path(__file__).parent / "words.json").read_text()).items()}
PLURALS = dict(pair.split() for pair in WORDS["plurals"])
DETERMINERS = ["a", "a", "a", "a", "the", "the", "another"]


@dataclass
class Node:
    """A word with its dependents before and after it; its relation to its own head is set by whoever takes it in."""

    word: str
    tag: str
    left: list[Node] = field(default_factory=list)
    right: list[Node] = field(default_factory=list)
    label: str = "ROOT"

    def takes(self, label: str, node: Node, before: bool = False) -> Node:
        node.label = label
        (self.left if before else self.right).append(node)
        return self


def chance(of: float) -> bool:
    return random.random() < of


def noun(kind: str, plural: bool = False, modified: float = 0.4) -> Node:
    """A determiner or number, adjectives, perhaps a noun before the noun."""
    word = random.choice(WORDS[kind])
    head = Node(PLURALS.get(word, word + "s") if plural else word, "NOUN")
    if plural and chance(0.7):
        head.takes("nummod", Node(random.choice(["two", "three", "four", "five"]), "NUM"), before=True)
    elif not plural and chance(0.95):
        head.takes("det", Node(random.choice(DETERMINERS), "DET"), before=True)
    for of, choices in ((modified * 0.5, "adjectives"), (modified, "colours")):
        if chance(of):
            adjective = Node(random.choice(WORDS[choices]), "ADJ")
            if choices == "colours" and chance(0.25):
                other = Node(random.choice(WORDS["colours"]), "ADJ").takes("cc", Node("and", "CCONJ"), before=True)
                adjective.takes("conj", other)
            head.takes("amod", adjective, before=True)
    if kind in ("things", "places") and chance(0.15):
        head.takes("compound", Node(random.choice(WORDS["compounds"]), "NOUN"), before=True)
    return head


def at(preposition: str, inner: Node) -> Node:
    for place, word in enumerate(preposition.split()):
        inner.left.insert(place, Node(word, "ADV" if word == "next" else "ADP", label="case"))
    return inner


def place() -> Node:
    where = random.choice(WORDS["where"])
    if chance(0.12):
        side = Node(random.choice(["front", "top"]), "NOUN").takes("nmod", at("of", noun("places")))
        return at("in" if side.word == "front" else "on", side)
    if chance(0.3):
        stuff = Node(random.choice(WORDS["stuff"]), "NOUN")
        return at(random.choice(["in", "on", "through"]), stuff.takes("det", Node("the", "DET"), before=True))
    return at(where, noun("places"))


def someone(plural: bool, clothed: bool = True) -> Node:
    """People or animals, perhaps "a group of" them, perhaps "in a red hat"."""
    if chance(0.35):
        return noun("animals", plural)
    if chance(0.1):
        group = Node(random.choice(["group", "crowd", "couple"]), "NOUN").takes("det", Node("a", "DET"), before=True)
        return group.takes("nmod", at("of", noun("people", True, 0.1)))
    who = noun("people", plural)
    if clothed and chance(0.3):
        worn = noun("clothes", plural and chance(0.5), 0.8)
        if chance(0.25):
            more = noun("clothes", False, 0.6).takes("cc", Node("and", "CCONJ"))
            more.left.insert(0, more.right.pop())
            worn.takes("conj", more)
        who.takes("nmod", at(random.choice(["in", "in", "with"]), worn))
    return who


def action(form: int) -> Node:
    """A verb with what it takes: form 0 is plural, 1 singular, 2 ends in -ing."""
    kind = random.random()
    if kind < 0.45:
        verb = Node(random.choice(WORDS["intransitive"]).split()[form], "VERB")
    elif kind < 0.85:
        chosen = random.choice(WORDS["transitive"]).split()
        things = "clothes" if chosen[0] == "wear" else random.choice(["things", "things", "animals", "people"])
        verb = Node(chosen[form], "VERB").takes("obj", noun(things, chance(0.15)))
    else:
        chosen = random.choice(WORDS["riding"]).split()
        verb = Node(chosen[form], "VERB").takes("obj", noun("rides" if chosen[0] == "ride" else "places"))
    if chance(0.6):
        verb.takes("obl", place())
    if chance(0.06):
        verb.takes("advcl", action(2).takes("mark", Node("while", "SCONJ"), before=True))
    elif chance(0.06):
        verb.takes("advcl", action(0).takes("mark", Node("to", "PART"), before=True))
    return verb


def caption() -> Node:
    plural = chance(0.35)
    who = someone(plural)
    if chance(0.12):
        other = someone(False)
        other.left.insert(0, Node("and", "CCONJ", label="cc"))
        who, plural = who.takes("conj", other), True
    form, kind = int(not plural or who.word in ("group", "crowd")), random.random()
    be = Node("is" if form else "are", "AUX")
    if kind < 0.3:  # "a man in a blue shirt standing on a ladder"
        return who.takes("acl", action(2))
    if kind < 0.36:  # "a girl who is riding a horse"
        rider = action(2).takes("nsubj", Node("who", "PRON"), before=True).takes("aux", be, before=True)
        return who.takes("acl:relcl", rider)
    if kind < 0.6:  # "two dogs run"
        verb = action(form).takes("nsubj", who, before=True)
        if chance(0.15):
            verb.takes("conj", action(form).takes("cc", Node("and", "CCONJ"), before=True))
        return verb
    if kind < 0.8:  # "two dogs are running"
        verb = action(2)
        verb.left[:0] = [who, be]
        who.label, be.label = "nsubj", "aux"
        return verb
    if kind < 0.85:  # "the dog is being chased by a cat"
        verb = (
            Node(random.choice(WORDS["transitive"]).split()[3], "VERB")
            .takes("nsubj:pass", who, before=True)
            .takes("aux", be, before=True)
        )
        if chance(0.5):
            verb.takes("aux:pass", Node("being", "AUX"), before=True)
        else:
            be.label = "aux:pass"
        return verb.takes("obl:agent", at("by", someone(False)))
    if kind < 0.9:  # "a cup is next to a bottle"
        where = noun("things").takes("nsubj", noun("things"), before=True).takes("cop", be, before=True)
        return copular(where)
    if kind < 0.95:  # "there is a dog on the grass"
        root = Node(be.word, "VERB").takes("expl", Node("there", "PRON"), before=True)
        return root.takes("nsubj", who.takes("nmod", place()))
    return noun(random.choice(["things", "places", "animals"])).takes("nmod", place())  # "a red car on the street"


def copular(where: Node) -> Node:
    """Put the subject, the copula and a preposition before the noun phrase that is the predicate."""
    subject, be = where.left[-2:]
    be.word = "is"
    where.left[-2:] = []
    at(random.choice(WORDS["where"]), where)
    where.left[:0] = [subject, be]
    return where


def document(vocab: Vocab) -> Doc:
    """One caption as a gold document; sometimes with a capital and a final full stop."""
    root = caption()
    if chance(0.6):
        root.takes("punct", Node(".", "PUNCT"))
    nodes: list[tuple[Node, Node]] = []

    def walk(node: Node, head: Node) -> None:
        for child in node.left:
            walk(child, node)
        nodes.append((node, head))
        for child in node.right:
            walk(child, node)

    walk(root, root)
    index = {id(node): i for i, (node, _) in enumerate(nodes)}
    words = [node.word for node, _ in nodes]
    if chance(0.6):
        words[0] = words[0].capitalize()
    return Doc(
        vocab,
        words=words,
        pos=[node.tag for node, _ in nodes],
        heads=[index[id(head)] for _, head in nodes],
        deps=[node.label for node, _ in nodes],
    )
