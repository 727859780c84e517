"""The semantic graph: its types, its form, a chain, nothing at all; test_sentences.py has the table of sentences."""

from __future__ import annotations

import pytest

from racg_pl.semantics import ROLES, TYPES, Edge, semantic_edges
from racg_pl.text import Parse, Parser, load_parser, parse_captions


@pytest.fixture(scope="module")
def bundled() -> Parser:
    return load_parser("bundled")


def told(words: list[str], edges: list[Edge]) -> set[str]:
    """Every edge but those of function words, as "source type target"."""
    return {f"{words[s]} {TYPES[k]} {words[t]}" for s, t, k in edges if TYPES[k] != "function"}


def graph(parse: Parse, caption: int = 0) -> tuple[list[str], list[Edge]]:
    words = parse.words[slice(*parse.offsets[caption : caption + 2])]
    return words, [Edge(*edge) for edge in parse.edges[slice(*parse.edge_offsets[caption : caption + 2])].tolist()]


READ = {
    "a cat is chased by the robot": "chased agent robot; chased patient cat; robot acts on cat",
    "the robot chases a cat": "chases agent robot; chases patient cat; robot acts on cat",
    "a cat being chased by a boy": "chased agent boy; chased patient cat; boy acts on cat",
    "a robot that is riding a horse": "riding agent robot; riding patient horse; robot acts on horse",
    "it is a dog that chases a cat": "chases agent dog; chases patient cat; dog acts on cat",
    "a man on a ladder": "on figure man; on ground ladder; man relative to ladder",
    "a cup to the left of a plate": "left figure cup; left ground plate; cup relative to plate",
    "under a table is a cat": "under figure cat; under ground table; cat relative to table",
    "two men and a dog run": "run agent men; run agent dog; men attribute two; men coordinate dog",
    "the man's hat is not red": "hat possessor man; hat attribute red; red negation not",
}


@pytest.mark.parametrize("sentence", READ)
def test_the_bundled_parser_reads(bundled: Parser, sentence: str) -> None:
    assert told(*graph(parse_captions([sentence], bundled))) == set(READ[sentence].split("; "))


def test_chain_has_its_own_type() -> None:
    words, edges = graph(parse_captions(["two dogs play"], "chain"))
    assert edges == [Edge(0, 1, ROLES["next"]), Edge(1, 2, ROLES["next"])]
    assert words == ["two", "dogs", "play"]


def test_graphs_are_connected_and_join_two_words_once(bundled: Parser) -> None:
    texts = ["a man and a dog, and under a tree there is a cat . two birds", "dog", "", "犬 !!! ???", "of of of", "a " * 40]
    parse = parse_captions(texts, bundled)
    for caption in range(len(texts)):
        words, edges = graph(parse, caption)
        pairs = [frozenset((source, target)) for source, target, _ in edges]
        assert len(set(pairs)) == len(pairs)
        assert all(len(pair) == 2 for pair in pairs)
        reached = {0}
        for _ in words:
            reached |= {word for pair in pairs if pair & reached for word in pair}
        assert len(reached) == max(len(words), 1)


def test_nothing_at_all() -> None:
    for scheme in ("ud", "clear", "chain"):
        assert semantic_edges([], [], [], [], scheme) == []
