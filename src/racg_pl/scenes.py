"""Scenes: a generated data set for fine-grained image-text retrieval, with twins and with known ceilings.

    scene_facts     what is in a picture, and how its twin differs
    scene_pictures  where things lie, what a detector proposes, what the features are
    scene_captions  what captions say, and in which words
    scene_twins     the ceilings of scorers with and without relations; how a scorer does on twins
    scene_truth     the file that keeps all of this
    scene_draw      a picture for people

Every random number is drawn from a stream named by (seed, split, what, index), so that a picture does not depend on those
before it, and one seed gives the same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from racg_pl.captions import CaptionStore, write_captions
from racg_pl.errors import DataError, writing
from racg_pl.features import RegionStore, RegionWriter
from racg_pl.processes import is_running
from racg_pl.progress import progress_bar
from racg_pl.scene_captions import CAPTIONS, Content, draw_contents, write_caption
from racg_pl.scene_draw import draw
from racg_pl.scene_facts import Kind, Plan, draw_facts, plan_split
from racg_pl.scene_pictures import (
    DIM,
    REGIONS,
    draw_appearance,
    draw_detections,
    draw_layout,
    draw_proposals,
    draw_shown,
    lift_features,
)
from racg_pl.scene_truth import Truth, read_ceilings, write_truth
from racg_pl.scene_twins import Ceilings, ceilings, twin_hits

__all__ = ["Ceilings", "Truth", "draw", "generate", "read_ceilings", "split_sizes", "twin_hits"]

SPLITS = ("train", "dev", "test")
FEWEST = 40  # pictures that give every split twins of both kinds
SIDE = 640  # pixels of a picture, nominally
PLAN, FACTS, PICTURE, WORDS = range(4)  # names of the random streams


def split_sizes(images: int) -> dict[str, int]:
    """How many of `images` pictures each split gets: 1,000 for test (a third of less than 2,000), a tenth for dev."""
    test = 1000 if images >= 2000 else images // 3
    dev = images // 10
    return {"train": images - dev - test, "dev": dev, "test": test}


def generate(out: str | Path, images: int = 3000, seed: int = 0, progress: bool = True) -> Ceilings:
    """Write {train,dev,test}.h5, .captions.h5 and .truth.h5 into the folder `out`; memory does not grow with the features.

    Args:
        images: pictures in all.  seed: of everything but the looks of classes and attributes, which are always the same.
        progress: show a bar on a terminal.
    Returns: the ceilings on the test split, which are also stored (`read_ceilings`).
    Raises: DataError on a bad number, or where `out` cannot be written or holds regions of another data set.
    """
    if images < FEWEST:
        raise DataError(f"{out}: expected at least {FEWEST} images, so that every split has twins, got {images}; ask for more")
    if not 0 <= seed < 2**63:
        raise DataError(f"{out}: expected a seed in 0..2^63−1, got {seed}; choose another")
    refuse_others(Path(out), "name another folder")
    with _all_or_nothing(Path(out)) as folder, progress_bar("scenes", images, "images", progress) as advance:
        for split, count in split_sizes(images).items():
            _generate_split(folder, split, count, images, seed, advance)
    return read_ceilings(out)


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[Path]:
    """A folder whose files move to `out` when all are written: splits of two seeds would pass for one data set.

    What killed ones have left there is removed.
    """
    folder = out / f".scenes-{os.getpid()}.unfinished"
    try:
        with writing(out):
            for left in out.glob(".scenes-*.unfinished"):
                number = left.stem.removeprefix(".scenes-")
                if left == folder or (number.isdigit() and not is_running(int(number))):
                    shutil.rmtree(left)
            folder.mkdir(parents=True)
        yield folder
        with writing(out):
            for path in sorted(folder.iterdir()):
                os.replace(path, out / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_others(folder: Path, mend: str) -> None:
    """Raises: DataError where the folder holds regions of another data set, which Scenes never overwrites."""
    for path in (path for split in SPLITS if (path := folder / f"{split}.h5").exists()):
        try:
            store = RegionStore(path)
        except DataError as error:
            raise DataError(f"{error}, or remove it, or {mend}") from error
        if store.extractor != "scenes":
            raise DataError(f"{store.path}: expected Scenes, got regions by {store.extractor!r}; {mend}")


def _generate_split(out: Path, split: str, count: int, images: int, seed: int, advance: Callable[[int], None]) -> None:
    """One split's three files."""

    def stream(what: int, index: int = 0) -> Generator:
        return Generator(PCG64(SeedSequence([seed, SPLITS.index(split), what, index])))

    plan: Plan = plan_split(stream(PLAN), count)
    facts, boxes, owners = [], [], []
    texts: list[str] = []
    said: list[Content] = []
    decisive: list[bool] = []
    spans: list[tuple[int, int, int, int]] = []
    with RegionWriter(out / f"{split}.h5", REGIONS, DIM, extractor="scenes") as writer:
        for index in range(count):
            group = int(plan.group[index])
            picture = draw_facts(stream(FACTS, group), Kind(plan.focus[index]))
            picture = picture.twin() if plan.turned[index] else picture
            rng = stream(PICTURE, index)
            layout = draw_layout(picture, rng)
            proposals = draw_proposals(layout, rng)
            shown = draw_shown(len(layout), rng)
            features = lift_features(draw_appearance(picture, proposals.overlap, shown, rng), rng)
            labels, scores = draw_detections(picture, proposals, shown, rng)
            group = group if plan.twin[index] >= 0 else -1
            writer.add(f"{split}-{index:05d}", features, proposals.boxes, labels, scores, (SIDE, SIDE), group)
            facts.append(picture)
            boxes.append(layout)
            owners.append(proposals.owner)

            rng = stream(WORDS, index)
            for content, tells in draw_contents(picture, rng):
                text, found = write_caption(picture, content, rng)
                spans += [(len(texts), *span) for span in found]
                texts.append(text)
                said.append(content)
                decisive.append(tells and group >= 0)
            advance(1)

    image = np.repeat(np.arange(count), CAPTIONS)
    store = RegionStore(out / f"{split}.h5")
    write_captions(out / f"{split}.captions.h5", texts, image, store)
    best = None if split == "train" else ceilings(facts, said, image, plan.kind)
    arrays = {
        "proposals": np.stack(owners),
        "twin": plan.twin,
        "twin_kind": plan.kind,
        "decisive": np.array(decisive),
        "spans": np.array(spans),
    }
    captions = CaptionStore(out / f"{split}.captions.h5")
    write_truth(
        out / f"{split}.truth.h5", store, captions, facts, boxes, arrays, seed=seed, images=images, split=split, ceilings=best
    )
