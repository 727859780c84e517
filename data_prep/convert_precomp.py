"""SCAN's precomputed features and captions into a region store: `racg convert DIR --layout precomp …` as a script.

python data_prep/convert_precomp.py DIR --split train --out FILE.h5
"""

from __future__ import annotations

import sys

from racg_pl.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:], "--layout", "precomp"]))
