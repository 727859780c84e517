#!/usr/bin/env bash
# Retrain the parser that the package ships:  bash data_prep/parser/train.sh TREEBANK_DIR OUT [PYTHON]
# TREEBANK_DIR holds *-ud-{train,dev,test}.conllu or .conllu.gz; OUT is replaced once training has ended well.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: bash data_prep/parser/train.sh TREEBANK_DIR OUT [PYTHON]" >&2
    exit 2
fi
treebank=$(realpath "$1") out=$(realpath -m "$2") python=${3:-python}
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1 PYTHONPATH=$here  # one thread: the same numbers on every machine of one kind; corpus.py imports grammar.py

"$python" "$here/treebank.py" "$treebank" "$work"
settings=("$here/config.cfg" --code "$here/corpus.py"
    --paths.train "$work/train.spacy" --paths.dev "$work/dev.spacy" --paths.labels "$work/labels")
"$python" -m spacy init labels "${settings[0]}" "$work/labels" "${settings[@]:1}" --training.max_epochs 0
"$python" -m spacy train "${settings[@]}" --output "$work/trained"
"$python" "$here/ship.py" "$work/trained/model-best" "$work" "$treebank" "$out"
