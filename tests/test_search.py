"""`racg search`: against the exact ranking, its index, and the command line."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from conftest import small
from racg_pl import index_file
from racg_pl import search as searching
from racg_pl.cli import main
from racg_pl.search import Answer, Match, Searcher


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


def test_with_all_candidates_it_ranks_as_racg_test_scores(
    scenes: Path, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A caption of the split as a sentence: the same parse, words, scores and order as from its stored parse."""
    given = small(scenes, tmp_path, "--data.parser=bundled", f"--ckpt_path={bundled}")
    assert main(["test", *given, "--save_scores"]) == 0
    scores = np.load(tmp_path / "test_scores.npy")
    monkeypatch.setattr("racg_pl.two_stage.BLOCK", 6)  # candidates come in blocks
    searcher = Searcher(bundled, scenes, index=tmp_path / "index.h5", top=len(scores))
    for caption in (0, 7, 23):
        answer = searcher.find(searcher.split.texts[caption])
        assert sorted(match.row for match in answer.matches) == list(range(len(scores)))
        found = np.array([match.score for match in answer.matches])
        np.testing.assert_allclose(found, scores[[match.row for match in answer.matches], caption], atol=2e-5)
        assert (np.diff(found) <= 0).all()
        assert [match.id for match in answer.matches] == [searcher.split.store.ids[match.row] for match in answer.matches]


def test_few_candidates_are_those_of_the_first_stage(scenes: Path, bundled: Path, tmp_path: Path):
    path = tmp_path / "index.h5"
    searcher = Searcher(bundled, scenes, index=path, top=4, candidates=4)
    sentence = searcher.split.texts[3]
    nearest = {match.row for match in searcher.find(sentence).matches}
    with h5py.File(path) as file, torch.inference_mode():
        pooled = torch.from_numpy(file["pooled"][:].astype(np.float32))
        text = searcher.model.encode_text(searcher.split.sentences(np.array([3]))).pooled
    assert nearest == set((pooled @ text[0]).topk(4).indices.tolist())
    two = Searcher(bundled, scenes, index=path, top=2, candidates=4).find(sentence)
    assert (len(two.matches), two.scored, two.pictures) == (2, 4, len(searcher.split))
    assert Searcher(bundled, scenes, index=path, top=5, candidates=1).find(sentence).scored == 5  # no match without its score


def test_weights_are_those_of_the_words_in_each_picture(
    scenes: Path, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from racg_pl.attention import attention

    monkeypatch.setattr(searching, "ENCODED", 2)
    searcher = Searcher(bundled, scenes, index=tmp_path / "index.h5", top=3)
    answer = searcher.find(searcher.split.texts[0])
    assert answer.weights is not None
    for match, weights in zip(answer.matches, answer.weights, strict=True):
        regions, sentence = searcher.split.regions(np.array([match.row])), searcher.split.sentences(np.array([0]))
        alone = attention(searcher.model, regions, sentence)
        np.testing.assert_allclose(weights, alone[0].numpy(), atol=1e-6)


def test_the_index_is_made_once_and_anew_for_other_weights_or_pictures(
    scenes: Path, own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    made: list[Path] = []
    build = searching.write_index
    monkeypatch.setattr(searching, "write_index", lambda path, *given: made.append(path) or build(path, *given))
    monkeypatch.setattr(index_file, "ADDED", 7)
    first = Searcher(own, scenes).find("a dog")
    path = own.parent.parent / "index_test_last.h5"
    before = path.read_bytes()
    again = Searcher(own, scenes).find("a dog")
    assert (made, path.read_bytes()) == ([path], before)
    assert again.matches == first.matches
    assert capsys.readouterr().err == ""
    Searcher(own, scenes, "dev", index=path).find("a dog")  # other pictures
    assert len(made) == 2
    assert capsys.readouterr().err == f"{path}: of other weights or pictures, and made anew\n"
    content = torch.load(own, weights_only=True)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = content["state_dict"][name] + 1
    torch.save(content, own)
    Searcher(own, scenes, "dev", index=path).find("a dog")  # other weights
    assert len(made) == 3
    assert sorted(file.name for file in path.parent.iterdir()) == ["checkpoints", path.name]


def test_a_gallery_needs_regions_and_nothing_else(scenes: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The pictures of dev alone, in a folder of their own: what is found is as in dev, whatever split tells of the parser."""
    store = Path(shutil.copy(scenes / "dev.h5", tmp_path / "mine.h5"))
    root = tmp_path / "trained"
    shutil.copytree(scenes, root, ignore=shutil.ignore_patterns("test.*", "dev.*"))
    among = Searcher(own, scenes, "dev").find("a red dog above a man")
    shutil.copy(store, root / "test.h5")  # a split without captions says nothing of the parser
    assert Searcher(own, root, gallery=root / "test.h5").find("a red dog above a man").matches == among.matches
    found = Searcher(own, root, gallery=store)
    assert found.find("a red dog above a man").matches == among.matches
    assert found.path == own.parent.parent / "index_gallery_mine_last.h5"
    assert found.path.exists()
    status, out, err = search(
        capsys, "a dog", "--checkpoint", own, "--data", root, "--gallery", store, "--figure", tmp_path / "f.png"
    )
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == str(tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("dim", r"mine\.h5: expected \d+ numbers a region, as in training, got 3; use the extractor"),
        ("labels", r"mine\.h5: expected labels of \d+ classes, got 1000; use the detector"),
        ("no labels", r"mine\.h5: expected labels of \d+ classes, got none; use the detector"),
        ("unknown labels", r"mine\.h5: expected labels of \d+ classes, got none; use the detector"),
        ("no boxes", r"mine\.h5: expected regions with boxes, as in .*test\.h5, got regions without boxes; convert both"),
        ("index", r"mine\.h5: expected a file of its own to write to"),
        ("none", r"none\.h5: "),
    ],
)
def test_a_gallery_of_other_regions_is_refused(
    scenes: Path, own: Path, tmp_path: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]
):
    from racg_pl.features import RegionStore, RegionWriter

    store, path, given = RegionStore(scenes / "dev.h5"), tmp_path / "mine.h5", list[object]()
    arrays = store.read(np.arange(3), store.dtype)
    features = arrays.features[..., :3] if change == "dim" else arrays.features
    known = change != "no boxes"
    with RegionWriter(path, features.shape[1], features.shape[2], extractor="x", boxes_known=known) as writer:
        for row in range(3):
            count = arrays.counts[row]
            label = {"labels": 999, "no labels": None, "unknown labels": -1}.get(change, 0)
            labels = None if label is None else np.full(count, label)
            boxes = arrays.boxes[row, :count] if known else np.tile([0.0, 0.0, 1.0, 1.0], (count, 1))
            writer.add(f"{row}.jpg", features[row, :count], boxes, labels=labels)
    if change == "index":
        given = ["--index", path]
    if change == "none":
        path = tmp_path / "none.h5"
    before = sorted(tmp_path.iterdir())
    status, out, err = search(capsys, "a dog", "--checkpoint", own, "--data", scenes, "--gallery", path, *given)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert re.search(message, err), err
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_that_knows_more_classes_than_the_labels_reach(scenes: Path, tmp_path: Path):
    from racg_pl.training import run

    run(["fit", *small(scenes, tmp_path, "--data.classes=99", max_steps=1)])
    assert Searcher(tmp_path / "checkpoints" / "last.ckpt", scenes).find("a dog").matches


def test_a_checkpoint_that_is_not_there_is_named_first(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    missing = tmp_path / "runs" / "x" / "checkpoints" / "best.ckpt"
    status, out, err = search(capsys, "a dog", "--checkpoint", missing, "--data", scenes)
    assert (status, out) == (2, "")
    assert f"{missing}: expected a checkpoint of racg fit" in err


def test_a_model_of_nan_leaves_no_index(scenes: Path, own: Path, capsys: pytest.CaptureFixture[str]):
    content = torch.load(own, weights_only=True)
    content["state_dict"] = {name: weight * torch.nan for name, weight in content["state_dict"].items()}
    torch.save(content, own)
    status, out, err = search(capsys, "a dog", "--checkpoint", own, "--data", scenes)
    assert (status, out) == (2, "")
    assert "index_test_last.h5: expected embeddings of numbers, got some that are none" in err
    assert list(own.parent.parent.iterdir()) == [own.parent]


def test_an_answer_says_which_region_each_word_attends_to():
    weights = np.zeros((1, 3, 4), np.float32)
    weights[0, 1, 2], weights[0, 2, 0] = 0.75, 0.5
    answer = Answer(["the", "dog", "runs"], ["runs"], [1, 2], [Match(7, "a.jpg", 1.25)], weights, 1, 9)
    listed = "   1    1.250  a.jpg  dog 2 (0.75)  runs 0 (0.50)"
    assert str(answer) == f"the dog runs   (1 of 9 pictures scored; unknown: runs)\n{listed}"
    plain = ["the dog runs   (1 of 9 pictures scored)", "   1    1.250  a.jpg"]
    assert str(answer._replace(weights=None, unknown=[])).splitlines() == plain


def test_every_answer_has_words(scenes: Path, bundled: Path, tmp_path: Path):
    searcher = Searcher(bundled, scenes, index=tmp_path / "index.h5")
    assert searcher.find("the zzzqx").unknown == ["zzzqx"]
    for sentence in ("...", "it", "red"):
        assert searcher.find(sentence).said


def test_the_verb_lists_draws_and_reads_lines(
    scenes: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    given = ["--checkpoint", own, "--data", scenes, "--top", 3]
    status, out, err = search(capsys, "a", "man", "rides", "a", "horse", *given, "--figure", tmp_path / "found.png")
    assert (status, err) == (0, "")
    *lines, figure = out.splitlines()
    assert figure == str(tmp_path / "found.png")
    assert lines[0].startswith("a man rides a horse   (")
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]
    assert all(line.split()[2].startswith("test-") and "horse " in line for line in lines[1:])
    drawn = (tmp_path / "found.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")
    search(capsys, "a man rides a horse", *given, "--figure", tmp_path / "found.png")
    assert (tmp_path / "found.png").read_bytes() == drawn
    typed = b"\xef\xbb\xbfa man rides a horse\r\n\n \xc2\xa0 \ncaf\xe9\na red cup"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed)))
    status, out, err = search(capsys, *given)
    assert status == 2
    assert out.splitlines()[: len(lines)] == lines
    assert out.count("pictures scored") == 2  # the last comes after the one that is refused
    assert err.splitlines() == [
        "racg: stdin: line 4: search: expected Unicode text without null characters, got 'caf\\udce9'; give it in UTF-8",
        "racg: stdin: expected a sentence a line, got 1 of other lines, named above; correct them",
    ]
    monkeypatch.setattr("sys.stdin", None)
    assert search(capsys, *given) == (0, "", "")


MISTAKES = {
    "no checkpoint": (["a dog", "--checkpoint", "{new}/none.ckpt"], "none.ckpt: expected a checkpoint of racg fit"),
    "no split": (["a dog", "--split", "val"], "val.h5: no such file"),
    "another width": (["a dog", "--split", "wide"], "wide.h5: expected 2048 numbers a region, as in training, got 8; use the"),
    "another parser": (["a dog", "--parser", "chain"], "parser 'chain': expected a parse by bundled"),
    "no words": (["  "], "expected a sentence of at least one word"),
    "a book": (["dog " * 9999], "expected a sentence of at most 10,000 characters, got 39,996"),
    "no Unicode": (["a \udcff"], "expected Unicode text"),
    "no matches": (["a dog", "--top", "0"], "expected at least one match and one candidate, got 0 and 128"),
    "no candidates": (["a dog", "--candidates", "0"], "expected at least one match and one candidate, got 10 and 0"),
    "no picture file": (["a dog", "--figure", "{new}/a.jpg"], "a.jpg: expected a file that ends in"),
    "nothing to draw": (["--figure", "{new}/a.png"], "expected a sentence on the command line to draw, got none"),
    "nothing to draw on": (["a dog", "--pictures", "{new}"], "expected --figure with --pictures, got none"),
    "no folder": (["a dog", "--index", "{new}/no/x"], "x: cannot be written (there is no folder"),
    "an index over data": (["a dog", "--index", "{root}/test.h5"], "test.h5: expected a file of its own to write to"),
    "a figure over a picture": (
        ["a dog", "--pictures", "{new}/pictures", "--figure", "{new}/pictures/test-00000.png"],
        "test-00000.png: expected a file of its own to write to",
    ),
    "a figure over the index": (["a dog", "--index", "{new}/a.png", "--figure", "{new}/a.png"], "a.png: expected a file of its"),
    "another file": (["a dog", "--index", "{new}/other"], "other: expected the schema racg_pl.index/1, got 'racg_pl."),
    "a damaged file": (["a dog", "--index", "{new}/damaged"], "damaged: expected an HDF5 file, got no HDF5 file"),
    "no pictures": (["a dog", "--figure", "{new}/a.png", "--pictures", "{new}/no"], "no: expected a folder of image files"),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and a split of other features."""
    from racg_pl.convert import store_arrays
    from racg_pl.text_files import prepare_texts

    root = Path(shutil.copytree(scenes, tmp_path_factory.mktemp("data") / "data"))
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (1, 2, 1))
    store_arrays(root / "wide.h5", np.ones((1, 2, 8), np.float32), boxes, [["a dog"]], ids=["a"])
    prepare_texts(root)
    return root


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_get_one_line(case: str, data: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments, message = MISTAKES[case]
    new = tmp_path / "new"
    (new / "pictures").mkdir(parents=True)
    (new / "pictures" / "test-00000.png").write_bytes(b"a photograph")
    shutil.copy(data / "dev.h5", new / "other")
    (new / "damaged").write_bytes(b"racg_pl.index/1")
    folders = (new, data, own.parent.parent)
    before = {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    words = [argument.format(new=new, root=data) for argument in arguments]
    status, out, err = search(capsys, *words, *([] if "--checkpoint" in words else ["--checkpoint", own]), "--data", data)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()} == before


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
    capsys.readouterr()
    given = ["a dog", "--checkpoint", tmp_path / "run" / "checkpoints" / "last.ckpt", "--data", scenes]
    status, out, err = search(capsys, *given)
    assert (tmp_path / "run" / "index_test_last.h5").exists() == (not message)
    if message:
        assert (status, out) == (2, "")
        assert message in err
        return
    assert (status, err) == (0, "")
    status, out, err = search(capsys, *given, "--figure", tmp_path / "a.png")
    assert (status, out) == (2, "")
    assert "expected a method whose words attend to regions" in err
