"""Memory that this process has had."""

from __future__ import annotations

import resource


def peak_mb() -> float:
    """MiB that this process has had resident at most. Not ru_maxrss where it can be had
    otherwise: a process that is spawned on Linux inherits there what its parent once had."""
    try:
        return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) / 1024
    except OSError:  # macOS, which counts bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
