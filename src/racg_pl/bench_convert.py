"""How fast `racg convert` is beside a plain copy of the same bytes, and what memory it takes.

    python -m racg_pl.bench_convert --images 31014        # Flickr30K's size: 4.6 GB, three times for a while

Generated float16 features and boxes in SCAN's layout are copied (`shutil.copyfile`) and converted in turn, each from a cold page
cache and until the disk has it (fsync). The conversion runs in a process of its own, whose peak memory is told.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from racg_pl.errors import DataError
from racg_pl.progress import progress_bar

BLOCK = 256  # images made at a time
CHILD = """
import sys
from racg_pl.convert import convert
convert(sys.argv[1], sys.argv[2], split="train", progress=False)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def make(folder: Path, images: int, regions: int, dim: int) -> Path:
    """Write a split of random pictures in SCAN's layout. Returns: its features."""
    rng = np.random.default_rng(0)
    path = folder / "train_ims.npy"
    features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(images, regions, dim))
    with progress_bar("generate", images, "images") as advance:
        for start in range(0, images, BLOCK):
            block = features[start : start + BLOCK]
            block[:] = rng.random(block.shape, dtype=np.float32)
            advance(len(block))
    features.flush()
    del features
    corners = rng.random((images, regions, 2), dtype=np.float32) / 2
    np.save(folder / "train_boxes.npy", np.concatenate([corners, corners + 0.25], axis=2))
    (folder / "train_caps.txt").write_text("two dogs run after a ball\n" * 5 * images)
    return path


def cool(path: Path) -> None:
    """Take a file out of the page cache, once the disk has it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed_copy(source: Path, to: Path) -> float:
    cool(source)
    start = time.perf_counter()
    shutil.copyfile(source, to)
    with to.open("rb") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    to.unlink()
    return seconds


def timed_convert(source: Path, to: Path) -> tuple[float, float]:
    """Seconds, and the peak memory of the process in MiB."""
    cool(source)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, source.parent, to], check=False, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"{source.parent}: expected a conversion, got {' '.join(done.stderr.split())[-300:]}")
    with to.open("rb") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    to.unlink()
    return seconds, int(done.stdout.split()[-1]) / 1024


class Measured(NamedTuple):
    """Of `size` bytes: seconds of each plain copy and each conversion, and the largest peak memory of a conversion in MiB."""

    size: int
    copies: list[float]
    conversions: list[float]
    memory: float

    @property
    def copy_rate(self) -> float:
        """Bytes a second, median."""
        return self.size / median(self.copies)

    @property
    def convert_rate(self) -> float:
        """Bytes a second, median."""
        return self.size / median(self.conversions)


def measure(images: int = 31014, regions: int = 36, dim: int = 2048, repeats: int = 3, folder: Path | None = None) -> Measured:
    """Copy and convert in turn, `repeats` times, in a temporary folder inside `folder` (default the system's).

    Raises: DataError where the disk has too little room, or the conversion fails.
    """
    size, where = images * regions * dim * 2, folder or Path(tempfile.gettempdir())
    if shutil.disk_usage(where).free < 2.2 * size:
        raise DataError(f"{where}: expected {2.2 * size / 1e9:.1f} GB free, got less; name another --folder")
    copies, conversions = [], []
    with tempfile.TemporaryDirectory(dir=where) as made:
        source = make(Path(made), images, regions, dim)
        for _ in range(repeats):
            copies.append(timed_copy(source, Path(made) / "copy.npy"))
            conversions.append(timed_convert(source, Path(made) / "out" / "train.h5"))
    return Measured(size, copies, [seconds for seconds, _ in conversions], max(memory for _, memory in conversions))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number, what in (
        ("images", 31014, "pictures"),
        ("regions", 36, "regions of each"),
        ("dim", 2048, "numbers a region"),
        ("repeats", 3, "times that each is done, in turn"),
    ):
        parser.add_argument(f"--{name}", type=int, default=number, help=f"{what} (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where, on which disk (default the system's temporary folder)")
    args = parser.parse_args()
    try:
        got = measure(**vars(args))
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    shape = f"{args.images} images × {args.regions} × {args.dim} float16, {got.size / 1e9:.2f} GB"
    print(f"{shape}, median of {args.repeats}, cold cache, fsync")
    for what, rate, times in (("plain copy", got.copy_rate, got.copies), ("racg convert", got.convert_rate, got.conversions)):
        print(f"  {what:<12}  {rate / 1e6:7.0f} MB/s   {', '.join(f'{seconds:.1f}' for seconds in times)} s")
    print(f"  ratio         {got.convert_rate / got.copy_rate:7.0%}")
    print(f"  peak memory   {got.memory:7.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
