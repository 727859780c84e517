"""`racg parse`: what it prints is the graph, its figures are whole and repeat to the byte, mistakes get one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from racg_pl.cli import main
from racg_pl.figure import save_figure
from racg_pl.graph_view import DIRECT, KINDS, _arcs, draw, view
from racg_pl.semantics import TYPES, Edge

SENTENCE = "a man in a red shirt is not riding a brown horse"


def test_text_holds_each_word_with_its_kind_and_each_edge(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parse", *SENTENCE.split()]) == 0  # quotes may be left out
    said = capsys.readouterr().out
    title, *rows = (line for line in said.splitlines() if line)
    assert title.split("   ") == [SENTENCE, "(parser bundled 0.1.0)"]
    kinds = {row.split()[0]: row.split()[1] for row in rows if row.split()[1] in KINDS}
    assert kinds == {
        "man": "object", "in": "relation", "red": "attribute", "shirt": "object", "not": "negation", "riding": "relation",
        "brown": "attribute", "horse": "object",
    }  # fmt: skip
    for edge in ("riding —agent→ man", "riding —patient→ horse", "riding —negation→ not", "shirt —attribute→ red",
                 "man —acts on→ horse", "in —ground→ shirt"):  # fmt: skip
        assert edge in said
    assert rows[-1] == "function words: a a is a"
    assert said == str(view(SENTENCE)) + "\n"


def test_words_said_twice_get_numbers() -> None:
    said = str(view("A dog chases a dog"))
    assert "chases —agent→ dog₁" in said
    assert "chases —patient→ dog₂" in said
    assert said.endswith("function words: A a")


def test_a_chain_has_words_without_kinds() -> None:
    assert view("two dogs run", "chain").kinds == ["word"] * 3
    assert "two   word  two —next→ dogs" in str(view("two dogs run", "chain"))


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figures_are_whole_and_repeat_to_the_byte(tmp_path: Path, suffix: str) -> None:
    shown = view(SENTENCE)
    for name in ("a", "b"):
        save_figure(draw(shown), tmp_path / f"{name}.{suffix}", dpi=180, text=True)
    one, other = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert one == other
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{suffix}", f"b.{suffix}"]
    if suffix == "png":
        with Image.open(tmp_path / "a.png") as image:
            assert image.width > 2 * image.height > 400
            assert len(image.convert("RGB").getcolors(1 << 20)) > 50
    if suffix == "svg":
        text = one.decode()
        assert all(f">{word}<" in text for word in (*SENTENCE.split(), "agent", "acts on", "negation"))


@pytest.mark.parametrize(
    "sentence", ["犬 !!! ???", "dog", "$5 and {a_b} \\alpha", "a " * 60 + "dog", "\u200b", "a \u200b\u200d dog"]
)
def test_odd_sentences_can_be_drawn(tmp_path: Path, sentence: str) -> None:
    save_figure(draw(view(sentence)), tmp_path / "odd.svg")
    assert (tmp_path / "odd.svg").stat().st_size > 1000


def test_no_two_arcs_of_one_height_overlap() -> None:
    shown = view("two men in hats and a dog watch a woman who is feeding the birds on the table in front of a house")
    centres = [40.0 * i for i in range(len(shown.words))]
    arcs = _arcs(centres, [Edge(*edge) for edge in shown.edges], shown.kinds)
    assert len(arcs) == len(shown.edges) > 15
    for i, one in enumerate(arcs):
        assert one.below == (one.label in DIRECT)
        assert one.label in TYPES
        for other in arcs[:i]:
            apart = max(one.x1, one.x2) < min(other.x1, other.x2) or max(other.x1, other.x2) < min(one.x1, one.x2)
            assert apart or (one.below, one.height) != (other.below, other.height)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["  "], "parse: expected a sentence of at least one word, got '  '; give one in quotes"),
        (["a dog \udcff runs"], "parse: expected Unicode text without null characters"),
        (["a dog", "--parser", "en_nowhere"], "parser 'en_nowhere': expected bundled, chain or an installed spaCy pipeline"),
        (["a dog", "--figure", "{}/dog.bmp"], "dog.bmp: expected a file that ends in .png, .svg, .pdf, got '.bmp'"),
        (["a dog", "--figure", "{}/dog"], "dog: expected a file that ends in .png, .svg, .pdf, got 'no ending'"),
        (["a dog", "--figure", "{}/no/dog.png"], "dog.png: cannot be written ("),
        (["a dog", "--figure", "{}/folder.png"], "folder.png: cannot be written ("),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    assert main(["parse", *(argument.format(tmp_path) for argument in arguments)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("racg: ")
    assert message in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]
