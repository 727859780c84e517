"""Figures as files: one fault a line, nothing half-written, no warning of a sign that the font lacks."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from racg_pl import written
from racg_pl.errors import DataError
from racg_pl.figure import figure_path, rendered, save_figure, sheet, style
from racg_pl.written import write_whole


def labelled(text: str = "recall"):
    with style(9):
        figure = sheet(2, 1)
        figure.subplots().set_title(text)
    return figure


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_each_kind_is_the_same_at_every_drawing(kind: str, start: bytes):
    one, other = (rendered(labelled(), kind) for _ in range(2))
    assert one == other
    assert one.startswith(start)


def test_words_of_an_svg_are_words_or_outlines():
    assert b">recall<" in rendered(labelled(), "svg", text=True)
    assert b">recall<" not in rendered(labelled(), "svg")


def test_salts_keep_names_of_one_page_apart():
    one, other = (rendered(labelled(), "svg", salt=salt) for salt in "ab")
    assert one != other


def test_a_sheet_may_be_left_out(tmp_path: Path):
    from matplotlib.image import imread

    for clear, alpha in ((True, 0.0), (False, 1.0)):
        file = tmp_path / "corner.png"
        file.write_bytes(rendered(labelled(), "png", clear=clear))
        assert imread(file)[0, 0, 3] == alpha


def test_signs_that_the_font_lacks_are_boxes_without_a_warning():
    with warnings.catch_warnings(action="error"):
        rendered(labelled("犬 🐕"), "png")


def test_nothing_is_left_of_what_cannot_be_written(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be written"):
        save_figure(labelled(), tmp_path / "no" / "a.png")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png: cannot be written"):
        save_figure(labelled(), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.gz"])
def test_other_kinds_are_refused_before_anything_is_drawn(name: str):
    with pytest.raises(DataError, match=r"expected a file that ends in \.png, \.svg, \.pdf, got"):
        figure_path(name)
    assert figure_path("A.PNG") == Path("A.PNG")


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.json"
    write_whole(path, b"first")
    monkeypatch.setattr(written.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
