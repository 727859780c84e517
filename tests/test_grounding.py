"""`racg ground`: the measures by hand, the baselines on the photographs, and Scenes end to end."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from racg_pl.captions import CaptionStore
from racg_pl.cli import main
from racg_pl.convert import store_arrays
from racg_pl.data import Split
from racg_pl.graphs import Regions, Sentences
from racg_pl.ground_record import REGIONS, packed, unpacked
from racg_pl.grounding import Grounded, agreement, examples, ground_phrase, ground_phrases, summarise
from racg_pl.phrases import Phrase, read_phrases, scene_phrases
from racg_pl.scene_truth import Truth
from racg_pl.text import Vocabulary
from racg_pl.text_files import prepare_texts

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "flickr8k"
ATTENDED, CHANCE, LARGEST, SUREST, BEST = range(len(REGIONS))
UNSURE = [ATTENDED, CHANCE, LARGEST, BEST]  # without scores of detections


def phrase(*boxes: list[float], words: tuple[int, ...] = (0,), kind: str = "people", caption: int = 0) -> Phrase:
    return Phrase(caption, "a dog", kind, np.array(boxes, np.float64), words, "verbatim", "")


@pytest.mark.parametrize(
    ("box", "truth", "centre", "iou"),
    [
        ([0.0, 0.0, 0.5, 0.5], [[0.0, 0.0, 0.5, 0.5]], True, True),
        ([0.0, 0.0, 0.5, 0.5], [[0.25, 0.25, 1.0, 1.0]], True, False),  # the centre on a corner, IoU 0.0625 / 0.75
        ([0.0, 0.0, 0.5, 0.5], [[0.26, 0.0, 1.0, 1.0]], False, False),
        ([0.0, 0.0, 1.0, 1.0], [[0.0, 0.0, 0.5, 1.0]], True, True),  # IoU just 0.5
        ([0.0, 0.0, 1.0, 1.0], [[0.0, 0.0, 0.49, 1.0]], False, False),
        ([0.0, 0.0, 1.0, 0.5], [[0.0, 0.0, 0.4, 0.5], [0.6, 0.0, 1.0, 0.5]], False, False),  # boxes count each alone
        ([0.0, 0.0, 1.0, 0.5], [[0.9, 0.9, 1.0, 1.0], [0.2, 0.0, 1.0, 0.5]], True, True),  # any will do
        ([0.5, 0.5, 0.75, 0.75], [[0.0, 0.0, 0.25, 0.25]], False, False),  # apart in both directions, no overlap
    ],
)
def test_agreement_by_hand(box: list[float], truth: list[list[float]], centre: bool, iou: bool):
    assert agreement(np.array([box]), np.array(truth)).tolist() == [[centre, iou]]


BOXES = np.array([[0.0, 0.0, 0.2, 0.2], [0.0, 0.0, 1.0, 1.0], [0.4, 0.4, 0.6, 0.6], [0.4, 0.4, 0.6, 0.55]])


def test_a_phrase_takes_the_region_of_its_words_mean_and_stands_beside_the_baselines():
    weights = np.array([[0.7, 0.0, 0.3, 0.0], [0.0, 0.1, 0.3, 0.6], [0.0, 0.0, 0.9, 0.1]], np.float32)
    both = ground_phrase(phrase([0.4, 0.4, 0.6, 0.6], words=(0, 1)), 3, weights, BOXES)
    assert both.region == 0  # 0.35, beside 0.05, 0.3 and 0.3
    assert not both.success
    assert both.outcomes[UNSURE].tolist() == [[0, 0], [0.75, 0.5], [1, 0], [1, 1]]
    assert np.isnan(both.outcomes[SUREST]).all()
    sure = ground_phrase(phrase([0.4, 0.4, 0.6, 0.6]), 3, weights, BOXES, np.array([0.1, 0.2, 0.3, 0.0]))
    assert sure.outcomes[SUREST].tolist() == [1, 1]
    assert both.margin == pytest.approx(0.3 - 0.35)
    last = ground_phrase(phrase([0.4, 0.4, 0.6, 0.6], words=(2,)), 3, weights, BOXES)
    assert (last.region, last.success, last.outcomes[ATTENDED].tolist()) == (2, True, [1, 1])
    assert last.margin == pytest.approx(0.9)


def test_a_phrase_without_words_is_a_miss_in_no_baseline():
    weights = np.array([[0.0, 0.0, 1.0, 0.0]], np.float32)
    found, lost = (ground_phrase(phrase([0.4, 0.4, 0.6, 0.6], words=words), 0, weights, BOXES) for words in ((0,), ()))
    assert lost.region == -1
    assert lost.outcomes[ATTENDED].tolist() == [0, 0]
    assert np.array_equal(lost.outcomes[UNSURE[1:]], found.outcomes[UNSURE[1:]])


def test_percentages_over_all_phrases_and_by_type():
    weights = np.array([[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]], np.float32)
    box = [0.4, 0.4, 0.6, 0.6]
    listed = [phrase(box, kind="people/animals"), phrase(box, kind="animals"), phrase(box, kind="animals", words=(1,))]
    result = summarise([ground_phrase(one, image, weights, BOXES) for image, one in enumerate(listed)])
    assert result["metrics"]["centre"]["attended"] == pytest.approx(200 / 3)
    assert result["metrics"]["iou"] == pytest.approx({"attended": 200 / 3, "chance": 50, "largest": 0, "best": 100})
    assert {kind: row["phrases"] for kind, row in result["by_type"].items()} == {"animals": 3, "people": 1}
    assert result["by_type"]["people"]["centre"]["attended"] == 100
    assert result["interval_95"]["centre"] == [0, 100]  # three pictures say little


def test_a_type_may_be_called_as_the_total_is():
    """Of three phrases two are of the type "all": the first row still has three."""
    listed = [phrase([0.4, 0.4, 0.6, 0.6], kind=kind) for kind in ("all", "all / people", "people ")]
    weights = np.array([[0.0, 0.0, 1.0, 0.0]], np.float32)
    record = summarise([ground_phrase(one, 0, weights, BOXES) for one in listed])
    assert {kind: row["phrases"] for kind, row in record["by_type"].items()} == {"all": 2, "people": 2}
    table = Grounded(record, [], []).table()
    assert list(table.columns[0].cells) == ["all", "all", "people"]
    assert list(table.columns[1].cells) == ["3", "2", "2"]


def test_examples_are_the_widest_the_median_and_the_narrowest():
    found = [
        ground_phrase(phrase([0.4, 0.4, 0.6, 0.6], caption=number), number, np.array([[1 - share, 0, share, 0]]), BOXES)
        for number, share in enumerate((0.6, 0.9, 0.2, 0.7, 0.4, 0.8, 1.0))
    ]
    found.append(ground_phrase(phrase([0.4, 0.4, 0.6, 0.6], words=()), 9, np.zeros((0, 4)), BOXES))
    assert [item.image for item in examples(found)["success"]] == [6, 5, 0]
    assert [item.image for item in examples(found)["failure"]] == [2, 4]  # of two the median is the last
    assert examples(found[:1]) == {"success": [found[0]], "failure": []}


# ---- from the command line ----


def ground(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["ground", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def checkpoint_of(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def test_scenes_end_to_end(scenes: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    checkpoint, figures = checkpoint_of(run), [tmp_path / "phrases.png", tmp_path / "words.png"]
    options = ["--data", scenes, "--figure", figures[0], "--words", figures[1]]
    status, out, _ = ground(capsys, checkpoint, *options)
    record = json.loads((run / "ground_test_last.json").read_text())
    first = [path.read_bytes() for path in (run / "ground_test_last.json", *figures)]
    assert status == 0
    assert out.splitlines()[-3:] == [str(path) for path in (run / "ground_test_last.json", *figures)]
    row = record["metrics"]
    agree, group = unpacked(record["hits"])
    assert row["phrases"] == len(agree) == len(group)
    assert [row[measure]["attended"] for measure in ("centre", "iou")] == pytest.approx(agree.mean(0).tolist())
    split = Split(scenes, "test", "chain", Vocabulary.load(scenes / "vocab.json"))
    image = [int(split.image[one.caption]) for one in scene_phrases(Truth(scenes / "test.truth.h5"), split)]
    assert group.tolist() == np.unique(image, return_inverse=True)[1].tolist()
    assert row["centre"]["chance"] < row["centre"]["best"]
    assert set(record["by_type"]) == {"people", "animals", "things"}
    assert sum(kind["phrases"] for kind in record["by_type"].values()) == row["phrases"]
    assert record["found"] == {"generated": row["phrases"]}
    assert record["phrases"]["sha256"] == hashlib.sha256((scenes / "test.truth.h5").read_bytes()).hexdigest()
    fit = json.loads((run / "fit.json").read_text())
    assert record["weights"] == fit["weights"]
    assert record["data"]["vocabulary"] == fit["data"]["vocabulary"]
    printed = next(line.split() for line in out.splitlines() if line.split()[:1] == ["all"])
    assert printed[1:4] == [f"{row['phrases']:,}", f"{row['centre']['attended']:.1f}", f"{row['centre']['chance']:.1f}"]
    assert f"{row['phrases']:,} named by the generator" in out
    ground(capsys, checkpoint, *options)
    assert first == [path.read_bytes() for path in (run / "ground_test_last.json", *figures)]  # the same input, the same bytes


class Boxes(NamedTuple):
    """All that Oracle encodes of a picture."""

    boxes: torch.Tensor

    def take(self, index: torch.Tensor) -> Boxes:
        return Boxes(self.boxes[index])


class Oracle(torch.nn.Module):
    """Each word of a phrase looks at the region that agrees best with the truth. Captions are asked for in their order."""

    def __init__(self, phrases: list[Phrase]) -> None:
        super().__init__()
        self.phrases, self.left = phrases, sorted({one.caption for one in phrases})

    def encode_image(self, images: Regions) -> Boxes:
        return Boxes(images.boxes)

    def encode_text(self, texts: Sentences) -> torch.Tensor:
        return texts.words

    def attend(self, images: Boxes, words: torch.Tensor) -> torch.Tensor:
        weights = torch.zeros(*words.shape, images.boxes.shape[1])
        for place, boxes in enumerate(images.boxes.numpy()):
            caption = self.left.pop(0)
            for one in (one for one in self.phrases if one.caption == caption):
                weights[place, list(one.words), agreement(boxes, one.boxes).sum(1).argmax()] = 1.0
        return weights


def test_attention_to_the_truth_is_the_best_possible(scenes: Path):
    """Each phrase meets its own caption's weights and its own picture's boxes, whatever the blocks."""
    split, truth = Split(scenes, "test", "chain", Vocabulary.load(scenes / "vocab.json")), Truth(scenes / "test.truth.h5")
    phrases = scene_phrases(truth, split)
    scores = np.stack([item.outcomes for item in ground_phrases(Oracle(phrases), split, phrases)]).mean(0)
    assert scores[ATTENDED].tolist() == scores[BEST].tolist()
    assert scores[CHANCE, 1] < 0.2 < scores[BEST, 1]


def test_two_checkpoints_are_compared_phrase_by_phrase(
    scenes: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """With itself, and with one that is right where this one is wrong."""
    checkpoint, files = checkpoint_of(run), [tmp_path / f"{name}.json" for name in ("first", "same", "other", "last")]
    assert ground(capsys, checkpoint, "--data", scenes, "--out", files[0])[0] == 0
    assert ground(capsys, checkpoint, "--data", scenes, "--out", files[1], "--against", files[0])[0] == 0
    record = json.loads(files[0].read_text())
    assert "against" not in record
    assert record["metrics"]["iou"].keys() == set(REGIONS)  # Scenes have scores
    same = json.loads(files[1].read_text())["against"]
    assert (same["file"], same["weights"], same["centre"], same["iou"]) == (str(files[0]), record["weights"], [0] * 3, [0] * 3)
    swapped = {name: hits.translate(str.maketrans("01", "10")) for name, hits in record["hits"].items()}
    files[2].write_text(json.dumps(record | {"hits": swapped}))
    status, out, _ = ground(capsys, checkpoint, "--data", scenes, "--out", files[3], "--against", files[2])
    apart = json.loads(files[3].read_text())["against"]
    for measure in ("centre", "iou"):
        mean, low, high = apart[measure]
        assert mean == pytest.approx(2 * record["metrics"][measure]["attended"] - 100)
        assert low < mean < high
    assert status == 0
    assert f"less what {files[2]} attends to: centre in a box {apart['centre'][0]:+.1f} [" in out


def test_hits_are_packed_by_image():
    agree = np.array([[1, 0], [0, 0], [1, 1], [0, 1]], bool)
    hits = packed(agree, [7, 7, 3, 9])
    assert hits == {"centre": "10 1 0", "iou": "00 1 1"}
    found, group = unpacked(hits)
    assert found.tolist() == (100.0 * agree).tolist()
    assert group.tolist() == [0, 0, 1, 2]


def test_phrases_that_lie_beside_the_split_come_before_the_truth(
    scenes: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root, out = Path(shutil.copytree(scenes, tmp_path / "data")), tmp_path / "out.json"
    (root / "test.phrases.json").write_bytes(phrases_nowhere(tmp_path, "test-00000").read_bytes())
    assert ground(capsys, checkpoint_of(run), "--data", root, "--out", out)[0] == 0
    record = json.loads(out.read_text())
    assert (record["phrases"]["file"], record["hits"]) == (str(root / "test.phrases.json"), {"centre": "0", "iou": "0"})


def test_phrases_of_a_file(scenes: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    texts = CaptionStore(scenes / "dev.captions.h5").texts
    boxes = [[0.0, 0.0, 1.0, 1.0]]
    entries = [
        {"caption": 1, "phrase": texts[1].split()[0], "type": "animals", "boxes": boxes},
        {"caption": 1, "phrase": "no such words", "type": "animals", "boxes": boxes},
    ]
    file, out = tmp_path / "p.json", tmp_path / "out.json"
    file.write_text(json.dumps({"dev-00000": entries}))
    arguments = (checkpoint_of(run), "--data", scenes, "--split", "dev", "--phrases", file, "--out", out)
    status, printed, _ = ground(capsys, *arguments)
    record = json.loads(out.read_text())
    assert status == 0
    assert record["metrics"]["centre"] == {"attended": 50, "chance": 100, "largest": 100, "surest": 100, "best": 100}
    assert record["found"] == {"verbatim": 1, "nowhere": 1}
    assert "1 nowhere, which count as misses" in printed


def other_vocabulary(scenes: Path, folder: Path) -> Path:
    root = Path(shutil.copytree(scenes, folder / "other"))
    (root / "vocab.json").unlink()
    prepare_texts(root, "chain", threshold=40)
    return root


def damaged(scenes: Path, run: Path, folder: Path, change: Callable[[dict], object]) -> Path:
    """A record of this very checkpoint, but for one thing."""
    made = folder / "a.json"
    assert main(["ground", *map(str, [run, "--data", scenes, "--out", made])]) == 0
    record = json.loads(made.read_text())
    change(record)
    made.write_text(json.dumps(record))
    return made


def of_other_phrases(scenes: Path, run: Path, folder: Path) -> Path:
    made = ["--split", "dev", "--phrases", phrases_nowhere(folder), "--out", folder / "a.json"]
    assert main(["ground", *map(str, [run, "--data", scenes, *made])]) == 0
    return folder / "a.json"


def phrases_nowhere(folder: Path, image: str = "dev-00000") -> Path:
    entry = {"caption": 1, "phrase": "no such words", "type": "animals", "boxes": [[0.0, 0.0, 1.0, 1.0]]}
    (folder / "p.json").write_text(json.dumps({image: [entry]}))
    return folder / "p.json"


MISTAKES = {
    "no checkpoint": (lambda scenes, run, new: [new / "none.ckpt", "--data", scenes], "none.ckpt: expected a checkpoint of racg fit"),
    "no data": (lambda scenes, run, new: [run, "--data", new], "expected"),
    "no split": (lambda scenes, run, new: [run, "--data", scenes, "--split", "val"], "val.h5: no such file"),
    "no truth": (lambda scenes, run, new: [run, "--data", without_truth(scenes, new)], "test.phrases.json: expected what the captions"),
    "no truth by name": (
        lambda scenes, run, new: [run, "--data", without_truth(scenes, new), "--phrases", new / "data" / "test.truth.h5"],
        "test.truth.h5: cannot be read",
    ),
    "no phrases": (lambda scenes, run, new: [run, "--data", scenes, "--phrases", new / "p.json"], "p.json: cannot be read"),
    "other words": (lambda scenes, run, new: [run, "--data", other_vocabulary(scenes, new)], "expected data with text_source"),
    "a folder": (lambda scenes, run, new: [run, "--data", scenes, "--out", new], "expected the name of a file, got a folder"),
    "no record": (lambda scenes, run, new: [run, "--data", scenes, "--against", new / "x.json"], "x.json: expected what racg ground wrote"),
    "no such record": (
        lambda scenes, run, new: [run, "--data", scenes, "--against", run.parents[1] / "fit.json"],
        "fit.json: expected what racg ground wrote",
    ),
    **{
        f"damaged: {what}": (
            lambda scenes, run, new, change=change: [run, "--data", scenes, "--against", damaged(scenes, run, new, change)],
            "a.json: expected what racg ground wrote",
        )
        for what, change in {
            "other lengths": lambda record: record["hits"].update(iou="01"),
            "no digits": lambda record: record["hits"].update(iou=record["hits"]["iou"].replace("1", "2")),
            "other images": lambda record: record["hits"].update(iou=record["hits"]["iou"].replace(" ", "")),
            "of before": lambda record: record.update(schema="racg_pl.ground/1"),
            "lists": lambda record: record["hits"].update(centre=[1, 0]),
            "no weights": lambda record: record.pop("weights"),
            "no captions": lambda record: record["data"].pop("captions"),
        }.items()
    },
    "of other phrases": (
        lambda scenes, run, new: [run, "--data", scenes, "--against", of_other_phrases(scenes, run, new)],
        "a.json: expected figures of split test, phrases",
    ),
    "nothing to draw": (
        lambda scenes, run, new: [
            run, "--data", scenes, "--split", "dev", "--phrases", phrases_nowhere(new), "--figure", new / "a.png",
        ],
        "p.json: expected phrases that stand in their captions, got none to draw",
    ),
    "a figure": (lambda scenes, run, new: [run, "--data", scenes, "--figure", new / "a.jpg"], "a.jpg: expected a file that ends in"),
    "nowhere": (lambda scenes, run, new: [run, "--data", scenes, "--out", new / "no" / "x.json"], "x.json: cannot be written (there is no"),
    "no pictures": (
        lambda scenes, run, new: [run, "--data", scenes, "--pictures", new / "no", "--words", new / "a.png"],
        "no: expected a folder of image",
    ),
    "nothing to draw on pictures": (
        lambda scenes, run, new: [run, "--data", scenes, "--pictures", new],
        "ground: expected --figure or --words with --pictures, got neither",
    ),
}  # fmt: skip


def test_what_is_read_is_not_written_over(copy: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    checkpoint = Path(shutil.copy(checkpoint_of(run), tmp_path / "run" / "checkpoints"))
    (tmp_path / "pictures").mkdir()
    picture = tmp_path / "pictures" / "test-00000.png"
    picture.write_bytes(b"a photograph")
    phrases = phrases_nowhere(tmp_path, "test-00000")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    drawn = ["--words", tmp_path / "x.png"]
    for options, name in (
        (["--out", checkpoint], checkpoint.name),
        (["--out", copy / "." / "test.parse-bundled.h5"], "test.parse-bundled.h5"),
        (["--out", copy / "train.h5"], "train.h5"),
        (["--out", copy / "vocab.json"], "vocab.json"),
        (["--phrases", phrases, "--out", phrases], "p.json"),
        (["--pictures", picture.parent, "--figure", picture], "test-00000.png"),
        ([*drawn, "--figure", tmp_path / "x.png"], "x.png"),
        ([*drawn, "--out", tmp_path / "x.png"], "x.png"),
    ):
        status, out, err = ground(capsys, checkpoint, "--data", copy, *options)
        assert (status, out) == (2, "")
        assert f"{name}: expected a file of its own to write to, got one that is read or written too; name another\n" in err
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_types_are_shown_as_they_stand(scenes: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    entry = {"caption": 0, "phrase": "$_$ a [b]", "type": "[other]", "boxes": [[0.0, 0.0, 1.0, 1.0]]}
    (tmp_path / "p.json").write_text(json.dumps({"dev-00000": [entry]}))
    arguments = (checkpoint_of(run), "--data", scenes, "--split", "dev", "--phrases", tmp_path / "p.json")
    status, out, _ = ground(capsys, *arguments, "--out", tmp_path / "x.json")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines() if line.split()[1:2] == ["1"]] == ["all", "[other]"]


def without_truth(scenes: Path, folder: Path) -> Path:
    return Path(shutil.copytree(scenes, folder / "data", ignore=shutil.ignore_patterns("*.truth.h5")))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, scenes: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (run / "ground_test_last.json").unlink(missing_ok=True)
    arguments, says = MISTAKES[name]
    status, out, err = ground(capsys, *arguments(scenes, checkpoint_of(run), tmp_path))
    assert status == 2
    assert not out or name.startswith(("of other phrases", "damaged"))  # of the record before
    assert says in err
    assert err.startswith("racg: ")
    assert len(err.splitlines()) == 1
    assert not (run / "ground_test_last.json").exists()


# ---- the photographs ----


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not here")
def test_baselines_on_the_photographs(tmp_path: Path):
    """Chance 42.0 % and 6.4 %, the largest region 53.6 % by centre, the best 81.8 % by IoU; 61 phrases not verbatim, none lost."""
    stored = np.load(SHARED / "dev.npz")
    lines = (SHARED / "dev_caps.txt").read_text(encoding="utf-8").splitlines()
    ids = (SHARED / "dev_ids.txt").read_text().split()
    captions = [lines[start : start + 5] for start in range(0, len(lines), 5)]
    features = np.ones((len(ids), 36, 1), np.float32)
    boxes = stored["boxes"].astype(np.float32)
    for name in ("train", "dev"):
        store_arrays(tmp_path / f"{name}.h5", features, boxes, captions, ids=ids)
    prepare_texts(tmp_path, "chain")
    split = Split(tmp_path, "dev", "chain", Vocabulary.load(tmp_path / "vocab.json"))
    phrases = read_phrases(SHARED / "dev_phrases.json", split)
    no_weights = np.zeros((80, 36), np.float32)
    image = [int(split.image[one.caption]) for one in phrases]
    result = summarise(
        [ground_phrase(one, row, no_weights, split.store.boxes[row]) for one, row in zip(phrases, image, strict=True)]
    )
    assert {
        name: round(result["metrics"]["centre"][name], 1) for name in result["metrics"]["centre"] if name != "attended"
    } == {
        "chance": 42.0,
        "largest": 53.6,
        "best": 96.0,
    }
    assert {name: round(result["metrics"]["iou"][name], 1) for name in result["metrics"]["iou"] if name != "attended"} == {
        "chance": 6.4,
        "largest": 17.9,
        "best": 81.8,
    }
    assert result["metrics"]["phrases"] == 12928
    assert sum(one.text.lower() not in split.texts[one.caption].lower() for one in phrases) == 61
    assert sum(split.texts[one.caption].lower().count(one.text.lower()) > 1 for one in phrases) == 123
    assert result["found"]["respelt"] == 61
    assert result["found"]["nowhere"] == 0
    assert all(one.words for one in phrases)
