"""Word–region weights: those of equation (3), zero at padding, the same whatever the mode, and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from racg_pl.attention import attention
from racg_pl.attention_draw import SMALL, Backdrop, Panel, panels_figure, word_figure
from racg_pl.data import Split
from racg_pl.errors import DataError
from racg_pl.figure import save_figure
from racg_pl.graphs import bipartite_edges
from racg_pl.model import RACG
from racg_pl.scene_truth import Truth
from racg_pl.text import Vocabulary


@pytest.fixture(scope="module")
def split(scenes: Path) -> Split:
    return Split(scenes, "test", "bundled", Vocabulary.load(scenes / "vocab.json"))


def model(split: Split, **options: bool) -> RACG:
    torch.manual_seed(0)
    return RACG(split.store.dim, 300, dim=16, align_dim=8, word_dim=8, heads=2, dropout=0.5, word_std=0.5, **options)


@pytest.mark.parametrize("cross_graph", [True, False])
def test_weights_gather_the_messages_of_the_cross_graph(split: Split, cross_graph: bool):
    """Σ_r α_wr a_r is the message that CrossGraphEncoder passes over the bipartite edge_index."""
    racg = model(split, cross_graph=cross_graph)
    batch = split[np.array([3, 8]), np.array([15, 16, 42])]
    regions = batch.regions._replace(mask=batch.regions.mask & (torch.arange(36) < 30))
    weights = attention(racg, regions, batch.sentences, batch.image)
    assert weights.shape == (3, batch.sentences.words.shape[1], 36)
    assert torch.allclose(weights.sum(-1), batch.sentences.mask.float(), atol=1e-6)
    assert not weights[:, :, 30:].any()
    racg.eval()
    with torch.inference_mode():
        images, texts = racg.encode_image(regions).take(batch.image), racg.encode_text(batch.sentences)
        edges = bipartite_edges(images.mask, texts.mask)
        messages = racg.encoder(images.aligned.flatten(0, 1), texts.aligned.flatten(0, 1), edges, direction=0)
    gathered = torch.einsum("kwr,krhd->kwhd", weights, images.aligned)
    assert torch.allclose(gathered.flatten(0, 1), messages, atol=1e-5)


def test_weights_do_not_depend_on_the_mode_and_leave_it(split: Split):
    racg = model(split).train()
    batch = split[np.array([3, 8]), np.array([15, 40])]
    first = attention(racg, batch.regions, batch.sentences)
    assert racg.training
    assert torch.equal(first, attention(racg.eval(), batch.regions, batch.sentences))
    assert not racg.training


def test_a_method_without_weights_is_refused(split: Split):
    batch = split[np.array([3]), np.array([15])]
    with pytest.raises(DataError, match="whose words attend to regions, got Linear"):
        attention(torch.nn.Linear(2, 2), batch.regions, batch.sentences)


def weights_of(split: Split, caption: int) -> np.ndarray:
    batch = split[split.image[[caption]], np.array([caption])]
    return attention(model(split), batch.regions, batch.sentences).numpy()[0]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_words_are_drawn_one_a_panel_the_same_each_time(scenes: Path, split: Split, tmp_path: Path, kind: str):
    backdrop, weights = Backdrop(split, Truth(scenes / "test.truth.h5")), {15: weights_of(split, 15)}
    files = [tmp_path / f"{number}.{kind}" for number in range(2)]
    for file in files:
        save_figure(figure := word_figure(split, weights, backdrop), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    first, last = split.parse.offsets[15:17]
    assert [title.split("  ")[0] for title in titles] == split.parse.words[first:last]
    assert [float(title.split("  ")[1]) for title in titles] == [round(float(row.max()), 2) for row in weights[15]]


def test_pictures_are_drawn_on_where_there_are_files(split: Split, tmp_path: Path):
    from PIL import Image

    Image.new("RGB", (8, 4), "red").save(tmp_path / f"{split.store.ids[3]}.png")
    backdrop, weights = Backdrop(split, None, tmp_path), np.full(36, 1 / 36, np.float32)
    figure = panels_figure([("", [Panel(3, weights, None, "with"), Panel(4, weights, None, "without")])], backdrop)
    shown = {axes.get_title(): len(axes.images) for axes in figure.axes if axes.get_title()}
    assert shown == {"with": 1, "without": 0}
    (tmp_path / f"{split.store.ids[3]}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="expected an image file"):
        panels_figure([("", [Panel(3, weights, None, "with")])], backdrop)
    with pytest.raises(DataError, match="expected a folder of image files"):
        Backdrop(split, None, tmp_path / "none")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "cat.jpg").touch()
    with pytest.raises(
        DataError, match=r"others: expected image files named by the ids of test\.h5, .* got none among 1; name"
    ):
        Backdrop(split, None, tmp_path / "others")


def test_pictures_may_lie_in_folders_of_folders(split: Split, tmp_path: Path):
    one, other = split.store.ids[:2]
    (tmp_path / "a" / "b").mkdir(parents=True)
    for path in (f"{one}.jpg", f"a/{one}.jpg", f"a/{other}.jpg", f"a/b/{other}.png"):
        (tmp_path / path).touch()
    assert Backdrop(split, None, tmp_path).files == {one: tmp_path / f"{one}.jpg", other: tmp_path / "a" / f"{other}.jpg"}


def test_folders_of_pictures_may_be_links(split: Split, tmp_path: Path):
    """One that leads back to the folder itself is gone through once."""
    there, here = tmp_path / "disk" / "a", tmp_path / "here"
    there.mkdir(parents=True)
    here.mkdir()
    (there / f"{split.store.ids[0]}.png").write_bytes(b"")
    (here / "link").symlink_to(tmp_path / "disk")
    (here / "round").symlink_to(here)
    assert Backdrop(split, pictures=here).files == {split.store.ids[0]: here / "link" / "a" / f"{split.store.ids[0]}.png"}


def test_the_truth_of_other_pictures_is_not_drawn(scenes: Path, split: Split):
    with pytest.raises(
        DataError, match=r"dev\.truth\.h5: expected the truth about .*test\.h5 and its captions, got that about"
    ):
        Backdrop(split, Truth(scenes / "dev.truth.h5"))


def test_arrays_beside_the_image_files_are_no_pictures(split: Split, tmp_path: Path):
    from PIL import Image

    name = split.store.ids[3]
    Image.new("RGB", (8, 4), "red").save(tmp_path / f"{name}.jpg")
    np.save(tmp_path / f"{name}.npy", np.ones((36, 4), np.float32))
    Image.new("RGB", (8, 4), "red").save(tmp_path / "of another split.jpg")
    assert Backdrop(split, None, tmp_path).files == {name: tmp_path / f"{name}.jpg"}


def test_dollars_are_no_mathematics(split: Split, tmp_path: Path):
    text, weights = "a $_$ b", np.full(36, 1 / 36, np.float32)
    save_figure(panels_figure([(text, [Panel(3, weights, None, text, text)])], Backdrop(split)), tmp_path / "x.svg")
    assert (tmp_path / "x.svg").read_text().count(f"<!-- {text} -->") == 3


def test_the_first_region_is_shown_at_large_where_it_is_small(split: Split):
    boxes = split.store.boxes[3].astype(float)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    assert area.min() < SMALL < area.max()
    for region, views in ((area.argmin(), 1), (area.argmax(), 0)):
        weights = np.eye(36, dtype=np.float32)[region]
        figure = panels_figure([("", [Panel(3, weights, None, "one")])], Backdrop(split))
        assert sum(len(axes.child_axes) for axes in figure.axes) == views


def test_figures_that_cannot_be_written(split: Split, tmp_path: Path):
    figure = panels_figure([("", [Panel(3, np.ones(36, np.float32), None, "")])], Backdrop(split))
    with pytest.raises(DataError, match=r"expected a file that ends in \.png, \.svg, \.pdf, got '\.jpg'"):
        save_figure(figure, tmp_path / "a.jpg")
    with pytest.raises(DataError, match="cannot be written"):
        save_figure(figure, tmp_path / "no" / "a.png")
