"""The compiled form of the cross graph, of edges between regions and of pooling: built once a machine by its own compiler, in seconds,
and kept in the user's cache.

Without a compiler, after a failed build, or under RACG_NATIVE=0 there is none, and all runs in plain torch with the same numbers.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)
SOURCES = [Path(__file__).with_name(name) for name in ("cross.cpp", "edges.cpp", "pool.cpp", "narrow.h", "simd.h")]
FLAGS = ["-std=c++17", "-O2", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared"]
INPUTS = [
    "a",
    "a_relations",
    "a_share",
    "b",
    "b_relations",
    "b_share",
    "temperature",
    "word_g",
    "region_g",
]  # those with a gradient


class Problem(ctypes.Structure):
    """As in cross.cpp: sizes, inputs, outputs."""

    SIZES: ClassVar = ["images", "captions", "regions", "words", "heads", "width", "hidden", "channels", "gather", "threads"]
    TENSORS: ClassVar = [*INPUTS, "a_mask", "b_mask", "by_words", "by_regions", "by_edges", *(f"d_{name}" for name in INPUTS)]
    _fields_: ClassVar = [(name, ctypes.c_int64) for name in SIZES] + [(name, ctypes.c_void_p) for name in TENSORS]


class Pool(ctypes.Structure):
    """As in pool.cpp."""

    TENSORS: ClassVar = ["x", "mask", "theta", "pooled", "d_x", "d_theta"]
    _fields_: ClassVar = [(name, ctypes.c_int64) for name in ("items", "nodes", "width", "threads")] + [
        (name, ctypes.c_void_p) for name in TENSORS
    ]


class Edges(ctypes.Structure):
    """As in edges.cpp."""

    TENSORS: ClassVar = ["geometry", "weights", "said", "content", "d_weights"]
    _fields_: ClassVar = [(name, ctypes.c_int64) for name in ("items", "edges", "hidden", "outputs", "kernel", "threads")] + [
        (name, ctypes.c_void_p) for name in TENSORS
    ]


def available(tensor: Tensor) -> bool:
    """Whether the operators take this: on the CPU, and compiled here."""
    return tensor.device.type == "cpu" and library(kind(tensor.dtype)) is not None


def narrow() -> bool:
    """Whether the operator has a form for bfloat16 nodes here: the processor multiplies them, faster than float32."""
    operators = library("float")
    return operators is not None and bool(operators.narrow())


def kind(dtype: torch.dtype) -> str:
    """The type that the operator computes in, as C++ calls it."""
    return "double" if dtype == torch.float64 else "float"


def call(direction: str, tensors: dict[str, Tensor], gather: bool) -> None:
    """Run `direction`, by the names in `Problem`, on contiguous tensors of one float type.

    Args: direction: forward, backward, or forward_narrow, whose nodes are bfloat16 and all else float32.
    """
    (images, regions, heads, width), (captions, words) = tensors["a"].shape, tensors["b"].shape[:2]
    hidden = max(0, (len(tensors["word_g"]) - heads - 1) // (heads + 2))
    sizes = (
        images,
        captions,
        regions,
        words,
        heads,
        width,
        hidden,
        tensors["a_relations"].shape[1],
        gather,
        torch.get_num_threads(),
    )
    problem = Problem(*map(int, sizes), **{name: tensor.data_ptr() for name, tensor in tensors.items()})
    getattr(library(kind(tensors["a"].dtype)), direction)(ctypes.byref(problem))


def pool(direction: str, tensors: dict[str, Tensor]) -> None:
    """Run `direction`, pool or pool_backward, on contiguous tensors of one float type, by the names in `Pool`."""
    sizes = (*tensors["x"].shape, torch.get_num_threads())
    problem = Pool(*sizes, **{name: tensor.data_ptr() for name, tensor in tensors.items()})
    getattr(library(kind(tensors["x"].dtype)), direction)(ctypes.byref(problem))


def edges(direction: str, tensors: dict[str, Tensor], hidden: int, kernel: bool) -> None:
    """Run `direction`, edges or edges_backward, on contiguous tensors of one float type, by the names in `Edges`.

    Args: hidden: units of the network.  kernel: whether each output has one.
    """
    (items, outputs, count), threads = tensors["said"].shape, torch.get_num_threads()
    problem = Edges(items, count, hidden, outputs, kernel, threads, **{name: part.data_ptr() for name, part in tensors.items()})
    getattr(library(kind(tensors["geometry"].dtype)), direction)(ctypes.byref(problem))


@cache
def library(scalar: str) -> ctypes.CDLL | None:
    """The operators over float or double, compiled where they have not been yet; None where they cannot be had."""
    if os.environ.get("RACG_NATIVE") == "0":
        return None
    try:
        return ctypes.CDLL(str(build(scalar)))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        log.warning("the cross graph runs in plain torch, several times slower: %s", " ".join(reason.split())[:200])
        return None


def compiler() -> str:
    """CXX, or the first of the usual names that is installed."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    raise OSError("no C++ compiler found; install g++, or name one by CXX")


def build(scalar: str) -> Path:
    """The library's file, compiled if this compiler has not yet done so for this processor: one process does, others wait."""
    command = [compiler(), *FLAGS, f"-DSCALAR={scalar}"]
    # what this compiler makes of the flags on this processor: its version and what -march=native means
    target = subprocess.run([*command, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, check=True, text=True).stdout
    key = hashlib.sha256("\0".join([target, *FLAGS, *(path.read_text() for path in SOURCES)]).encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "racg_pl"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"cross-{scalar}-{key[:16]}.so"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            log.warning("compiling the cross graph for this machine, once: %s", made)
            unfinished = made.with_suffix(".unfinished")
            openmp = map(str, Path(torch.__file__).parent.glob("lib/libgomp*"))  # torch's own, so that threads are of one pool
            command += [*(str(path) for path in SOURCES if path.suffix == ".cpp"), *openmp, "-o", str(unfinished)]
            subprocess.run(command, capture_output=True, text=True, check=True)
            os.replace(unfinished, made)
    return made
