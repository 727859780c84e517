"""The compiled operator against plain torch: numbers, gradients, and what happens where it cannot be compiled."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from racg_pl import fused, native
from racg_pl.cross import CrossGraphEncoder, MultiheadAlignment
from racg_pl.layers import masked_softmax
from racg_pl.model import Encoded
from test_layers import ragged

REGIONS = ragged(7, 1, 36, 6, 13)
WORDS = ragged(5, 1, 2, 23, 3, 8, 8, 4, 1, 12, 7, 3, 6, 5, 9, 2, 11, 4, 6)  # one vector of captions and part of another


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def compiler() -> None:
    try:
        native.compiler()
    except OSError as error:
        pytest.skip(str(error))


def encoded(mask: Tensor, heads: int, width: int, channels: int, dtype: torch.dtype) -> Encoded:
    """As a model has it, but for relations of padding, which must not count."""
    aligned = F.normalize(torch.randn(*mask.shape, heads, width, dtype=dtype), dim=-1)
    relations = torch.randn(len(mask), channels, mask.shape[1], mask.shape[1], dtype=dtype)
    share = masked_softmax(torch.randn(mask.shape, dtype=dtype), mask)
    return Encoded(*(part.requires_grad_() for part in (aligned, relations, share)), aligned.new_zeros(len(mask), 0), mask)


def sides(heads: int, gather: bool, dtype: torch.dtype) -> tuple:
    encoder = CrossGraphEncoder(7.0, gather)
    words, regions = MultiheadAlignment(heads), MultiheadAlignment(heads)
    with torch.no_grad():
        encoder.log_temperature[1] += 0.5
        for weight in (*words.parameters(), *regions.parameters()):
            weight += 0.5 * torch.randn_like(weight)
    return encoder.to(dtype), words.to(dtype), regions.to(dtype)


def plain(encoder, words, regions, images: Encoded, texts: Encoded) -> Tensor:
    """Pair by pair: by words, by regions and by edges, [3,B,C]."""
    pair = torch.cartesian_prod(torch.arange(len(images.mask)), torch.arange(len(texts.mask)))
    image, text = images.take(pair[:, 0]), texts.take(pair[:, 1])
    alpha, beta = encoder.paired(image.aligned, text.aligned, image.mask, text.mask)
    m = torch.einsum("krw,krhd->kwhd", alpha, image.aligned)
    n = torch.einsum("krw,kwhd->krhd", beta, text.aligned)
    alpha = alpha * text.mask[:, None]
    terms = [
        words((text.aligned * m).sum(-1)[:, :, None], text.share),
        regions((image.aligned * n).sum(-1)[:, :, None], image.share),
        torch.einsum("kw,kqwv,krw,kqrs,ksv->k", text.share, text.relations, alpha, image.relations, alpha)[:, None],
    ]
    return torch.stack(terms).view(3, len(images.mask), -1)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("channels", [0, 1, 3])
@pytest.mark.parametrize("gather", [True, False])
@pytest.mark.parametrize(("heads", "width"), [(1, 20), (4, 5), (8, 32)])
def test_numbers_and_gradients_are_those_of_the_definition(heads, width, gather, channels, threads):
    """In float64, so that a match is the same match in both. Gradients of padding's π mean nothing."""
    parts = sides(heads, gather, torch.double)
    images, texts = (encoded(mask, heads, width, channels, torch.double) for mask in (REGIONS, WORDS))
    inputs = [*images[:3], *texts[:3], *(weight for part in parts for weight in part.parameters() if weight.requires_grad)]
    goals = torch.randn(3, len(REGIONS), len(WORDS), dtype=torch.double)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = torch.stack(fused.pair_terms(*parts, images, texts))
        written = torch.autograd.grad((ours * goals).sum(), inputs)
    finally:
        torch.set_num_threads(before)
    want = plain(*parts, images, texts)
    automatic = torch.autograd.grad((want * goals).sum(), inputs)
    torch.testing.assert_close(ours, want, atol=1e-12, rtol=1e-12)
    for place, (one, two) in enumerate(zip(written, automatic, strict=True)):
        if place in (2, 5):
            real = images.mask if place == 2 else texts.mask
            one, two = one[real], two[real]
        torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-9)


@pytest.mark.usefixtures("compiler")
def test_words_that_nothing_relates_are_passed_over():
    """Captions relate few of their words, some none. T has no gradient where nothing of its row, or nothing of its column, is."""
    parts = sides(4, True, torch.double)
    images, texts = (encoded(mask, 4, 5, 2, torch.double) for mask in (REGIONS, WORDS))
    row, column = torch.rand(2, *WORDS.shape).unbind(0)
    kept = ((row < 0.4)[:, :, None] & (column < 0.5)[:, None])[:, None]
    kept[0] = False
    assert kept.any()
    texts = texts._replace(relations=(texts.relations.detach() * kept).requires_grad_())
    inputs, goals = [*images[:3], *texts[:3]], torch.randn(3, len(REGIONS), len(WORDS), dtype=torch.double)
    ours, want = torch.stack(fused.pair_terms(*parts, images, texts)), plain(*parts, images, texts)
    torch.testing.assert_close(ours, want, atol=1e-12, rtol=1e-12)
    written, automatic = (torch.autograd.grad((terms * goals).sum(), inputs) for terms in (ours, want))
    real = kept & WORDS[:, None, :, None] & WORDS[:, None, None]
    holds = real.any(3, keepdim=True) & real.any(2, keepdim=True)
    for place, (one, two) in enumerate(zip(written, automatic, strict=True)):
        if place in (2, 5):
            one, two = one[(REGIONS, WORDS)[place // 3]], two[(REGIONS, WORDS)[place // 3]]
        torch.testing.assert_close(one, two * holds if place == 4 else two, atol=1e-12, rtol=1e-9)


@pytest.mark.usefixtures("compiler")
def test_float32_is_near_float64():
    parts = sides(8, True, torch.float)
    images, texts = (encoded(mask, 8, 32, 2, torch.float) for mask in (REGIONS, WORDS))
    ours = torch.stack(fused.pair_terms(*parts, images, texts))
    exact = [Encoded(*(part.double() for part in side[:4]), side.mask) for side in (images, texts)]
    want = plain(*(part.double() for part in parts), *exact)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, want.float(), atol=2e-6, rtol=1e-5)


@pytest.fixture
def narrow(compiler) -> None:
    if not native.narrow():
        pytest.skip("this processor multiplies bfloat16 no faster than float32")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("gather", [True, False])
@pytest.mark.parametrize(("heads", "width"), [(1, 20), (4, 5), (8, 32), (2, 70)])
@pytest.mark.parametrize("counts", [(1, 3, 16), (7, 36, 13), (33, 100, 48)])  # up to one tile, three, three blocks
def test_bfloat16_nodes_are_multiplied_as_they_are(heads, width, gather, counts):
    """Their products are exact in float32 and summed in it: what differs from float32 on the same rounded nodes is exponentials, to 4e-6,
    and logistic functions, to 6e-5."""
    parts = sides(heads, gather, torch.float)
    sided = [encoded(mask, heads, width, 2, torch.float) for mask in (ragged(*counts), WORDS)]
    images, texts = (side._replace(aligned=side.aligned.bfloat16().detach()) for side in sided)
    whole = [side._replace(aligned=side.aligned.float()) for side in (images, texts)]
    with torch.no_grad():
        assert fused.narrowed(images.aligned)
        ours, want = (torch.stack(fused.pair_terms(*parts, *pair)) for pair in ((images, texts), whole))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, want, atol=6e-5, rtol=6e-5)
    assert not fused.narrowed(images.aligned)  # a gradient is wanted


@pytest.mark.usefixtures("narrow")
def test_float32_nodes_are_rounded_where_torch_may_round_them():
    parts = sides(4, True, torch.float)
    images, texts = (encoded(mask, 4, 8, 1, torch.float) for mask in (REGIONS, WORDS))
    halves = [side._replace(aligned=side.aligned.bfloat16()) for side in (images, texts)]
    with torch.no_grad():
        whole, want = (torch.stack(fused.pair_terms(*parts, *pair)) for pair in ((images, texts), halves))
        torch.set_float32_matmul_precision("medium")
        try:
            ours = torch.stack(fused.pair_terms(*parts, images, texts))
        finally:
            torch.set_float32_matmul_precision("highest")
    assert torch.equal(ours, want)
    assert not torch.equal(ours, whole)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float, torch.bfloat16])
def test_what_is_not_finite_stays_so(dtype):
    """A diverged model must not look like a scored one."""
    parts = sides(4, True, torch.float)
    sided = [encoded(mask, 4, 5, 1, torch.float) for mask in (REGIONS, WORDS)]
    images, texts = (side._replace(aligned=side.aligned.to(dtype)) for side in sided)
    with torch.no_grad():
        images.aligned[0, 0, 0, 0] = torch.nan
        terms = torch.stack(fused.pair_terms(*parts, images, texts))
    assert terms[:, 0].isnan().all()
    assert terms[:, 1:].isfinite().all()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    """An empty cache, and no library that this process has loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("RACG_NATIVE", raising=False)
    monkeypatch.setattr(native, "library", native.cache(native.library.__wrapped__))
    return tmp_path


def test_without_a_compiler_one_line_says_so(cache, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(cache))
    monkeypatch.delenv("CXX", raising=False)
    assert not native.available(torch.zeros(1))
    assert not native.available(torch.zeros(1))
    assert [record.message for record in caplog.records] == [
        "the cross graph runs in plain torch, several times slower: no C++ compiler found; install g++, or name one by CXX"
    ]


@pytest.mark.usefixtures("compiler")
def test_a_failed_build_leaves_nothing_and_gives_its_reason(cache, monkeypatch, caplog):
    monkeypatch.setattr(native, "FLAGS", [*native.FLAGS, "--no-such-flag"])
    assert native.library("float") is None
    assert "no-such-flag" in caplog.text
    assert not list(cache.rglob("*.so"))


def test_it_can_be_turned_off(cache, monkeypatch):
    monkeypatch.setenv("RACG_NATIVE", "0")
    assert native.library("float") is None


@pytest.mark.usefixtures("compiler")
def test_processes_that_start_together_compile_once(cache, monkeypatch):
    monkeypatch.setattr(native, "FLAGS", [flag if flag != "-O2" else "-O0" for flag in native.FLAGS])  # quick to compile
    with multiprocessing.get_context("fork").Pool(3) as pool:
        made = pool.map(native.build, ["float"] * 3)
    assert len(set(made)) == 1
    assert sorted(path.suffix for path in (cache / "racg_pl").iterdir()) == [".lock", ".so"]
