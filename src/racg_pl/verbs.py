"""What each verb of `racg` does, LightningCLI's apart: a few lines over one module, imported within, so that `racg --help` answers at once.

A function takes what cli.py has parsed, and prints what it made or found.
"""

from __future__ import annotations

import argparse
import sys

from racg_pl.errors import FILE, DataError, require_apart, require_file, writing


def check(args: argparse.Namespace) -> None:
    from racg_pl.check import check

    for path in args.file:
        print(check(path))


def convert(args: argparse.Namespace) -> None:
    from racg_pl.convert import convert

    options = ("layout", "split", "captions", "captions_out", "per_image", "extractor", "dtype")
    print(convert(args.source, args.out, **{name: getattr(args, name) for name in options}))


def prepare(args: argparse.Namespace) -> None:
    from racg_pl.prepare import prepare

    print(prepare(args.recipe, args.root, args.source, args.parser))


def scenes(args: argparse.Namespace) -> None:
    if args.draw is None:
        if args.figure is not None:
            raise DataError("scenes: expected --draw with --figure, got none; name the picture to draw, or leave out --figure")
        from racg_pl.scenes import generate

        print(generate(args.out, args.images, args.seed))
        print(f"next: racg text {args.out}")
    else:
        from racg_pl.scene_draw import draw

        path = args.figure or args.out / f"{args.draw}.png"
        draw(args.out, args.draw, path)
        print(path)


def text(args: argparse.Namespace) -> None:
    from racg_pl.text_files import prepare_texts

    written = prepare_texts(args.root, args.parser, args.threshold, progress=True, processes=args.jobs)
    print("\n".join(map(str, written)) or "all up to date")


def parse(args: argparse.Namespace) -> None:
    from racg_pl.figure import figure_path, save_figure
    from racg_pl.graph_view import draw, view

    figure = args.figure and figure_path(args.figure)
    shown = view(" ".join(args.sentence), args.parser)
    print(shown)
    if figure:
        save_figure(draw(shown), figure, dpi=180, text=True)
        print(f"\n{figure}")


def reproduce(args: argparse.Namespace) -> None:
    from racg_pl.reproduce import reproduce

    reproduce(args.data, args.root, args.out, args.config, args.jobs)


def sweep(args: argparse.Namespace) -> None:
    from racg_pl.sweep import sweep

    print(sweep(args.file, args.out, args.runs, args.jobs))


def tables(args: argparse.Namespace) -> None:
    from racg_pl.paper.make import tables

    options = ("data", "root", "out", "only", "seeds", "jobs", "page", "keep_stale", "confirm", "rounding", "steps")
    print(tables(args.tables, show=args.list, **{name: getattr(args, name) for name in options}))


def evaluate(args: argparse.Namespace) -> None:
    from racg_pl.evaluate import evaluate
    from racg_pl.written import write_json

    require_file(args.out)
    require_apart([args.out] if args.out else [], [*args.scores, args.captions])
    result = evaluate(args.scores, args.captions, args.folds)
    if args.out is not None:
        with writing(args.out, FILE):
            write_json(args.out, result.record)
    print(result)


def export(args: argparse.Namespace) -> None:
    from racg_pl.export import export

    print(export(args.checkpoint, args.folder, args.vocabulary))


def ground(args: argparse.Namespace) -> None:
    if args.figure is None and args.words is None and args.pictures is not None:
        raise DataError(
            "ground: expected --figure or --words with --pictures, got neither; name the file to draw, or leave out --pictures"
        )
    from rich.console import Console

    from racg_pl.grounding import ground

    options = ("split", "phrases", "out", "against", "figure", "words", "pictures")
    found = ground(args.checkpoint, args.data, **{name: getattr(args, name) for name in options})
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(found.table())
    console.print(found.notes(), markup=False, highlight=False, soft_wrap=True)
    print("\n".join(map(str, found.written)))


def search(args: argparse.Namespace) -> None:
    if args.figure is None and args.pictures is not None:
        raise DataError("search: expected --figure with --pictures, got none; name the file to draw, or leave out --pictures")
    if args.figure is not None and not args.sentence:
        raise DataError("search: expected a sentence on the command line to draw, got none; give one, or leave out --figure")
    from racg_pl.search import Searcher

    options = ("split", "parser", "index", "gallery", "top", "candidates")
    searcher = Searcher(args.checkpoint, args.data, **{name: getattr(args, name) for name in options})
    sentence = " ".join(args.sentence)
    if args.figure is not None:
        print(searcher.draw(sentence, args.figure, args.pictures), args.figure, sep="\n")
    elif args.sentence:
        print(searcher.find(sentence))
    else:
        if sys.stdin is not None and sys.stdin.isatty():
            print("a sentence a line; end with Ctrl-D", file=sys.stderr)
        for answer in searcher.find_each(() if sys.stdin is None else sys.stdin.buffer):
            print(answer, flush=True)


def bench(args: argparse.Namespace) -> None:
    from racg_pl.bench import SECTIONS, bench

    print(bench(args.config, args.out, args.only.split(",") if args.only else SECTIONS))
