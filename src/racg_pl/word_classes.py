"""Closed classes of English words, for what neither the labels of a parse nor universal tags say. All in lower case."""

# ruff: noqa: SIM905 (lists of words read best as text)
from __future__ import annotations

BE = frozenset("is are was were be been being am 's 're".split())
HAVE = frozenset("has have had having".split())
SHOW = frozenset("see sees show shows showing depicts depicting".split())  # "we see a dog chasing a cat"
ARTICLES = frozenset("a an the".split())
DETERMINERS = ARTICLES | frozenset("his her its their another some two three".split())
PRONOUNS = frozenset("it them him her".split())
POSSESSIVES = frozenset("its their his her".split())
RELATIVE = frozenset("that who which whom".split())
EXPLETIVE = frozenset("it there this these that those".split())  # as subjects of "is": "it is a dog that barks"
NEGATIONS = frozenset("no not n't never neither nor without".split())
PARTICIPLES = ("ed", "en", "wn", "rn")  # endings of passive participles; those without:
IRREGULAR = frozenset("held fed led caught brought built bought hit cut made lit kept left hung put sat".split())

ADPOSITIONS = frozenset(
    "about above across after against along alongside amid among around at atop before behind below beneath beside between beyond "
    "by down from in inside into near of off on onto out outside over past through to toward towards under underneath up upon with "
    "within without".split()
)
WEAK = frozenset("of to from at in on by with for".split())  # say little beside another adposition: "next to", "out of"
NEXT_TO = frozenset("next close adjacent".split())  # with "to", one adposition
NO_ADPOSITION = frozenset("while whilst as than 's '".split())  # though parsers label them so

# Nouns that say where, as adpositions do: "to the left of a plate", "on top of a car"
SIDES = frozenset("left right".split())
PLACES = SIDES | frozenset("front back top bottom side middle center centre edge rear inside outside".split())
# Nouns that stand for what follows their "of"
PICTURES = frozenset("picture photo photograph image view shot close-up closeup drawing painting".split())
GROUPS = frozenset("group crowd couple pair bunch herd flock pack set row lot lots number variety kind type sort pile".split())
