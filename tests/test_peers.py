"""The methods that RACG is compared with: each against a plain, slow definition, and what every method must hold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from racg_pl.cli import main
from racg_pl.data import RetrievalData
from racg_pl.errors import DataError
from racg_pl.gallery import Gallery
from racg_pl.method import Encoded
from racg_pl.metrics import recalls
from racg_pl.module import METHODS, RACGModule
from racg_pl.nodes import NodeEncoder
from racg_pl.peers import PEERS
from racg_pl.peers.scan import SCAN
from racg_pl.peers.similarity_vectors import Differences
from racg_pl.pooling import GeneralizedPooling
from racg_pl.pretrained import Pretrained
from racg_pl.scoring import rank, score_all
from test_cli import call
from test_model import CLOSE, FEATURES, IMAGES, TEXTS, WORDS, images, padded_batches, some, texts

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "experiments" / "peers").glob("*.yaml"))
SETTINGS = [(name, {}) for name in PEERS] + [("scan_t2i", {"lse": 6.0}), ("scan_i2t", {"lse": 5.0}), ("sgr", {"steps": 1})]
each = pytest.mark.parametrize(
    ("name", "setting"), SETTINGS, ids=lambda part: part if isinstance(part, str) else str(part or "")
)


def model(name: str, seed: int = 0, **setting: Any) -> Any:
    """A small one in evaluation mode, moved away from where it starts."""
    torch.manual_seed(seed)
    kind, fixed = PEERS[name]
    width = {"align_dim": 6} if name in ("saf", "sgr") else {}
    made: Any = kind(FEATURES, WORDS, **({"objects": 5, "dim": 16, "word_dim": 8, "dropout": 0.0} | width | fixed | setting))
    with torch.no_grad():
        for label, weight in made.named_parameters():
            if "norm" not in label:
                weight += 0.2 * torch.randn_like(weight)
        for label, value in made.named_buffers():  # statistics of batch normalisation, as if from a training
            if "running" in label:
                value.copy_(torch.rand_like(value) + 0.3)
    return made.eval()


def scores(made: Any, regions: Any = IMAGES, sentences: Any = TEXTS) -> Tensor:
    with torch.no_grad():
        return made.score(made.encode_image(regions), made.encode_text(sentences))


# ---- plain definitions, one pair at a time ----


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y) / (x.norm() * y.norm())


def pooled(pool: GeneralizedPooling, nodes: list[Tensor]) -> Tensor:
    """VSE∞'s operator, position by position and feature by feature."""
    count, width = len(nodes), pool.width
    position = torch.zeros(count, width)
    for k in range(1, count + 1):
        for j in range(width // 2):
            frequency = 1 / 10000 ** (2 * j / width)
            position[k - 1, 2 * j], position[k - 1, 2 * j + 1] = math.sin(frequency * k), math.cos(frequency * k)
    states = pool.gru(position[None])[0][0]
    logits = [pool.weigh((state[:width] + state[width:]) / 2).item() for state in states]
    total = sum(math.exp(logit) for logit in logits)
    out = torch.zeros(len(nodes[0]))
    for feature in range(len(out)):
        ordered = sorted((node[feature].item() for node in nodes), reverse=True)
        out[feature] = sum(math.exp(logit) / total * value for logit, value in zip(logits, ordered, strict=True))
    return out


def plain_vse(made: Any, regions: list[Tensor], words: list[Tensor]) -> Tensor:
    return cosine(pooled(made.image_pool, regions), pooled(made.text_pool, words))


def attended(attending: list[Tensor], nodes: list[Tensor], temperature: float) -> list[Tensor]:
    """What each attending node sees of the nodes: SCAN, equations 1 to 3."""
    positive = [[max(cosine(node, query).item(), 0.0) for query in attending] for node in nodes]
    norms = [math.sqrt(sum(value**2 for value in row)) for row in positive]
    sums = []
    for place in range(len(attending)):
        weights = [math.exp(temperature * row[place] / (norm or 1)) for row, norm in zip(positive, norms, strict=True)]
        seen = [weight / sum(weights) * node / node.norm() for weight, node in zip(weights, nodes, strict=True)]
        sums.append(torch.stack(seen).sum(0))
    return sums


def plain_scan(made: Any, regions: list[Tensor], words: list[Tensor]) -> Tensor:
    attending, nodes = (words, regions) if made.direction == "t2i" else (regions, words)
    relevance = [cosine(*pair) for pair in zip(attending, attended(attending, nodes, made.temperature), strict=True)]
    if made.lse:
        return torch.tensor(math.log(sum(math.exp(made.lse * value) for value in relevance)) / made.lse)
    return sum(relevance) / len(relevance)  # type: ignore[return-value]


def asked(pool: Any, nodes: list[Tensor]) -> Tensor:
    mean = sum(nodes) / len(nodes)
    weights = [pool.weigh(pool.node(node).tanh() * pool.mean(mean).tanh()).exp() for node in nodes]
    return sum(weight / sum(weights) * node for weight, node in zip(weights, nodes, strict=True))  # type: ignore[return-value]


def plain_vectors(made: Any, regions: list[Tensor], words: list[Tensor]) -> list[Tensor]:
    """Similarity vectors of a pair, the global one first: SGRAF, equations 1 to 5."""
    regions, words = ([node / node.norm() for node in nodes] for nodes in (regions, words))

    def vector(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        made_of = weight @ (x / x.norm() - y / y.norm()).abs() ** 2
        return made_of / made_of.norm()

    whole = vector(asked(made.image_pool, regions), asked(made.text_pool, words), made.whole.weight)
    seen = attended(words, regions, made.temperature)
    return [whole, *(vector(*pair, made.local.weight) for pair in zip(seen, words, strict=True))]


def plain_saf(made: Any, regions: list[Tensor], words: list[Tensor]) -> Tensor:
    vectors, norm = plain_vectors(made, regions, words), made.norm
    gates = []
    for vector in vectors:
        logit = (made.filter(vector) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        gates.append(1 / (1 + (-(logit * norm.weight + norm.bias)).exp()))
    return made.judge(sum(gate / sum(gates) * vector for gate, vector in zip(gates, vectors, strict=True)))


def plain_sgr(made: Any, regions: list[Tensor], words: list[Tensor]) -> Tensor:
    nodes = plain_vectors(made, regions, words)
    for step in made.steps:
        after = []
        for one in nodes:
            edges = [(step.query(one) @ step.key(other)).exp() for other in nodes]
            after.append(step.out(sum(edge / sum(edges) * node for edge, node in zip(edges, nodes, strict=True))).relu())
        nodes = after
    return made.judge(nodes[0])


PLAIN: dict[str, Callable[..., Tensor]] = {
    "vse_infinity": plain_vse,
    "scan_t2i": plain_scan,
    "scan_i2t": plain_scan,
    "saf": plain_saf,
    "sgr": plain_sgr,
}


@each
@torch.no_grad()
def test_score_equals_its_plain_definition(name, setting):
    made = model(name, **setting)
    regions, words = made.image_nodes(IMAGES), made.text_nodes(TEXTS)
    want = torch.zeros(len(regions), len(words))
    for i in range(len(regions)):
        for c in range(len(words)):
            want[i, c] = PLAIN[name](made, list(regions[i, IMAGES.mask[i]]), list(words[c, TEXTS.mask[c]]))
    assert want.std() > 1e-3  # not all alike
    torch.testing.assert_close(scores(made), want, **CLOSE)


# ---- what every method must hold ----


@each
def test_batched_equals_one_by_one(name, setting):
    made = model(name, **setting)
    together = scores(made)
    for i, regions in enumerate(IMAGES.mask.sum(1).tolist()):
        for c, words in enumerate(TEXTS.mask.sum(1).tolist()):
            alone = scores(made, some(IMAGES, [i], regions), some(TEXTS, [c], words))
            torch.testing.assert_close(alone.squeeze(), together[i, c], **CLOSE)


@each
def test_padding_changes_nothing(name, setting):
    """Not even with garbage in it."""
    made = model(name, **setting)
    torch.testing.assert_close(scores(made, *padded_batches()), scores(made), **CLOSE)


@each
def test_the_order_of_regions_changes_nothing(name, setting):
    made, order = model(name, **setting), torch.tensor([4, 2, 5, 0, 3, 1])
    shuffled = type(IMAGES)(*(part[:, order] for part in IMAGES))
    torch.testing.assert_close(scores(made, shuffled), scores(made), **CLOSE)


@each
def test_gradients_are_finite_and_reach_every_part(name, setting):
    made = model(name, **setting).train()
    made.score(made.encode_image(IMAGES), made.encode_text(TEXTS)).square().sum().backward()
    for label, weight in made.named_parameters():
        assert weight.grad is not None, label
        assert weight.grad.isfinite().all(), label
        if label not in ("filter.bias",):  # batch normalisation takes it away again
            assert weight.grad.abs().sum() > 0, label


@each
def test_one_region_and_one_unknown_word(name, setting):
    assert scores(model(name, **setting), images(1), some(texts(1), [0])).isfinite().all()


@each
@torch.no_grad()
def test_blocks_of_pairs_and_galleries_change_nothing(name, setting, monkeypatch):
    made = model(name, **setting)
    regions, sentences = made.encode_image(IMAGES), made.encode_text(TEXTS)
    for captions, cache in ((64, 1 << 18), (2, 1), (3, 3000)):
        monkeypatch.setattr("racg_pl.scoring.CAPTIONS", {True: captions, False: captions})
        monkeypatch.setattr("racg_pl.scoring.CACHE", cache)
        got = score_all(made, Gallery([regions]), Gallery([sentences]), 0 if cache == 1 else 1024)
        torch.testing.assert_close(got, made.score(regions, sentences), **CLOSE)
    image = torch.tensor([3, 0, 0, 2, 1])
    found = rank(made, Gallery([regions]), Gallery([sentences]), image, keep=2)
    torch.testing.assert_close(found.captions[0], got.topk(2).values, **CLOSE)


@pytest.mark.parametrize("name", PEERS)
def test_dropout_of_words_and_regions_is_for_training_only(name):
    made = model(name, word_dropout=0.9, region_dropout=0.5)
    assert torch.equal(scores(made), scores(model(name)))
    made.train()
    assert not torch.equal(scores(made), scores(made))


def test_nodes_are_those_of_racg():
    """The same seed gives every method the same encoder up to what it draws besides, and the same options the same nodes."""
    states = []
    for name, (kind, fixed) in METHODS.items():
        torch.manual_seed(0)
        made: Any = kind(FEATURES, WORDS, **({"objects": 5, "dim": 16, "word_dim": 8} | fixed))
        assert isinstance(made, NodeEncoder), name
        states.append({label: made.state_dict()[label] for label in ("feature.weight", "box.0.weight", "gru.weight_ih_l0")})
    for state in states[1:]:
        assert all(torch.equal(state[label], states[0][label]) for label in state)


# ---- what is particular to one ----


def pairs(made: Any) -> tuple[Encoded, Encoded, Any]:
    """Four images and a caption of each, encoded, and the weights between them."""
    regions, sentences = made.encode_image(IMAGES), made.encode_text(some(TEXTS, slice(0, 4)))
    return regions, sentences, made.attend(regions, sentences)


@pytest.mark.parametrize("name", ["scan_t2i", "scan_i2t", "saf", "sgr"])
@torch.no_grad()
def test_weights_of_words_are_shares_of_the_regions(name):
    regions, sentences, weight = pairs(model(name))
    torch.testing.assert_close(weight.sum(2), sentences.mask.float())
    assert (weight >= 0).all()
    assert not weight.masked_select(~regions.mask[:, None]).any()
    assert weight[0, :5].std() > 1e-3  # not all alike


@torch.no_grad()
def test_weights_are_those_of_the_score():
    made = model("scan_t2i")
    regions, sentences, weight = pairs(made)
    seen = torch.einsum("kwr,krd->kwd", weight, regions.aligned.squeeze(2))
    relevance = F.cosine_similarity(sentences.aligned.squeeze(2), seen, dim=-1)
    torch.testing.assert_close((relevance * sentences.share).sum(1), made.score(regions, sentences).diagonal(), **CLOSE)


@pytest.mark.parametrize("block", [1, 100, 1 << 19])
def test_differences_and_their_gradients_in_blocks(block, monkeypatch):
    monkeypatch.setattr(Differences, "CPU", block)
    shapes = (5, 3, 7), (5, 3, 8), (7, 8), (4, 8)
    parts = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weight, regions, words, projection = parts
    want = (torch.einsum("brt,brd->btd", weight, regions) - words).square() @ projection.T
    torch.testing.assert_close(Differences.apply(*parts), want)
    assert torch.autograd.gradcheck(Differences.apply, parts)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"lse": -1.0}, {"dim": 0}, {"dropout": 2.0}])
def test_numbers_that_make_no_model(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        SCAN(FEATURES, WORDS, **wrong)


# ---- the command line ----


def test_an_unknown_method_is_refused():
    with pytest.raises(DataError, match=r"expected a method of racg, vse_infinity.* got 'clip'"):
        RACGModule(4, 5, method="clip")


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("scan_t2i", "heads", 4), ("vse_infinity", "temperature", 4.0), ("sgr", "lse", 6.0), ("saf", "steps", 2), ("racg", "lse", 6.0),
        ("saf", "reconstruction_weight", 0.2), ("scan_i2t", "term_weight", 0.5), ("scan_i2t", "aggregation", False),
    ],
)  # fmt: skip
def test_an_option_that_does_not_concern_a_method_is_refused(method, option, value):
    with pytest.raises(DataError, match=f"expected {option} at its default .* since {method} has no use for it"):
        RACGModule(4, 5, method=method, **{option: value})


def test_there_is_a_configuration_for_every_peer():
    assert {path.stem for path in CONFIGS} == set(PEERS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_train_test_predict_and_pass_on(path: Path, scenes: Path, tmp_path: Path):
    """All verbs, with the shipped options but for the data and the widths; and the folder that is passed on gives the same scores."""
    shipped, whole = (yaml.safe_load(file.read_text()) for file in (path, path.parents[1] / "flickr8k.yaml"))
    assert shipped["model"]["method"] == path.stem
    assert shipped["model"]["dim"] == whole["model"]["dim"]
    assert shipped["data"] == whole["data"]
    assert {name: value for name, value in shipped["trainer"].items() if name != "logger"} == {
        name: value for name, value in whole["trainer"].items() if name != "logger"
    }
    keep = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {save_last: true}}"
    narrow = ["--model.dim=16", "--model.word_dim=8", *(["--model.align_dim=8"] if "align_dim" in shipped["model"] else [])]
    quiet = [
        "--trainer.logger=false",
        f"--trainer.callbacks=[{keep}]",
        "--trainer.max_epochs=1",
        "--trainer.enable_progress_bar=false",
    ]
    quiet += ["--trainer.check_val_every_n_epoch=1"]
    data = [f"--data.root={scenes}", "--data.parser=chain", "--data.images=8", f"--out={tmp_path}", *narrow, *quiet]
    assert main(["fit", "--config", str(path), *data]) == 0
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    trained = json.loads((tmp_path / "fit.json").read_text())
    assert trained["config"]["model"]["method"] == path.stem
    assert 0 <= trained["metrics"]["rsum"] <= 600
    for verb, made in (("test", "test.json"), ("predict", "predictions.jsonl")):
        assert main([verb, "--config", str(path), *data, f"--ckpt_path={checkpoint}"]) == 0
        assert (tmp_path / made).exists()
    status, _, said = call("export", checkpoint, tmp_path / "passed")
    assert (status, said) == (0, "")
    module = RACGModule.load_from_checkpoint(checkpoint)
    kind: Any = type(module.model)
    assert issubclass(kind, Pretrained)
    again = kind.from_pretrained(tmp_path / "passed")
    split, card = RetrievalData(str(scenes), "chain").split("test"), (tmp_path / "passed" / "README.md").read_text()
    assert kind.source in card
    assert f"from {kind.__module__} import {kind.__name__}" in card
    with torch.inference_mode():
        items = split.regions(torch.arange(20).numpy()), split.sentences(torch.arange(100).numpy())
        one, two = (
            made.eval().score(made.encode_image(items[0]), made.encode_text(items[1])) for made in (module.model, again)
        )
    assert torch.equal(one, two)
    assert recalls(one, torch.from_numpy(split.image)) == json.loads((tmp_path / "test.json").read_text())["metrics"]
