"""The console script `racg`: its verbs and their options, and how it ends.

`racg fit|validate|test|predict` is LightningCLI, in training.py; what the other verbs do is in verbs.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from racg_pl import verbs
from racg_pl.errors import DataError

TRAINER_VERBS = {
    "fit": "train a model (LightningCLI: --config FILE, --model.dim 256, --trainer.devices 2, --ckpt_path last …)",
    "validate": "recalls of a checkpoint on the dev split",
    "test": "recalls of a checkpoint on the test split, as one JSON file",
    "predict": "the best matches of every image and every caption, as JSON lines",
}
MATMUL = ("highest", "high", "medium")  # as torch.set_float32_matmul_precision names them


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    numbers = list(dict.fromkeys(int(word) for word in _words(text)))
    if not numbers or min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"expected whole numbers from 0, such as 0,1,2, got {text!r}")
    return numbers


def matmul_precision() -> None:
    """RACG_MATMUL=medium: products of float32 matrices, the cross graph's too, in bfloat16 where the processor has it."""
    if precision := os.environ.get("RACG_MATMUL"):
        import torch

        if precision not in MATMUL:
            raise DataError(f"RACG_MATMUL: expected one of {', '.join(MATMUL)}, got {precision!r}; leave it out for float32")
        torch.set_float32_matmul_precision(precision)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        "racg",
        description="Relation-aggregated cross-graph learning for fine-grained image-text retrieval.",
        allow_abbrev=False,
    )
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, line in TRAINER_VERBS.items():
        commands.add_parser(name, help=line, add_help=False)

    def verb(name: str, run: Callable[[argparse.Namespace], None], line: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=line, description=line, allow_abbrev=False)
        made.set_defaults(run=run)
        return made

    made = verb("check", verbs.check, "validate region stores, captions, parses and vocabularies, and print what they hold")
    made.add_argument("file", type=Path, nargs="+")

    made = verb("convert", verbs.convert, "turn region features and captions, in any layout of the field, into a region store")
    made.add_argument("source", type=Path, metavar="SOURCE", help="a file or folder of region features")
    made.add_argument("--out", type=Path, required=True, metavar="FILE.h5", help="captions go to FILE.captions.h5 beside it")
    made.add_argument("--layout", help="precomp, vse-infinity, tsv, folder or own (default: recognised)")
    made.add_argument("--split", help="which images: train, dev, test, …")
    made.add_argument("--captions", type=Path, metavar="FILE", help="Karpathy's or COCO's .json, .csv or .jsonl")
    made.add_argument("--captions-out", type=Path, metavar="FILE.h5", help="another name for the captions")
    made.add_argument("--per-image", type=int, metavar="N", help="take the first N captions of each image")
    made.add_argument("--extractor", default="unknown", help="what made the features, stored with them (default %(default)s)")
    made.add_argument("--dtype", default="auto", help="float16, float32, or auto, that of the source (default %(default)s)")

    made = verb(
        "prepare", verbs.prepare, "check, convert, parse and validate a corpus by its recipe; goes on where it was killed"
    )
    made.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="such as experiments/data/flickr30k.yaml")
    made.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of the data set")
    made.add_argument("--source", type=Path, metavar="DIR", help="folder of what the recipe asks for (default: that of --root)")
    made.add_argument(
        "--parser", default="bundled", help="bundled, chain, or an installed spaCy pipeline (default %(default)s)"
    )

    made = verb("scenes", verbs.scenes, "generate the embedded data set, or draw one of its pictures")
    made.add_argument("out", type=Path, metavar="OUT", help="folder of the data set")
    made.add_argument("--images", type=int, default=3000, help="pictures over all splits (default %(default)s)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--draw", metavar="ID", help="draw this picture of an existing data set instead")
    made.add_argument("--figure", type=Path, help="where to draw it (default OUT/ID.png)")

    made = verb("text", verbs.text, "parse the captions of a data set once and count its vocabulary")
    made.add_argument("root", type=Path, metavar="ROOT", help="folder of SPLIT.captions.h5")
    made.add_argument(
        "--parser", default="bundled", help="bundled, chain, or an installed spaCy pipeline (default %(default)s)"
    )
    made.add_argument(
        "--threshold",
        type=int,
        metavar="N",
        help="times a word must occur in training captions (default: that of vocab.json where there is one, else 4; "
        "another one writes vocab.json anew, which models trained before do not fit)",
    )
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that parse (default %(default)s)")

    made = verb("parse", verbs.parse, "show the semantic graph of a sentence: who does what to whom, where, and what is how")
    made.add_argument("sentence", nargs="+", metavar="SENTENCE", help='such as "a man rides a brown horse"')
    made.add_argument("--figure", type=Path, metavar="FILE", help="draw it too, as .png, .svg or .pdf")
    made.add_argument(
        "--parser", default="bundled", help="bundled, chain, or an installed spaCy pipeline (default %(default)s)"
    )

    made = verb(
        "reproduce", verbs.reproduce, "train RACG, RACG without each of its parts and a graph-free row, and write the tables"
    )
    made.add_argument(
        "--data", default="scenes", help="name of the data set; scenes is generated where missing (default %(default)s)"
    )
    made.add_argument("--root", type=Path, help="folder of its files (default data/DATA)")
    made.add_argument("--out", type=Path, default=Path("results"), help="default %(default)s")
    made.add_argument("--config", type=Path, help="configuration of the runs (default experiments/DATA.yaml)")
    made.add_argument(
        "--jobs", type=int, default=max(1, min(2, os.cpu_count() or 1)), help="runs at a time (default %(default)s)"
    )

    made = verb(
        "tables", verbs.tables, "run what is missing of the tables of experiments/tables.yaml, and write them and one page"
    )
    made.add_argument("--data", metavar="NAME", help="run only what runs on this data set")
    made.add_argument("--root", type=Path, help="its folder (default data/NAME)")
    made.add_argument("--only", type=_words, default=(), metavar="IV,V", help="run only these tables")
    made.add_argument(
        "--seeds", type=_numbers, metavar="0,1,2", help="run or list these instead of those declared; the page shows both"
    )
    made.add_argument(
        "--list", action="store_true", help="say what is done, stale and missing, and how long it takes; run nothing"
    )
    made.add_argument("--page", action="store_true", help="write tables and page of what is there; run nothing")
    made.add_argument(
        "--keep-stale", action="store_true", help="run only what has no result at all; stale results stay, marked"
    )
    made.add_argument(
        "--confirm",
        action="store_true",
        help="instead of running anew what is stale by its code alone, show that short trainings by the code of then and of now agree",
    )
    made.add_argument(
        "--rounding",
        action="store_true",
        help="confirm too where losses and recalls agree but for rounding: you say that the change is one of arithmetic",
    )
    made.add_argument("--steps", type=int, default=40, metavar="N", help="of --confirm's trainings (default %(default)s)")
    made.add_argument(
        "--tables", type=Path, default=Path("experiments/tables.yaml"), metavar="LIST.yaml", help="default %(default)s"
    )
    made.add_argument("--out", type=Path, default=Path("results"), help="default %(default)s")
    made.add_argument(
        "--jobs", type=int, default=max(1, min(2, os.cpu_count() or 1)), help="runs at a time (default %(default)s)"
    )

    made = verb("sweep", verbs.sweep, "run the file of a W&B sweep offline, and write a table and a figure of it")
    made.add_argument("file", type=Path, metavar="SWEEP.yaml", help="such as experiments/sweeps/scenes_objective.yaml")
    made.add_argument("--out", type=Path, default=Path("results/sweeps"), help="default %(default)s")
    made.add_argument("--runs", type=Path, default=Path("runs/sweeps"), help="checkpoints and logs (default %(default)s)")
    made.add_argument("--jobs", type=int, help="runs at a time (default one a GPU, without GPUs two)")

    made = verb("bench", verbs.bench, "measure scoring, training and reading here, beside the field's way, and write a table")
    made.add_argument(
        "--config", type=Path, default=Path("experiments/flickr30k.yaml"), help="whose model (default %(default)s)"
    )
    made.add_argument(
        "--out", type=Path, default=Path("results"), help="folder of bench.json and bench.md (default %(default)s)"
    )
    made.add_argument(
        "--only", metavar="A,B", help="sections: eval, train, parts, encode, read, growth, coco5k, two_stage (default all)"
    )

    made = verb("eval", verbs.evaluate, "recalls of the score matrices of any model, and of their mean")
    made.add_argument("scores", type=Path, nargs="+", metavar="SCORES.npy", help="float [images, captions]")
    made.add_argument("--captions", type=Path, required=True, metavar="SPLIT.captions.h5", help="whose caption is whose")
    made.add_argument(
        "--folds", type=int, default=1, help="folds of consecutive images, averaged: 5 for COCO 1K (default %(default)s)"
    )
    made.add_argument("--out", type=Path, metavar="FILE.json", help="write the recalls, unrounded, with hashes of all files")

    made = verb(
        "ground", verbs.ground, "whether the regions that phrases attend to are where a human says, beside chance and the best"
    )
    made.add_argument("checkpoint", type=Path, metavar="CKPT", help="of racg fit")
    made.add_argument("--data", type=Path, required=True, metavar="ROOT", help="folder of the data set")
    made.add_argument("--split", default="test", help="default %(default)s")
    made.add_argument(
        "--phrases",
        type=Path,
        metavar="FILE.json|DIR",
        help="phrases with boxes, or Flickr30k Entities' folder (default: ROOT/SPLIT.phrases.json, or the truth of Scenes)",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="the figures with hashes (default ground_SPLIT_CKPT.json in the run's folder)",
    )
    made.add_argument(
        "--against",
        type=Path,
        metavar="FILE.json",
        help="what racg ground wrote of another checkpoint: how far apart the two are",
    )
    made.add_argument("--figure", type=Path, help="draw phrases: successes and failures, chosen by their margin")
    made.add_argument(
        "--words", type=Path, metavar="FIGURE", help="draw, word by word, the captions of the median two of these"
    )
    made.add_argument("--pictures", type=Path, metavar="DIR", help="image files named by their ids, to draw on")

    made = verb("search", verbs.search, "the pictures that fit a sentence best, and the regions that its words attend to")
    made.add_argument("sentence", nargs="*", metavar="SENTENCE", help="its words (default: a sentence a line of stdin)")
    made.add_argument("--checkpoint", type=Path, required=True, metavar="CKPT", help="of racg fit")
    made.add_argument("--data", type=Path, required=True, metavar="ROOT", help="folder of the data set")
    made.add_argument("--split", default="test", help="whose pictures (default %(default)s)")
    made.add_argument(
        "--gallery",
        type=Path,
        metavar="FILE",
        help="a region store: its pictures in place of the split's, with or without captions",
    )
    made.add_argument("--top", type=int, default=10, metavar="N", help="pictures listed (default %(default)s)")
    made.add_argument(
        "--candidates", type=int, default=128, metavar="K", help="pictures that the cross graph scores (default %(default)s)"
    )
    made.add_argument(
        "--index",
        type=Path,
        metavar="FILE",
        help="pooled embeddings, made once (default index_SPLIT_CKPT.h5 in the run's folder, of a gallery index_gallery_NAME_CKPT.h5)",
    )
    made.add_argument(
        "--figure", type=Path, help="draw the first four, and in each the first six words that speak of something"
    )
    made.add_argument("--parser", metavar="NAME", help="the pipeline's folder, where it is not installed by its name")
    made.add_argument("--pictures", type=Path, metavar="DIR", help="image files named by their ids, to draw on")

    made = verb("export", verbs.export, "write a checkpoint as safetensors, options, vocabulary and model card, to pass on")
    made.add_argument("checkpoint", type=Path, metavar="CKPT", help="of racg fit, in the folder of its run")
    made.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    made.add_argument("--vocabulary", type=Path, help="default: that of the data set which the run names")
    return root


def _drop_output() -> None:
    """For what Python flushes as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_full() -> bool:
    """Whether stdout takes no more, which what is left to be written there tells; it is dropped then."""
    try:
        print(end="", flush=True)
    except OSError:
        _drop_output()
        return True
    return False


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in TRAINER_VERBS:
            from racg_pl.asked import answered

            matmul_precision()
            answered(arguments)
        else:
            args = parser().parse_args(arguments)
            args.run(args)
        print(end="", flush=True)
    except BrokenPipeError:  # whoever reads has seen enough, as head does
        _drop_output()
        return 141
    except DataError as error:
        print(f"racg: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # such as a folder that may not be entered, or a name that is too long
        if error.filename is None:
            if not _is_full():
                raise
            print(f"racg: stdout: cannot be written ({error.strerror}); make room, or send it elsewhere", file=sys.stderr)
            return 2
        print(f"racg: {error.filename}: cannot be read or written ({error.strerror}); check the path", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("racg: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
