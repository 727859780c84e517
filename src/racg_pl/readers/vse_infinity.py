"""VSE-infinity's data folder: SCAN's precomp in the folder precomp, and id_mapping.json from its ids to file names.

id_mapping.json    {"0": "1000092795.jpg", …}
precomp/           as in precomp.py; its ids are keys of the mapping
"""

from __future__ import annotations

from pathlib import Path

from racg_pl.errors import DataError
from racg_pl.readers import precomp
from racg_pl.readers.files import read_json
from racg_pl.readers.stacked import Stacked

MAPPING = "id_mapping.json"


def recognise(folder: Path) -> bool:
    """Whether this is such a folder, or the folder precomp in one."""
    return (_home(folder) / MAPPING).is_file() and bool(precomp.splits(_home(folder) / "precomp"))


def open_vse_infinity(folder: Path, split: str | None) -> Stacked:
    """Open one split; ids become file names. Raises: DataError."""
    home = _home(folder)
    mapping = home / MAPPING
    names = read_json(mapping)
    if not isinstance(names, dict) or not all(isinstance(name, str) and name for name in names.values()):
        raise DataError(f"{mapping}: expected an object from ids to file names, got something else; copy the file again")

    def name(id: str) -> str:
        if id not in names:
            raise DataError(
                f"{mapping}: expected the id {id!r} of {split}_ids.txt, got {len(names)} others; is this its mapping?"
            )
        return names[id]

    if split is not None and not (home / "precomp" / f"{split}_ids.txt").exists():
        raise DataError(
            f"{home / 'precomp' / f'{split}_ids.txt'}: no such file, and {MAPPING} needs its ids; use --layout precomp"
        )
    opened = precomp.open_precomp(home / "precomp", split, name, "VSE-infinity's precomp")
    opened.files.append(mapping)
    return opened


def _home(folder: Path) -> Path:
    return folder.parent if folder.name == "precomp" and (folder.parent / MAPPING).is_file() else folder
