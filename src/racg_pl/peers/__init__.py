"""Methods that RACG is compared with, written from their papers over the nodes, data, objective and schedule that they share with it.

`PEERS`: by the name that `--model.method` takes, the class, and what tells two methods of one class apart. How to add one: method.py.
"""

from __future__ import annotations

from collections.abc import Callable

from racg_pl.method import Method
from racg_pl.peers.saf import SAF
from racg_pl.peers.scan import SCAN
from racg_pl.peers.sgr import SGR
from racg_pl.peers.vse_infinity import VSEInfinity

PEERS: dict[str, tuple[Callable[..., Method], dict[str, str]]] = {
    "vse_infinity": (VSEInfinity, {}),
    "scan_t2i": (SCAN, {"direction": "t2i"}),
    "scan_i2t": (SCAN, {"direction": "i2t"}),
    "saf": (SAF, {}),
    "sgr": (SGR, {}),
}
