"""Score a trained pipeline on the treebank and write what the package ships: weights, tokenizer, labels, meta.json.

    python ship.py TRAINED SPACY_DIR TREEBANK_DIR OUT     score `TRAINED` and write it to OUT
    python ship.py PIPELINE SPACY_DIR                     score only

Scores are by spaCy's own scorer (punctuation not counted) over gold words, one sentence a document.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Corpus, Example
from spacy.util import load_config

NAME, VERSION = "racg_ewt", "0.1.0"
SCORES = {"dep_uas": "UAS", "dep_las": "LAS", "pos_acc": "tag accuracy"}
HERE = Path(__file__).parent


def score(nlp: Language, path: Path) -> dict[str, float]:
    examples: list[Example] = list(Corpus(path, gold_preproc=True)(nlp))
    scores = nlp.evaluate(examples, batch_size=256)
    return {name: round(scores[name], 4) for name in SCORES}


def ship(trained: Path, converted: Path, treebank: Path, out: Path) -> None:
    nlp = spacy.load(trained)
    scores = {split: score(nlp, converted / f"{split}.spacy") for split in ("dev", "test")}
    sentences = {split: len(DocBin().from_disk(converted / f"{split}.spacy")) for split in ("train", "dev", "test")}
    nlp.meta.update(
        name=NAME,
        version=VERSION,
        description="Universal dependencies and tags for image captions: lower case, fragments, no final full stop",
        author="racg_pl",
        license="CC BY-SA 4.0",
        spacy_version=">=3.8.0,<3.9.0",
        sources=[
            {
                "name": "UD English EWT (Universal Dependencies English Web Treebank)",
                "url": "https://github.com/UniversalDependencies/UD_English-EWT",
                "license": "CC BY-SA 4.0",
                "version": "not stated in the files; identified by their hashes",
                "sentences": sentences,
                "sha256": {
                    path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(treebank.glob("*.conllu*"))
                },
            }
        ],
        performance={f"{split}_{name}": value for split, scored in scores.items() for name, value in scored.items()},
    )
    shutil.rmtree(out, ignore_errors=True)
    # hashes of words are computed, not stored, and there are no vectors: without its vocabulary the pipeline says the same
    nlp.to_disk(out, exclude=["vocab"])
    config = load_config(out / "config.cfg")
    for section in ("paths", "system", "corpora", "training", "pretraining", "initialize"):
        config.pop(section, None)
    config.to_disk(out / "config.cfg")
    meta = json.loads((out / "meta.json").read_text(encoding="utf-8"))
    meta.pop("spacy_git_version")
    (out / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copy(HERE / "LICENSE", out / "LICENSE")
    shipped = spacy.load(out)
    for split, scored in scores.items():
        if score(shipped, converted / f"{split}.spacy") != scored:
            sys.exit(f"{out}: expected the scores of {trained}, got others on {split}")
        report(split, scored)
    print(f"{out}: {sum(path.stat().st_size for path in out.rglob('*') if path.is_file()) / 1e6:.1f} MB")


def report(split: str, scored: dict[str, float]) -> None:
    print(f"{split}: " + ", ".join(f"{title} {100 * scored[name]:.2f}" for name, title in SCORES.items()))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        for split in ("dev", "test"):
            report(split, score(spacy.load(sys.argv[1]), Path(sys.argv[2]) / f"{split}.spacy"))
    else:
        ship(*map(Path, sys.argv[1:]))
