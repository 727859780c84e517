"""Make treebank sentences look more like captions, anew in every epoch. Only `spacy train --code` reads this file."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import grammar
import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Token
from spacy.training import Example


def sample(nlp: Language, words: list[Token], lower: bool) -> Example:
    """An example of these words, a contiguous subtree; a head outside them makes its word the root."""
    start, end = words[0].i, words[-1].i
    inside = [start <= word.head.i <= end and word.head.i != word.i for word in words]
    texts = [word.lower_ if lower else word.text for word in words]
    spaces = [bool(word.whitespace_) for word in words]
    reference = Doc(
        nlp.vocab,
        words=texts,
        spaces=spaces,
        pos=[word.pos_ for word in words],
        heads=[word.head.i - start if kept else i for i, (word, kept) in enumerate(zip(words, inside, strict=True))],
        deps=[word.dep_ if kept else "ROOT" for word, kept in zip(words, inside, strict=True)],
    )
    return Example(Doc(nlp.vocab, words=texts, spaces=spaces), reference)


def noun_phrases(doc: Doc) -> list[list[Token]]:
    """Noun phrases of four words or more that do not open with a preposition, as a caption that is no sentence reads."""
    phrases = []
    for word in doc:
        phrase = sorted(word.subtree, key=lambda inner: inner.i)  # spaCy yields a crossing subtree out of order
        whole = phrase[-1].i - phrase[0].i == len(phrase) - 1 and phrase[0].pos_ in ("DET", "NUM", "ADJ", "NOUN")
        if word.pos_ == "NOUN" and 4 <= len(phrase) < len(doc) and whole:
            phrases.append(phrase)
    return phrases


@spacy.registry.readers("racg.captions.v1")
def captions(
    path: Path, lower: float, unfinished: float, fragment: float, generated: float
) -> Callable[[Language], Iterator[Example]]:
    """The treebank in a new order each time it is read, with chances to lower-case a sentence, to drop its final punctuation, to
    add one of its noun phrases as a sample of its own, and to add a generated caption."""

    def read(nlp: Language) -> Iterator[Example]:
        documents = list(DocBin().from_disk(path).get_docs(nlp.vocab))
        random.shuffle(documents)
        for doc in documents:
            words = list(doc)
            stop = words[-1]
            if random.random() < unfinished and len(words) > 1 and stop.dep_ == "punct" and not list(stop.children):
                words = words[:-1]
            yield sample(nlp, words, random.random() < lower)
            if random.random() < fragment and (phrases := noun_phrases(doc)):
                yield sample(nlp, random.choice(phrases), random.random() < lower)
            if random.random() < generated:
                yield sample(nlp, list(grammar.document(nlp.vocab)), lower=False)

    return read
