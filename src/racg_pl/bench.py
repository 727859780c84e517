"""`racg bench`: what scoring and training cost here, beside the way the field does it and beside what the processor could do.

All of a section runs in one process, interleaved, warmed up, as medians; ratios are what to read, since machines are noisy. Items are
generated: 36 regions, 6 to 18 words (12 on average), and a model of random weights with every part on.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from racg_pl import native
from racg_pl.bench_items import (
    FEATURES,
    GEMM_FLOP,
    REGIONS,
    REPEATS,
    WORDS,
    apart,
    build,
    device,
    gemm,
    halves,
    interleaved,
    peak_memory,
    pictures,
    random_items,
    sentences,
    some_batch,
    stored_regions,
)
from racg_pl.bench_parts import of_evaluation, of_step, table
from racg_pl.bench_report import markdown, rounded
from racg_pl.bench_rivals import by_definition, caption_loop, plain_score
from racg_pl.bench_training import FLOOR, SHARE, declared_epochs, descend, train_step, training
from racg_pl.errors import DataError, writing
from racg_pl.evaluation import drained
from racg_pl.features import RegionStore, RegionWriter
from racg_pl.gallery import Gallery
from racg_pl.graphs import Regions, Sentences
from racg_pl.model import RACG
from racg_pl.module import RACGModule
from racg_pl.progress import progress_bar
from racg_pl.scoring import rank
from racg_pl.training import commit
from racg_pl.written import write_json, write_whole

SECTIONS = ("eval", "train", "parts", "encode", "read", "growth", "coco5k", "two_stage")
WORKERS = 0, 4  # processes of a loader
WARM, MEASURED = 8, 16  # steps of a training that waits for it: until each process has read twice, and those that count
DEFINED = {"cpu": 16, "cuda": 256}  # pairs of the definition at once; a processor's cache holds messages of few
Results = dict[str, Any]


# ---- sections ----


@torch.inference_mode()
def evaluation(model: RACG, small: bool) -> Results:
    """Pairs a second: the operator, the definition (each caption with one image), plain torch in blocks, and the loop over captions in D
    dimensions."""
    model.eval()
    images, captions = (8, 16) if small else (128, 256)
    pixels, texts = pictures(images), sentences(captions)
    encoded, said = model.encode_image(pixels), model.encode_text(texts)
    few = said.take(slice(0, captions // 4))
    field, flop = loop_over(model, pixels, texts.take(slice(0, captions // 4), texts.words.shape[1]))
    bare = [part._replace(aligned=part.aligned.bfloat16(), relations=part.relations.bfloat16()) for part in (encoded, said)]
    matched = encoded.take(torch.arange(captions, device=device()) % images), said
    operator = native.available(encoded.aligned)
    halved = halves(operator)
    whole, narrow, defined, plain, loop, product = interleaved(
        lambda: model.score(encoded, said),
        (lambda: model.score(*bare)) if halved else lambda: None,
        lambda: by_definition(model, *matched, DEFINED[device().type]),
        lambda: plain_score(model, encoded, few),
        field,
        gemm(),
    )
    pairs = images * captions
    rate, quarter = pairs / whole, pairs / 4
    gflops = GEMM_FLOP / product / 1e9
    share = flop / loop / 1e9 / gflops
    return {
        "gemm_f32_gflops": gflops,
        "eval_f32_pairs_per_s": rate,
        "caption_loop_pairs_per_s": quarter / loop,
        SHARE: share,
        "eval_f32_vs_caption_loop": rate * loop / quarter if share >= FLOOR else None,
        "eval_f32_vs_definition": rate * defined / captions,
        "eval_f32_vs_plain": rate * plain / quarter,
        "eval_bf16_vs_f32": whole / narrow if halved else None,
        "operator": operator,
    }


def loop_over(model: RACG, pixels: Regions, texts: Sentences) -> tuple[Callable[[], object], float]:
    """The field's loop over the nodes of some items, and the operations of its products."""
    regions, words, lengths = model.image_nodes(pixels), model.text_nodes(texts), texts.mask.sum(1).tolist()
    flop = len(regions) * sum(4 * REGIONS * length * words.shape[-1] for length in lengths)
    return lambda: caption_loop(regions, words, lengths), flop


@torch.inference_mode()
def loop_share(model: RACG, small: bool) -> float:
    """Share of the GEMM rate that the field's loop reaches here: as `evaluation` measures it, where no evaluation has."""
    model.eval()
    images, captions = (8, 4) if small else (128, 64)
    field, flop = loop_over(model, pictures(images), sentences(captions))
    loop, product = interleaved(field, gemm())
    return flop / loop / (GEMM_FLOP / product)


def parts(module: RACGModule, model: RACG, small: bool) -> Results:
    """Where the time of a step and of an evaluation goes, at B = 128."""
    batch, repeats = some_batch(8 if small else 128), 1 if small else REPEATS
    step = train_step(module.train(), len(batch.rows))
    training = table(of_step(module, model, batch), step, repeats)
    with torch.inference_mode():
        return {"parts_eval": table(of_evaluation(model.eval(), batch), None, repeats), "parts_train": training}


@torch.inference_mode()
def encoding(model: RACG, small: bool) -> Results:
    model.eval()
    count = 8 if small else 128
    pixels, texts = pictures(count), sentences(count)
    image, caption = interleaved(lambda: model.encode_image(pixels), lambda: model.encode_text(texts))
    return {"encode_image_ms": 1000 * image / count, "encode_caption_ms": 1000 * caption / count}


def reading(module: RACGModule, small: bool) -> Results:
    """Images a second from a store, at random, in batches of 128, as a loader process reads them; and how much of a training it waits for
    them, by the number of such processes."""
    count, size = (128, 8) if small else (1024, 128)
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
            store.read(np.sort(rng.permutation(count)[:128]), store.dtype)

        (taken,) = interleaved(read)
        waits = {f"read_wait_share_{workers}_workers": waited(module.train(), store, size, workers) for workers in WORKERS}
    return {"read_images_per_s": 128 / taken} | waits


def waited(module: RACGModule, store: RegionStore, size: int, workers: int) -> float:
    """Share of a training's time in which it waits for the regions of its next batch. The file is in the system's cache."""
    batch, optimizer = some_batch(size), module.optimizer(fused=True)
    waiting, ended = 0.0, time.perf_counter()
    for turn, regions in zip(range(WARM + MEASURED), stored_regions(store, size, workers), strict=False):
        if turn == WARM:
            waiting, started = 0.0, ended
        waiting += time.perf_counter() - ended
        there = Regions(*(part.to(device()) for part in regions))
        descend(torch.stack(list(module.losses(batch._replace(regions=there), hardest=True)[0].values())).sum(), optimizer)
        if device().type == "cuda":
            torch.cuda.synchronize()
        ended = time.perf_counter()
    return waiting / (ended - started)


@torch.inference_mode()
def growth(model: RACG, small: bool) -> Results:
    """Exponents: time of scoring as captions, images, regions and words grow, by least squares over doublings."""
    model.eval()
    base = (
        {"captions": 16, "gallery": 16, "regions": 9, "words": 6}
        if small
        else {"captions": 128, "gallery": 128, "regions": 18, "words": 8}
    )
    exponents = {}
    for name in ("pairs", *base):
        programs = []
        for factor in (1, 2, 4):
            grown = ("captions", "gallery") if name == "pairs" else (name,)
            size = base | {one: factor * base[one] for one in grown}
            lengths = torch.full((size["gallery"],), size["regions"]), torch.full((size["captions"],), size["words"])
            items = [
                random_items(model, len(each), each, captions) for each, captions in zip(lengths, (False, True), strict=True)
            ]
            programs.append(lambda items=items: model.score(*items))
        times = interleaved(*programs)
        factors = np.array([1, 2, 4]) ** len(grown)
        exponents[f"growth_{name}"] = float(np.polyfit(np.log(factors), np.log(times), 1)[0])
    return exponents


def large_evaluation(config: Path, images: int, captions: int, rows: int) -> float:
    """MiB beyond the libraries and the model to rank sampled rows of images × captions, encoded nodes included, first in padded batches."""
    model = build(config)[1].eval()
    before = peak_memory()
    block = 500
    batches = []
    for count, lengths, text in ((images, torch.tensor([REGIONS]), False), (captions, torch.arange(*WORDS), True)):
        parts = [random_items(model, n, lengths.repeat(n)[:n], text) for n in [block] * (count // block) or [count]]
        batches.append(parts)
    galleries = [Gallery(drained(parts)) for parts in batches]
    chosen = torch.linspace(0, images - 1, rows).long()
    owner = torch.arange(captions) * images // captions
    rank(model, galleries[0].reorder(chosen), galleries[1], owner, chosen, images)
    return peak_memory() - before


def coco5k(small: bool, config: Path) -> Results:
    sizes = (50, 250, 10) if small else (5000, 25000, 200)
    return {"coco5k_extra_mb": apart(large_evaluation, config, *sizes)}


def search(config: Path, count: int) -> Results:
    """A gallery of generated captions: a query's candidates by FAISS, then the cross graph on 128 of them."""
    from racg_pl.two_stage import CANDIDATES, PooledIndex, rerank

    model = build(config)[1].eval()
    before = peak_memory()
    index = PooledIndex(model.feature.out_features)
    start = time.perf_counter()
    for _ in range(0, count, 50_000):
        index.add(torch.nn.functional.normalize(torch.randn(min(50_000, count), model.feature.out_features), dim=-1))
    built = time.perf_counter() - start
    query = random_items(model, 1, torch.tensor([REGIONS]))
    nodes = random_items(model, CANDIDATES, torch.arange(*WORDS).repeat(CANDIDATES)[:CANDIDATES], captions=True)
    found = index.search(query.pooled)[0]
    first, second = interleaved(
        lambda: index.search(query.pooled),
        lambda: rerank(model, query, found, lambda wanted: nodes.take(slice(0, len(wanted))), image=True),
        repeats=9,
    )
    memory = peak_memory() - before
    return {
        "two_stage_items": len(index),
        "two_stage_build_s": built,
        "two_stage_first_ms": 1000 * first,
        "two_stage_1m_query_ms": 1000 * (first + second) if len(index) == 1_000_000 else None,
        "two_stage_mb": memory,
    }


# ---- all of it ----

VOID = f"void: the caption loop ran at less than {FLOOR:.0%} of the GEMM rate"
SLOW = "not measured: this processor multiplies bfloat16 no faster than float32"
REASONS = {  # of a figure that a section leaves out
    "eval": {
        "eval_f32_vs_caption_loop": VOID,
        "eval_bf16_vs_f32": f"{SLOW}, in which the operator computes",
    },
    "train": {
        f"train_b{size}_{ratio}": reason
        for size in (32, 128)
        for ratio, reason in (("vs_caption_loop", VOID), ("vs_caption_loop_on_our_gru", VOID), ("bf16_vs_f32", SLOW))
    },
}
NAMED = (
    "gemm_f32_gflops", "eval_f32_pairs_per_s", "eval_f32_vs_caption_loop", "eval_f32_vs_definition", "eval_f32_vs_plain",
    "eval_bf16_vs_f32", "train_b128_vs_caption_loop", "train_b128_bf16_vs_f32", "train_b32_peak_mb", "train_b128_peak_mb",
    "coco5k_extra_mb", "two_stage_1m_query_ms",
)  # fmt: skip


def bench(config: Path, out: Path, only: Sequence[str] = SECTIONS, small: bool = False) -> str:
    """Run sections, write OUT/bench.json and OUT/bench.md, and give the table.

    Args:
        only: some of SECTIONS.  small: tiny sizes, which show that all runs and measure nothing.
    """
    if unknown := set(only) - set(SECTIONS):
        raise DataError(f"bench: expected sections among {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")
    with writing(out):  # before the minutes that come
        out.mkdir(parents=True, exist_ok=True)
    module, model, digest = build(config)
    epochs = declared_epochs(config)
    results: Results = dict.fromkeys(NAMED)
    programs: dict[str, Callable[[], Results]] = {
        "eval": lambda: evaluation(model, small),
        "train": lambda: training(module, small, config, epochs, results.get(SHARE) or loop_share(model, small)),
        "parts": lambda: parts(module, model, small),
        "encode": lambda: encoding(model, small),
        "read": lambda: reading(module, small),
        "growth": lambda: growth(model, small),
        "coco5k": lambda: coco5k(small, config),
        "two_stage": lambda: apart(search, config, 5000 if small else 1_000_000),
    }
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
    for section in only:
        reasons |= REASONS.get(section, {})
    record = {
        **{name: rounded(value) for name, value in results.items()},
        "null_because": {name: reasons[name] for name, value in results.items() if value is None and name in reasons},
        "small": small,
        "config": str(config),
        "config_sha256": digest,
        "commit": commit(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    with writing(out):
        write_json(out / "bench.json", record)
        table = markdown(json.loads((out / "bench.json").read_text()))
        write_whole(out / "bench.md", (table + "\n").encode())
    return table
