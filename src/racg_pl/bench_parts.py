"""Where the time of a training step and of an evaluation goes: each part by itself, beside what its arithmetic and its bytes need at least.

The floor in arithmetic is the part's multiplications and additions at the measured rate of a large matrix product. The floor in bytes
is what it must read and write, once forward and twice backward (what came in and what is sent back), at the rate of memory that
`memory_passes` shows. A part that computes in fewer passes than are counted, or whose data stay in a cache, can be below it.
Letters as in model.py; M width of the relation layers; T words of all captions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from racg_pl.bench_items import GEMM_FLOP, device, gemm, interleaved
from racg_pl.data import Batch
from racg_pl.method import Encoded
from racg_pl.model import RACG
from racg_pl.module import RACGModule
from racg_pl.reconstruction import AttendedRegions, EncodedImages

COPIED = 1 << 26  # floats of the passes that measure bandwidth, beyond every cache
WHY = {
    "regions": "one product of F by D, and its gradient of the weights alone: as fast as products of this shape are here",
    "words": "a GRU's steps come one after the other, each a product of few rows that reads the whole of W_h anew",
    "relations of regions": "four products of D by M a node; between them, softmax, geometry and dropout are passes over memory",
    "relations of words": "the same over words; where batches are small, products of few rows",
    "separate embeddings": "regions, words and relations of both once more, and pooling",
    "projection": "norms and pooling are passes over D-wide nodes, for products of P columns",
    "cross graph": "exponentials, divisions and sums over short rows, which no product covers; backward computes each pair once more",
    "reconstruction": "a decoder over the vocabulary for each decoded word or each kind of object, read and written whole",
    "objective and the rest": "losses over B × C, gathering of parts, and what autograd adds up",
    "clipping and optimiser": "every weight, its gradient and two moments pass through memory once, whatever the batch",
    "images": "products as in training, forward only",
    "captions": "the GRU's steps, as in training, forward only",
    "pairs": "exponentials, divisions and sums over short rows in the cross graph, between small products",
}


class Part(NamedTuple):
    """A program, and what it needs at least: floating-point operations and bytes."""

    name: str
    run: Callable[[], object]
    flop: float
    bytes: float


def again(model: nn.Module, function: Callable[..., Any], *inputs: Any) -> Callable[[], object]:
    """Forward, and backward from a gradient of ones, of a function of some tensors; those that had no gradient before get none."""
    leaves = [part.detach().requires_grad_(part.requires_grad) if isinstance(part, Tensor) else part for part in inputs]

    def run() -> None:
        outputs = function(*leaves)
        outputs = [part for part in outputs if part.requires_grad] if isinstance(outputs, tuple) else [outputs]
        torch.autograd.backward(outputs, [torch.ones_like(part) for part in outputs])
        for leaf in (*leaves, *model.parameters()):
            if isinstance(leaf, Tensor):
                leaf.grad = None

    return run


def weights(*modules: nn.Module) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters())


def relation_width(model: RACG) -> int:
    """M, of all relation layers of a graph together."""
    return sum(layer.value.out_features for layer in model.image_relations)  # type: ignore[union-attr, misc]


def pair_flop(model: RACG, regions: float, captions: Encoded) -> float:
    """Operations, multiplications and additions both, of one pair, forward, on average over captions: head similarities, exponentials as
    one each, agreement both ways, and edges of the words whose row or column of T holds something, by way of the fewer of the two."""
    heads, width = model.heads, model.image_align.out_features
    words = int(captions.mask.sum()) / len(captions.mask)
    hidden = (regions + words) * (2 * heads * 17 + 32) if heads > 1 else 0
    related = (captions.relations != 0).any(1)  # [C,W,W]
    firsts, seconds = related.any(2).sum(1).double(), related.any(1).sum(1).double()
    edges = model.channels * 2 * regions * (regions * torch.minimum(firsts, seconds) + firsts * seconds).mean().item()
    return 2 * regions * words * width + regions * words * (5 * heads + 8) + hidden + edges


def of_step(module: RACGModule, model: RACG, batch: Batch) -> list[Part]:
    """The parts of one training step of `losses`, each with the inputs that it has there."""
    count = len(batch.rows)
    order = batch.sentences.mask.sum(1).argsort(stable=True)
    texts = batch.sentences.take(order, batch.sentences.words.shape[1])
    blank, decoded = model.hide_words(texts)
    regions, nodes = model.image_nodes(batch.regions), model.text_nodes(blank)
    seen, said = model.image_edges(batch.regions), model.text_edges(blank)
    region_relations, word_relations = model.region_relations, model.word_relations
    assert region_relations is not None
    assert word_relations is not None
    (links, geometry), types = seen, said[1]
    assert geometry is not None
    assert types is not None
    x, y = model.relate(regions, *seen, model.image_relations), model.relate(nodes, *said, model.text_relations)
    sides = (model.image_align, model.image_share, model.image_pool), (model.text_align, model.text_share, model.text_pool)
    images = model.project(x, region_relations(links, geometry), batch.regions.mask, *sides[0])
    captions = model.project(y, word_relations(y, types), blank.mask, *sides[1])
    optimizer = module.optimizer(fused=True)

    def relate_regions(given: Tensor) -> tuple[Tensor, Tensor]:
        return model.relate(given, *seen, model.image_relations), region_relations(links, geometry)

    def relate_words(given: Tensor) -> tuple[Tensor, Tensor]:
        related = model.relate(given, *said, model.text_relations)
        return related, word_relations(related, types)

    def project(side: int, mask: Tensor) -> Callable[[Tensor], Any]:
        return lambda given: itemgetter(0, 2, 3)(model.project(given, images.relations, mask, *sides[side]))

    def cross(aligned: Tensor, relations: Tensor, share: Tensor, words: Tensor, arcs: Tensor, counts: Tensor) -> Tensor:
        return model.similarities(
            images._replace(aligned=aligned, relations=relations, share=share, pooled=images.pooled.detach()),
            captions._replace(aligned=words, relations=arcs, share=counts, pooled=captions.pooled.detach()),
        )

    def decode(nodes: Tensor, aligned: Tensor, words: Tensor) -> Tensor:
        step = EncodedImages(*images._replace(aligned=aligned))
        step.nodes, step.labels = nodes, model.image_objects(batch.regions) * batch.regions.mask
        return model.reconstruct(step, order, captions._replace(aligned=words), decoded, texts.words)[0]

    def finish() -> None:
        for weight in module.parameters():
            if weight.requires_grad and weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        nn.utils.clip_grad_norm_(module.parameters(), 2.0)
        optimizer.step()

    dim, wide, message = model.feature.out_features, model.image_align.out_features, relation_width(model)
    shown, told = int(batch.regions.mask.sum()), int(texts.mask.sum())
    features, width = batch.regions.features.shape[-1], texts.words.shape[1]
    attended = shown // count
    decoder = model.decode_word
    assert decoder is not None
    kinds = model.image_objects(batch.regions).unique().numel()
    guessed = int(decoded.sum()) if isinstance(decoder, AttendedRegions) else kinds
    layer, gru = weights(model.image_relations), weights(model.gru)
    pooled_image = again(model, project(0, batch.regions.mask), x)
    pooled_text = again(model, project(1, texts.mask), y)
    crossed = (*images[:3], *captions[:3])

    def part(name: str, run: Callable[[], object], products: float, passed: float, passes: int = 3) -> Part:
        """Multiplications of a forward pass, each with an addition, and numbers that it reads and writes."""
        return Part(name, run, 2 * passes * products, 3 * 4 * passed)

    embedder = model.embedder

    def embed() -> tuple[Tensor, Tensor]:
        assert embedder is not None
        return embedder.embed_image(batch.regions), embedder.embed_text(blank)

    separate = (
        []
        if embedder is None
        else [
            part(
                "separate embeddings",
                again(model, embed),
                shown * (features * dim + (4 * dim + 2 * attended) * message) + told * (gru + (4 * dim + 2 * width) * message),
                shown * (features + 4 * dim) + told * (model.word.embedding_dim + 4 * dim) + weights(embedder),
            )
        ]
    )
    return [
        part(
            "regions",
            again(model, model.image_nodes, batch.regions),
            shown * features * dim,
            shown * (features + dim) + weights(model.feature),
            passes=2,  # no gradient of the features
        ),
        part("words", again(model, model.text_nodes, blank), told * gru, told * (model.word.embedding_dim + dim) + gru),
        part(
            "relations of regions",
            again(model, relate_regions, regions),
            shown * (4 * dim + 2 * attended) * message,
            2 * shown * dim + layer,
        ),
        part(
            "relations of words",
            again(model, relate_words, nodes),
            told * (4 * dim + 2 * width) * message,
            2 * told * dim + layer,
        ),
        *separate,
        part(
            "projection",
            lambda: (pooled_image(), pooled_text()),
            (shown + told) * dim * wide,
            (shown + told) * (dim + wide) + 6 * dim * wide,
        ),
        part(
            "cross graph",
            again(model, cross, *crossed),
            count * count * pair_flop(model, attended, captions) / 2,
            sum(given.numel() for given in crossed),
        ),
        part(
            "reconstruction",
            again(model, decode, regions, images.aligned, captions.aligned),
            guessed * weights(decoder),
            weights(decoder) + guessed * (wide + model.word.num_embeddings),
        ),
        Part("clipping and optimiser", finish, 15 * weights(module), 8 * 4 * weights(module)),
    ]


def of_evaluation(model: RACG, batch: Batch) -> list[Part]:
    """The parts of scoring a batch's images against its captions, from features to scores."""
    regions, texts = batch.regions, batch.sentences
    images, captions = model.encode_image(regions), model.encode_text(texts)
    dim, wide, message = model.feature.out_features, model.image_align.out_features, relation_width(model)
    seen, said = int(regions.mask.sum()), int(texts.mask.sum())
    count, features = len(batch.rows), regions.features.shape[-1]
    layer, gru = weights(model.image_relations), weights(model.gru)
    graphs = 1 if model.embedder is None else 2
    return [
        Part("images", lambda: model.encode_image(regions), 2 * seen * (graphs * dim * (features + 4 * message) + dim * wide),
             4 * (graphs * (seen * features + weights(model.feature) + layer) + seen * wide)),
        Part("captions", lambda: model.encode_text(texts), 2 * said * (graphs * (gru + 4 * dim * message) + dim * wide),
             4 * (graphs * (said * model.word.embedding_dim + gru + layer) + said * wide)),
        Part("pairs", lambda: model.score(images, captions), count * count * pair_flop(model, seen / count, captions),
             4 * (sum(part.numel() for part in (*images[:3], *captions[:3])) + count * count)),
    ]  # fmt: skip


def memory_passes() -> list[Callable[[], object]]:
    """Programs that read COPIED floats and write as many, 8 bytes a float, into memory that is there already: a copy, and a pass in
    place. The faster one is the rate of memory. A processor that copies fetches what it overwrites too, which is not counted."""
    source, target = torch.ones(COPIED, device=device()), torch.ones(COPIED, device=device())
    return [lambda: target.copy_(source), lambda: target.mul_(1.0)]


def table(parts: Sequence[Part], whole: Callable[[], object] | None, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of each part and its floors, and of what the whole takes besides, for which none are counted (None)."""
    programs = [part.run for part in parts] + ([whole] if whole else [])
    *times, product, copy, in_place = interleaved(*programs, gemm(), *memory_passes(), repeats=repeats)
    rate, bandwidth = GEMM_FLOP / product, 8 * COPIED / min(copy, in_place)
    rows = [
        {
            "part": part.name,
            "ms": 1000 * taken,
            "arithmetic_ms": 1000 * part.flop / rate,
            "bytes_ms": 1000 * part.bytes / bandwidth,
        }
        for part, taken in zip(parts, times[: len(parts)], strict=True)
    ]
    if whole:
        rest = times[-1] - sum(times[:-1])
        rows.append({"part": "objective and the rest", "ms": 1000 * rest, "arithmetic_ms": None, "bytes_ms": None})
    return rows
