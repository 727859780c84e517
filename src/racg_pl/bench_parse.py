"""How many captions `racg text` parses a second, and what bounds it.

    python -m racg_pl.bench_parse data/flickr8k/train.captions.h5 --jobs 2

Each part of the pipeline is timed alone in one process, in seconds of the processor, which other programs disturb less than the
clock: words, spaCy's networks by name, and the graphs (with all else that is done to a parse). Then several processes parse.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from racg_pl.captions import CaptionStore
from racg_pl.errors import DataError
from racg_pl.text import BATCH, load_parser, parse_by_processes, parse_captions

PARTS = 3  # times that each part is timed


class Measured(NamedTuple):
    """Of `captions`, `distinct` of them: processor seconds by part and in whole, and the clock's with `jobs` processes."""

    captions: int
    distinct: int
    parts: dict[str, float]
    whole: float
    jobs: int
    seconds: float  # from the first caption to the last: the processes have loaded the parser

    def __str__(self) -> str:
        n = self.captions
        lines = [f"{n} captions, {self.distinct} distinct; a process, in ms of the processor a caption:"]
        lines += [f"  {name:<24}{1e3 * seconds / n:6.3f}" for name, seconds in self.parts.items()]
        lines += [f"  {'all':<24}{1e3 * self.whole / n:6.3f}  = {n / self.whole:,.0f} captions a processor second"]
        return "\n".join([*lines, f"{self.jobs} processes, by the clock: {n / self.seconds:,.0f} captions/s"])


def measure(texts: Sequence[str], parser: str = "bundled", jobs: int = 2) -> Measured:
    """Time a parser on captions. Raises: DataError from `load_parser`."""
    loaded = load_parser(parser)
    parse_captions(texts[:BATCH], loaded)  # the first batch fills spaCy's tables
    times: dict[str, list[float]] = {}
    for _ in range(PARTS):
        start = time.process_time()
        docs = [loaded.nlp.make_doc(text) for text in texts]
        times.setdefault("words", []).append(time.process_time() - start)
        for name, component in loaded.nlp.pipeline:
            start = time.process_time()
            docs = list(component.pipe(docs, batch_size=BATCH))  # type: ignore[attr-defined]
            times.setdefault(name, []).append(time.process_time() - start)
        start = time.process_time()
        parse_captions(texts, loaded)
        times.setdefault("all", []).append(time.process_time() - start)
    whole = median(times.pop("all"))
    parts = {name: median(seconds) for name, seconds in times.items()}
    parts["graphs, arrays, batches"] = max(0.0, whole - sum(parts.values()))
    return Measured(len(texts), len(set(texts)), parts, whole, jobs, _by_processes(texts, parser, jobs))


def _by_processes(texts: Sequence[str], parser: str, jobs: int) -> float:
    """Clock seconds of `jobs` processes for these captions, without those in which they start: four times as many take longer by this."""
    seconds = []
    for times in (1, 4):
        start = time.perf_counter()
        parse_by_processes([*texts] * times, parser, jobs)
        seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / 3


def main() -> int:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("captions", type=Path, help="SPLIT.captions.h5")
    command.add_argument("--first", type=int, default=4096, help="captions that are parsed (default %(default)s)")
    command.add_argument("--parser", default="bundled", help="default %(default)s")
    command.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    args = command.parse_args()
    try:
        print(measure(CaptionStore(args.captions).texts[: args.first], args.parser, args.jobs))
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
