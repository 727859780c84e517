"""What a picture of Scenes looks like to a detector: true boxes, 36 proposals, and a feature for each from what it covers.

Letters: n objects, R = 36 proposals, L = 64 hidden appearance dimensions, D = 2048 feature dimensions. Boxes are x1 y1 x2
y2 in [0,1], y growing downwards.

The two ends of a relation overlap by a fixed share and lie on a fixed hour of the clock from each other; everything else
stands well apart. Sizes have one distribution for both ends and a pair may lie anywhere, so a single region's place says
next to nothing: moving a uniform distribution of range ρ by d changes it by d/ρ in total variation, and the best guess of a
role from one box is right with probability 1/2 + E(|dx| + |dy|) / 2ρ < 0.52. That is why objects are small. Features depend
on what is inside a box, never on where it is. Half of the time a proposal shows only what an object is or only its attribute, as
crops of real detectors do, so that one proposal of an object rarely says all.

Channels are of two kinds, those that fire by what an object is and those that fire by its attribute, as channels of real detectors
fire by form or by colour. How strongly each kind fires varies from object to object and from proposal to proposal, as with light,
distance and blur, and says nothing: who compares all channels at once hears the louder kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from racg_pl.scene_facts import ATTRIBUTES, CLASSES, CLOCK, Facts

REGIONS, LATENT, DIM = 36, 64, 2048
SMALLEST, LARGEST = 0.04, 0.09  # side of an object, as a share of the picture
MARGIN = 0.02  # objects keep this far from the picture's edge
OVERLAP = 0.6  # share of the mean box that the ends of a relation have in common
APART = 2.0  # distance of unrelated objects, in mean sizes, along the longer axis
SPREADS = (0.04, 0.07, 0.10)  # how far a proposal misses its object, as a share of the size: tight, fair, loose
TEXTURES = 12  # kinds of background
ONE_SIDED = 0.25  # chance that a proposal shows of an object its class alone, and again that it shows the attribute alone
KINDS = 2  # of channels: half of the hidden dimensions and of the channels are of each
LOUDNESS = 0.5  # mean of the logarithm of how strongly a kind fires,
OF_OBJECT, OF_PROPOSAL = 0.8, 0.4  # and its deviations, over objects and over the proposals of one
NOISE, OWN_NOISE, GRAIN = 0.13, 0.06, 0.1  # of a proposal, of an object (all its proposals share it), of a feature dimension
WORLD = 2024  # seed of how classes and attributes look: one world for all data seeds


KIND = np.arange(LATENT) * KINDS // LATENT  # of each hidden dimension


class World(NamedTuple):
    """How things look. classes [classes, L], attributes [attributes, L], each in a half of L of its own; what they add together
    [classes, attributes, L]; background [TEXTURES, L]; lift [L, D] of −1, 0 and 1, where a channel reads hidden dimensions of its kind."""

    classes: np.ndarray
    attributes: np.ndarray
    together: np.ndarray
    background: np.ndarray
    lift: np.ndarray


class Proposals(NamedTuple):
    """boxes [R,4] float32; owner [R] int8, the object a proposal was made for, −1 none; overlap [R,n], IoU with the truth."""

    boxes: np.ndarray
    owner: np.ndarray
    overlap: np.ndarray


class Shown(NamedTuple):
    """Whether a proposal shows what an object is, and its attribute, each bool [R,n]; one of them always."""

    classes: np.ndarray
    attributes: np.ndarray


@cache
def world() -> World:
    """The fixed codes. An object looks like its class, its attribute, and a little like the two together."""
    rng = Generator(PCG64(SeedSequence([WORLD])))

    def codes(*shape: int, kinds: Sequence[int] = range(KINDS)) -> np.ndarray:
        draws = rng.standard_normal((*shape, LATENT)) * np.isin(KIND, kinds)
        return draws / np.linalg.norm(draws, axis=-1, keepdims=True)

    together = 0.35 * codes(len(CLASSES), len(ATTRIBUTES))
    classes, attributes = 1.1 * codes(len(CLASSES), kinds=[0]), 0.9 * codes(len(ATTRIBUTES), kinds=[1])
    lift = rng.choice(np.array([-1, 0, 1], dtype=np.float32), size=(LATENT, DIM), p=[1 / 8, 3 / 4, 1 / 8])
    lift *= KIND[:, None] == rng.permutation(DIM) % KINDS
    return World(classes, attributes, together, 0.5 * codes(TEXTURES), lift)


@cache
def offset(relation: int) -> tuple[float, float]:
    """Where the subject lies from the object, in mean widths and heights: on its hour, so far that the overlap is OVERLAP."""
    hour = list(CLOCK.values())[relation] * np.pi / 6
    x, y = float(np.sin(hour)), -float(np.cos(hour))
    across, along = sorted((abs(x), abs(y)))
    both, product = across + along, across * along  # (1 − t·across)(1 − t·along) = OVERLAP
    lost = 1 - OVERLAP
    t = lost / both if product < 1e-9 else (both - (both * both - 4 * product * lost) ** 0.5) / (2 * product)
    return x * t, y * t


def draw_layout(facts: Facts, rng: Generator) -> np.ndarray:
    """True boxes [n,4] float64: related objects at their relation's offset, all others apart, anywhere in the picture."""
    count = len(facts.classes)
    side = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), count))
    stretch = np.exp(rng.uniform(-0.15, 0.15, count))
    half = np.stack([side * stretch, side / stretch], -1) / 2
    place = np.zeros((count, 2))
    groups = [[k] for k in range(2 * len(facts.relations), count)]
    for subject, relation, other in facts.relations:
        place[subject] = np.array(offset(relation)) * (half[subject] + half[other])
        groups.append([subject, other])
    while True:
        settled: list[int] = []
        for group in groups:
            low = (place[group] - half[group]).min(0) - MARGIN
            high = (place[group] + half[group]).max(0) + MARGIN
            place[group] += rng.random(2) * (1 - (high - low)) - low
            if settled:
                gap = np.abs(place[group][:, None] - place[settled]) / (half[group][:, None] + half[settled])
                if (gap.max(-1) < APART).any():
                    break
            settled += group
        else:
            return np.concatenate([place - half, place + half], -1)


def draw_proposals(boxes: np.ndarray, rng: Generator) -> Proposals:
    """36 boxes in random order: two to five about each object, tight or loose; background, pieces of objects, pairs."""
    count = len(boxes)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    owned = np.repeat(np.arange(count), rng.integers(2, 6, count))
    spread = rng.choice(SPREADS, (len(owned), 1))
    mine = centre[owned] + spread * rng.standard_normal((len(owned), 2)) * size[owned]
    mine_size = size[owned] * np.exp(spread * rng.standard_normal((len(owned), 2)))

    rest = REGIONS - len(owned)
    place = rng.random((rest, 2))
    extent = np.exp(rng.uniform(np.log(SMALLEST), np.log(0.35), (rest, 1)) + rng.uniform(-0.3, 0.3, (rest, 2)))
    chance, near, angle = rng.random(rest), rng.integers(count, size=rest), rng.uniform(0, 2 * np.pi, rest)
    second = (near + rng.integers(1, count, rest)) % count
    piece, union = chance < 0.35, chance > 0.85
    away = rng.uniform(0.5, 0.9, rest)[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    place[piece] = (centre[near] + away * size[near])[piece]
    extent[piece] = (size[near] * np.exp(0.25 * rng.standard_normal((rest, 2))))[piece]
    low, high = np.minimum(boxes[near, :2], boxes[second, :2]), np.maximum(boxes[near, 2:], boxes[second, 2:])
    place[union], extent[union] = ((low + high) / 2)[union], (high - low)[union]

    centres, sizes = np.concatenate([mine, place]), np.concatenate([mine_size, extent])
    corner = np.clip(centres - sizes / 2, 0, 1 - sizes)
    order = rng.permutation(REGIONS)
    found = np.clip(np.concatenate([corner, corner + sizes], -1)[order], 0, 1).astype(np.float32)
    owner = np.concatenate([owned, np.full(rest, -1)])[order].astype(np.int8)
    return Proposals(found, owner, box_iou(found.astype(np.float64), boxes))


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box in a [A,4] with every box in b [B,4]: [A,B]."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    return shared / ((a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1) - shared)


def draw_shown(objects: int, rng: Generator) -> Shown:
    """Which side of each of n objects each proposal shows: both half of the time, else one."""
    side = rng.random((REGIONS, objects))
    return Shown(side >= ONE_SIDED, side < 1 - ONE_SIDED)


def draw_appearance(facts: Facts, overlap: np.ndarray, shown: Shown, rng: Generator) -> np.ndarray:
    """How each proposal looks, [R,L] float32: what it shows of its objects by squared IoU, background for the rest, and noise, each kind
    of channel as strongly as it happens to fire there.

    In steps of 1/64, so that the products of `lift_features` are exact and a seed gives the same bytes on every machine.
    """
    looks = world()
    classes, attributes = list(facts.classes), list(facts.attributes)
    weight = overlap**2
    objects = (weight * shown.classes) @ looks.classes[classes] + (weight * shown.attributes) @ looks.attributes[attributes]
    objects += (weight * shown.classes * shown.attributes) @ looks.together[classes, attributes]
    objects += weight @ (OWN_NOISE * rng.standard_normal((len(classes), LATENT)))
    free = np.clip(1 - weight.sum(-1, keepdims=True), 0, 1)
    texture = looks.background[rng.integers(TEXTURES, size=3)][rng.integers(3, size=len(overlap))]
    looked = objects + free * texture + NOISE * rng.standard_normal((len(overlap), LATENT))
    return (np.rint(looked * draw_strengths(overlap, rng)[:, KIND] * 64) / 64).astype(np.float32)


def draw_strengths(overlap: np.ndarray, rng: Generator) -> np.ndarray:
    """How strongly each kind of channel fires on each proposal, [R,KINDS]: that of the object it overlaps most, more or less."""
    regions, objects = overlap.shape
    of_object = OF_OBJECT * rng.standard_normal((objects, KINDS))
    return np.exp(LOUDNESS + of_object[overlap.argmax(-1)] + OF_PROPOSAL * rng.standard_normal((regions, KINDS)))


def lift_features(appearance: np.ndarray, rng: Generator) -> np.ndarray:
    """Non-negative, about two thirds zero, as the features of a detector are: [R,L] → [R,D] float16."""
    grain = rng.standard_normal((len(appearance), DIM), dtype=np.float32)
    return np.maximum(appearance @ world().lift - 0.25 + GRAIN * grain, 0).astype(np.float16)


def draw_detections(facts: Facts, proposals: Proposals, shown: Shown, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """A detector's guesses: class [R] int32, right about four times in five where it shows and never where it does not, −1 for
    background, and score [R] float32."""
    owner, best = proposals.owner, proposals.overlap.max(-1)
    true = np.array(facts.classes)[owner]
    wrong = (true + rng.integers(1, len(CLASSES), REGIONS)) % len(CLASSES)
    seen = shown.classes[np.arange(REGIONS), owner]
    labels = np.where((rng.random(REGIONS) < 0.35 + 0.55 * best) & seen, true, wrong)
    scores = np.clip(
        np.where(owner >= 0, 0.15 + 0.7 * best, 0.05 + 0.3 * best) + 0.08 * rng.standard_normal(REGIONS), 0.01, 0.99
    )
    return np.where(owner >= 0, labels, -1).astype(np.int32), scores.astype(np.float32)
