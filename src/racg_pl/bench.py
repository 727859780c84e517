"""`racg bench`: what scoring and training cost here, beside the way the field does it and beside what the processor could do.

All of a section runs in one process, interleaved, warmed up, as medians; ratios are what to read, since machines are noisy. Items are
generated: 36 regions, 6 to 18 words (12 on average), and a model of random weights with every part on.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import yaml

from racg_pl import fused
from racg_pl.bench_rivals import caption_loop, plain_score
from racg_pl.errors import DataError
from racg_pl.features import RegionStore, RegionWriter
from racg_pl.gallery import Gallery
from racg_pl.graphs import SELF, Regions, Sentences
from racg_pl.losses import contrastive
from racg_pl.method import Encoded
from racg_pl.model import RACG
from racg_pl.processes import peak_mb
from racg_pl.progress import progress_bar
from racg_pl.scoring import rank
from racg_pl.training import commit, replacing, write_json

REGIONS, WORDS, VOCABULARY, FEATURES = 36, (6, 18), 8000, 2048
REPEATS = 5
SECTIONS = ("eval", "train", "encode", "read", "growth", "coco5k", "two_stage")
FLOOR = 0.14  # share of the GEMM rate that SCAN's own loop reaches; below, a ratio to ours would flatter
Results = dict[str, Any]


# ---- what is measured on ----


def build(config: Path) -> tuple[RACG, str]:
    """The model of a configuration, every part on, and the hash of the file."""
    try:
        text = config.read_bytes()
        options = yaml.safe_load(text)["model"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{config}: expected a configuration with a section model, got: {error}") from error
    known = inspect.signature(RACG.__init__).parameters
    torch.manual_seed(0)
    model = RACG(FEATURES, VOCABULARY, **{name: value for name, value in options.items() if name in known})
    return model, hashlib.sha256(text).hexdigest()


def pictures(count: int, regions: int = REGIONS) -> Regions:
    corner = torch.rand(count, regions, 2) / 2
    mask = torch.ones(count, regions, dtype=torch.bool)
    boxes = torch.cat((corner, corner + 0.1 + torch.rand(count, regions, 2) / 3), -1)
    return Regions(torch.rand(count, regions, FEATURES).relu(), boxes, torch.full((count, regions), -1), mask)


def sentences(count: int, words: tuple[int, int] = WORDS) -> Sentences:
    """Chains of words, as much related as a caption's words are."""
    low, high = words
    lengths = torch.arange(count) % (high - low + 1) + low
    mask = torch.arange(high) < lengths[:, None]
    place = torch.arange(high)
    near = (place[:, None] - place).abs() <= 1
    both = mask[:, :, None] & mask[:, None]
    relations = torch.where(near & both, 2, -1).masked_fill(torch.eye(high, dtype=torch.bool) & both, SELF)
    return Sentences(torch.randint(2, VOCABULARY, (count, high)) * mask, relations.to(torch.int8), mask)


def random_items(model: RACG, count: int, lengths: torch.Tensor) -> Encoded:
    """Encoded items of random content."""
    width = int(lengths.max())
    mask = torch.arange(width) < lengths[:, None]
    aligned = torch.nn.functional.normalize(
        torch.randn(count, width, model.heads, model.image_align.out_features // model.heads), dim=-1
    )
    channels = 0 if model.image_channels is None else len(model.image_channels)
    relations = torch.rand(count, channels, width, width) / width * (mask[:, None, :, None] & mask[:, None, None])
    pooled = torch.nn.functional.normalize(torch.randn(count, model.image_align.out_features), dim=-1)
    return Encoded(aligned * mask[..., None, None], relations, mask / mask.sum(1, keepdim=True), pooled, mask)


def interleaved(*programs: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Median seconds of each, all in turn, after one turn that does not count."""
    times: list[list[float]] = [[] for _ in programs]
    for turn in range(repeats + 1):
        for taken, program in zip(times, programs, strict=True):
            start = time.perf_counter()
            program()
            if turn:
                taken.append(time.perf_counter() - start)
    return [median(taken) for taken in times]


def gemm() -> Callable[[], object]:
    a, b = torch.rand(2048, 1024), torch.rand(1024, 2048)
    return lambda: a @ b


GEMM_FLOP = 2 * 2048 * 1024 * 2048


# ---- sections ----


@torch.inference_mode()
def evaluation(model: RACG, small: bool) -> Results:
    """Pairs a second: the operator, plain torch, and the loop over captions in D dimensions."""
    model.eval()
    images, captions = (8, 16) if small else (128, 256)
    pixels, texts = pictures(images), sentences(captions)
    encoded, said = model.encode_image(pixels), model.encode_text(texts)
    few = said.take(slice(0, captions // 4))
    regions, words = model.image_nodes(pixels), model.text_nodes(texts)[: captions // 4]
    lengths = few.mask.sum(1).tolist()
    whole, plain, loop, product = interleaved(
        lambda: model.score(encoded, said),
        lambda: plain_score(model, encoded, few),
        lambda: caption_loop(regions, words, lengths),
        gemm(),
    )
    pairs = images * captions
    rate, quarter = pairs / whole, pairs / 4
    flop = images * sum(4 * REGIONS * length * words.shape[-1] for length in lengths)
    gflops = GEMM_FLOP / product / 1e9
    share = flop / loop / 1e9 / gflops
    return {
        "gemm_f32_gflops": gflops,
        "eval_f32_pairs_per_s": rate,
        "caption_loop_pairs_per_s": quarter / loop,
        "caption_loop_share_of_gemm": share,
        "eval_f32_vs_caption_loop": rate * loop / quarter if share >= FLOOR else None,
        "eval_f32_vs_plain": rate * plain / quarter,
        "eval_bf16_vs_f32": None,
        "operator": fused.available(encoded.aligned),
    }


def train_step(model: RACG, batch: int, rival: bool = False) -> Callable[[], object]:
    """Forward and backward of `batch` pictures with a caption each, ours or the caption loop's over the same encoders."""
    pixels, texts = pictures(batch), sentences(batch)
    positive, lengths = torch.eye(batch, dtype=torch.bool), texts.mask.sum(1).tolist()

    def ours() -> None:
        model.zero_grad()
        images = model.encode_image(pixels)
        loss = contrastive(model.score(images, model.encode_text(texts)), positive)
        hidden, count = model.reconstruct(images, texts)
        (loss + hidden / count.clamp(min=1)).backward()

    def theirs() -> None:
        model.zero_grad()
        contrastive(caption_loop(model.image_nodes(pixels), model.text_nodes(texts), lengths), positive).backward()

    return theirs if rival else ours


def peak(config: Path, batch: int) -> float:
    """MB that a process which trains has resident at most."""
    model = build(config)[0].train()
    step = train_step(model, batch)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(2):
        step()
        optimizer.step()
    return peak_mb()


def training(model: RACG, small: bool, config: Path) -> Results:
    model.train()
    large, little = (8, 4) if small else (128, 32)
    b32, b128, rival, rival32 = interleaved(
        train_step(model, little), train_step(model, large), train_step(model, large, True), train_step(model, little, True),
        repeats=2 if small else REPEATS,
    )  # fmt: skip
    return {
        "train_b32_s": b32,
        "train_b32_vs_caption_loop": b32 / rival32,
        "train_b128_s": b128,
        "train_b128_vs_caption_loop": b128 / rival,
        "train_b128_peak_mb": apart(peak, config, large),
    }


@torch.inference_mode()
def encoding(model: RACG, small: bool) -> Results:
    model.eval()
    count = 8 if small else 128
    pixels, texts = pictures(count), sentences(count)
    image, caption = interleaved(lambda: model.encode_image(pixels), lambda: model.encode_text(texts))
    return {"encode_image_ms": 1000 * image / count, "encode_caption_ms": 1000 * caption / count}


def reading(small: bool) -> Results:
    """Images a second from a store, at random, in batches of 128, as a loader process reads them."""
    count = 128 if small else 1024
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.h5")
        boxes = np.tile(np.array([0.1, 0.1, 0.6, 0.6], np.float32), (REGIONS, 1))
        features = rng.random((REGIONS, FEATURES), np.float32).astype(np.float16)
        with RegionWriter(path, REGIONS, FEATURES, extractor="generated") as writer:
            for index in range(count):
                writer.add(str(index), features, boxes)
        store = RegionStore(path)

        def read() -> None:
            torch.from_numpy(store.read(np.sort(rng.permutation(count)[:128]), store.dtype).features).float()

        (taken,) = interleaved(read)
    return {"read_images_per_s": 128 / taken}


@torch.inference_mode()
def growth(model: RACG, small: bool) -> Results:
    """Exponents: time of scoring as captions, images, regions and words grow, by least squares over doublings."""
    model.eval()
    base = (
        {"captions": 16, "gallery": 16, "regions": 9, "words": 6}
        if small
        else {"captions": 64, "gallery": 64, "regions": 18, "words": 8}
    )
    exponents = {}
    for name in base:
        programs = []
        for factor in (1, 2, 4):
            size = base | {name: factor * base[name]}
            lengths = torch.full((size["gallery"],), size["regions"]), torch.full((size["captions"],), size["words"])
            items = [random_items(model, len(each), each) for each in lengths]
            programs.append(lambda items=items: model.score(*items))
        times = interleaved(*programs)
        exponents[f"growth_{name}"] = float(np.polyfit(np.log([1, 2, 4]), np.log(times), 1)[0])
    return exponents


def large_evaluation(config: Path, images: int, captions: int, rows: int) -> float:
    """MB beyond the libraries and the model to rank sampled rows of images × captions, encoded nodes included."""
    model = build(config)[0].eval()
    before = peak_mb()
    block = 500
    galleries = []
    for count, lengths in ((images, torch.tensor([REGIONS])), (captions, torch.arange(*WORDS))):
        parts = (random_items(model, n, lengths.repeat(n)[:n]) for n in [block] * (count // block) or [count])
        galleries.append(Gallery(parts))
    chosen = torch.linspace(0, images - 1, rows).long()
    owner = torch.arange(captions) * images // captions
    rank(model, galleries[0].reorder(chosen), galleries[1], owner, chosen, images)
    return peak_mb() - before


def coco5k(small: bool, config: Path) -> Results:
    sizes = (50, 250, 10) if small else (5000, 25000, 200)
    return {"coco5k_extra_mb": apart(large_evaluation, config, *sizes)}


def search(config: Path, count: int) -> Results:
    """A gallery of generated captions: a query's candidates by FAISS, then the cross graph on 128 of them."""
    from racg_pl.two_stage import CANDIDATES, PooledIndex, rerank

    model = build(config)[0].eval()
    before = peak_mb()
    index = PooledIndex(model.image_align.out_features)
    start = time.perf_counter()
    for _ in range(0, count, 50_000):
        index.add(torch.nn.functional.normalize(torch.randn(min(50_000, count), model.image_align.out_features), dim=-1))
    built = time.perf_counter() - start
    query = random_items(model, 1, torch.tensor([REGIONS]))
    nodes = random_items(model, CANDIDATES, torch.arange(*WORDS).repeat(CANDIDATES)[:CANDIDATES])
    found = index.search(query.pooled)[0]
    first, second = interleaved(
        lambda: index.search(query.pooled),
        lambda: rerank(model, query, found, lambda wanted: nodes.take(slice(0, len(wanted))), image=True),
        repeats=9,
    )
    memory = peak_mb() - before
    return {
        "two_stage_items": len(index),
        "two_stage_build_s": built,
        "two_stage_first_ms": 1000 * first,
        "two_stage_1m_query_ms": 1000 * (first + second) if len(index) == 1_000_000 else None,
        "two_stage_mb": memory,
    }


def apart(program: Callable[..., Any], *arguments: Any) -> Any:
    """What a program returns, run in a process of its own, whose memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(program, arguments)


# ---- the report ----

REASONS = {  # of a figure that the section eval leaves out
    "eval_f32_vs_caption_loop": f"void: the caption loop ran at less than {FLOOR:.0%} of the GEMM rate",
    "eval_bf16_vs_f32": "not measured: the operator computes in float32 whatever the nodes are held in",
}
NAMED = (
    "gemm_f32_gflops", "eval_f32_pairs_per_s", "eval_f32_vs_caption_loop", "eval_bf16_vs_f32", "train_b128_vs_caption_loop",
    "train_b128_peak_mb", "coco5k_extra_mb", "two_stage_1m_query_ms",
)  # fmt: skip


def bench(config: Path, out: Path, only: Sequence[str] = SECTIONS, small: bool = False) -> str:
    """Run sections, write OUT/bench.json and OUT/bench.md, and give the table.

    Args:
        only: some of SECTIONS.  small: tiny sizes, which show that all runs and measure nothing.
    """
    if unknown := set(only) - set(SECTIONS):
        raise DataError(f"bench: expected sections among {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")
    model, digest = build(config)
    programs: dict[str, Callable[[], Results]] = {
        "eval": lambda: evaluation(model, small),
        "train": lambda: training(model, small, config),
        "encode": lambda: encoding(model, small),
        "read": lambda: reading(small),
        "growth": lambda: growth(model, small),
        "coco5k": lambda: coco5k(small, config),
        "two_stage": lambda: apart(search, config, 5000 if small else 1_000_000),
    }
    results: Results = dict.fromkeys(NAMED)
    reasons = {name: f"not measured: its section was left out (sections: {', '.join(only)})" for name in NAMED}
    with progress_bar("bench", len(only), "sections") as advance:
        for section in only:
            try:
                results |= programs[section]()
            except DataError as error:
                if section != "two_stage":  # whose FAISS is an extra
                    raise
                reasons["two_stage_1m_query_ms"] = str(error)
            advance(1)
    if "eval" in only:
        reasons |= REASONS
    record = {
        **{name: round(value, 4) if isinstance(value, float) else value for name, value in results.items()},
        "null_because": {name: reasons[name] for name in NAMED if results[name] is None},
        "small": small,
        "config": str(config),
        "config_sha256": digest,
        "commit": commit(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "bench.json", record)
    table = markdown(json.loads((out / "bench.json").read_text()))
    with replacing(out / "bench.md") as unfinished:
        unfinished.write_text(table + "\n", encoding="utf-8")
    return table


def markdown(record: Results) -> str:
    """The record as a table, in its order."""
    head = (
        f"`racg bench`, {record['config']} ({record['config_sha256'][:12]}), commit {record['commit']}, torch {record['torch']}, "
        f"{record['threads']} threads; times are medians, ratios of interleaved runs."
    )
    hidden = {"null_because", "small", "config", "config_sha256", "commit", "torch", "threads"}
    shown = [(name, value) for name, value in record.items() if name not in hidden]
    rows = [
        f"| {name} | {'–' if value is None else f'{value:,.4g}' if isinstance(value, float) else value} |"
        for name, value in shown
    ]
    notes = [f"\n{name}: {reason}." for name, reason in record["null_because"].items()]
    return "\n".join([head, "", "| | |", "|---|---|", *rows, *notes])
