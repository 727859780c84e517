#!/usr/bin/env python3
"""Turn SCAN's precomp files into a region store and its captions.

    python data_prep/convert_precomp.py data/f30k_precomp --split train --out data/f30k/train.h5

The layout that is read is described in racg_pl/convert.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from racg_pl.convert import convert_precomp
from racg_pl.errors import DataError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds {split}_ims.npy, {split}_caps.txt and their kin")
    parser.add_argument("--split", required=True, help="train, dev, test, testall, …")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.h5", help="captions go to FILE.captions.h5 beside it")
    parser.add_argument("--extractor", default="unknown", help="what made the features, stored with them")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float16", "float32"), help="auto keeps the source's")
    args = parser.parse_args()
    try:
        print(convert_precomp(args.folder, args.split, args.out, extractor=args.extractor, dtype=args.dtype))
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
