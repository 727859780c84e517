"""RACG as a whole: what each switch does, and what must change nothing (batching, padding, order, the dense evaluation)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from racg_pl.errors import DataError
from racg_pl.graphs import RELATIONS, SELF, Regions, Sentences, box_geometry, chain_relations
from racg_pl.model import RACG, Encoded
from racg_pl.reconstruction import AttendedRegions, NamedObjects
from racg_pl.semantics import TYPES

SWITCHES = ("semantic_graph", "intramodal", "cross_graph", "reconstruction", "multihead", "aggregation")
SETTINGS = [
    {},
    *({switch: False} for switch in SWITCHES),
    {"neighbours": 2},
    {"depth": 2},
    {"objects": 0},
    {"separate_embeddings": True},
    {"decode": "objects"},
    {"facets": True},
]
SETTINGS += [dict.fromkeys(SWITCHES, False)]  # all off at once
WORDS, FEATURES = 20, 12
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def named(setting: dict[str, Any]) -> str:
    return (
        " ".join(f"{key}={value}" for key, value in setting.items())
        if len(setting) < 3
        else "all off"
        if setting
        else "default"
    )


def model(seed: int = 0, **settings: Any) -> RACG:
    """A small one in evaluation mode, with every parameter that starts at zero or at a constant moved away from it."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "objects": 5,
        "dim": 16,
        "align_dim": 8,
        "word_dim": 8,
        "heads": 4,
        "relation_dim": 12,
        "relation_heads": 2,
        "dropout": 0.0,
    } | settings
    made = RACG(FEATURES, WORDS, **options)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "norm" not in name and not name.endswith("word.weight"):
                weight += 0.2 * torch.randn_like(weight)
    return made.eval()


def images(*counts: int, seed: int = 1) -> Regions:
    rng = torch.Generator().manual_seed(seed)
    batch, width = len(counts), max(counts)
    mask = torch.arange(width) < torch.tensor(counts)[:, None]
    corner, size = torch.rand(2, batch, width, 2, generator=rng) * 0.5
    boxes = torch.cat((corner, corner + size), -1) * mask[..., None]
    features = torch.rand(batch, width, FEATURES, generator=rng) * mask[..., None]
    labels = torch.randint(-1, 7, (batch, width), generator=rng)  # −1 unknown; 5 and 6 are unknown to the model
    return Regions(features, boxes, labels.where(mask, -1), mask)


def texts(*counts: int, seed: int = 2) -> Sentences:
    rng = torch.Generator().manual_seed(seed)
    batch, width = len(counts), max(counts)
    lengths = torch.tensor(counts)[:, None]
    mask = torch.arange(width) < lengths
    words = torch.randint(1, WORDS, (batch, width), generator=rng)
    relations = torch.randint(-RELATIONS, RELATIONS, (batch, width, width), generator=rng).clamp(min=-1)  # half of them none
    relations[:, 0, 1:3] = torch.tensor([2 + len(TYPES) + TYPES.index(role) for role in ("agent", "patient")])[: width - 1]
    relations.diagonal(dim1=1, dim2=2).fill_(SELF)
    real = mask[:, :, None] & mask[:, None]
    return Sentences(words.where(mask, 0), relations.where(real, -1).to(torch.int8), mask)


def some(kind: Regions | Sentences, index: Any, width: int | None = None) -> Any:
    """Items of a batch, cut to `width` nodes."""
    if isinstance(kind, Sentences):
        return kind.take(index, width or kind.mask.shape[1])
    return Regions(*(part[index, :width] for part in kind))


def reconstructed(made: RACG, images: Encoded, texts: Sentences, image: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(6) as a training step calls it; without `image`, caption k is of image k."""
    blank, decoded = made.hide_words(texts)
    image = torch.arange(len(decoded)) if image is None else image
    return made.reconstruct(images, image, made.encode_text(blank), decoded, texts.words)


def scores(made: RACG, regions: Regions, sentences: Sentences) -> Tensor:
    with torch.no_grad():
        return made.score(made.encode_image(regions), made.encode_text(sentences))


IMAGES, TEXTS = images(6, 1, 4, 3), texts(5, 1, 3, 7, 2)
each = pytest.mark.parametrize("setting", SETTINGS, ids=named)


# ---- one definition, several evaluations ----


@each
def test_score_equals_messages_pair_by_pair(setting):
    made = model(**setting)
    with torch.no_grad():
        encoded, sentences = made.encode_image(IMAGES), made.encode_text(TEXTS)
        pair = torch.cartesian_prod(torch.arange(4), torch.arange(5))
        by_pair = made.score_pairs(encoded.take(pair[:, 0]), sentences.take(pair[:, 1])).view(4, 5)
        torch.testing.assert_close(made.score(encoded, sentences), by_pair, **CLOSE)


@each
def test_relations_dense_equal_messages(setting):
    made = model(**setting)
    with torch.no_grad():
        for nodes, edges, layers in (
            (made.image_nodes(IMAGES), made.image_edges(IMAGES), made.image_relations),
            (made.text_nodes(TEXTS), made.text_edges(TEXTS), made.text_relations),
        ):
            dense = made.relate(nodes, *edges, layers)
            torch.testing.assert_close(made.relate_sparse(nodes, *edges, layers), dense, **CLOSE)


@each
def test_batched_equals_one_by_one(setting):
    made = model(**setting)
    together = scores(made, IMAGES, TEXTS)
    for i, regions in enumerate(IMAGES.mask.sum(1).tolist()):
        for c, words in enumerate(TEXTS.mask.sum(1).tolist()):
            alone = scores(made, some(IMAGES, [i], regions), some(TEXTS, [c], words))
            torch.testing.assert_close(alone.squeeze(), together[i, c], **CLOSE)


def padded_batches() -> tuple[Regions, Sentences]:
    """IMAGES and TEXTS, three nodes wider, with garbage in the padding."""

    def padded(part: Tensor, mask: Tensor, garbage: Tensor) -> Tensor:
        wide = torch.cat((part, part[:, :1].expand(-1, 3, *part.shape[2:])), 1)
        shape = mask.view(*mask.shape, *[1] * (part.dim() - 2))
        return torch.where(shape, wide, garbage.to(part.dtype))

    wide = [torch.cat((kind.mask, torch.zeros(len(kind.mask), 3, dtype=torch.bool)), 1) for kind in (IMAGES, TEXTS)]
    noise = torch.randn(4, 9, FEATURES) * 50
    regions = Regions(
        padded(IMAGES.features, wide[0], noise),
        padded(IMAGES.boxes, wide[0], noise[..., :4]),
        padded(IMAGES.labels, wide[0], torch.tensor(3)),
        wide[0],
    )
    relations = F.pad(TEXTS.relations, (0, 3, 0, 3), value=-1)  # no edge joins padding to anything
    return regions, Sentences(padded(TEXTS.words, wide[1], torch.tensor(7)), relations, wide[1])


@each
def test_padding_changes_nothing(setting):
    """Not even with garbage in it."""
    made = model(**setting)
    torch.testing.assert_close(scores(made, *padded_batches()), scores(made, IMAGES, TEXTS), **CLOSE)


@each
def test_the_order_of_regions_changes_nothing(setting):
    made = model(**setting)
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    shuffled = Regions(*(part[:, order] for part in IMAGES))
    torch.testing.assert_close(scores(made, shuffled, TEXTS), scores(made, IMAGES, TEXTS), **CLOSE)


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if "separate_embeddings" not in setting], ids=named)
def test_the_order_of_words_as_nodes_changes_nothing(setting):
    """Past the BiGRU, which reads in order, captions are sets of nodes with edges."""
    made, order = model(**setting), torch.tensor([6, 2, 5, 0, 3, 1, 4])
    with torch.no_grad():
        nodes, (linked, types) = made.text_nodes(TEXTS), made.text_edges(TEXTS)
        shuffled = linked[:, order][:, :, order], None if types is None else types[:, order][:, :, order]
        plain, mixed = (
            made.encode_words(given, *edges, mask)
            for given, edges, mask in (
                (nodes, (linked, types), TEXTS.mask),
                (nodes[:, order], shuffled, TEXTS.mask[:, order]),
            )
        )
        torch.testing.assert_close(mixed.aligned, plain.aligned[:, order], **CLOSE)
        torch.testing.assert_close(mixed.relations, plain.relations[:, :, order][..., order], **CLOSE)
        encoded = made.encode_image(IMAGES)
        torch.testing.assert_close(made.score(encoded, mixed), made.score(encoded, plain), **CLOSE)


def test_the_order_of_words_in_a_caption_does_matter():
    made, turned = model(), TEXTS._replace(words=TEXTS.words.flip(1))
    assert not torch.allclose(scores(made, IMAGES, turned)[:, 3], scores(made, IMAGES, TEXTS)[:, 3], atol=1e-4)


def test_under_autocast_terms_add_up_in_float32():
    """Or scores tie."""
    made = model()
    with torch.no_grad():
        encoded, sentences = made.encode_image(IMAGES), made.encode_text(TEXTS)
        plain = made.similarities(encoded, sentences)
        with torch.autocast("cpu", torch.bfloat16):
            terms, score = made.similarities(encoded, sentences), made.score(encoded, sentences)
    torch.testing.assert_close(terms[2], plain[2], atol=0, rtol=0)
    torch.testing.assert_close(score, made.combine(terms), atol=0, rtol=0)
    torch.testing.assert_close(terms, plain, atol=0.03, rtol=0.03)


# ---- training ----


@each
def test_gradients_are_finite_and_reach_every_part(setting):
    made = model(**{"hide": 0.5} | setting).train()
    encoded, sentences = made.encode_image(IMAGES), made.encode_text(TEXTS)
    loss = made.score(encoded, sentences).square().sum()
    if made.decode_word is not None:
        loss = loss + reconstructed(made, encoded, TEXTS, torch.tensor([0, 1, 2, 3, 0]))[0]
    loss.backward()
    for name, weight in made.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            unseen = name.endswith(("share.bias", "edge_encoder.mlp.2.bias"))  # by a softmax; its gradient is rounding
            assert (weight.grad.abs().sum() > 1e-5 * loss) != unseen, name


def test_dropout_of_words_and_regions_is_for_training_only():
    made = model(word_dropout=0.5, region_dropout=0.5)
    assert torch.equal(scores(made, IMAGES, TEXTS), scores(model(), IMAGES, TEXTS))
    made.train()
    torch.manual_seed(0)
    hidden = made.encode_image(IMAGES)
    assert (hidden.mask.sum(1) >= 1).all()  # a picture keeps something
    assert hidden.mask.sum() < IMAGES.mask.sum()
    assert (hidden.mask <= IMAGES.mask).all()
    assert not torch.equal(made.encode_text(TEXTS).pooled, made.encode_text(TEXTS).pooled)


def test_unknown_words_are_never_padding():
    """Word dropout makes words unknown, so that every caption keeps its length."""
    made = model(word_dropout=1.0).train()
    only = TEXTS._replace(words=TEXTS.mask.long())
    torch.testing.assert_close(made.text_nodes(TEXTS), model().text_nodes(only))


# ---- shapes and edges of the domain ----


def test_shapes():
    made = model()
    encoded, sentences = made.encode_image(IMAGES), made.encode_text(TEXTS)
    assert encoded.aligned.shape == (4, 6, 4, 2)
    assert encoded.relations.shape == (4, 4, 6, 6)
    assert not encoded.relations.masked_select(~IMAGES.mask[:, None, :, None]).any()
    assert sentences.pooled.shape == (5, 16)
    torch.testing.assert_close(encoded.aligned.norm(dim=-1), IMAGES.mask[..., None].expand(-1, -1, 4).float())
    torch.testing.assert_close(sentences.pooled.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(encoded.share.sum(1), torch.ones(4))
    assert (encoded.share[~IMAGES.mask] == 0).all()
    assert made.similarities(encoded, sentences).shape == (4, 4, 5)
    assert made.score_pairs(encoded, sentences.take(slice(0, 4))).shape == (4,)


@each
def test_one_region_and_one_unknown_word(setting):
    """The least there is: what an empty caption becomes."""
    made = model(**setting)
    one = Sentences(torch.ones(1, 1).long(), torch.full((1, 1, 1), SELF, dtype=torch.int8), torch.ones(1, 1).bool())
    assert scores(made, images(1), one).isfinite().all()


def test_labels_beyond_the_model_are_unknown():
    made = model()
    beyond = IMAGES._replace(labels=IMAGES.labels.where(IMAGES.labels < 5, 1000))
    unknown = IMAGES._replace(labels=IMAGES.labels.where(IMAGES.labels < 5, -1))
    assert torch.equal(scores(made, beyond, TEXTS), scores(made, unknown, TEXTS))


@pytest.mark.parametrize(
    "wrong", [{"heads": 3}, {"align_dim": 10}, {"relation_dim": 17}, {"relation_heads": 5}, {"heads": 0}, {"relation_heads": 0}]
)
def test_widths_that_the_heads_do_not_divide(wrong):
    with pytest.raises(DataError, match="heads"):
        model(**wrong)


# ---- what each switch means ----


def test_without_semantic_graph_edges_are_untyped():
    made, other = model(semantic_graph=False), images(6, 1, 4, 3, seed=9)
    moved = IMAGES._replace(boxes=other.boxes)
    assert made.image_edges(moved)[1] is None
    assert torch.equal(made.image_edges(moved)[0], IMAGES.mask[:, :, None] & IMAGES.mask[:, None])
    reparsed = TEXTS._replace(relations=texts(5, 1, 3, 7, 2, seed=9).relations)
    assert not torch.equal(reparsed.relations, TEXTS.relations)
    assert made.text_edges(reparsed)[1] is None
    assert torch.equal(made.text_edges(reparsed)[0], chain_relations(TEXTS.mask) >= 0)
    assert torch.equal(scores(made, IMAGES, reparsed), scores(made, IMAGES, TEXTS))


def test_with_semantic_graph_edges_are_geometry_and_types():
    made = model()
    assert torch.equal(made.image_edges(IMAGES)[1], box_geometry(IMAGES.boxes))
    linked, types = made.text_edges(TEXTS)
    assert types is not None
    assert torch.equal(linked, TEXTS.relations >= 0)
    assert torch.equal(types[linked], TEXTS.relations[linked].int())
    other = torch.where(TEXTS.relations > SELF, 1 + RELATIONS - TEXTS.relations, TEXTS.relations)  # other types, the same links
    assert not torch.allclose(scores(made, IMAGES, TEXTS._replace(relations=other)), scores(made, IMAGES, TEXTS), atol=1e-4)


def test_without_intramodal_relations_nodes_pass_unchanged():
    made = model(intramodal=False)
    nodes, (linked, types) = made.text_nodes(TEXTS), made.text_edges(TEXTS)
    assert made.relate(nodes, linked, types, made.text_relations) is nodes
    uniform = (linked / linked.sum(-1, keepdim=True).clamp(min=1))[:, None]
    torch.testing.assert_close(made.encode_text(TEXTS).relations, uniform)


def test_without_cross_graph_each_node_takes_its_best_match():
    made = model(cross_graph=False, aggregation=False, multihead=False)
    with torch.no_grad():
        encoded, sentences = made.encode_image(IMAGES), made.encode_text(TEXTS)
        similarity = torch.einsum("brp,cwp->bcrw", encoded.aligned.squeeze(2), sentences.aligned.squeeze(2))
        hide = ~(IMAGES.mask[:, None, :, None] & TEXTS.mask[None, :, None, :])
        similarity = similarity.masked_fill(hide, -torch.inf)
        by_word = similarity.amax(2).masked_fill(~TEXTS.mask, 0)
        by_region = similarity.amax(3).masked_fill(~IMAGES.mask[:, None], 0)
        want = made.mix[0] * (by_word * sentences.share).sum(-1) + made.mix[1] * (by_region * encoded.share[:, None]).sum(-1)
        torch.testing.assert_close(made.score(encoded, sentences), want, **CLOSE)


def test_without_multihead_one_plain_similarity():
    made = model(multihead=False)
    assert made.heads == 1
    assert not list(made.word_alignment.parameters())
    assert not list(made.region_alignment.parameters())
    assert made.encode_image(IMAGES).aligned.shape == (4, 6, 1, 8)
    assert made.text_relations[0].heads == 2  # relation layers keep theirs: they are another part


def test_without_aggregation_no_pooled_term_and_no_edges():
    made = model(aggregation=False)
    assert made.image_pool is None
    assert made.text_pool is None
    assert len(made.mix) == 2
    encoded, sentences = made.encode_image(IMAGES), made.encode_text(TEXTS)
    assert made.similarities(encoded, sentences).shape == (2, 4, 5)
    assert encoded.relations.shape == (4, 0, 6, 6)
    assert made.score(encoded, sentences).shape == (4, 5)


def test_separate_embeddings_are_of_a_graph_that_shares_no_parameter():
    made, shared = model(separate_embeddings=True), model()
    images, sentences = made.encode_image(IMAGES), made.encode_text(TEXTS)
    other = made.embedder
    x, y = other.image_nodes(IMAGES), other.text_nodes(TEXTS)
    x = other.image_relations[0].dense(x, *other.image_edges(IMAGES)) * IMAGES.mask[..., None]
    y = other.text_relations[0].dense(y, *other.text_edges(TEXTS)) * TEXTS.mask[..., None]
    pooled = F.normalize(other.image_pool(x, IMAGES.mask), dim=-1), F.normalize(other.text_pool(y, TEXTS.mask), dim=-1)
    torch.testing.assert_close((images.pooled, sentences.pooled), pooled)
    terms = made.similarities(images, sentences)
    torch.testing.assert_close(terms[2], pooled[0] @ pooled[1].T)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.1 * torch.randn_like(weight)
    changed = made.similarities(made.encode_image(IMAGES), made.encode_text(TEXTS))
    assert torch.equal(changed[[0, 1, 3]], terms[[0, 1, 3]])
    assert not torch.allclose(changed[2], terms[2], atol=1e-3)
    ours, theirs = ({name for name, _ in one.named_parameters()} for one in (made, shared))
    assert theirs - ours == {name for name in theirs if "_pool" in name}
    assert all(name.startswith("embedder.") for name in ours - theirs)
    assert model(separate_embeddings=True, aggregation=False).embedder is None  # nothing to embed for


def test_separate_embeddings_are_trained_by_a_loss_of_their_own():
    made, shared = model(separate_embeddings=True), model()
    terms = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(3))
    matched, embedded = made.objectives(terms)
    torch.testing.assert_close(embedded, made.mix[2] * terms[2])
    torch.testing.assert_close(matched + embedded, made.combine(terms))
    (only,) = shared.objectives(terms)
    assert torch.equal(only, shared.combine(terms))


def test_separate_embeddings_hide_regions_and_words_of_their_own():
    made = model(separate_embeddings=True, word_dropout=0.5, region_dropout=0.5).train()
    torch.manual_seed(0)
    assert not torch.equal(made.encode_image(IMAGES).pooled, made.encode_image(IMAGES).pooled)
    assert not torch.equal(made.encode_text(TEXTS).pooled, made.encode_text(TEXTS).pooled)
    assert torch.equal(made.eval().encode_image(IMAGES).pooled, made.encode_image(IMAGES).pooled)


def test_without_reconstruction_no_decoders():
    made = model(reconstruction=False).train()
    assert not [name for name, _ in made.named_parameters() if name.startswith("decode")]
    with pytest.raises(ValueError, match="reconstruction on"):
        reconstructed(made, made.encode_image(some(IMAGES, slice(0, 4))), some(TEXTS, slice(0, 4)))


@pytest.mark.parametrize(
    ("switch", "gone"),
    [
        ("semantic_graph", ("relations.0.edge_", "region_relations", "word_relations")),
        ("intramodal", ("_relations.",)),
        ("cross_graph", ()),
        ("reconstruction", ("decode_",)),
        ("multihead", ("alignment.agreement",)),
        ("aggregation", ("_pool", "region_relations", "word_relations")),
    ],
)
def test_a_switch_removes_its_parameters_and_no_others(switch, gone):
    whole, part = (dict(made.named_parameters()) for made in (model(), model(**{switch: False})))
    assert set(whole) - set(part) == {name for name in whole if any(piece in name for piece in gone)}
    assert not set(part) - set(whole)
    trained = [sum(weight.numel() for weight in names.values() if weight.requires_grad) for names in (whole, part)]
    assert trained[0] > trained[1]


@pytest.mark.parametrize("switch", [name for name in SWITCHES if name != "reconstruction"])
def test_a_switch_changes_the_score(switch):
    made, off = model(), model(**{switch: False})
    off.load_state_dict({k: v for k, v in made.state_dict().items() if k in off.state_dict() and k != "mix"}, strict=False)
    assert not torch.allclose(scores(made, IMAGES, TEXTS), scores(off, IMAGES, TEXTS), atol=1e-3)


# ---- reconstruction ----


def matched() -> tuple[Regions, Sentences]:
    return some(IMAGES, [0, 2, 3]), some(TEXTS, [0, 2, 3])


@pytest.fixture
def all_decoded(monkeypatch):
    monkeypatch.setattr(AttendedRegions, "share", 1.0)


@pytest.mark.parametrize("hide", [0.0, 1.0])
def test_reconstruction_by_plain_loops(hide, all_decoded):
    """With all related words decoded and hidden, or not, nothing is left to chance."""
    made = model(hide=hide).train()
    regions, sentences = matched()
    encoded, nodes = made.encode_image(regions), made.image_nodes(regions)
    related = [[(row >= 0).sum() > 1 for row in caption] for caption in sentences.relations]
    decoded = torch.tensor(related) & sentences.mask
    blank = made.encode_text(sentences._replace(words=sentences.words.where(~decoded, 1)) if hide else sentences)
    total = torch.zeros(())
    for k, w in decoded.nonzero().tolist():
        real = encoded.mask[k].nonzero()[:, 0].tolist()
        similarity = torch.stack([(encoded.aligned[k, r] * blank.aligned[k, w]).sum(-1).mean() for r in real])
        weights = (made.encoder.temperatures()[0] * similarity).softmax(0)
        message = sum(weight * nodes[k, r] for weight, r in zip(weights, real, strict=True))
        total = total - made.decode_word(message).log_softmax(0)[sentences.words[k, w]]
    loss, count = reconstructed(made, encoded, sentences)
    assert count == decoded.sum() > 3
    torch.testing.assert_close(loss, total, **CLOSE)


def test_words_without_relations_stay_and_cost_nothing(all_decoded):
    regions, sentences = matched()
    alone = torch.where(torch.eye(sentences.words.shape[1], dtype=torch.bool) & sentences.mask[..., None], 1, -1)
    made, given = model(hide=1.0).train(), sentences._replace(relations=alone.to(torch.int8))
    loss, count = reconstructed(made, made.encode_image(regions), given)
    assert (loss.item(), count.item()) == (0, 0)
    assert (made.hide_words(given)[0].words == given.words).all()
    loss.backward()


def test_reconstruction_reads_regions_before_they_hear_of_others_and_only_in_training(all_decoded):
    made, (regions, sentences) = model(hide=1.0).train(), matched()
    encoded = made.encode_image(regions)
    assert encoded.nodes.shape == (*regions.mask.shape, 16)
    assert (encoded.nodes[~regions.mask] == 0).all()
    (grad,) = torch.autograd.grad(reconstructed(made, encoded, sentences)[0], encoded.nodes)
    assert (grad[regions.mask].abs().sum(-1) > 0).all()
    with pytest.raises(ValueError, match="in training"):
        reconstructed(made, made.eval().encode_image(regions), sentences)


@pytest.mark.parametrize(("hide", "decode"), [(0.4, 0.4), (0.05, 0.15), (0.0, 0.15)])
def test_a_share_of_the_related_words_is_hidden_and_these_are_decoded(hide, decode):
    made, (_, sentences) = model(hide=hide), matched()
    related = (sentences.relations >= 0).sum(-1) > 1
    chosen = missing = 0.0
    for _ in range(400):
        blank, decoded = made.hide_words(sentences)
        hidden = blank.words != sentences.words
        assert not (decoded & ~related).any()
        assert not (hidden & ~decoded).any()
        assert (blank.words[hidden] == 1).all()
        chosen, missing = chosen + decoded.sum().item(), missing + hidden.sum().item()
    total = 400 * related.sum().item()
    assert abs(chosen / total - decode) < 0.03
    assert abs(missing / total - hide) < 0.03


@pytest.mark.parametrize("decode", ["regions", "objects"])
def test_reconstruction_can_be_learned(decode):
    made = model(hide=0.5, decode=decode).train()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
    regions, sentences = matched()
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss, count = reconstructed(made, made.encode_image(regions), sentences)
        losses.append(loss / count.clamp(min=1))
        losses[-1].backward()
        optimizer.step()
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


# ---- reconstruction by objects ----


@pytest.mark.parametrize("hide", [0.0, 1.0])
def test_named_objects_by_plain_loops(hide):
    """Every word that is related, by every kind of object of its picture once, and by none; then by those that it attends to."""
    made = model(hide=hide, decode="objects").train()
    regions, sentences = matched()
    encoded = made.encode_image(regions)
    related = torch.tensor([[(row >= 0).sum() > 1 for row in caption] for caption in sentences.relations]) & sentences.mask
    blank = made.encode_text(sentences._replace(words=sentences.words.where(~related, 1)) if hide else sentences)
    assert isinstance(made.decode_word, NamedObjects)
    naming = made.decode_word(torch.arange(6)).softmax(-1)  # [K,V]
    total = torch.zeros(())
    for k, w in related.nonzero().tolist():
        word, real = sentences.words[k, w], encoded.mask[k].nonzero()[:, 0].tolist()
        kinds = [int(label) + 1 if label < 5 else 0 for label in regions.labels[k, real]]
        total = total - torch.stack([naming[kind, word] for kind in {0, *kinds}]).mean().log()
        similarity = torch.stack([(encoded.aligned[k, r] * blank.aligned[k, w]).sum(-1).mean() for r in real])
        weights = (made.encoder.temperatures()[0] * similarity).softmax(0)
        total = total - sum(a * naming[o, word] / naming[0, word] for a, o in zip(weights, kinds, strict=True)).log()
    loss, count = reconstructed(made, encoded, sentences)
    assert count == related.sum() > 3
    torch.testing.assert_close(loss, total, **CLOSE)


def test_naming_learns_from_the_picture_and_attention_from_naming():
    """Attention has no part in what objects name, and is drawn to the one that names the word."""
    made, (regions, sentences) = model(decode="objects").train(), matched()
    encoded = made.encode_image(regions)
    decoder, image = made.decode_word, torch.arange(3)
    assert isinstance(decoder, NamedObjects)
    alpha = torch.full((3, 6, 7), 1 / 6, requires_grad=True)
    labels = encoded.labels
    loss = decoder.loss(encoded, image, alpha, sentences.mask, sentences.words)
    pull, *naming = torch.autograd.grad(loss, (alpha, *decoder.parameters()))
    flat = torch.rand(3, 6, 7)
    others = torch.autograd.grad(
        decoder.loss(encoded, image, flat / flat.sum(1, keepdim=True), sentences.mask, sentences.words), decoder.parameters()
    )
    assert all(torch.equal(here, there) for here, there in zip(naming, others, strict=True))
    with torch.no_grad():
        p = decoder(torch.arange(6)).softmax(-1)
    for k, w in sentences.mask.nonzero().tolist():
        named = p[labels[k], sentences.words[k, w]]  # what a region is drawn by: its posterior over its share
        torch.testing.assert_close(pull[k, :, w], -named / (named / 6).sum(), **CLOSE)


def test_a_picture_without_objects_draws_attention_nowhere():
    made, (regions, sentences) = model(decode="objects").train(), matched()
    encoded = made.encode_image(regions._replace(labels=torch.full_like(regions.labels, -1)))
    alpha = torch.rand(3, 6, 7).softmax(1).requires_grad_()
    assert isinstance(made.decode_word, NamedObjects)
    loss = made.decode_word.loss(encoded, torch.arange(3), alpha, sentences.mask, sentences.words)
    (pull,) = torch.autograd.grad(loss, alpha)
    torch.testing.assert_close(pull, -sentences.mask[:, None].expand_as(pull).float(), **CLOSE)  # alike in all regions


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"decode": "objects", "objects": 0}, "labels of detected objects .*got none"),
        ({"decode": "words"}, "decode of regions or objects, got 'words'"),
        ({"decode": "words", "reconstruction": False}, "decode of regions or objects, got 'words'"),
    ],
)
def test_forms_of_reconstruction_that_cannot_be(settings, problem):
    with pytest.raises(DataError, match=problem):
        model(**settings)


def test_without_reconstruction_its_form_changes_nothing_and_needs_no_objects():
    first, second = (model(decode=decode, reconstruction=False, objects=0) for decode in ("regions", "objects"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
