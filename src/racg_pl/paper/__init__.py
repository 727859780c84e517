"""The tables of the paper, from their declared list to Markdown, LaTeX, CSV, figures and one HTML page.

declared.py reads experiments/tables.yaml; state.py says of each run whether it is done, stale, missing or needs data; make.py runs and
writes; values.py computes means, deviations and intervals; markup.py, figures.py, pictures.py and page.py show them.
"""
