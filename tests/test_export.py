"""`racg export` and `from_pretrained`: the same scores, a card that says what was measured and no more, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from conftest import small
from racg_pl.cli import main
from racg_pl.errors import DataError
from racg_pl.export import export
from racg_pl.model import RACG
from racg_pl.training import read_checkpoint, weights_hash

KEEP = ("--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.monitor=dev/rsum")
KEEP += (
    "--trainer.callbacks.mode=max",
    "--trainer.callbacks.filename=best",
    "--trainer.callbacks.enable_version_counter=false",
)


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was fitted and tested as users do: the best checkpoint on dev is kept."""
    out = tmp_path_factory.mktemp("trained")
    arguments = small(scenes, out, *KEEP, epochs=2)
    assert main(["fit", *arguments]) == 0
    best = out / "checkpoints" / "best.ckpt"
    assert main(["test", *arguments, f"--ckpt_path={best}", "--save_scores=true"]) == 0
    return out


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("passed_on") / "tiny"
    assert main(["export", str(trained / "checkpoints" / "best.ckpt"), str(folder)]) == 0
    return folder


def section(card: str, title: str) -> str:
    return card.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_a_folder_holds_what_a_user_needs_and_no_code(exported: Path, trained: Path, scenes: Path):
    assert {path.name for path in exported.iterdir()} == {"model.safetensors", "config.json", "vocab.json", "README.md"}
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1  # whoever may read one may read all
    assert (exported / "vocab.json").read_bytes() == (scenes / "vocab.json").read_bytes()
    config = json.loads((exported / "config.json").read_text())
    assert (config["dim"], config["heads"], config["aggregation"]) == (16, 2, True)
    assert config["text_source"] == read_checkpoint(trained / "checkpoints" / "best.ckpt")["hyper_parameters"]["text_source"]


def test_the_snippet_of_the_card_gives_the_scores_of_racg_test(exported: Path, trained: Path, scenes: Path, tmp_path: Path):
    """In a process of its own that can reach no network and never heard of Lightning's command line."""
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), flags=re.DOTALL)
    assert code is not None
    for target in (exported, scenes):  # the card names both without the folders that they lie in
        (tmp_path / target.name).symlink_to(target)
    offline = "import socket\nsocket.socket.connect = None\n"
    lines = offline + code[1] + f"np.save({str(tmp_path / 'scores.npy')!r}, scores.numpy())\n"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]
    scores = np.load(tmp_path / "scores.npy")
    np.testing.assert_allclose(scores, np.load(trained / "test_scores.npy"), rtol=0, atol=1e-6)  # encoded in other batches


def test_the_weights_are_those_of_the_checkpoint(exported: Path, trained: Path):
    state = read_checkpoint(trained / "checkpoints" / "best.ckpt")["state_dict"]
    own = {name.removeprefix("model."): weight for name, weight in state.items() if name.startswith("model.")}
    assert weights_hash(RACG.from_pretrained(exported).state_dict()) == weights_hash(own)


def test_a_model_saved_again_is_the_same(exported: Path, tmp_path: Path):
    model = RACG.from_pretrained(exported)
    assert not model.training
    model.save_pretrained(tmp_path / "again")
    again = RACG.from_pretrained(str(tmp_path / "again"))
    assert weights_hash(again.state_dict()) == weights_hash(model.state_dict())


def test_the_card_says_what_was_measured(exported: Path, trained: Path, scenes: Path):
    card = (exported / "README.md").read_text()
    fit, test = (json.loads((trained / f"{name}.json").read_text()) for name in ("fit", "test"))
    rows = dict(re.findall(r"^\| (\w+) +\|(.*)\|$", section(card, "Metrics"), flags=re.MULTILINE))
    names = [f"{d}_r{k}" for d in ("i2t", "t2i") for k in (1, 5, 10)] + ["rsum"]
    shown = [float(cell) for cell in rows["test"].split("|")]
    assert shown == [pytest.approx(test["metrics"][name], abs=0.051) for name in names]
    best = read_checkpoint(trained / "checkpoints" / "best.ckpt")
    kept = kept_score(trained / "checkpoints" / "best.ckpt")
    assert f"kept for its rsum on dev, {kept:.1f}" in section(card, "Metrics")
    assert ("dev" in rows) == (fit["weights"] == weights_hash(best["state_dict"]))
    assert test["data"]["features"] in section(card, "Data")
    assert weights_hash(best["state_dict"]) in section(card, "Training")
    metadata = yaml.safe_load(card.split("---")[1])
    results = metadata["model-index"][0]["results"]
    found = {(one["dataset"]["split"], metric["type"]): metric["value"] for one in results for metric in one["metrics"]}
    assert found["test", "rsum"] == round(test["metrics"]["rsum"], 2)
    for title in ("Intended use", "Limits", "Use", "Licence"):
        assert len(section(card, title)) > 80


def test_records_of_other_weights_are_not_cited(trained: Path, tmp_path: Path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    metrics = json.loads((run / "fit.json").read_text())["metrics"]
    for name, change in (("fit", {"metrics": dict.fromkeys(metrics, 99.0)}), ("test", {"weights": "0" * 64})):
        record = json.loads((run / f"{name}.json").read_text())
        (run / f"{name}.json").write_text(json.dumps(record | change))
    export(run / "checkpoints" / "best.ckpt", tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "No recalls were measured with these weights" in section(card, "Metrics")
    assert "model-index" not in card


def kept_score(checkpoint: Path) -> float:
    callbacks = read_checkpoint(checkpoint)["callbacks"]
    return next(state["current_score"].item() for name, state in callbacks.items() if "ModelCheckpoint" in name)


def test_of_one_rsum_only_the_same_weights_are_cited(trained: Path, tmp_path: Path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    checkpoint = run / "checkpoints" / "best.ckpt"
    fit = json.loads((run / "fit.json").read_text())
    fit["metrics"]["rsum"] = kept_score(checkpoint)
    for weights, shown in ((weights_hash(read_checkpoint(checkpoint)["state_dict"]), True), ("0" * 64, False)):
        (run / "fit.json").write_text(json.dumps(fit | {"weights": weights}))
        export(checkpoint, tmp_path / str(shown))
        assert ("| dev " in section((tmp_path / str(shown) / "README.md").read_text(), "Metrics")) == shown


def test_a_run_of_another_model_is_not_its_own(trained: Path, scenes: Path, tmp_path: Path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    fit = json.loads((run / "fit.json").read_text())
    fit["config"]["model"]["heads"] = 4
    (run / "fit.json").write_text(json.dumps(fit))
    with pytest.raises(DataError, match=r"best\.ckpt: expected fit\.json .*, got none of this model; name the vocabulary"):
        export(run / "checkpoints" / "best.ckpt", tmp_path / "model")
    export(run / "checkpoints" / "best.ckpt", tmp_path / "model", scenes / "vocab.json")
    assert "Not recorded" in section((tmp_path / "model" / "README.md").read_text(), "Data")


def test_the_same_checkpoint_gives_the_same_bytes(exported: Path, trained: Path, tmp_path: Path):
    (tmp_path / "tiny").mkdir()  # an empty folder will do
    export(trained / "checkpoints" / "best.ckpt", tmp_path / "tiny")
    for path in exported.iterdir():
        assert (tmp_path / "tiny" / path.name).read_bytes() == path.read_bytes()


def test_a_checkpoint_without_its_run_needs_a_vocabulary(trained: Path, scenes: Path, tmp_path: Path):
    path = tmp_path / "lone.ckpt"
    shutil.copy(trained / "checkpoints" / "best.ckpt", path)
    with pytest.raises(DataError, match=r"lone\.ckpt: expected fit\.json .* name the vocabulary by --vocabulary"):
        export(path, tmp_path / "model")
    export(path, tmp_path / "model", scenes / "vocab.json")
    assert "Not recorded" in section((tmp_path / "model" / "README.md").read_text(), "Data")
    assert RACG.from_pretrained(tmp_path / "model").heads == 2


class Bomb:
    def __reduce__(self) -> tuple[Callable, tuple]:
        return print, ("bomb went off",)


def changed(run: Path, here: Path, **change: object) -> Path:
    path = here / "run" / "checkpoints" / "changed.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(torch.load(run / "checkpoints" / "best.ckpt", weights_only=True) | change, path)
    shutil.copy(run / "fit.json", here / "run")
    return path


def other_vocabulary(here: Path) -> Path:
    path = here / "vocab.json"
    path.write_text(json.dumps({"schema": "racg_pl.vocab/1", "threshold": 1, "counts": {"word": 3}}))
    return path


def full(here: Path) -> Path:
    (here / "full").mkdir()
    (here / "full" / "file").touch()
    return here / "full"


MISTAKES: dict[str, tuple[Callable[[Path, Path], list], str]] = {
    "no checkpoint": (lambda run, here: [here / "no.ckpt", here / "model"], "expected a checkpoint of racg fit, got no such file"),
    "code": (lambda run, here: [changed(run, here, bomb=Bomb()), here / "model"], "holds code"),
    "no model of this version": (lambda run, here: [changed(run, here, state_dict={}), here / "model"], "expected a model of this version"),
    "a folder with files": (lambda run, here: [run / "checkpoints" / "best.ckpt", full(here)], "expected a new or an empty folder"),
    "another vocabulary": (
        lambda run, here: [run / "checkpoints" / "best.ckpt", here / "model", "--vocabulary", other_vocabulary(here)],
        "vocab.json: expected the vocabulary of the training",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_folder(
    name: str, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    prepare, says = MISTAKES[name]
    arguments = prepare(trained, tmp_path)
    before = set(tmp_path.rglob("*"))
    assert main(["export", *map(str, arguments)]) == 2
    out, err = capfd.readouterr()
    assert out == ""  # no bomb went off
    assert err.startswith("racg: ")
    assert len(err.splitlines()) == 1
    assert says in err
    assert set(tmp_path.rglob("*")) == before


def edit(folder: Path, **change: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in (config | change).items() if value != "gone"}
    (folder / "config.json").write_text(json.dumps(config))


def test_the_folder_that_one_is_in_is_not_replaced(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    for name in (".", str(tmp_path)):
        assert main(["export", str((trained / "checkpoints" / "best.ckpt").absolute()), name]) == 2
        assert "expected a folder to make, got the one that you are in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json: expected the options of a model"),
        (lambda folder: (folder / "config.json").write_text("[]"), "missing: aggregation"),
        (lambda folder: edit(folder, dim="gone"), "missing: dim; unknown: none"),
        (lambda folder: edit(folder, wings=2), "missing: none; unknown: wings"),
        (lambda folder: edit(folder, dim=32), "expected the weights of RACG"),
        (lambda folder: edit(folder, dim="16"), "expected the weights of RACG"),
        (lambda folder: edit(folder, dim=None), "expected the weights of RACG"),
        (lambda folder: edit(folder, dim=16.0), "expected the weights of RACG"),
        (lambda folder: edit(folder, aggregation=False), "expected the weights of RACG"),
        (lambda folder: (folder / "model.safetensors").unlink(), "expected the weights of RACG"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"garbage" * 9), "expected the weights of RACG"),
        (lambda folder: shutil.rmtree(folder), "expected a folder by racg export"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_line(damage: Callable, says: str, exported: Path, tmp_path: Path):
    folder = Path(shutil.copytree(exported, tmp_path / "a" / "b" / "c"))
    damage(folder)
    with pytest.raises(DataError) as caught:
        RACG.from_pretrained(folder, local_files_only=True)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{}, {"temprature": 3.0}])
def test_options_of_a_repository_are_held_to_as_those_of_a_folder(exported: Path, tmp_path: Path, change: dict[str, float]):
    """A repository of the Hub as its cache keeps it, without any network."""
    kept = tmp_path / "models--some--one" / "snapshots" / "abc"
    shutil.copytree(exported, kept)
    (tmp_path / "models--some--one" / "refs").mkdir()
    (tmp_path / "models--some--one" / "refs" / "main").write_text("abc")
    config = json.loads((kept / "config.json").read_text())
    if change:
        del config["temperature"]
    (kept / "config.json").write_text(json.dumps(config | change))
    given = {"cache_dir": tmp_path, "local_files_only": True}
    if change:
        with pytest.raises(DataError, match="missing: temperature; unknown: temprature"):
            RACG.from_pretrained("some/one", **given)
    else:
        read = weights_hash(RACG.from_pretrained("some/one", **given).state_dict())
        assert read == weights_hash(RACG.from_pretrained(exported).state_dict())
    with pytest.raises(DataError, match="expected a folder by racg export, or a repository"):
        RACG.from_pretrained("some/other", **given)
