"""YAML of users: a key that stands twice is refused, wherever it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from racg_pl.cli import main
from racg_pl.yaml_file import load_yaml

TWICE = "model: {dim: 8}\ntrainer: {max_epochs: 1}\nmodel: {lr: 0.1}\n"


def test_it_reads_what_yaml_reads():
    text = "a: &x {b: 1, c: [1, {d: 2}]}\ne: {<<: *x, b: 2}\nf: 2026-11-29\n1: g\n'1': h\n"
    assert load_yaml(text) == load_yaml(text.encode()) == yaml.safe_load(text)


@pytest.mark.parametrize("text", [TWICE, "a: {b: {c: 1, c: 1}}", "- {a: 1}\n- {b: 1, 'b': 2}", "a: 1\n? a\n: 2"])
def test_a_key_that_stands_twice(text: str):
    with pytest.raises(yaml.YAMLError, match=r"expected each key once, got ([abc]|model) again"):
        load_yaml(text)


def test_of_a_tag_that_is_unknown_lightning_speaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "tag.yaml").write_text("model: !!python/object/apply:os.getcwd []")
    assert main(["fit", f"--config={tmp_path / 'tag.yaml'}"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("racg: ")
    assert "put what belongs together" not in said


@pytest.mark.parametrize("text", ["a: !!python/object/apply:os.getcwd []", "a: ["])
def test_it_is_safe_and_says_what_is_no_yaml(text: str):
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


@pytest.mark.parametrize(
    "command",
    [
        ["fit", "--config", "FILE"],
        ["validate", "--config=FILE"],
        ["fit", "-c", "FILE"],
        ["bench", "--config", "FILE", "--out", "out"],
        ["prepare", "FILE", "--root", "out", "--source", "."],
        ["tables", "--list", "--tables", "FILE"],
    ],
    ids=" ".join,
)
def test_commands_name_the_file_the_key_and_its_line(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("twice.yaml").write_text(TWICE)
    assert main([word.replace("FILE", "twice.yaml") for word in command]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("racg: twice.yaml: ")
    assert "expected each key once, got model again" in line
    assert "line 3" in line
