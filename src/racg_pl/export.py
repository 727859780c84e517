"""`racg export`: a checkpoint as a folder to pass on: weights, options, vocabulary, and a model card that says only what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from racg_pl.errors import DataError
from racg_pl.hdf5 import one_line
from racg_pl.pretrained import CONFIG, WEIGHTS, Pretrained
from racg_pl.tables import RECALLS, _table
from racg_pl.text import Vocabulary
from racg_pl.training import load_module, read_checkpoint, weights_hash

VOCABULARY, CARD = "vocab.json", "README.md"

INTRODUCTION = """\
{kind} finds pictures by sentence and sentences by picture: it scores region features of pictures against parsed captions. It was
trained with racg_pl {version}: {source}. It is not its authors' model."""

LICENCE = (
    "The code is Apache-2.0. The licence of these weights is for whoever passes them on to say, within the terms of the data."
)

USE = """\
```python
from pathlib import Path

import numpy as np
import torch
from racg_pl.data import Split
from racg_pl.gallery import Gallery
from {module} import {kind}
from racg_pl.scoring import score_all
from racg_pl.text import Vocabulary

model = {kind}.from_pretrained("{folder}")
vocabulary = Vocabulary.load("{folder}/vocab.json")
split = Split(Path("{root}"), "{split}", "{parser}", vocabulary)  # of racg scenes, or of racg text
with torch.inference_mode():
    images = Gallery([model.encode_image(split.regions(np.arange(len(split))))])
    texts = Gallery([model.encode_text(split.sentences(np.arange(len(split.image))))])
scores = score_all(model, images, texts)  # [images, captions]
```"""

INTENDED = """\
Research on image–text retrieval: ranking a gallery of pictures for a sentence, or of sentences for a picture, and comparing models
with one another on the same features. Not intended: deciding about people, surveillance, moderation without a human, or any use in
which a wrong first match does harm."""

LIMITS = """\
- Features must come from the extractor of the training data, {feature_dim} numbers a region{objects}; others give scores without meaning.
- Captions must be parsed by `{text}`. Of words it knows the {words:,} in `vocab.json`; all others are one unknown word.
- A score orders candidates of one query. It is no probability, and scores of two models cannot be compared.
- Whatever is one-sided in the training captions and in the detector's classes (who is mentioned, and how) is in the ranking as well.
- One seed. Independent reruns in this field differ by 2 to 5 points of rsum."""


class Run(NamedTuple):
    """What is known of a training from the files that it left."""

    record: dict[str, Any]  # fit.json, empty where there is none
    evaluations: list[dict[str, Any]]  # records of exactly these weights: split, metrics, data
    dev_rsum: float | None  # for which the checkpoint was kept


def export(checkpoint: Path, folder: Path, vocabulary: Path | None = None) -> str:
    """Write model.safetensors, config.json, vocab.json and README.md, the model card, to a new folder.

    Args:
        checkpoint: of `racg fit`; metrics are read from fit.json, validate.json and test.json in the folder of its run.
        vocabulary: default: vocab.json of the data set that fit.json names.
    Returns: what was written, in words.
    Raises: DataError, and nothing is written, where the checkpoint is none or holds code, the vocabulary is missing or another one,
        or the folder is not empty.
    """
    content = read_checkpoint(checkpoint)
    options, weights = content["hyper_parameters"], weights_hash(content["state_dict"])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: expected a new or an empty folder, got one with files; remove it or choose another")
    if folder.resolve() == Path.cwd():  # it would be replaced under the shell that stands in it
        raise DataError(f"{folder}: expected a folder to make, got the one that you are in; name a new folder")
    run = find_run(checkpoint, content, weights)
    words = _vocabulary(checkpoint, options, run, vocabulary)
    model = load_module(checkpoint).model
    if not isinstance(model, Pretrained):
        raise DataError(f"{checkpoint}: expected a model that can be passed on, got {type(model).__name__}; train RACG")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        (unfinished / CARD).write_text(card(folder, model, options, run, weights), encoding="utf-8")
        words.save(unfinished / VOCABULARY)
        model.save_pretrained(unfinished, config=model.config | {"text_source": options.get("text_source", "")})
        shutil.copymode(unfinished / CONFIG, unfinished / WEIGHTS)  # safetensors lets nobody else read its files
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({one_line(error)}); choose another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    measured = ", ".join(evaluation["split"] for evaluation in run.evaluations) or "none"
    return f"{folder}: {WEIGHTS}, {CONFIG}, {VOCABULARY}, {CARD} (measured splits: {measured}; weights {weights[:12]})"


def find_run(checkpoint: Path, content: dict[str, Any], weights: str) -> Run:
    """The records in the run's folder that speak of exactly these weights; one of others would put wrong numbers on the card."""
    kept = [state for name, state in (content.get("callbacks") or {}).items() if name.startswith("ModelCheckpoint")]
    monitored = [state for state in kept if state.get("monitor") == "dev/rsum" and state.get("current_score") is not None]
    dev_rsum = float(monitored[0]["current_score"]) if monitored else None
    folder = checkpoint.absolute().parent.parent
    fit = _record(folder / "fit.json")
    options = fit.get("config", {}).get("model", {})
    if {name: value for name, value in options.items() if not name.startswith("_")} != content["hyper_parameters"]:
        fit = {}  # of another model
    evaluations = [
        record for name in ("validate", "test") if (record := _record(folder / f"{name}.json")).get("weights") == weights
    ]
    same = fit.get("weights") == weights and dev_rsum is not None and abs(fit["metrics"]["rsum"] - dev_rsum) < 1e-3
    if same:  # fit.json is of the last evaluation
        evaluations = [fit, *(record for record in evaluations if record["split"] != fit["split"])]
    return Run(fit, evaluations, dev_rsum)


def _record(path: Path) -> dict[str, Any]:
    """A record of `racg`, or {} where there is none."""
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = {"split", "metrics", "data", "config", "seed", "commit"} - record.keys()
        missing |= {"rsum", *RECALLS} - record["metrics"].keys()
        missing |= {"root"} - record["config"].get("data", {}).keys()
        if missing:
            raise KeyError(f"no {', '.join(sorted(missing))}")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: expected the record of a run, got: {one_line(error)}; run it again or remove the file"
        ) from error
    return record


def _vocabulary(checkpoint: Path, options: dict[str, Any], run: Run, given: Path | None) -> Vocabulary:
    """The vocabulary of the training, made sure of by the hash in the checkpoint."""
    if given is None and not run.record:
        raise DataError(
            f"{checkpoint}: expected fit.json in the folder of its run, got none of this model; name the vocabulary by --vocabulary"
        )
    path = given or Path(run.record["config"]["data"]["root"]) / VOCABULARY
    vocabulary = Vocabulary.load(path)
    want = options.get("text_source", "").rpartition("vocabulary ")[2]
    if not want or not vocabulary.sha256.startswith(want) or len(vocabulary) != options.get("words"):
        raise DataError(
            f"{path}: expected the vocabulary of the training, {options.get('words')} words with sha256 {want}…, got {len(vocabulary)} "
            f"with {vocabulary.sha256[:12]}…; name it by --vocabulary"
        )
    return vocabulary


# ---- the card ----


def card(folder: Path, model: Pretrained, options: dict[str, Any], run: Run, weights: str) -> str:
    """The model card, Markdown with the metadata of the Hub. The same input gives the same bytes."""
    from racg_pl import __version__

    fit, kind = run.record, type(model).__name__
    data = fit.get("config", {}).get("data", {})
    root = Path(data.get("root", "DATA"))
    text = options.get("text_source", "")
    known = {
        "feature_dim": f"{options['feature_dim']:,}",
        "objects": f" and {options['objects']:,} detected classes" if options.get("objects") else "",
        "text": text.partition(", vocabulary")[0],
        "words": options["words"] - 2,  # one pads, one is unknown
    }
    metadata = ModelCardData(
        model_name=folder.name,
        library_name="racg_pl",
        tags=["image-text-retrieval", *(["graph-neural-network"] if kind in ("RACG", "SGR") else [])],
        eval_results=_results(run, root.name) or None,
    )
    parameters = sum(weight.numel() for weight in model.parameters())  # type: ignore[attr-defined]
    sections = {
        f"# {folder.name}": INTRODUCTION.format(kind=kind, version=__version__, source=model.source),
        "## Use": USE.format(
            kind=kind,
            module=type(model).__module__,
            folder=folder.name,
            root=root.name if root.is_absolute() else root,
            parser=data.get("parser", "bundled"),
            split=run.evaluations[-1]["split"] if run.evaluations else data.get("test", "test"),
        ),
        "## Intended use": INTENDED,
        "## Data": _data(run, root.name),
        "## Metrics": _metrics(run),
        "## Limits": LIMITS.format(**known),
        "## Training": _training(run, options, parameters, weights),
        "## Licence": LICENCE,
    }
    body = "\n\n".join(f"{title}\n\n{words}" for title, words in sections.items())
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"))


def _results(run: Run, data: str) -> list[EvalResult]:
    """The recalls as the Hub lists them."""
    task = "image-text-retrieval"
    return [
        EvalResult(task, data, data, name, round(record["metrics"][name], 2), dataset_split=record["split"])
        for record in run.evaluations
        for name in (*RECALLS, "rsum")
    ]


def _data(run: Run, name: str) -> str:
    if not run.record:
        return "Not recorded: the checkpoint came without its run."
    lines = [f"Trained on the `{run.record['config']['data']['train']}` split of `{name}`. Hashes of the contents:", ""]
    for record in run.evaluations or [run.record]:
        lines += [
            f"- {record['split']} {kind}: sha256 `{digest}`" for kind, digest in record["data"].items() if kind != "vocabulary"
        ]
    return "\n".join([*lines, f"- vocabulary: sha256 `{run.record['data']['vocabulary']}`"])


def _metrics(run: Run) -> str:
    """A table of what was measured with exactly these weights."""
    chosen = (
        ""
        if run.dev_rsum is None
        else f"The checkpoint was kept for its rsum on dev, {run.dev_rsum:.1f}, so that dev flatters it. "
    )
    if not run.evaluations:
        return f"{chosen}No recalls were measured with these weights; `racg test` measures them."
    head = ["split", *(f"{d} R@{k}" for d in ("i2t", "t2i") for k in (1, 5, 10)), "rsum"]
    body = [[record["split"], *(f"{record['metrics'][name]:.1f}" for name in (*RECALLS, "rsum"))] for record in run.evaluations]
    return (
        f"{chosen}Recalls in percent; a query counts when its first right match is among the first K, ties count against it; rsum is "
        f"the sum of the six.\n\n{_table(head, body, left=1)}"
    )


def _training(run: Run, options: dict[str, Any], parameters: int, weights: str) -> str:
    facts = [f"- parameters: {parameters:,}", f"- sha256 of the weights of the checkpoint: `{weights}`"]
    if run.record:
        facts.append(f"- seed {run.record['seed']}, commit `{run.record['commit'] or 'none'}`")
        if "wall_time_s" in run.record:
            facts.append(f"- wall time {run.record['wall_time_s']:,.0f} s")
    settings = {"model": dict(sorted(options.items()))}
    if run.record:
        trainer = run.record["config"]["trainer"]
        names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_steps", "gradient_clip_val")
        settings["data"] = {name: value for name, value in run.record["config"]["data"].items() if name != "root"}
        settings["trainer"] = {name: trainer[name] for name in names if name in trainer}
    return "\n".join([*facts, "", "```json", json.dumps(settings, indent=1, default=str), "```"])
