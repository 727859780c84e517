"""Groups of channels that fire together, and heads that read one group each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from racg_pl.errors import DataError
from racg_pl.facets import FacetHeads, FacetNodes, facets
from racg_pl.model import RACG
from test_model import FEATURES, IMAGES, TEXTS, WORDS, model, scores
from test_module import fitted


def channels(kinds: list[int], regions: int = 600, seed: int = 0) -> torch.Tensor:
    """Features [N,F] whose channel c is of kind kinds[c]; a kind fires as strongly as it happens to."""
    rng = torch.Generator().manual_seed(seed)
    strength = (0.8 * torch.randn(regions, max(kinds) + 1, generator=rng)).exp()
    return torch.rand(regions, len(kinds), generator=rng) * strength[:, kinds]


def same_partition(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a[:, None] == a, b[:, None] == b)


@pytest.mark.parametrize("kinds", [2, 3, 5])
@pytest.mark.parametrize("signed", [False, True])
def test_kinds_that_fire_together_are_found(kinds: int, signed: bool):
    true = torch.randint(kinds, (40,), generator=torch.Generator().manual_seed(kinds))
    features = channels(true.tolist())
    if signed:  # as principal components are
        features *= torch.randint(0, 2, features.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = facets(features, kinds)
    assert same_partition(found, true)
    assert torch.equal(found, facets(features.clone(), kinds))  # no chance in it
    assert same_partition(facets(features.half(), kinds), true)  # as a store holds them
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    assert same_partition(facets(features[:, order], kinds), true[order])


@pytest.mark.parametrize("features", [torch.zeros(5, 8), torch.ones(1, 8), torch.rand(4, 2)])
def test_every_channel_has_a_head_even_where_there_is_nothing_to_tell_them_by(features):
    found = facets(features, 4)
    assert found.shape == features.shape[1:]
    assert ((found >= 0) & (found < 4)).all()


def test_a_block_of_a_node_is_made_of_the_channels_of_its_head_alone():
    torch.manual_seed(0)
    layer = FacetNodes(10, 6, 3)
    assert layer.reads.sum(0).eq(1).all()  # equal runs, before it has seen any
    kinds = [2, 0, 1, 1, 0, 2, 2, 0, 1, 0]
    layer.read(channels(kinds))
    x = torch.rand(4, 5, 10)
    blocks = [x[..., read] @ layer.weight[:, read].T for read in layer.reads]
    torch.testing.assert_close(layer(x), torch.cat(blocks, -1) + layer.bias)
    assert sorted(layer.reads.sum(1).tolist()) == sorted(kinds.count(kind) for kind in range(3))
    heads = FacetHeads(6, 12, 3)
    y = torch.rand(4, 5, 6)
    each = [y[..., 2 * h : 2 * h + 2] @ heads.weight[h].T for h in range(3)]
    torch.testing.assert_close(heads(y), torch.cat(each, -1))


def test_unit_heads_do_not_hear_how_strongly_a_kind_fires():
    torch.manual_seed(0)
    kinds = [0, 1] * 5
    layer, heads = FacetNodes(10, 8, 2), FacetHeads(8, 8, 2)
    nn.init.zeros_(layer.bias)
    layer.read(channels(kinds))
    x = torch.rand(7, 10)
    louder = x * torch.tensor([5.0, 0.3]).repeat(5)
    one, other = (nn.functional.normalize(heads(layer(features)).unflatten(-1, (2, -1)), dim=-1) for features in (x, louder))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("off", [{"multihead": False}, {"heads": 1}, {"facets": False}])
def test_one_head_reads_all_channels(off: dict[str, Any]):
    made, plain = model(**({"facets": True} | off)), model(**({"facets": False} | off))
    assert type(made.feature) is type(made.image_align) is nn.Linear
    assert torch.equal(scores(made, IMAGES, TEXTS), scores(plain, IMAGES, TEXTS))


def test_facets_are_kept_with_the_weights(tmp_path: Path):
    made = model(facets=True)
    before = scores(made, IMAGES, TEXTS)
    made.read_facets(channels([0, 3, 1, 2] * (FEATURES // 4)))
    assert not torch.allclose(scores(made, IMAGES, TEXTS), before, atol=1e-3)
    made.save_pretrained(tmp_path)
    again = RACG.from_pretrained(tmp_path)
    assert torch.equal(scores(again, IMAGES, TEXTS), scores(made, IMAGES, TEXTS))


def test_blocks_of_a_node_are_of_one_width():
    with pytest.raises(DataError, match="expected dim to be a multiple of heads, got dim=16 and heads=3"):
        model(facets=True, heads=3, align_dim=9)


def test_a_channel_has_the_weights_of_its_own_head_alone():
    whole, parted = (
        RACG(FEATURES, WORDS, dim=16, align_dim=8, heads=4),
        RACG(FEATURES, WORDS, dim=16, align_dim=8, heads=4, facets=True),
    )
    assert parted.feature.weight.numel() == whole.feature.weight.numel() // 4
    assert parted.image_align.weight.numel() == whole.image_align.weight.numel() // 4


def test_training_reads_the_facets_of_its_own_split(scenes: Path, tmp_path: Path):
    from racg_pl.features import RegionStore

    module, _ = fitted(scenes, tmp_path, steps=2, facets=True)
    store = RegionStore(scenes / "train.h5")
    arrays = store.read(range(len(store)), store.dtype)
    found = facets(torch.from_numpy(arrays.features).flatten(0, 1), 2)
    assert torch.equal(module.model.feature.reads, nn.functional.one_hot(found, 2).T.bool())
    assert found.bincount().tolist() == [1024, 1024]  # the kinds of the generator, though a few dozen pictures are few
