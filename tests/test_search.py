"""`racg search`: against the exact ranking, its index, and the command line."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from conftest import small
from racg_pl.cli import main
from racg_pl.search import SCHEMA, Answer, Match, Searcher


@pytest.fixture(scope="module")
def bundled(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint trained on the bundled parser's graphs."""
    from racg_pl.training import run

    out = tmp_path_factory.mktemp("bundled")
    run(["fit", *small(scenes, out, "--data.parser=bundled", epochs=1)])
    return out / "checkpoints" / "last.ckpt"


@pytest.fixture
def own(bundled: Path, tmp_path: Path) -> Path:
    """The same in a run's folder of one's own, which gets the index."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    return Path(shutil.copy(bundled, tmp_path / "run" / "checkpoints"))


def search(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["search", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_with_all_candidates_it_ranks_as_racg_test_scores(scenes: Path, bundled: Path, tmp_path: Path):
    """A caption of the split as a sentence: the same parse, words, scores and order as from its stored parse."""
    given = small(scenes, tmp_path, "--data.parser=bundled", f"--ckpt_path={bundled}")
    assert main(["test", *given, "--save_scores"]) == 0
    scores = np.load(tmp_path / "test_scores.npy")
    searcher = Searcher(bundled, scenes, index=tmp_path / "index.safetensors")
    for caption in (0, 7, 23):
        answer = searcher.find(searcher.split.texts[caption], top=len(scores), candidates=len(scores))
        assert sorted(match.row for match in answer.matches) == list(range(len(scores)))
        found = np.array([match.score for match in answer.matches])
        np.testing.assert_allclose(found, scores[[match.row for match in answer.matches], caption], atol=2e-5)
        assert (np.diff(found) <= 0).all()
        assert [match.id for match in answer.matches] == [searcher.split.store.ids[match.row] for match in answer.matches]


def test_few_candidates_are_those_of_the_first_stage(scenes: Path, bundled: Path, tmp_path: Path):
    searcher = Searcher(bundled, scenes, index=tmp_path / "index.safetensors")
    sentence = searcher.split.texts[3]
    nearest = {match.row for match in searcher.find(sentence, top=4, candidates=4).matches}
    query = torch.from_numpy(load_file(tmp_path / "index.safetensors")["pooled"].astype(np.float32))
    with torch.inference_mode():
        text = searcher.model.encode_text(searcher.split.sentences(np.array([3]))).pooled
    assert nearest == set((query @ text[0]).topk(4).indices.tolist())
    two = searcher.find(sentence, top=2, candidates=4)
    assert (len(two.matches), two.scored, two.pictures) == (2, 4, len(searcher.split))
    assert searcher.find(sentence, top=5, candidates=1).scored == 5  # no match without its score


def test_weights_are_those_of_the_words_in_each_picture(scenes: Path, bundled: Path, tmp_path: Path):
    from racg_pl.attention import attention

    searcher = Searcher(bundled, scenes, index=tmp_path / "index.safetensors")
    answer = searcher.find(searcher.split.texts[0], top=3)
    assert answer.weights is not None
    for place, match in enumerate(answer.matches):
        alone = attention(
            searcher.model, searcher.split.regions(np.array([match.row])), searcher.split.sentences(np.array([0]))
        )
        np.testing.assert_allclose(answer.weights[place], alone[0].numpy(), atol=1e-6)


def test_the_index_is_made_once_and_anew_for_other_weights_or_pictures(
    scenes: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = Searcher(own, scenes)
    path = own.parent.parent / "index_test.safetensors"
    before = path.read_bytes()
    (other := path.with_name("other")).touch()
    assert path.stat().st_mode == other.stat().st_mode
    made: list[int] = []
    build = Searcher._make_index
    monkeypatch.setattr(Searcher, "_make_index", lambda self, *given: made.append(1) or build(self, *given))
    again = Searcher(own, scenes)
    assert (made, path.read_bytes()) == ([], before)
    assert again.find("a dog").matches == first.find("a dog").matches
    Searcher(own, scenes, "dev", index=path)  # other pictures
    assert made == [1]
    assert path.read_bytes() != before
    content = torch.load(own, weights_only=True)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = content["state_dict"][name] + 1
    torch.save(content, own)
    Searcher(own, scenes, "dev", index=path)  # other weights
    assert made == [1, 1]
    assert list(path.parent.glob(".*")) == []


def test_an_answer_says_which_region_each_word_attends_to():
    weights = np.zeros((1, 3, 4), np.float32)
    weights[0, 1, 2], weights[0, 2, 0] = 0.75, 0.5
    answer = Answer(["the", "dog", "runs"], [1, 2], [Match(7, "a.jpg", 1.25)], weights, 1, 9)
    assert str(answer) == "the dog runs   (1 of 9 pictures scored)\n   1    1.250  a.jpg  dog 2 (0.75)  runs 0 (0.50)"
    assert str(answer._replace(weights=None)).endswith("1.250  a.jpg")


def test_the_verb_lists_draws_and_reads_lines(
    scenes: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    given = ["--checkpoint", own, "--data", scenes, "--top", 3]
    status, out, err = search(capsys, "a", "man", "rides", "a", "horse", *given, "--figure", tmp_path / "found.png")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("a man rides a horse   (")
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]
    assert all(line.split()[2].startswith("test-") and "horse " in line for line in lines[1:])
    drawn = (tmp_path / "found.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")
    search(capsys, "a man rides a horse", *given, "--figure", tmp_path / "found.png")
    assert (tmp_path / "found.png").read_bytes() == drawn
    typed = io.TextIOWrapper(io.BytesIO(b"a man rides a horse\n\n  \na red cup\n"))
    monkeypatch.setattr("sys.stdin", typed)
    status, out, _ = search(capsys, *given)
    assert status == 0
    assert out.splitlines()[: len(lines)] == lines
    assert sum("pictures scored" in line for line in out.splitlines()) == 2


MISTAKES = {
    "no checkpoint": (["a dog", "--checkpoint", "{new}/none.ckpt"], "none.ckpt: expected a checkpoint of racg fit"),
    "no split": (["a dog", "--split", "val"], "val.h5: no such file"),
    "no words": (["  "], "expected a sentence of at least one word"),
    "no Unicode": (["a \udcff"], "expected a sentence of at least one word, in Unicode"),
    "no matches": (["a dog", "--top", "0"], "expected at least one match and one candidate, got 0 and 128"),
    "no candidates": (["a dog", "--candidates", "0"], "expected at least one match and one candidate, got 10 and 0"),
    "no picture file": (["a dog", "--figure", "{new}/a.jpg"], "a.jpg: expected a file that ends in"),
    "nothing to draw": (["--figure", "{new}/a.png"], "expected a sentence on the command line to draw, got none"),
    "no folder": (["a dog", "--index", "{new}/no/x"], "x: cannot be written (there is no folder"),
    "an index over data": (["a dog", "--index", "{root}/test.h5"], "test.h5: expected a file of its own to write to"),
    "another file": (["a dog", "--index", "{new}/other"], "other: expected an index of racg search, got another or a damaged"),
    "a damaged file": (["a dog", "--index", "{new}/damaged"], "damaged: expected an index of racg search, got another or a"),
    "no pictures": (["a dog", "--figure", "{new}/a.png", "--pictures", "{new}/no"], "no: expected a folder of image files"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_get_one_line(case: str, scenes: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments, message = MISTAKES[case]
    new = tmp_path / "new"
    new.mkdir()
    save_file({"pooled": np.zeros((2, 3), np.float16)}, new / "other", {"format": "pt"})
    (new / "damaged").write_bytes(json.dumps({SCHEMA: "{}"}).encode())
    before = {path: path.read_bytes() for folder in (new, scenes) for path in folder.rglob("*") if path.is_file()}
    words = [argument.format(new=new, root=scenes) for argument in arguments]
    status, out, err = search(capsys, *words, *([] if "--checkpoint" in words else ["--checkpoint", own]), "--data", scenes)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert {path: path.read_bytes() for folder in (new, scenes) for path in folder.rglob("*") if path.is_file()} == before
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("method", "message"), [("scan_t2i", "expected a method with pooled embeddings"), ("vse_infinity", "")]
)
def test_other_methods(method: str, message: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Those without pooled embeddings cannot be searched by; those without weights can, and have nothing to draw."""
    from racg_pl.training import run

    options = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": "false", "enable_model_summary": "false"}
    model = {"method": method, "dim": 16, "word_dim": 8}
    arguments = [f"--trainer.{name}={value}" for name, value in options.items()]
    arguments += [f"--model.{name}={value}" for name, value in model.items()]
    run(["fit", "--seed_everything=0", f"--data.root={scenes}", f"--out={tmp_path / 'run'}", "--data.images=8", *arguments])
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    status, _, err = search(capsys, "a dog", "--checkpoint", checkpoint, "--data", scenes)
    if message:
        assert (status, message in err) == (2, True)
        assert not (tmp_path / "run" / "index_test.safetensors").exists()
        return
    assert status == 0
    status, _, err = search(capsys, "a dog", "--checkpoint", checkpoint, "--data", scenes, "--figure", tmp_path / "a.png")
    assert status == 2
    assert "expected a method whose words attend to regions" in err
