"""Mistakes that parsers make again and again on captions, mended: each rule names what gives the mistake away.

Found by reading parses of the bundled parser; harmless where there is no mistake.
"""

from __future__ import annotations

from racg_pl.trees import NOMINAL, Tree
from racg_pl.word_classes import ADPOSITIONS, ARTICLES, DETERMINERS, NEXT_TO, PARTICIPLES, PRONOUNS, RELATIVE, SIDES

ARGUMENTS = frozenset(("nsubj", "nsubj:pass", "obj", "iobj", "obl", "obl:agent", "nmod"))
NOUN_PHRASE = DETERMINERS | PRONOUNS  # begin one
CLAUSES = frozenset(("acl", "advcl", "conj", "ccomp", "parataxis"))
STRAY = frozenset(("appos", "advmod", "discourse", "nmod", "dep", "xcomp", "flat", "nsubj"))  # of a noun right after another


def mend(tree: Tree) -> None:
    """Mend, in place, what the bundled parser gets wrong on captions time and again; each rule names what gives the mistake away."""
    words, labels = tree.words, tree.labels
    for i, word in enumerate(words):
        after = words[i + 1] if i + 1 < len(words) else ""
        if word in ARTICLES and labels[i] not in ("det", "punct"):
            _stray_article(tree, i)
        elif word in SIDES and after == "of":
            _side(tree, i)
        elif word in ADPOSITIONS and labels[i] in ("advmod", "mark", "amod") and after in NOUN_PHRASE:
            _adposition(tree, i)
        elif word in RELATIVE and i and labels[i] in ("nsubj", "nsubj:pass", "obj", "mark"):
            _relative_clause(tree, i)
        elif word in NEXT_TO and after == "to":
            _next_to(tree, i)
        elif word in ("while", "whilst") and labels[i] in ("case", "mark"):
            _while(tree, i)
        elif (
            labels[i] == "xcomp"
            and i
            and words[i - 1].endswith("ing")
            and not word.endswith(("ing", "ed"))
            and tree.heads[i] == i - 1
        ):
            if tree.tags[i] == "VERB":  # "playing rugby": no bare infinitive follows a participle
                labels[i], tree.tags[i] = "obj", "NOUN"
        elif word == "as" and words[i : i + 3] == ["as", "well", "as"]:
            _as_well_as(tree, i)
    for i in range(1, len(tree) - 1):
        _compound(tree, i)
    for i in range(1, len(tree) - 1):
        _hidden_verb(tree, i)
    for i, label in enumerate(labels):
        if label == "ROOT" and tree.tags[i] in ("NOUN", "PROPN") and i:
            _verbless(tree, i)
        head = tree.heads[i]
        subject = label == "nsubj" and i < head and any(labels[c] == "cop" for c in tree.children(head))
        if subject and any(labels[c] == "case" and words[c] in ADPOSITIONS for c in tree.children(i)):
            labels[i] = "obl"  # "under a table is a cat": what stands after an adposition is no subject


def _noun(tree: Tree, i: int) -> bool:
    return tree.tags[i] in NOMINAL or tree.labels[i] in ARGUMENTS


def _next_noun(tree: Tree, start: int) -> int | None:
    """The head of the noun phrase that begins at `start` or soon after."""
    for i in range(start, len(tree)):
        if tree.tags[i] in NOMINAL:
            while i + 1 < len(tree) and tree.heads[i] == i + 1:
                i += 1
            return i
    return None


def _as_well_as(tree: Tree, start: int) -> None:
    """ "as well as" is a conjunction: what follows it hangs on the noun before it as a conjunct."""
    before = next((i for i in range(start - 1, -1, -1) if _noun(tree, i)), None)
    after = _next_noun(tree, start + 3)
    if before is not None and after is not None and tree.move(after, before, "conj"):
        tree.move(start, after, "cc")
        tree.move(start + 1, start, "fixed")
        tree.move(start + 2, start, "fixed")


def _stray_article(tree: Tree, article: int) -> None:
    """An article is never an argument: in "a dotted hog" read as a clause, "dotted" is an attribute of the noun that follows."""
    noun = _next_noun(tree, article + 1)
    if noun is None:
        return
    verb = tree.heads[article]
    if article < verb < noun:
        if tree.heads[noun] == verb:
            tree.replace(verb, noun, "amod")
        elif tree.heads[verb] == noun:
            tree.labels[verb] = "amod"
    tree.move(article, noun, "det")


def _next_to(tree: Tree, word: int) -> None:
    """ "next to" and "close to" are adpositions: what hangs on them hangs on what they hang on."""
    inner, head = tree.heads[word + 1], tree.heads[word]
    if inner > word and tree.heads[inner] == word and tree.labels[word + 1] == "case":
        if head == word or any(tree.labels[c] in ("cop", "nsubj") for c in tree.children(word)):
            tree.replace(word, inner, "case")
        else:
            tree.move(inner, head, "nmod" if _noun(tree, head) else "obl")
            tree.move(word, inner, "case")


def _while(tree: Tree, word: int) -> None:
    """ "while a lion is near": a clause, whose subject is no ground of "while"."""
    noun = tree.heads[word]
    if tree.labels[word] != "case" or noun < word:
        return
    for verb in range(noun + 1, len(tree)):
        labels = [tree.labels[c] for c in tree.children(verb)]
        if (tree.tags[verb] == "VERB" and tree.labels[verb] in CLAUSES) or "cop" in labels:
            if not any(label.startswith("nsubj") for label in labels):
                outer = tree.heads[noun]
                if tree.move(noun, verb, "nsubj"):
                    tree.move(word, verb, "mark")
                    if tree.heads[verb] != verb and outer != verb:
                        tree.move(verb, outer, "advcl")
            return


def _side(tree: Tree, side: int) -> None:
    """ "left of a chair" says a place, whatever the tag of "left"; of the noun right before it, if there is one."""
    tree.tags[side] = "NOUN"
    if _noun(tree, side - 1) and side and tree.heads[side] != side - 1 and tree.labels[side] != "acl:relcl":
        tree.move(side, side - 1, "nmod")
    for child in tree.children(side):
        new = {"nsubj:pass": "nsubj", "aux:pass": "cop", "aux": "cop", "obl": "nmod", "obj": "nmod"}
        tree.labels[child] = new.get(tree.labels[child], tree.labels[child])


def _adposition(tree: Tree, word: int) -> None:
    """An adposition before a noun phrase or pronoun belongs to it: "a tiger underneath it"."""
    inner = word + 1 if tree.words[word + 1] in PRONOUNS else _next_noun(tree, word + 1)
    if inner is not None and tree.heads[word] in (inner, tree.heads[inner]) and tree.heads[inner] != word:
        tree.move(word, inner, "case")


def _relative_clause(tree: Tree, pronoun: int) -> None:
    """A clause that begins with "that" right after a noun is about that noun, whatever it was taken for."""
    verb = tree.heads[pronoun]
    before = pronoun - 1
    if (
        verb > pronoun
        and (_noun(tree, before) or tree.heads[verb] == before)
        and tree.labels[verb] in ("csubj", "advcl", "advcl:relcl", "acl", "parataxis")
    ):
        tree.move(verb, before, "acl:relcl")


def _compound(tree: Tree, i: int) -> None:
    """Of two nouns side by side the second is the head, though it hang on the first: "the fluffy mallard"."""
    last = i + 1
    if tree.tags[i] not in ("NOUN", "PROPN") or tree.tags[last] not in ("NOUN", "PROPN") or tree.heads[i] == last:
        return
    if tree.heads[last] in (i, tree.heads[i]) and tree.labels[last] in STRAY and tree.words[last - 2] in DETERMINERS:
        tree.heads[last] = i
        tree.replace(i, last, "compound")


def _verbless(tree: Tree, root: int) -> None:
    """ "A woman picks up a baby": what has a subject before it and neither copula nor article of its own is a verb, not a plural."""
    labels = {tree.labels[c] for c in tree.children(root)}
    subjects = [c for c in tree.children(root) if tree.labels[c] == "nsubj" and c < root]
    third_person = tree.words[root].endswith("s") and not tree.words[root].endswith(("ss", "us", "is"))
    if third_person and subjects and not labels & {"cop", "det", "case", "amod", "nmod:poss", "nummod", "compound"}:
        tree.tags[root] = "VERB"


def _hidden_verb(tree: Tree, i: int) -> None:
    """A verb taken for a noun: "a bicycle hauling the …", "the droid rides the …", "a bike ridden by …"."""
    word, before, after = tree.words[i], i - 1, tree.words[i + 1]
    if tree.tags[i] not in ("NOUN", "VERB") or tree.heads[before] != i or tree.labels[before] not in ("compound", "amod"):
        return
    doing = word.endswith("ing") and after in DETERMINERS
    done = word.endswith(PARTICIPLES) and after == "by"
    lone = any(tree.words[c] in ("a", "an") for c in tree.children(i))  # "a boy leaps over": no noun can be meant
    does = word.endswith("s") and not word.endswith(("ss", "us", "is")) and (after in DETERMINERS or lone)
    if not doing and not done and not does:
        return
    tree.tags[i], tree.tags[before] = "VERB", "NOUN"
    own = [c for c in tree.children(i) if c > i]
    tree.replace(i, before, "acl")
    for child in own:
        tree.heads[child] = i
    if does:
        tree.replace(before, i, "nsubj")
        for child in tree.children(i):
            if child < before and tree.labels[child] in ("det", "amod", "compound", "nummod"):
                tree.heads[child] = before
    inner = _next_noun(tree, i + 1)
    if inner is not None and tree.heads[inner] == i:
        tree.labels[inner] = "obl" if done else "obj"
