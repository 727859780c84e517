"""The tables of the paper, from their declared list to Markdown, LaTeX, CSV, figures and one HTML page.

declared.py reads experiments/tables.yaml; state.py says of each run whether it is done, stale, missing or needs data; make.py runs and
writes; confirm.py keeps runs whose code has changed without an effect, with former code by former.py; values.py computes means,
deviations and intervals; markup.py, figures.py, pictures.py and page.py show them.
"""
