"""Scenes: the same bytes for a seed, twins that differ in one thing, roles that no single region shows, exact ceilings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.random import PCG64, Generator

from racg_pl.captions import CaptionStore
from racg_pl.check import check
from racg_pl.errors import DataError
from racg_pl.features import RegionStore, RegionWriter
from racg_pl.scene_captions import ABSENT, FULL, contents, draw_contents, write_caption
from racg_pl.scene_facts import ATTRIBUTES, CLASSES, CLOCK, RELATIONS, Facts, Kind, draw_facts, plan_split
from racg_pl.scene_pictures import (
    draw_appearance,
    draw_detections,
    draw_layout,
    draw_proposals,
    draw_shown,
    lift_features,
    offset,
    world,
)
from racg_pl.scene_twins import bag, ceilings, expected_hits, statement
from racg_pl.scenes import Truth, draw, generate, read_ceilings, split_sizes, twin_hits

SPLITS = ("train", "dev", "test")


def stream(seed: int) -> Generator:
    return Generator(PCG64(seed))


def random_facts(count: int, seed: int = 0) -> list[Facts]:
    rng = stream(seed)
    return [draw_facts(rng, Kind(1 + index % 2)) for index in range(count)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    generate(out, images=240, seed=1, progress=False)
    return out


class Split:
    def __init__(self, root: Path, name: str) -> None:
        self.truth, self.captions = Truth(root / f"{name}.truth.h5"), CaptionStore(root / f"{name}.captions.h5")
        self.store = RegionStore(root / f"{name}.h5")


@pytest.fixture(scope="module", params=SPLITS)
def split(root, request) -> Split:
    return Split(root, request.param)


# ---- files ----


def test_the_same_bytes_for_a_seed_and_others_for_another(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate(tmp_path / name, images=40, seed=seed, progress=False)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(f"{split}{kind}.h5" for split in SPLITS for kind in ("", ".captions", ".truth"))
    for name in names:
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b
        assert a != c


def test_products_of_hidden_codes_are_exact():
    """Summed in any order, on any machine, they give the same float32 numbers, and so the same bytes."""
    picture, rng = random_facts(1)[0], stream(1)
    layout = draw_layout(picture, rng)
    shown = draw_appearance(picture, draw_proposals(layout, rng).overlap, draw_shown(len(layout), rng), rng)
    assert (shown * 64 == np.rint(shown * 64)).all()
    backwards = shown[:, ::-1].astype(np.float64)
    assert ((shown @ world().lift) == (backwards @ world().lift[::-1].astype(np.float64))).all()


def test_sizes_of_the_splits():
    assert split_sizes(3000) == {"train": 1700, "dev": 300, "test": 1000}
    assert split_sizes(2000)["test"] == split_sizes(100_000)["test"] == 1000
    assert all(sum(split_sizes(n).values()) == n and min(split_sizes(n).values()) >= 4 for n in range(40, 2500))


def test_files_pass_the_validator_and_belong_together(root, split):
    check(split.store.path)
    check(split.captions.path)
    split.captions.require(split.store)
    split.truth.require(split.captions)
    assert len(split.truth) == len(split.store)
    assert (np.bincount(split.captions.image) == 5).all()
    assert split.store.sizes is not None
    other = next(name for name in SPLITS if name != split.truth.split)
    with pytest.raises(DataError, match="expected the captions with sha256"):
        split.truth.require(CaptionStore(root / f"{other}.captions.h5"))


def test_regions_look_like_those_of_a_detector(split):
    regions = split.store.read(np.arange(12))
    assert regions.features.shape == (12, 36, 2048)
    assert regions.features.min() == 0
    assert 0.5 < (regions.features == 0).mean() < 0.8
    assert np.isfinite(regions.features).all()
    owned = split.truth.proposals >= 0
    assert (split.store.labels[~owned] == -1).all()
    assert 8 < owned.sum(1).mean() < 20  # the rest is background
    first = split.truth.object_offsets[:-1, None]
    true = split.truth.classes[first + np.maximum(split.truth.proposals, 0)]
    assert 0.5 < (split.store.labels == true)[owned].mean() < 0.66  # four in five where the class shows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 39}, "at least 40 images.*got 39"),
        ({"images": -1}, "at least 40 images.*got -1"),
        ({"seed": -1}, "expected a seed.*got -1"),
        ({"seed": 2**63}, "expected a seed"),
    ],
)
def test_bad_numbers_leave_nothing(tmp_path, arguments, message):
    with pytest.raises(DataError, match=message) as error:
        generate(tmp_path / "out", **arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        generate(tmp_path / "out", images=40, progress=False)


def test_another_data_set_is_never_written_over(tmp_path):
    with RegionWriter(tmp_path / "dev.h5", 1, 4, extractor="bottom-up") as writer:
        writer.add("a", np.ones((1, 4)), [[0, 0, 1, 1]])
    before = (tmp_path / "dev.h5").read_bytes()
    with pytest.raises(DataError, match=r"dev.h5: expected Scenes, got regions by 'bottom-up'; name another folder"):
        generate(tmp_path, images=40, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["dev.h5"]
    assert (tmp_path / "dev.h5").read_bytes() == before


# ---- twins ----


def described(truth: Truth, image: int) -> tuple[Counter, Counter, Counter]:
    """What a picture holds, whatever the order of its objects: objects, attributes, relations."""
    objects = truth.objects_of(image)
    relations = Counter((objects[s].name, name, objects[o].name) for s, name, o in truth.relations_of(image))
    return Counter(o.name for o in objects), Counter((o.name, o.attribute) for o in objects), relations


def test_every_split_has_both_kinds_of_twins_and_they_differ_in_one_thing(split):
    truth, kinds = split.truth, Counter(split.truth.twin_kind.tolist())
    assert kinds[1] >= 2
    assert kinds[2] >= 2
    assert kinds[1] == kinds[2]
    for image, (twin, kind) in enumerate(zip(truth.twin, truth.twin_kind, strict=True)):
        group = split.store.groups[image]
        if kind == Kind.NONE:
            assert twin == group == -1
            continue
        assert truth.twin[twin] == image != twin
        assert group == split.store.groups[twin] >= 0
        assert (split.store.groups == group).sum() == 2
        (names, attributes, relations), (names2, attributes2, relations2) = described(truth, image), described(truth, twin)
        assert names == names2
        assert Counter(a for _, a in attributes) == Counter(a for _, a in attributes2)
        if kind == Kind.ATTRIBUTE:
            assert relations == relations2
            (one, red), (two, blue) = attributes - attributes2
            assert attributes2 - attributes == Counter([(one, blue), (two, red)])
        else:
            assert attributes == attributes2
            ((subject, name, other),) = relations - relations2
            assert list(relations2 - relations) == [(other, name, subject)]


def test_twins_share_no_place_and_no_noise(split):
    truth = split.truth
    for image in np.flatnonzero(truth.twin_kind):
        twin = truth.twin[image]
        assert not np.isin(split.store.boxes[image], split.store.boxes[twin]).all(1).any()
        assert truth.objects_of(image)[0].box != truth.objects_of(twin)[0].box


def test_most_captions_are_decisive_and_exactly_the_right_ones(split):
    decisive = split.truth.decisive.reshape(-1, 5).sum(1)
    assert set(decisive[split.truth.twin_kind > 0]) == {3, 4}
    assert not decisive[split.truth.twin_kind == 0].any()
    for index, facts in enumerate(random_facts(60)):
        twin = facts.twin()
        assert twin.twin() == facts
        of_twin = contents(len(twin.classes), len(twin.relations), twin.kind, twin.focus)
        possible = {statement(twin, content) for content in of_twin.items}
        for content, tells in draw_contents(facts, stream(index)):
            assert (statement(facts, content) not in possible) == tells
            assert bag(facts, content) in {bag(twin, other) for other in of_twin.items}


def test_the_plan_of_a_split_is_a_matching():
    plan = plan_split(stream(0), 1000)
    assert Counter(plan.kind.tolist()) == {0: 200, 1: 400, 2: 400}
    paired = np.flatnonzero(plan.twin >= 0)
    assert (plan.twin[plan.twin[paired]] == paired).all()
    assert (plan.group[plan.twin[paired]] == plan.group[paired]).all()
    assert (plan.turned[plan.twin[paired]] != plan.turned[paired]).all()
    assert abs(np.corrcoef(paired, plan.twin[paired])[0, 1]) < 0.2  # twins do not lie side by side


# ---- a relation shows only between two regions ----


@pytest.fixture(scope="module")
def ends() -> dict[str, np.ndarray]:
    """Both ends of each relation of 7,000 pictures: the appearance and box of its best proposal, its role, the other's box."""
    rng = stream(7)
    rows: dict[str, list] = {name: [] for name in ("appearance", "box", "other", "relation", "subject", "proposals", "overlap")}
    for facts in random_facts(7000, seed=8):
        proposals = draw_proposals(draw_layout(facts, rng), rng)
        appearance = draw_appearance(facts, proposals.overlap, draw_shown(len(facts.classes), rng), rng)
        for subject, relation, other in facts.relations:
            mine = [proposals.owner == k for k in (subject, other)]
            best = [int(np.where(m, proposals.overlap[:, k], -1).argmax()) for m, k in zip(mine, (subject, other), strict=True)]
            for is_subject, (this, that) in ((1, best), (0, best[::-1])):
                rows["appearance"].append(appearance[this])
                rows["box"].append(proposals.boxes[this])
                rows["other"].append(proposals.boxes[that])
                rows["relation"].append(relation)
                rows["subject"].append(is_subject)
                rows["proposals"].append(mine[1 - is_subject].sum())
                rows["overlap"].append(proposals.overlap[this].max())
    return {name: np.array(values) for name, values in rows.items()}


def probe(inputs: np.ndarray, relation: np.ndarray, role: np.ndarray) -> float:
    """Accuracy of a perceptron with two hidden layers that also knows the relation, on the last two fifths of the pairs."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    known = np.eye(len(RELATIONS))[relation]
    x = torch.tensor(np.concatenate([(inputs - inputs.mean(0)) / inputs.std(0), known], 1), dtype=torch.float32)
    y = torch.tensor(role)
    train = len(x) * 3 // 10 * 2  # an even number: both ends of a pair fall on one side
    net = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
    for _ in range(8):
        for rows in torch.randperm(train).split(256):
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return float((net(x[train:]).argmax(1) == y[train:]).float().mean())


def test_one_region_does_not_show_its_role(ends):
    """From the hidden code, which the 2048 features show through grain only, and from the box."""
    held_out = len(ends["subject"]) * 2 // 5
    assert held_out > 7000  # a standard error of 0.6 points
    whole = np.concatenate([ends["appearance"], ends["box"]], 1)
    assert probe(whole, ends["relation"], ends["subject"]) <= 0.52
    assert probe(ends["box"], ends["relation"], ends["subject"]) <= 0.52


def test_two_regions_do(ends):
    size = np.sqrt((ends["box"][:, 2:] - ends["box"][:, :2]).prod(1, keepdims=True))
    away = (ends["other"][:, :2] + ends["other"][:, 2:] - ends["box"][:, :2] - ends["box"][:, 2:]) / 2 / size
    assert probe(away, ends["relation"], ends["subject"]) >= 0.97


def test_even_the_best_guess_from_place_stays_below_52_percent():
    """Moving a uniform distribution of range ρ by d changes it by d / ρ: a guess of the role is right with 1/2 + d / 2ρ."""
    rng, gain = stream(9), {relation: [] for relation in range(len(RELATIONS))}
    for facts in random_facts(1500, seed=10):
        boxes = draw_layout(facts, rng)
        for subject, relation, other in facts.relations:
            a, b = boxes[subject], boxes[other]
            moved = np.abs((a[:2] + a[2:] - b[:2] - b[2:]) / 2)
            extent = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
            gain[relation].append((moved / (1 - extent)).sum() / 2)
    assert all(np.mean(values) < 0.018 for values in gain.values())


def test_nothing_else_goes_with_a_role(ends):
    subject = ends["subject"] == 1
    for name in ("proposals", "overlap"):
        one, two = ends[name][subject].astype(float), ends[name][~subject].astype(float)
        assert abs(one.mean() - two.mean()) < 3.5 * np.hypot(one.std(), two.std()) / np.sqrt(len(one))
    area = (ends["box"][:, 2:] - ends["box"][:, :2]).prod(1)
    assert abs(np.log(area[subject]).mean() - np.log(area[~subject]).mean()) < 0.03
    counts = np.zeros((2, len(CLASSES)))  # of classes as subject and as object
    for facts in random_facts(7000, seed=8):
        for s, _, o in facts.relations:
            counts[0, facts.classes[s]] += 1
            counts[1, facts.classes[o]] += 1
    spread = ((counts[0] - counts[1]) ** 2 / counts.sum(0)).sum()  # chi squared, 39 degrees of freedom
    assert spread < 73  # its 99.9th percentile


def test_relations_lie_on_their_hours_and_others_apart():
    rng, hours = stream(11), list(CLOCK.values())
    assert len({hour % 12 for hour in hours} | {(hour + 6) % 12 for hour in hours}) == 2 * len(hours)
    for facts in random_facts(200, seed=12):
        boxes = draw_layout(facts, rng)
        assert boxes.min() >= 0
        assert boxes.max() <= 1
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        away = (centre[:, None] - centre) / ((size[:, None] + size) / 2)
        related = np.eye(len(boxes), dtype=bool)
        for s, relation, o in facts.relations:
            assert away[s, o] == pytest.approx(offset(relation))
            assert (1 - np.abs(away[s, o])).prod() == pytest.approx(0.6)
            related[s, o] = related[o, s] = True
        assert (np.abs(away).max(-1)[~related] >= 2).all()


def test_a_linear_probe_reads_of_a_tight_proposal_what_it_shows():
    rng = stream(13)
    rows: list[np.ndarray] = []
    owned: list[tuple[int, int, bool, bool]] = []  # class, attribute, whether each shows
    for facts in random_facts(1000, seed=14):
        proposals = draw_proposals(draw_layout(facts, rng), rng)
        shown = draw_shown(len(facts.classes), rng)
        features = lift_features(draw_appearance(facts, proposals.overlap, shown, rng), rng)
        for region in np.flatnonzero(proposals.owner >= 0):
            owner = proposals.owner[region]
            if proposals.overlap[region, owner] >= 0.75:
                rows.append(features[region].astype(np.float32))
                sides = shown.classes[region, owner], shown.attributes[region, owner]
                owned.append((facts.classes[owner], facts.attributes[owner], *sides))
    x, known = np.stack(rows), np.array(owned)
    train = len(x) * 3 // 4
    x -= x[:train].mean(0)
    for side, (low, high) in enumerate(((0.78, 0.96), (0.70, 0.92))):
        wanted, shows = known[:, side], known[:, 2 + side].astype(bool)
        assert 0.72 < shows.mean() < 0.78
        taught, asked = np.flatnonzero(shows[:train]), train + np.flatnonzero(shows[train:])
        hidden = train + np.flatnonzero(~shows[train:])
        gram = x[taught].T @ x[taught] + 300 * np.eye(x.shape[1], dtype=np.float32)
        weights = np.linalg.solve(gram, x[taught].T @ np.eye(wanted.max() + 1, dtype=np.float32)[wanted[taught]])
        assert low < ((x[asked] @ weights).argmax(1) == wanted[asked]).mean() < high
        assert ((x[hidden] @ weights).argmax(1) == wanted[hidden]).mean() < 0.2  # but for overlapping twins of a class


def test_detections_name_background_nothing():
    facts, rng = random_facts(1)[0], stream(0)
    proposals = draw_proposals(draw_layout(facts, rng), rng)
    shown = draw_shown(len(facts.classes), rng)
    labels, scores = draw_detections(facts, proposals, shown, rng)
    assert ((labels >= 0) == (proposals.owner >= 0)).all()
    assert (scores > 0).all()
    assert (scores < 1).all()


# ---- captions ----

SYNONYMS = {word: name for table in (CLASSES, ATTRIBUTES) for name, words in table.items() for word in words}


def test_words_are_one_name_each_and_take_the_same_article():
    every = [word for table in (CLASSES, ATTRIBUTES) for words in table.values() for word in words]
    assert len(set(every)) == len(every)
    assert all(word.isalpha() and word.islower() and word[0] not in "aeiou" for word in every)


def test_spans_point_to_the_words_of_their_object(split):
    truth, texts = split.truth, split.captions.texts
    for caption, text in enumerate(texts):
        objects = truth.objects_of(split.captions.image[caption])
        spans = truth.spans_of(caption)
        assert len(spans) >= 2
        for first, last, owner in spans:
            word = text[first:last]
            assert SYNONYMS[word] in (objects[owner].name, objects[owner].attribute)
            assert re.fullmatch(r"\w+", word)
        rest = "".join(" " if any(a <= k < b for a, b, _ in spans) else letter for k, letter in enumerate(text))
        assert not set(re.findall(r"\w+", rest)) & SYNONYMS.keys()  # no word that speaks of an object was missed
    assert len(truth.spans) == sum(len(truth.spans_of(caption)) for caption in range(len(texts)))


def test_captions_are_clean_and_varied(root):
    texts = [text for name in SPLITS for text in CaptionStore(root / f"{name}.captions.h5").texts]
    for text in texts:
        assert re.fullmatch(r"[a-z]+((,? )[a-z]+)*\.?", text), text
    assert 0.08 < np.mean([text.endswith(".") for text in texts]) < 0.25
    assert len(set(texts)) > 0.97 * len(texts)
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 3
    assert max(lengths) <= 40
    assert 10 < np.mean(lengths) < 18
    for pattern in (
        r"is (being )?(ridden|fed|carried|chased) by",  # passive
        r"that (is|are) \w+ing",  # relative clause
        r"^(to the|on the|above|below|under|beneath|over|left of|right of) ",  # inversion
        r"(kitten|puppy|bunny|bike)",  # synonyms
        r"has a .* (left|right|above|below|underneath)",
        r"it is a",
        r"nearby|further away|background",
    ):
        share = np.mean([bool(re.search(pattern, text)) for text in texts])
        assert share > 0.01, pattern


def test_some_objects_are_left_out():
    mentions = [
        content.mention for index, facts in enumerate(random_facts(300)) for content, _ in draw_contents(facts, stream(index))
    ]
    absent = np.mean([m == ABSENT for mention in mentions for m in mention])
    full = np.mean([m == FULL for mention in mentions for m in mention])
    assert 0.15 < absent < 0.5
    assert 0.3 < full < 0.6


def test_a_relation_twin_is_described_by_the_same_bag_of_words():
    """From one stream of random numbers, the captions of a picture and of its twin are the same words in another order."""
    different = 0
    for index, facts in enumerate(random_facts(400)):
        if facts.kind is not Kind.RELATION:
            continue
        for content, tells in draw_contents(facts, stream(index)):
            one, _ = write_caption(facts, content, stream(index))
            two, _ = write_caption(facts.twin(), content, stream(index))
            assert sorted(re.findall(r"\w+", one)) == sorted(re.findall(r"\w+", two))
            different += one != two
            assert tells or one == two
    assert different > 400


def test_word_order_does_not_give_the_roles_away():
    first = []
    for index, facts in enumerate(random_facts(1500)):
        for content, _ in draw_contents(facts, stream(index)):
            _, spans = write_caption(facts, content, stream(index))
            places = {owner: start for start, _, owner in reversed(spans)}
            first += [places[s] < places[o] for (s, _, o), told in zip(facts.relations, content.told, strict=True) if told]
    assert len(first) > 2000
    assert abs(np.mean(first) - 0.5) < 0.03


# ---- ceilings ----


def dense_ceiling(pictures, captions, image, seen, rounds=400):
    """The same by another road: all scores in one matrix, ties broken at random `rounds` times."""
    table = []
    for facts in pictures:
        possible = contents(len(facts.classes), len(facts.relations), facts.kind, facts.focus)
        row: Counter = Counter()
        for content, chance in zip(possible.items, possible.chance, strict=True):
            row[seen(facts, content)] += chance
        table.append(row)
    keys = [seen(pictures[i], content) for i, content in zip(image, captions, strict=True)]
    scores = np.array([[row[key] for key in keys] for row in table])
    scores = np.round(scores / scores.sum(0), 12)
    own = image[None] == np.arange(len(pictures))[:, None]
    rng, i2t, t2i = stream(0), np.zeros(len(pictures)), np.zeros(len(keys))
    for _ in range(rounds):
        order = scores + 1e-9 * rng.random(scores.shape)
        i2t += own[np.arange(len(pictures)), order.argmax(1)]
        t2i += own[order.argmax(0), np.arange(len(keys))]
    return i2t / rounds, t2i / rounds


def test_ceilings_agree_with_a_simulation():
    groups = random_facts(30, seed=3)
    pictures = [facts for group in groups for facts in (group, group.twin())]
    captions = [content for index, facts in enumerate(pictures) for content, _ in draw_contents(facts, stream(index))]
    image = np.repeat(np.arange(len(pictures)), 5)
    for seen in (bag, statement):
        for exact, sampled in zip(
            expected_hits(pictures, captions, image, seen), dense_ceiling(pictures, captions, image, seen), strict=True
        ):
            assert np.abs(exact - sampled).max() < 0.13  # five standard errors of 400 rounds
            assert exact.mean() == pytest.approx(sampled.mean(), abs=0.01)


def test_contents_are_a_distribution_and_draws_follow_it():
    facts = random_facts(2)[1]
    choice = contents(len(facts.classes), len(facts.relations), facts.kind, facts.focus)
    assert choice.chance.sum() == pytest.approx(1)
    assert choice.chance[choice.decisive].sum() == pytest.approx(0.7)
    assert len(set(choice.items)) == len(choice.items)
    rng = stream(0)
    drawn = Counter(content for _ in range(4000) for content, _ in draw_contents(facts, rng))
    for content, chance in zip(choice.items, choice.chance, strict=True):
        assert abs(drawn[content] / 20_000 - chance) < 5 * np.sqrt(chance / 20_000) + 1e-4


def test_bags_of_words_cannot_tell_twins_apart_and_relations_can(root):
    stored = read_ceilings(root)
    assert Truth(root / "train.truth.h5").ceilings is None
    for row in stored.to_dict().values():
        for direction in ("i2t", "t2i"):
            assert row[f"bag_of_words_{direction}"] <= 50 + 1e-9  # of two twins at most one can win
            assert row[f"relations_{direction}"] > row[f"bag_of_words_{direction}"] + 25
        assert row["bag_of_words_i2t"] > 45
        assert row["relations_i2t"] > 95
        assert 75 < row["relations_t2i"] < 95  # captions leave things out
    table = str(stored)
    assert "attribute twins" in table
    assert f"{stored.relation.bag_of_words_t2i:.1f}" in table


def test_ceilings_without_twins_of_a_kind_cannot_be_asked_of_the_train_split(root, tmp_path):
    (tmp_path / "test.truth.h5").write_bytes((root / "train.truth.h5").read_bytes())
    with pytest.raises(DataError, match="expected the ceilings of a test split"):
        read_ceilings(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_ceilings(tmp_path / "nowhere")


def test_twin_hits(root):
    split = Split(root, "test")
    truth, image = split.truth, split.captions.image
    perfect = (image[None] == np.arange(len(truth))[:, None]).astype(np.float32)
    assert all(hits.all() for hits in twin_hits(perfect, image, truth).values())
    constant = twin_hits(np.zeros_like(perfect), image, truth)
    assert not any(hits.any() for hits in constant.values())  # a tie is a miss
    twin = np.where(truth.twin >= 0, truth.twin, np.arange(len(truth)))
    confused = perfect + 0.5 * perfect[twin]  # the twin comes second
    assert all(hits.all() for hits in twin_hits(confused, image, truth).values())
    wrong = twin_hits(perfect[twin], image, truth)
    assert not any(hits.any() for hits in wrong.values())
    sizes = {name: len(hits) for name, hits in wrong.items()}
    assert sizes["relation_i2t"] == (truth.twin_kind == 2).sum()
    assert sizes["relation_t2i"] == 5 * sizes["relation_i2t"]
    assert sizes["relation_t2i_choice"] == truth.decisive[truth.twin_kind[image] == 2].sum()


def test_perfect_knowledge_reaches_the_ceiling_and_no_more():
    """A scorer that knows the relations, scored by `ceilings`, against one drawn with ties broken by luck."""
    groups = random_facts(40, seed=5)
    pictures = [facts for group in groups for facts in (group, group.twin())]
    captions = [content for index, facts in enumerate(pictures) for content, _ in draw_contents(facts, stream(index + 1))]
    image = np.repeat(np.arange(len(pictures)), 5)
    kind = np.array([facts.kind for facts in pictures], dtype=np.int8)
    best = ceilings(pictures, captions, image, kind)
    _, t2i = dense_ceiling(pictures, captions, image, statement)
    assert best.relation.relations_t2i == pytest.approx(100 * t2i[kind[image] == 2].mean(), abs=2)


# ---- drawing ----


def test_pictures_are_drawn_with_their_twins(root, tmp_path):
    from matplotlib.image import imread

    truth = Truth(root / "test.truth.h5")
    widths = []
    for kind in (0, 2):
        path = tmp_path / f"{kind}.png"
        draw(root, f"test-{int(np.flatnonzero(truth.twin_kind == kind)[0]):05d}", path)
        pixels = imread(path)[..., :3]
        ink = (pixels < 0.9).any(-1)
        assert 0.01 < ink.mean() < 0.5
        assert ink[: len(ink) // 2].any()
        assert ink[-len(ink) // 6 :].any()  # captions
        assert len(np.unique(pixels.reshape(-1, 3).round(2), axis=0)) > 30
        widths.append(pixels.shape[1])
    assert widths[1] == 2 * widths[0]


def test_drawing_says_what_is_wrong(root, tmp_path):
    for image_id, message in (
        ("test-99999", "expected an id in it"),
        ("none-00000", "no such file"),
        ("1", "such as test-00000, got '1'"),
    ):
        with pytest.raises(DataError, match=message):
            draw(root, image_id, tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.what: expected a file that ends in \.png"):
        draw(root, "test-00000", tmp_path / "x.what")
    with pytest.raises(DataError, match="cannot be written"):
        draw(root, "test-00000", tmp_path / "missing" / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_the_data_set_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not one of two seeds, which every check of single files would pass."""
    generate(tmp_path, 40, seed=0, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    drawn = []

    def broken_off(*given):
        drawn.append(given)
        if len(drawn) > 30:  # in the second split
            raise KeyboardInterrupt
        return draw_facts(*given)

    from racg_pl.scene_facts import draw_facts

    monkeypatch.setattr("racg_pl.scenes.draw_facts", broken_off)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, 40, seed=7, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_killed_generator_left_is_removed(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f".scenes-{ended.pid}.unfinished", f".scenes-{os.getpid()}.unfinished", f".scenes-{os.getppid()}.unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.h5").write_bytes(b"")
    generate(tmp_path, 40, progress=False)
    assert [path.name for path in tmp_path.glob(".*")] == [f".scenes-{os.getppid()}.unfinished"]  # of one that runs


def test_a_damaged_file_says_how_to_go_on(tmp_path: Path):
    (tmp_path / "test.h5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="or remove it, or name another folder"):
        generate(tmp_path, 40, progress=False)


def test_a_figure_wants_a_picture_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from racg_pl.cli import main

    assert main(["scenes", str(tmp_path / "new"), "--images", "40", "--figure", str(tmp_path / "f.png")]) == 2
    assert "expected --draw with --figure" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
