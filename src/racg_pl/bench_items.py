"""What `racg bench` measures on, and how: generated items, a model of random weights with every part on, and programs in turn.

On the GPU where there is one. Items have 36 regions and 6 to 18 words, 12 on average.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from racg_pl import native
from racg_pl.data import Batch, ReadAhead, Split
from racg_pl.errors import DataError
from racg_pl.features import RegionStore
from racg_pl.graphs import SELF, Regions, Sentences
from racg_pl.hdf5 import one_line
from racg_pl.memory import peak_mb
from racg_pl.model import RACG, Encoded
from racg_pl.module import RACGModule
from racg_pl.semantics import TYPES
from racg_pl.yaml_file import load_yaml

REGIONS, WORDS, VOCABULARY, FEATURES = 36, (6, 18), 8000, 2048
OBJECTS, DETECTED = 80, 14  # classes of the detector, where one is asked for, and regions of a picture that it has found
# Predicate, figure and ground by place: Flickr8k's captions have 2.0 such pairs, over 1.3 figures and 1.9 grounds.
PAIRS = ((2, 1, 4), (6, 1, 8))
REPEATS = 5
Given = ParamSpec("Given")
Made = TypeVar("Made")


def device() -> torch.device:
    """Where all is measured."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def there(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """What is made is made on that device."""

    @functools.wraps(make)
    def made(*args: Given.args, **options: Given.kwargs) -> Made:
        with device():
            return make(*args, **options)

    return made


def build(config: Path) -> tuple[RACGModule, RACG, str]:
    """The module of a configuration, its model, every part on, and the hash of the file."""
    try:
        text = config.read_bytes()
        options = load_yaml(text)["model"]
        torch.manual_seed(0)
        module = RACGModule(FEATURES, VOCABULARY, **{"objects": OBJECTS if options.get("decode") == "objects" else 0} | options)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{config}: expected a configuration with a section model, got: {one_line(error)}") from error
    if not isinstance(module.model, RACG):
        raise DataError(f"{config}: expected a configuration of RACG, got another method; choose experiments/flickr30k.yaml")
    return module.to(device()), module.model, hashlib.sha256(text).hexdigest()


@there
def pictures(count: int, regions: int = REGIONS) -> Regions:
    corner = torch.rand(count, regions, 2) / 2
    mask = torch.ones(count, regions, dtype=torch.bool)
    boxes = torch.cat((corner, corner + 0.1 + torch.rand(count, regions, 2) / 3), -1)
    found = torch.arange(count * regions).view(count, regions) % OBJECTS  # all classes, over pictures
    labels = found.masked_fill(torch.arange(regions) >= DETECTED, -1)
    return Regions(torch.rand(count, regions, FEATURES).relu(), boxes, labels, mask)


@there
def sentences(count: int, words: tuple[int, int] = WORDS) -> Sentences:
    """Chains of words, in which two verbs or adpositions (`PAIRS`) join participants, as in a caption of as many words."""
    low, high = words
    lengths = torch.arange(count) % (high - low + 1) + low
    mask = torch.arange(high) < lengths[:, None]
    place = torch.arange(high)
    near = (place[:, None] - place).abs() <= 1
    both = mask[:, :, None] & mask[:, None]
    relations = torch.where(near & both, 2, -1).masked_fill(torch.eye(high, dtype=torch.bool) & both, SELF)
    for predicate, *participants in PAIRS:
        for word, role in zip(participants, ("figure", "ground"), strict=True):
            relations[:, predicate, word] = torch.where(both[:, predicate, word], 2 + len(TYPES) + TYPES.index(role), -1)
            relations[:, word, predicate] = torch.where(both[:, predicate, word], 2 + TYPES.index(role), -1)
    return Sentences(torch.randint(2, VOCABULARY, (count, high)) * mask, relations.to(torch.int8), mask)


@there
def random_items(model: RACG, count: int, lengths: torch.Tensor, captions: bool = False) -> Encoded:
    """Encoded items of random content: images, whose regions are all related, or captions, in which `PAIRS` are."""
    lengths = lengths.to(device())
    width = int(lengths.max())
    mask = torch.arange(width) < lengths[:, None]
    aligned = torch.nn.functional.normalize(
        torch.randn(count, width, model.heads, model.image_align.out_features // model.heads), dim=-1
    )
    both = mask[:, None, :, None] & mask[:, None, None]
    if captions:
        places = torch.tensor(PAIRS)[:, 1:].clamp(max=width - 1).unbind(1)
        both = both & torch.zeros(width, width, dtype=torch.bool).index_put(places, torch.tensor(True))
    relations = torch.rand(count, model.channels, width, width) / width * both
    pooled = torch.nn.functional.normalize(torch.randn(count, model.feature.out_features), dim=-1)
    return Encoded(aligned * mask[..., None, None], relations, mask / mask.sum(1, keepdim=True), pooled, mask)


def interleaved(*programs: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Median seconds of each, all in turn, after one turn that does not count."""
    times: list[list[float]] = [[] for _ in programs]
    for turn in range(repeats + 1):
        for taken, program in zip(times, programs, strict=True):
            start = time.perf_counter()
            program()
            if device().type == "cuda":
                torch.cuda.synchronize()
            if turn:
                taken.append(time.perf_counter() - start)
    return [median(taken) for taken in times]


@there
def gemm() -> Callable[[], object]:
    a, b = torch.rand(2048, 1024), torch.rand(1024, 2048)
    return lambda: a @ b


GEMM_FLOP = 2 * 2048 * 1024 * 2048


@there
def some_batch(size: int) -> Batch:
    """`size` pictures with a caption each."""
    rows = torch.arange(size)
    return Batch(rows, pictures(size), rows, sentences(size), rows)


def stored_regions(store: RegionStore, size: int, workers: int) -> DataLoader:
    """More batches of `size` pictures of a store, at random, than anyone takes, as a training's loader brings them."""
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.permutation(len(store))[:size]) for _ in range(100)]
    made = ReadAhead if device().type != "cpu" and not workers else DataLoader
    return made(Stored(store), batch_size=None, sampler=rows, num_workers=workers, pin_memory=torch.cuda.is_available())


class Stored(Split):
    """The regions of a store, without captions."""

    def __init__(self, store: RegionStore) -> None:
        self.store = store

    def __getitem__(self, rows: NDArray[np.int64]) -> Regions:  # type: ignore[override]
        return self.regions(rows)


def halves(operator: bool) -> bool:
    """Whether bfloat16 pays here: an operator without a form for it computes in float32."""
    return native.narrow() if operator else True


def peak_memory() -> float:
    """MiB that this process has had at most, on the GPU where that is measured, else resident."""
    return torch.cuda.max_memory_allocated() / 2**20 if device().type == "cuda" else peak_mb()


def apart(program: Callable[..., Any], *arguments: Any) -> Any:
    """What a program returns, run in a process of its own, whose memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(program, arguments)
