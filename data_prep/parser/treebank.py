"""Turn a Universal Dependencies treebank (`*-ud-{train,dev,test}.conllu[.gz]`) into spaCy's `{train,dev,test}.spacy`.

    python treebank.py TREEBANK_DIR OUT_DIR

One document a sentence. Words are the syntactic words: the range lines of multiword tokens ("don't" beside "do" and "n't") and
the empty nodes of the enhanced graph are dropped. Only what the pipeline learns is kept: universal tags, heads and relations.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab


def sentences(path: Path) -> Iterator[list[list[str]]]:
    """The ten columns of every syntactic word, a sentence at a time."""
    rows: list[list[str]] = []
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                if rows:
                    yield rows
                rows = []
            elif not line.startswith("#") and (columns := line.rstrip("\n").split("\t"))[0].isdigit():
                rows.append(columns)
    if rows:
        yield rows


def document(vocab: Vocab, rows: list[list[str]]) -> Doc:
    heads = [int(row[6]) - 1 for row in rows]
    return Doc(
        vocab,
        words=[row[1] for row in rows],
        spaces=["SpaceAfter=No" not in row[9] for row in rows],
        pos=[row[3] for row in rows],
        heads=[i if head < 0 else head for i, head in enumerate(heads)],
        deps=["ROOT" if head < 0 else row[7] for row, head in zip(rows, heads, strict=True)],
    )


def main(treebank: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        found = sorted(treebank.glob(f"*-ud-{split}.conllu*"))
        if len(found) != 1:
            sys.exit(f"{treebank}: expected one *-ud-{split}.conllu or .conllu.gz, got {len(found)}")
        vocab = Vocab()
        documents = [document(vocab, rows) for rows in sentences(found[0])]
        DocBin(docs=documents).to_disk(out / f"{split}.spacy")
        print(f"{split}: {len(documents)} sentences, {sum(map(len, documents))} words")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
