"""Roles read from captions of Scenes, held against what the generator said: who does it to whom, what is placed against what."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import PCG64, Generator

from racg_pl.scene_captions import VERBS, Content, draw_contents, write_caption
from racg_pl.scene_facts import CLASSES, RELATIONS, SPATIAL, Facts, Kind, draw_facts
from racg_pl.semantics import ROLES
from racg_pl.text import Parse, parse_captions

PICTURES = 120  # of five captions
AIM = 0.90
NOUNS = {noun for names in CLASSES.values() for noun in names}
SAID = {form: name for name, variants in VERBS.items() for forms in variants for form in forms}
AS_IT_STANDS = {"left": "left of", "above": "above", "over": "above"}
TURNED = {"right": "left of", "below": "above", "under": "above", "beneath": "above", "underneath": "above"}

Told = set[tuple[str, int, int]]  # relation, the object that does it or is placed, the object it is done to or placed against


def truth(facts: Facts, content: Content) -> Told:
    """Spatial ones as they stand, whichever way round the caption says them."""
    pairs = zip(facts.relations, content.told, strict=True)
    return {(RELATIONS[relation], subject, other) for (subject, relation, other), tell in pairs if tell}


def roles(parse: Parse, caption: int, text: str, spans: list[tuple[int, int, int]]) -> Told:
    """What the semantic graph says between nouns that speak of objects."""
    words = parse.words[slice(*parse.offsets[caption : caption + 2])]
    owners: dict[int, int] = {}
    at = 0
    for place, word in enumerate(words):
        at = text.index(word, at)
        if word in NOUNS:
            owners[place] = next(owner for start, end, owner in spans if start <= at < end)
        at += len(word)
    ends: dict[tuple[int, str], list[int]] = {}
    for source, target, kind in parse.edges[slice(*parse.edge_offsets[caption : caption + 2])].tolist():
        for name in ("agent", "patient", "figure", "ground"):
            if kind == ROLES[name]:
                ends.setdefault((source, name), []).append(owners.get(target, -1))
    found: Told = set()
    for place, word in enumerate(words):
        name = SAID.get(word) or AS_IT_STANDS.get(word) or TURNED.get(word)
        one, other = ("agent", "patient") if word in SAID else ("ground", "figure") if word in TURNED else ("figure", "ground")
        if name:
            found |= {(name, s, o) for s in ends.get((place, one), [-1]) for o in ends.get((place, other), [-1])}
    return found


@pytest.fixture(scope="module")
def compared() -> list[tuple[str, Told, Told]]:
    """Captions with the generator's roles and the graph's."""
    rng = Generator(PCG64(7))
    texts, spans, wanted = [], [], []
    for picture in range(PICTURES):
        facts = draw_facts(rng, Kind(1 + picture % 2))
        for content, _ in draw_contents(facts, rng):
            text, owned = write_caption(facts, content, rng)
            texts.append(text)
            spans.append(owned)
            wanted.append(truth(facts, content))
    parse = parse_captions(texts, "bundled")
    return [(text, wanted[c], roles(parse, c, text, spans[c])) for c, text in enumerate(texts)]


@pytest.mark.parametrize("kind", ["agent and patient", "figure and ground"])
def test_roles_equal_the_generators(
    compared: list[tuple[str, Told, Told]], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    names = RELATIONS[:SPATIAL] if kind == "figure and ground" else RELATIONS[SPATIAL:]
    right = []
    for _, want, got in compared:
        one, other = ({role for role in told if role[0] in names} for told in (want, got))
        if one or other:
            right.append(one == other)
    with capsys.disabled():
        print(f"\n{kind}: {np.mean(right):.1%} of {len(right)} captions of Scenes as the generator says")
    assert len(right) > PICTURES
    assert np.mean(right) >= AIM


def test_nothing_is_told_where_the_generator_tells_nothing(compared: list[tuple[str, Told, Told]]) -> None:
    silent = [got for _, want, got in compared if not want]
    assert len(silent) > 20
    assert np.mean([not got for got in silent]) >= 0.99
